"""What bootstrap.py asks of a machine, and the one sentence that each shortcoming gets."""

from __future__ import annotations

import ast
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.deploy.conftest import Checkout
from tests.deploy.processes import ROOT, environment, lives, run_python
from tests.fakes.serving import eventually

PROGRAM = ROOT / "deploy" / "bootstrap.py"
GIB = 2**30
INTEL = "processor\t: 0\nflags\t\t: fpu sse4_2 avx avx2 avx512f\n"
OLD = "processor\t: 0\nflags\t\t: fpu sse4_2 avx\n"


def refusal(result: subprocess.CompletedProcess[str]) -> str:
    """The one sentence; asserts that it is all that was said."""
    assert result.returncode == 1, result
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("repertory: ")
    assert lines[0].endswith(".")
    return lines[0]


# Commands


def test_the_file_parses_on_pythons_that_it_refuses() -> None:
    ast.parse(PROGRAM.read_text(), feature_version=(3, 6))


def test_it_imports_nothing_but_the_standard_library() -> None:
    tree = ast.parse(PROGRAM.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("arguments", [[], ["sevre"]])
def test_without_a_known_command_it_lists_them(arguments: list[str]) -> None:
    assert refusal(run_python(PROGRAM, *arguments)) == (
        "repertory: say one of: serve, test, check, bench, lock."
    )


@pytest.mark.parametrize(
    ("command", "rest", "expected"),
    [
        ("serve", [], ["-m", "deploy.demo", "serve"]),
        ("test", ["-k", "relay"], ["-m", "deploy.demo", "test", "-k", "relay"]),
        ("check", [], ["deploy/check.py"]),
        ("bench", ["--quick"], ["-m", "tests.bench", "--quick"]),
        ("lock", [], ["deploy/lock.py"]),
    ],
)
def test_a_command_replaces_the_process_in_the_project_folder(
    checkout: Checkout, command: str, rest: list[str], expected: list[str]
) -> None:
    checkout.fake_venv('pwd; echo $$; printf "%s\\n" "$@"')
    script = f"import os, sys; print(os.getpid()); import bootstrap; bootstrap.run({command!r}, {rest!r})"
    result = run_python("-c", script, PYTHONPATH=str(checkout.program.parent))
    before, folder, after, *argv = result.stdout.splitlines()
    assert Path(folder) == checkout.root
    assert after == before
    assert [word.removeprefix(f"{checkout.root}/") for word in argv] == expected


# Python


@pytest.mark.parametrize("version", [(3, 6), (3, 10), (3, 15), (4, 0)])
def test_an_unsupported_python_is_named_with_those_that_will_do(
    bootstrap: ModuleType, version: tuple[int, int]
) -> None:
    major, minor = version
    with pytest.raises(bootstrap.Refusal) as refused:
        bootstrap.check_python(version)
    assert str(refused.value) == (
        f"Python {major}.{minor} is not supported: install Python 3.11 to 3.14, or name one with `make PYTHON=...`"
    )


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13), (3, 14)])
def test_supported_pythons_pass(bootstrap: ModuleType, version: tuple[int, int]) -> None:
    bootstrap.check_python(version)


def test_the_supported_pythons_are_those_of_pyproject(bootstrap: ModuleType) -> None:
    limits = re.search(r'requires-python = ">=3.(\d+),<3.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert limits is not None
    oldest, beyond = map(int, limits.groups())
    assert ((3, oldest), (3, beyond - 1)) == (bootstrap.OLDEST, bootstrap.NEWEST)


@pytest.mark.parametrize("module", ["ensurepip", "venv"])
def test_a_python_without_venv_names_the_package_that_has_it(tmp_path: Path, module: str) -> None:
    (tmp_path / f"{module}.py").write_text("raise ImportError('left out, as Debian does')")
    said = refusal(run_python(PROGRAM, "lock", PYTHONPATH=str(tmp_path)))
    assert said == (
        "repertory: this Python lacks the venv module: install it (on Debian and Ubuntu, the package "
        "python{}.{}-venv).".format(*sys.version_info)
    )


# Processor, compiler, engine


@pytest.mark.parametrize(
    ("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64"), ("Windows", "x86_64")]
)
def test_a_machine_without_packages_for_the_engine_is_refused(
    bootstrap: ModuleType, system: str, machine: str
) -> None:
    with pytest.raises(
        bootstrap.Refusal, match=f"this is {system} on {machine}, and the engine's packages are"
    ):
        bootstrap.check_processor(system, machine, INTEL, True)


@pytest.mark.parametrize("cpuinfo", [OLD, "", "model name : avx2 fan club\n"])
def test_a_processor_without_avx2_needs_a_gpu(bootstrap: ModuleType, cpuinfo: str) -> None:
    with pytest.raises(
        bootstrap.Refusal, match=r"^this processor lacks AVX2, which the engine needs where there"
    ):
        bootstrap.check_processor("Linux", "x86_64", cpuinfo, False)
    bootstrap.check_processor("Linux", "x86_64", cpuinfo, True)


def test_a_processor_with_avx2_will_do(bootstrap: ModuleType) -> None:
    bootstrap.check_processor("Linux", "x86_64", INTEL, False)


def test_a_machine_without_a_compiler_is_told_what_to_install(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(bootstrap.Refusal, match=r"^no C compiler was found: install one"):
        bootstrap.check_compiler()
    compiler = tmp_path / "g++"
    compiler.touch(0o755)
    bootstrap.check_compiler()


def test_an_unknown_engine_is_refused() -> None:
    said = refusal(run_python(PROGRAM, "lock", REPERTORY_ENGINE="tpu"))
    assert said == "repertory: REPERTORY_ENGINE is 'tpu', and it can be auto, cpu or gpu."


@pytest.mark.parametrize(("choice", "gpu"), [("cpu", False), ("gpu", True)])
def test_the_engine_can_be_chosen(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, choice: str, gpu: bool
) -> None:
    monkeypatch.setenv("REPERTORY_ENGINE", choice)
    assert bootstrap.wants_gpu() is gpu


def test_without_nvidias_tools_the_engine_runs_on_the_cpu(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bootstrap.wants_gpu() is False


# Port


@pytest.mark.parametrize("text", ["eighty", "0", "65536", "-1", "80.5", "²", " 80", "80\n"])
def test_a_port_that_is_no_port_is_refused(bootstrap: ModuleType, text: str) -> None:
    with pytest.raises(bootstrap.Refusal) as refused:
        bootstrap.check_port(text)
    assert str(refused.value) == f"REPERTORY_PORT is {text!r}, and a port is a number from 1 to 65535"


def test_a_busy_port_is_named_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        said = refusal(run_python(PROGRAM, "serve", REPERTORY_PORT=port, REPERTORY_ENGINE="gpu"))
    assert said == (
        f"repertory: port {port} is in use: stop what listens there, or choose another, as in "
        "`REPERTORY_PORT=8001 make serve`."
    )


def test_a_free_port_passes_and_stays_free(bootstrap: ModuleType) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    bootstrap.check_port(str(port))
    bootstrap.check_port(str(port))


# Memory and disk


def meminfo(gib: float) -> str:
    return f"MemTotal:       99999999 kB\nMemAvailable:   {int(gib * 2**20)} kB\n"


@pytest.mark.parametrize(
    ("limit", "used", "stat", "gib"),
    [
        ("", "", "", 16),
        ("max\n", f"{GIB}\n", "", 16),
        (f"{8 * GIB}\n", f"{GIB}\n", "", 7),
        (f"{64 * GIB}\n", f"{GIB}\n", "", 16),
        (f"{8 * GIB}\n", f"{6 * GIB}\n", f"anon {GIB}\ninactive_file {3 * GIB}\nactive_file {GIB}\n", 6),
        (f"{8 * GIB}\n", f"{6 * GIB}\n", f"inactive_anon {GIB}\nworkingset_activate_file {GIB}\n", 2),
    ],
    ids=["no group", "no limit", "limit", "wide limit", "cached files give way", "nothing else does"],
)
def test_available_memory_is_the_least_of_kernel_and_control_group(
    bootstrap: ModuleType, limit: str, used: str, stat: str, gib: int
) -> None:
    assert bootstrap.available_memory(meminfo(16), limit, used, stat) == gib * GIB


def test_a_machine_that_does_not_say_is_given_the_benefit_of_the_doubt(bootstrap: ModuleType) -> None:
    bootstrap.check_memory(bootstrap.available_memory(""), False)


def test_too_little_memory_is_measured_against_the_need(bootstrap: ModuleType) -> None:
    with pytest.raises(bootstrap.Refusal) as refused:
        bootstrap.check_memory(int(2.5 * GIB), False)
    assert str(refused.value) == (
        "2.5 GiB of memory are available, and engine and gateway need 6 GiB: close something or use a larger machine"
    )
    bootstrap.check_memory(6 * GIB, False)
    bootstrap.check_memory(GIB, True)


def test_too_little_disk_is_measured_against_the_need(bootstrap: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(
        bootstrap.Refusal, match=rf"GiB are free in {tmp_path}, and this step needs 1048576.0 GiB$"
    ):
        bootstrap.check_disk(str(tmp_path), 2**50)
    bootstrap.check_disk(str(tmp_path), 1)


def test_a_folder_that_cannot_be_made_is_named(bootstrap: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(bootstrap.Refusal, match=r"cannot make the folder .*/file/logs: Not a directory"):
        bootstrap.make_folder(str(tmp_path / "file" / "logs"))


# What went wrong


def test_a_full_disk_is_told_apart(bootstrap: ModuleType) -> None:
    output = "Collecting torch\nERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    assert bootstrap.explain(output) == (
        "the disk is full: free 7 GiB and run the same command again; it goes on from here"
    )


@pytest.mark.parametrize(
    "reason",
    [
        "Temporary failure in name resolution",
        "Connection refused",
        "Network is unreachable",
        "Read timed out.",
    ],
)
def test_a_missing_network_is_told_apart(bootstrap: ModuleType, reason: str) -> None:
    said = bootstrap.explain(f"WARNING: Retrying after {reason}\nERROR: No matching distribution found for a")
    assert said == "the package index can't be reached: check the network and run the same command again"


def test_other_failures_give_their_own_first_words_and_the_log(
    bootstrap: ModuleType, checkout: Checkout
) -> None:
    log = checkout.home / "logs" / "install.log"
    said = bootstrap.explain("Collecting a\nERROR: No matching distribution found for a\nERROR: later\n")
    assert said == (
        "an installation step failed (ERROR: No matching distribution found for a); "
        f"the whole output is in {log}"
    )
    assert bootstrap.explain("Killed\n") == (
        f"an installation step failed (no reason given); the whole output is in {log}"
    )


# Steps


def test_a_step_writes_its_output_to_the_log(bootstrap: ModuleType, checkout: Checkout) -> None:
    bootstrap.make_folder(str(checkout.home / "logs"))
    bootstrap.call([sys.executable, "-c", "import sys; print('out'); sys.stderr.write('err')"])
    log = (checkout.home / "logs" / "install.log").read_text()
    assert log.startswith(f"\n$ {sys.executable} -c ")
    assert "out\n" in log
    assert "err" in log


def test_a_failing_step_is_explained_by_its_own_output_only(
    bootstrap: ModuleType, checkout: Checkout
) -> None:
    bootstrap.make_folder(str(checkout.home / "logs"))
    log = checkout.home / "logs" / "install.log"
    log.write_text("ERROR: of last week\n")
    with pytest.raises(bootstrap.Refusal, match=r"\(ERROR: of today\)"):
        bootstrap.call([sys.executable, "-c", "print('ERROR: of today'); raise SystemExit(3)"])


def test_sigterm_during_a_step_ends_the_step(checkout: Checkout, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    checkout.fake_venv(
        f'[ "$1" = -c ] && exit 0; echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 99'
    )
    bootstrap = subprocess.Popen(
        [sys.executable, checkout.program, "lock"],
        env=environment(REPERTORY_HOME=str(checkout.home), REPERTORY_ENGINE="cpu"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    eventually(pid_file.exists, what="the step")
    step = int(pid_file.read_text())
    assert lives(step)
    bootstrap.send_signal(signal.SIGTERM)
    said, _ = bootstrap.communicate(timeout=30)
    assert bootstrap.returncode == 143
    assert said == "Installing 2 packages (cpu)\n"
    assert not lives(step)


def test_a_disk_that_fills_up_under_the_log_is_one_sentence(checkout: Checkout) -> None:
    checkout.fake_venv("exit 0")
    (checkout.home / "logs").mkdir(parents=True)
    (checkout.home / "logs" / "install.log").symlink_to("/dev/full")
    result = run_python(checkout.program, "lock", REPERTORY_HOME=str(checkout.home), REPERTORY_ENGINE="cpu")
    assert result.returncode == 1
    assert result.stderr == "repertory: the disk is full: free some space and run the same command again.\n"


# The bar

PIP = ["Looking in indexes: …", *(f"Collecting package-{n}==1.0" for n in range(15))]
PIP += [
    *(f"Requirement already satisfied: package-{n}" for n in range(15, 20)),
    "Installing collected packages: …",
]


def test_without_a_terminal_the_bar_says_every_tenth(
    bootstrap: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = bootstrap.Bar(20)
    for line in PIP:
        bar.see(line)
    bar.end()
    said = capsys.readouterr().out
    assert re.findall(r"^  (\d+)/20 packages, \d+ s$", said, re.M) == [str(n) for n in range(2, 21, 2)]
    assert len(said.splitlines()) == 10


def test_a_bar_without_a_measure_says_nothing(
    bootstrap: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = bootstrap.Bar(0)
    for line in PIP:
        bar.see(line)
    bar.end()
    assert capsys.readouterr().out == ""


def test_on_a_terminal_the_bar_grows_in_one_line(checkout: Checkout) -> None:
    script = f"import bootstrap; bar = bootstrap.Bar(20); [bar.see(line) for line in {PIP!r}]; bar.end()"
    mine, theirs = pty.openpty()
    env = environment(PYTHONPATH=str(checkout.program.parent))
    with subprocess.Popen([sys.executable, "-c", script], stdout=theirs, env=env) as process:
        os.close(theirs)
        said = b""
        while piece := _read_terminal(mine):
            said += piece
    os.close(mine)
    assert process.returncode == 0
    states = said.decode().split("\r")
    assert any(state.startswith("  [###############...............] 10/20 ") for state in states)
    assert any(f"[{'#' * 30}] unpacking, about a minute" in state for state in states)
    assert said.count(b"\n") == 1


def _read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's word for the end, once the other side is closed
        return b""
