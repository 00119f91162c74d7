"""The gateway's own tables: who may ask. Adapters and retrieval define theirs in their own packages.

Plain SQL types only, so that SQLite and PostgreSQL hold the same schema.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

tenants = Table(
    "tenants",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("disabled", Boolean, nullable=False, default=False),
    Column("created_at", BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("public_id", String(12), primary_key=True),
    # NULL: an administrator's key, which belongs to no tenant.
    Column("tenant_id", ForeignKey("tenants.id", ondelete="CASCADE"), index=True),
    Column("name", String(63), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
)

# One row. Whoever changes what the catalogue shows adds one, and every gateway reads anew.
catalog_version = Table(
    "catalog_version",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", BigInteger, nullable=False),
)

# What the configuration file last described for each model: traffic moves when that changes, and not otherwise.
declared_releases = Table(
    "declared_releases",
    metadata,
    Column("model_id", String(40), primary_key=True),
    Column("release_id", String(40), nullable=False),
)
