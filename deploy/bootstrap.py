"""From a bare checkout to a running command: checks the machine, makes .venv from pinned versions, hands over.

Standard library only, and no syntax newer than Python 3.6, so that an unsupported Python gets a sentence
instead of a traceback. Interrupted anywhere, it goes on from there the next time.

Run: python deploy/bootstrap.py serve|test|check|bench|lock
"""

import hashlib
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
PIP = os.path.join(VENV, "bin", "pip")
REQUIREMENTS = os.path.join(ROOT, "deploy", "requirements")
HOME = os.path.abspath(os.environ.get("REPERTORY_HOME") or os.path.join(ROOT, ".repertory"))
INSTALL_LOG = os.path.join(HOME, "logs", "install.log")
GIB = 2**30

# PyTorch's own wheel index, asked only where pip's configuration has no CPU build.
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
OLDEST, NEWEST = (3, 11), (3, 14)
# `du -sh .venv .repertory` after a first start: 4.1 and 0.4 GiB. The rest is room for pip's downloads.
DISK_FIRST = 7 * GIB
DISK_LATER = GIB // 2
# The engine on a CPU takes 3.8 GiB, the gateway with its embedding model 0.8 GiB.
MEMORY = 6 * GIB

SERVE, TEST, CHECK, BENCH, LOCK = "serve", "test", "check", "bench", "lock"
COMMANDS = (SERVE, TEST, CHECK, BENCH, LOCK)


class Refusal(Exception):
    """This machine can't; the message is one sentence that says why and what to do."""


def main(arguments: "list[str]") -> None:
    if len(arguments) < 1 or arguments[0] not in COMMANDS:
        raise Refusal("say one of: " + ", ".join(COMMANDS))
    command = arguments[0]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    check_python(sys.version_info[:2])
    gpu = wants_gpu()
    check_processor(platform.system(), platform.machine(), read("/proc/cpuinfo"), gpu)
    if command == SERVE:
        check_port(os.environ.get("REPERTORY_PORT") or "8000")
    if command in (SERVE, TEST):
        memory = (
            read("/proc/meminfo"),
            read("/sys/fs/cgroup/memory.max"),
            read("/sys/fs/cgroup/memory.current"),
            read("/sys/fs/cgroup/memory.stat"),
        )
        check_memory(available_memory(*memory), gpu)
        check_compiler()
    install(gpu, with_development=command != SERVE)
    run(command, arguments[1:])


def run(command: str, rest: "list[str]") -> None:
    """Become the command: no process of ours is left in between."""
    module = [PYTHON, "-m"]
    argv = {
        SERVE: [*module, "deploy.demo", "serve"],
        TEST: [*module, "deploy.demo", "test", *rest],
        CHECK: [PYTHON, os.path.join(ROOT, "deploy", "check.py")],
        BENCH: [*module, "tests.bench", *rest],
        LOCK: [PYTHON, os.path.join(ROOT, "deploy", "lock.py")],
    }[command]
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execv(argv[0], argv)


def check_python(version: "tuple[int, ...]") -> None:
    if not OLDEST <= version[:2] <= NEWEST:
        raise Refusal(
            "Python %d.%d is not supported: install Python %d.%d to %d.%d, or name one with `make PYTHON=...`"
            % (version[:2] + OLDEST + NEWEST)
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise Refusal(
            "this Python lacks the venv module: install it (on Debian and Ubuntu, the package python%d.%d-venv)"
            % version[:2]
        ) from None


def check_processor(system: str, machine: str, cpuinfo: str, gpu: bool) -> None:
    if system != "Linux" or machine != "x86_64":
        raise Refusal(
            "this is %s on %s, and the engine's packages are for Linux on x86_64" % (system, machine)
        )
    if not gpu and not re.search(r"^flags\s*:.*\bavx2\b", cpuinfo, re.M):
        raise Refusal("this processor lacks AVX2, which the engine needs where there is no NVIDIA GPU")


def check_compiler() -> None:
    if shutil.which(os.environ.get("CXX", "g++")) is None and shutil.which("gcc") is None:
        raise Refusal("no C compiler was found: install one (on Debian and Ubuntu, the package g++)")


def check_port(text: str) -> None:
    if not re.match(r"[0-9]+\Z", text) or not 1 <= int(text) <= 65535:
        raise Refusal("REPERTORY_PORT is %r, and a port is a number from 1 to 65535" % text)
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("127.0.0.1", int(text)))
    except OSError:
        raise Refusal(
            "port %s is in use: stop what listens there, or choose another, as in `REPERTORY_PORT=8001 make serve`"
            % text
        ) from None
    finally:
        probe.close()


def check_memory(available: int, gpu: bool) -> None:
    if not gpu and available < MEMORY:
        raise Refusal(
            "%.1f GiB of memory are available, and engine and gateway need %d GiB: close something or use a "
            "larger machine" % (available / GIB, MEMORY // GIB)
        )


def check_disk(folder: str, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Refusal(
            "%.1f GiB are free in %s, and this step needs %.1f GiB" % (free / GIB, folder, needed / GIB)
        )


def available_memory(meminfo: str, limit: str = "", used: str = "", stat: str = "") -> int:
    """Bytes: what the kernel calls available, or what is left of this control group's limit if that is less.

    A control group counts cached files as used, gigabytes after an installation; they give way when asked.
    """
    match = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.M)
    available = int(match.group(1)) * 1024 if match else MEMORY
    if limit.strip().isdigit() and used.strip().isdigit():
        cached = sum(map(int, re.findall(r"^(?:in)?active_file (\d+)$", stat, re.M)))
        available = min(available, int(limit) - int(used) + cached)
    return available


def wants_gpu() -> bool:
    choice = os.environ.get("REPERTORY_ENGINE", "auto")
    if choice not in ("auto", "cpu", "gpu"):
        raise Refusal("REPERTORY_ENGINE is %r, and it can be auto, cpu or gpu" % choice)
    if choice != "auto":
        return choice == "gpu"
    return shutil.which("nvidia-smi") is not None and os.path.exists("/dev/nvidiactl")


def install(gpu: bool, with_development: bool) -> None:
    """Make .venv hold exactly what the requirement files say; a stamp tells that it does."""
    kind = "gpu" if gpu else "cpu"
    wanted = [(kind, os.path.join(REQUIREMENTS, kind + ".txt"))]
    if with_development:
        wanted.append(("dev", os.path.join(REQUIREMENTS, "dev.txt")))
    missing = [(name, path) for name, path in wanted if not is_installed(name, path)]
    # A Python that was removed leaves dangling links, and the two builds of vLLM overwrite each other's files.
    other = stamp("cpu" if gpu else "gpu")
    usable = os.path.exists(PYTHON) and os.path.exists(PIP) and not os.path.exists(other)
    if usable and not missing:
        return
    make_folder(os.path.dirname(INSTALL_LOG))
    if not usable:
        missing = wanted
    check_disk(ROOT, DISK_FIRST if any(name == kind for name, _ in missing) else DISK_LATER)
    if not usable:
        say("Making the virtual environment .venv")
        call([sys.executable, "-m", "venv", "--clear", VENV])
    for name, path in missing:
        if name == "cpu":
            install_torch(path)
        install_file(name, path, pinned_all=name != "gpu")
        call([PYTHON, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "-e", ROOT])
        with open(stamp(name), "w") as file:
            file.write(digest(path))


def install_torch(requirements: str) -> None:
    """First and alone: PyPI's build of the same version is the CUDA one, several GiB larger."""
    version = re.findall(r"^# torch (\S+)", read(requirements), re.M)[0]
    if (
        subprocess.call(
            [PYTHON, "-c", "import torch, sys; sys.exit(torch.__version__ != '%s')" % version],
            stderr=subprocess.DEVNULL,
        )
        == 0
    ):
        return
    say("Installing torch %s" % version)
    command = [PYTHON, "-m", "pip", "install", "torch==" + version]
    try:
        call(command)
    except Refusal:
        call([*command, "--index-url", TORCH_INDEX])


def install_file(name: str, path: str, pinned_all: bool) -> None:
    total = len(re.findall(r"^[A-Za-z0-9]", read(path), re.M))
    say("Installing %d packages (%s)" % (total, name))
    command = [PYTHON, "-m", "pip", "install", "--progress-bar", "off", "-r", path]
    # A complete list needs no resolver, and leaves out torchvision and its kin, whose CUDA builds break the rest.
    call([*command, "--no-deps"] if pinned_all else command, progress=total)


def call(command: "list[str]", progress: int = 0) -> None:
    """Run a step with its output in the log; Refusal says what went wrong."""
    environment = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PYTHONUNBUFFERED="1")
    with open(INSTALL_LOG, "a") as log:
        log.write("\n$ %s\n" % " ".join(command))
        log.flush()
        begun = log.tell()
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            env=environment,
        ) as process:
            try:
                bar = Bar(progress)
                assert process.stdout is not None
                for line in process.stdout:
                    log.write(line)
                    bar.see(line)
                bar.end()
                code = process.wait()
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
    if code != 0:
        with open(INSTALL_LOG) as log:
            log.seek(begun)
            raise Refusal(explain(log.read()))


def explain(output: str) -> str:
    """One sentence about a failed installation."""
    if "No space left on device" in output or "Errno 28" in output:
        return "the disk is full: free %d GiB and run the same command again; it goes on from here" % (
            DISK_FIRST // GIB
        )
    if re.search(
        r"Temporary failure in name resolution|Connection refused|Network is unreachable|timed out", output
    ):
        return "the package index can't be reached: check the network and run the same command again"
    lines = [line.strip() for line in output.splitlines() if line.strip().lower().startswith("error")]
    return "an installation step failed (%s); the whole output is in %s" % (
        lines[0][:300] if lines else "no reason given",
        INSTALL_LOG,
    )


class Bar:
    """A line that counts what pip has collected; ten lines where there is no terminal."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.tenth = total, 0, 0
        self.started = time.time()

    def see(self, line: str) -> None:
        if not self.total:
            return
        if line.startswith(("Collecting ", "Requirement already satisfied")):
            self.done = min(self.done + 1, self.total)
            self.show("%d/%d" % (self.done, self.total))
        elif line.startswith("Installing collected packages"):
            self.show("unpacking, about a minute")

    def show(self, words: str) -> None:
        spent = time.time() - self.started
        if sys.stdout.isatty():
            filled = 30 * self.done // self.total
            sys.stdout.write("\r  [%s%s] %-28s %3.0f s " % ("#" * filled, "." * (30 - filled), words, spent))
        elif 10 * self.done // self.total > self.tenth:
            self.tenth = 10 * self.done // self.total
            sys.stdout.write("  %s packages, %.0f s\n" % (words, spent))
        sys.stdout.flush()

    def end(self) -> None:
        if self.total and sys.stdout.isatty():
            sys.stdout.write("\n")


def is_installed(name: str, path: str) -> bool:
    return os.path.exists(PYTHON) and read(stamp(name)) == digest(path)


def stamp(name: str) -> str:
    return os.path.join(VENV, "installed-" + name)


def digest(path: str) -> str:
    """Of the list, and of what the editable install takes from pyproject.toml."""
    text = read(path) + read(os.path.join(ROOT, "pyproject.toml"))
    return hashlib.sha256((text + sys.version).encode()).hexdigest()


def make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise Refusal("cannot make the folder %s: %s" % (path, error.strerror)) from error


def read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Refusal as refusal:
        sys.exit("repertory: %s." % refusal)
    except OSError as error:
        if error.errno != 28:
            raise
        sys.exit("repertory: the disk is full: free some space and run the same command again.")
    except KeyboardInterrupt:
        sys.exit(130)
