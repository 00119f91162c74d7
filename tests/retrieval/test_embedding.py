"""What every embedder promises, and what is particular to each."""

from pathlib import Path

import numpy as np
import pytest

from retrieval.embedding import Embedder, HashingEmbedder, SentenceTransformerEmbedder, digest_of


@pytest.fixture(params=["hashing", "minilm"])
def any_embedder(request: pytest.FixtureRequest) -> Embedder:
    made: Embedder = HashingEmbedder() if request.param == "hashing" else request.getfixturevalue("minilm")
    return made


def test_vectors_have_length_one_and_the_promised_shape(any_embedder: Embedder) -> None:
    vectors = any_embedder.embed(["annual leave", "", "?!", "a " * 1000])
    assert vectors.shape == (4, any_embedder.dimension)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_no_texts_give_no_rows(any_embedder: Embedder) -> None:
    assert any_embedder.embed([]).shape == (0, any_embedder.dimension)


def test_a_text_alone_or_among_others_gets_the_same_vector(any_embedder: Embedder) -> None:
    alone = any_embedder.embed(["annual leave"])[0]
    among = any_embedder.embed([f"filler number {n}" for n in range(20)] + ["annual leave"])[20]
    assert alone @ among == pytest.approx(1.0, abs=1e-4)


def test_related_texts_are_nearer_than_others(any_embedder: Embedder) -> None:
    leave, near, far = any_embedder.embed(["annual leave days", "days of leave a year", "pension transfer"])
    assert leave @ near > leave @ far


def test_counting_neither_pads_nor_truncates(any_embedder: Embedder) -> None:
    assert any_embedder.count("hello world") == 2
    assert any_embedder.count("hello world " * 300) == 600


def test_the_digest_tells_embedders_apart(any_embedder: Embedder) -> None:
    assert len(any_embedder.digest) == 64
    assert HashingEmbedder(64).digest not in (any_embedder.digest, HashingEmbedder(128).digest)


def test_a_digest_follows_the_files_content_and_names(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = digest_of(tmp_path)
    (tmp_path / "README.md").write_text("words")
    assert digest_of(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"2")
    assert digest_of(tmp_path) != before


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        SentenceTransformerEmbedder(tmp_path)


def test_minilm_reads_254_word_pieces(minilm: SentenceTransformerEmbedder) -> None:
    assert (minilm.max_tokens, minilm.dimension) == (254, 384)
    cut, whole = minilm.embed(["leave " * 254, "leave " * 254 + "pension " * 50])
    assert cut @ whole == pytest.approx(1.0, abs=1e-4)
