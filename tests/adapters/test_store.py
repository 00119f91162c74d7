import hashlib
import json
import os
import stat

import pytest

from adapters.errors import AdapterInvalid, AdapterNotFound
from adapters.store import AdapterStore


@pytest.fixture
def store(tmp_path):
    return AdapterStore(tmp_path / "store", now=lambda: 1000.9)


def codes(caught):
    return [fault.code for fault in caught.value.faults]


def digest_folders(store):
    return [entry for entry in store.root.iterdir() if entry.is_dir()]


def test_an_adapter_is_described_and_found_again(store, make_adapter):
    made = store.put("triage", make_adapter(), "smollm2", {"seed": 1})

    assert (made.rank, made.alpha, made.target_modules) == (8, 16, ("q_proj", "v_proj"))
    assert (made.base_model, made.origin, made.created_at) == ("smollm2", {"seed": 1}, 1000)
    assert store.get(made.id) == made
    assert store.list() == (made,)


def test_the_path_is_absolute_and_holds_the_same_bytes(store, make_adapter):
    source = make_adapter()
    path = store.path(store.put("triage", source, "smollm2", {}).id)

    assert path.is_absolute()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (path / name).read_bytes() == (source / name).read_bytes()
        assert not stat.S_IMODE((path / name).stat().st_mode) & 0o222


def test_the_digest_covers_names_sizes_and_bytes_in_one_order(store, make_adapter):
    source = make_adapter()
    expected = hashlib.sha256()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        data = (source / name).read_bytes()
        expected.update(f"{name}\0{len(data)}\0".encode() + data)

    assert store.put("triage", source, "smollm2", {}).sha256 == expected.hexdigest()


def test_only_the_two_files_are_copied(store, make_adapter):
    source = make_adapter()
    (source / "README.md").write_text("hello")
    made = store.put("triage", source, "smollm2", {})

    kept = {file.name for file in store.path(made.id).iterdir()}
    assert kept == {"adapter_config.json", "adapter_model.safetensors", "manifest.triage.json"}


def test_the_same_bytes_under_a_second_name_are_stored_once(store, make_adapter):
    source = make_adapter()
    first, second = (store.put(name, source, "smollm2", {}) for name in ("triage", "support"))

    assert store.path(first.id) == store.path(second.id)
    assert first.id != second.id
    assert len(digest_folders(store)) == 1
    assert [manifest.name for manifest in store.list()] == ["support", "triage"]


def test_putting_an_adapter_again_returns_the_first_manifest(store, make_adapter):
    source = make_adapter()
    first = store.put("triage", source, "smollm2", {"seed": 1})

    assert store.put("triage", source, "smollm2", {"seed": 2}) == first


def test_the_same_adapter_cannot_be_stored_for_two_bases(store, make_adapter):
    source = make_adapter()
    store.put("triage", source, "smollm2", {})

    with pytest.raises(AdapterInvalid) as caught:
        store.put("triage", source, "llama", {})
    assert codes(caught) == ["base_model"]


def test_different_bytes_under_one_name_live_side_by_side(store, make_adapter):
    first = store.put("triage", make_adapter("one"), "smollm2", {})
    second = store.put("triage", make_adapter("two", payload=b"\1" * 8), "smollm2", {})

    assert store.path(first.id) != store.path(second.id)


@pytest.mark.parametrize("name", ["", "Triage", "../up", "a/b", "a@b", "x" * 65])
def test_a_name_that_could_not_go_into_a_path_is_refused(store, make_adapter, name):
    with pytest.raises(AdapterInvalid) as caught:
        store.put(name, make_adapter(), "smollm2", {})
    assert codes(caught) == ["name"]


def test_every_fault_of_a_folder_is_told_at_once(store, make_adapter):
    source = make_adapter()
    (source / "adapter_model.safetensors").unlink()
    (source / "adapter_model.BIN").write_bytes(b"")
    (source / "link").symlink_to("/etc/hostname")

    with pytest.raises(AdapterInvalid) as caught:
        store.put("triage", source, "smollm2", {})
    assert codes(caught) == ["pickle", "symlink", "missing_file"]
    assert digest_folders(store) == []


def test_weights_that_are_a_link_are_refused(store, make_adapter):
    source = make_adapter()
    (source / "adapter_model.safetensors").rename(source.parent / "elsewhere")
    (source / "adapter_model.safetensors").symlink_to(source.parent / "elsewhere")

    with pytest.raises(AdapterInvalid) as caught:
        store.put("triage", source, "smollm2", {})
    assert codes(caught) == ["symlink"]


@pytest.mark.parametrize("kind", ["missing", "file", "link"])
def test_a_folder_that_is_none_is_refused(store, make_adapter, tmp_path, kind):
    folder = tmp_path / kind
    if kind == "file":
        folder.write_text("")
    elif kind == "link":
        folder.symlink_to(make_adapter())

    with pytest.raises(AdapterInvalid) as caught:
        store.put("triage", folder, "smollm2", {})
    assert codes(caught) == ["not_a_folder"]


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ("{", 1),
        ([], 1),
        ({}, 4),
        ({"peft_type": "LORA", "r": True, "lora_alpha": 16, "target_modules": ["q_proj"]}, 1),
        ({"peft_type": "LORA", "r": 8, "lora_alpha": "16", "target_modules": "all-linear"}, 2),
    ],
)
def test_an_unusable_configuration_is_refused(store, make_adapter, config, count):
    with pytest.raises(AdapterInvalid) as caught:
        store.put("triage", make_adapter(config=config), "smollm2", {})
    assert codes(caught) == ["config"] * count
    assert digest_folders(store) == []


@pytest.mark.parametrize(
    "weights", [b"", b"\x80\x04pickle!", b"\5\0\0\0\0\0\0\0hello", b"\2\0\0\0\0\0\0\0[]"]
)
def test_weights_that_are_not_safetensors_are_refused(store, make_adapter, weights):
    source = make_adapter()
    (source / "adapter_model.safetensors").write_bytes(weights)

    with pytest.raises(AdapterInvalid) as caught:
        store.put("triage", source, "smollm2", {})
    assert codes(caught) == ["weights"]


@pytest.mark.parametrize(
    "adapter_id", ["triage", "triage@abc", "triage@" + "0" * 12, "../x@" + "0" * 12, "*@*"]
)
def test_an_unknown_id_is_not_found(store, make_adapter, adapter_id):
    store.put("triage", make_adapter(), "smollm2", {})

    with pytest.raises(AdapterNotFound):
        store.get(adapter_id)
    with pytest.raises(AdapterNotFound):
        store.path(adapter_id)


def test_folders_without_a_manifest_are_ignored_and_swept_when_old(store, make_adapter):
    made = store.put("triage", make_adapter(), "smollm2", {})
    os.utime(store.path(made.id), (0, 0))
    for name, age in ((".incoming-old", 100), (".incoming-new", 10), ("0" * 64, 100)):
        (store.root / name).mkdir()
        os.utime(store.root / name, (1000 - age, 1000 - age))
    (store.root / "notes").mkdir()

    assert store.list() == (made,)
    assert store.sweep(older_than=60) == 2
    assert {entry.name for entry in store.root.iterdir()} == {made.sha256, ".incoming-new", "notes"}


def test_a_second_store_on_the_same_folder_sees_the_same_adapters(store, make_adapter):
    made = store.put("triage", make_adapter(), "smollm2", {})

    assert AdapterStore(store.root).get(made.id) == made
    assert json.loads((store.path(made.id) / "manifest.triage.json").read_text())["name"] == "triage"
