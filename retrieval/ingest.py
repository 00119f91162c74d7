"""One file's bytes to chunks with vectors.

Knows formats and the embedder; knows no database and no tenants.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from retrieval.chunking import Chunk, split_markdown, split_text
from retrieval.embedding import Embedder
from retrieval.errors import FileNotUsable
from retrieval.store import Vectors

# MiniLM reads 254 word pieces; some room is left so that no chunk is ever cut.
CHUNK_TOKENS = 220
EMBED_BATCH = 32

_SPLITTERS: dict[str, Callable[..., list[Chunk]]] = {
    ".md": split_markdown,
    ".markdown": split_markdown,
    ".txt": split_text,
}


@dataclass(frozen=True, slots=True)
class EmbeddedFile:
    """`vectors` has shape (len(chunks), dimension); `tokens` are the embedder's, per chunk."""

    chunks: tuple[Chunk, ...]
    tokens: tuple[int, ...]
    vectors: Vectors

    @property
    def usage_bytes(self) -> int:
        return self.vectors.nbytes + sum(len(chunk.text.encode()) for chunk in self.chunks)


def chunks_of(filename: str, data: bytes, embedder: Embedder) -> tuple[Chunk, ...]:
    """Parse and split. Raises FileNotUsable: `unsupported_file` by suffix, `invalid_file` by content."""
    suffix = PurePosixPath(filename).suffix.lower()
    splitter = _SPLITTERS.get(suffix)
    if splitter is None:
        detail = f"{suffix or 'no suffix'} is not supported; use {', '.join(sorted(_SPLITTERS))}"
        raise FileNotUsable("unsupported_file", filename, detail)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        detail = f"not UTF-8 at byte {error.start}"
        raise FileNotUsable("invalid_file", filename, detail) from error
    if "\0" in text:
        raise FileNotUsable("invalid_file", filename, "holds NUL characters, so it is not a text file")
    title = PurePosixPath(filename).stem.replace("-", " ").replace("_", " ")
    limit = min(CHUNK_TOKENS, embedder.max_tokens)
    chunks = splitter(text, count=embedder.count, title=title, max_tokens=limit)
    if not chunks:
        raise FileNotUsable("invalid_file", filename, "holds no text")
    return tuple(chunks)


def embed_chunks(
    chunks: tuple[Chunk, ...], embedder: Embedder, on_batch: Callable[[int], None]
) -> EmbeddedFile:
    """Embed in batches; `on_batch` is told how many chunks each one held."""
    texts = [chunk.embedding_text for chunk in chunks]
    vectors = np.empty((len(texts), embedder.dimension), np.float32)
    for start in range(0, len(texts), EMBED_BATCH):
        batch = texts[start : start + EMBED_BATCH]
        vectors[start : start + len(batch)] = embedder.embed(batch)
        on_batch(len(batch))
    return EmbeddedFile(chunks, tuple(embedder.count(text) for text in texts), vectors)
