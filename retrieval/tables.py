"""The tables that are the truth of this package; every index is a cache of `chunks`. Knows no queries."""

import secrets
from typing import Literal

import sqlalchemy as sa

FileStatus = Literal["in_progress", "completed", "failed", "cancelled"]

metadata = sa.MetaData()

# SQLite gives rising row ids to INTEGER only; PostgreSQL should not run out of 32 bits.
_CHUNK_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

files = sa.Table(
    "files",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("tenant_id", sa.String(128), nullable=False, index=True),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False, comment="seconds since 1970, UTC"),
    sa.Column("status", sa.String(16), nullable=False),
)

vector_stores = sa.Table(
    "vector_stores",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("tenant_id", sa.String(128), nullable=False, index=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("embedder_name", sa.Text, nullable=False),
    sa.Column("embedder_digest", sa.String(64), nullable=False),
    sa.Column("dimension", sa.Integer, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False, comment="rises with every change of its chunks"),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("metadata", sa.JSON, nullable=False),
)

vector_store_files = sa.Table(
    "vector_store_files",
    metadata,
    sa.Column("vector_store_id", sa.ForeignKey("vector_stores.id"), primary_key=True),
    sa.Column("file_id", sa.ForeignKey("files.id"), primary_key=True, index=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("last_error_code", sa.String(32)),
    sa.Column("last_error_message", sa.Text),
    sa.Column("usage_bytes", sa.BigInteger, nullable=False),
    sa.Column("attributes", sa.JSON, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

chunks = sa.Table(
    "chunks",
    metadata,
    sa.Column("id", _CHUNK_ID, primary_key=True, autoincrement=True),
    sa.Column("tenant_id", sa.String(128), nullable=False),
    sa.Column("vector_store_id", sa.ForeignKey("vector_stores.id"), nullable=False),
    sa.Column("file_id", sa.ForeignKey("files.id"), nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("heading", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("embedding_tokens", sa.Integer, nullable=False),
    sa.Column("vector", sa.LargeBinary, nullable=False, comment="float32, little-endian, L2-normalised"),
    sa.Index("ix_chunks_store_file", "vector_store_id", "file_id"),
    # An id is never given twice: a stale index may still hold a deleted one.
    sqlite_autoincrement=True,
)


def new_id(prefix: str) -> str:
    """An unguessable id such as `vs_6f…` (128 bits); `prefix` carries its own separator."""
    return prefix + secrets.token_hex(16)
