"""Texts to unit vectors.

`Embedder` is the seam; a store records its digest and never mixes two. Knows no stores.
"""

import hashlib
import importlib
import math
import re
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from retrieval.store import Vectors
from retrieval.words import content_words

_BATCH = 16
_PIECES = re.compile(r"\w+|[^\w\s]")
_NOT_IN_DIGEST = {"README.md", "data_config.json"}


class Embedder(Protocol):
    """Safe to call from several threads."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str:
        """SHA-256 over weights and tokenizer: two embedders with one digest give the same vectors."""

    @property
    def dimension(self) -> int: ...

    @property
    def max_tokens(self) -> int:
        """The longest text, by `count`, that is read in full; the rest of a longer one is not seen."""

    def count(self, text: str) -> int:
        """Tokens of `text` by the embedder's own tokenizer, special tokens not counted."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Shape (len(texts), dimension), float32, each row of length 1."""


class SentenceTransformerEmbedder:
    """A sentence-transformers model from a local folder.

    `threads` caps torch's threads for the whole process; None leaves them alone. Raises OSError when the
    folder holds no model.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self.digest = digest_of(path)
        self.name = path.name
        if threads is not None:
            importlib.import_module("torch").set_num_threads(threads)
        library = importlib.import_module("sentence_transformers")
        self._model: Any = library.SentenceTransformer(str(path), device="cpu", local_files_only=True)
        self._tokenizer: Any = importlib.import_module("tokenizers").Tokenizer.from_file(
            str(path / "tokenizer.json")
        )
        # tokenizer.json may ask for padding and truncation, which would make every count the same.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.dimension: int = int(self._model.encode("warm-up", show_progress_bar=False).shape[-1])
        special = int(self._tokenizer.num_special_tokens_to_add(is_pair=False))
        self.max_tokens: int = int(self._model.max_seq_length) - special
        # Fast tokenizers change their own truncation state on each call and refuse a second borrower.
        self._one_at_a_time = threading.Lock()

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def embed(self, texts: Sequence[str]) -> Vectors:
        rows = np.empty((len(texts), self.dimension), np.float32)
        # The lock is given up between batches so that a query waits for one batch, not for a whole ingest.
        for start in range(0, len(texts), _BATCH):
            batch = list(texts[start : start + _BATCH])
            with self._one_at_a_time:
                rows[start : start + len(batch)] = self._model.encode(
                    batch, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False
                )
        return rows


class HashingEmbedder:
    """Bag of words hashed into `dimension` signed buckets: no model, deterministic; for tests and the echo
    demo.
    """

    name = "hashing"
    max_tokens = 512

    def __init__(self, dimension: int = 256) -> None:
        self.dimension = dimension
        self.digest = hashlib.sha256(f"hashing/1/{dimension}".encode()).hexdigest()

    def count(self, text: str) -> int:
        return len(_PIECES.findall(text))

    def embed(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), self.dimension), np.float32)
        for i, text in enumerate(texts):
            row = rows[i]
            for word, times in Counter(content_words(text)).items():
                bucket, sign = self._bucket(word)
                row[bucket] += sign * (1.0 + math.log(times))
            length = float(np.linalg.norm(row))
            if length == 0.0:
                # No content words, or all cancelled out: still a unit vector, the same for every such text.
                row[0] = length = 1.0
            rows[i] /= length
        return rows

    def _bucket(self, word: str) -> tuple[int, float]:
        number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        return (number >> 1) % self.dimension, 1.0 if number & 1 else -1.0


def digest_of(path: Path) -> str:
    """SHA-256 over the names and bytes of a model folder's files.

    Raises OSError when it has no tokenizer.json.
    """
    if not (path / "tokenizer.json").is_file():
        raise FileNotFoundError(f"{path} holds no embedding model: tokenizer.json is missing")
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path)
        hidden = any(part.startswith(".") for part in relative.parts)
        if file.is_file() and not hidden and relative.name not in _NOT_IN_DIGEST:
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").digest()
            total.update(relative.as_posix().encode() + b"\0" + content)
    return total.hexdigest()
