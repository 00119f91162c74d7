import pytest

from adapters.manifest import AdapterManifest, make_adapter_id

MANIFEST = AdapterManifest(
    name="triage",
    sha256="ab" * 32,
    base_model="smollm2",
    rank=16,
    alpha=32,
    target_modules=("q_proj", "v_proj"),
    size_bytes=1234,
    created_at=1_700_000_000,
    origin={"seed": 0},
)


def test_the_id_is_the_name_and_twelve_digits_of_the_digest():
    assert MANIFEST.id == "triage@abababababab" == make_adapter_id("triage", "ab" * 32)


def test_a_manifest_survives_json():
    assert AdapterManifest.from_json(MANIFEST.to_json()) == MANIFEST


def test_unknown_fields_are_refused():
    text = MANIFEST.to_json().replace('"rank"', '"runk"')

    with pytest.raises(TypeError, match="runk"):
        AdapterManifest.from_json(text)
