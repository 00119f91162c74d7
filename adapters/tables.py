"""The relational shape of adapters, models, releases and traffic. Knows no queries.

Written for SQLite and PostgreSQL alike: JSON columns are read and written whole, never searched.
"""

import sqlalchemy as sa

metadata = sa.MetaData()

SHARED = ""
"""The tenant column's value for what every tenant may use.

It is not NULL because NULLs are distinct in a UNIQUE constraint: two shared models of one name would fit.
The classes above the tables translate it to None.
"""

adapters = sa.Table(
    "adapters",
    metadata,
    sa.Column("tenant_id", sa.String(64), primary_key=True),
    sa.Column("id", sa.String(80), primary_key=True, comment="name@sha12"),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False, index=True),
    sa.Column("base_model", sa.String(255), nullable=False),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False, comment="Unix seconds"),
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True, comment="mdl_…"),
    sa.Column("tenant_id", sa.String(64), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("base_model", sa.String(255), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False, comment="Unix seconds"),
    sa.UniqueConstraint("tenant_id", "name", name="uq_models_tenant_name"),
)

releases = sa.Table(
    "releases",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True, comment="rel_…"),
    sa.Column("model_id", sa.ForeignKey("models.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False, comment="1, 2, … within the model"),
    sa.Column("adapter_id", sa.String(80), nullable=True, comment="null: the base model itself"),
    sa.Column("system_prompt", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("retrieval", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("sampling", sa.JSON, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, comment="sha256 of the canonical content"),
    sa.Column("created_at", sa.BigInteger, nullable=False, comment="Unix seconds"),
    sa.UniqueConstraint("model_id", "number", name="uq_releases_model_number"),
    sa.UniqueConstraint("model_id", "digest", name="uq_releases_model_digest"),
)

traffic = sa.Table(
    "traffic",
    metadata,
    sa.Column("model_id", sa.ForeignKey("models.id"), primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("splits", sa.JSON, nullable=False, comment="{release id: whole percent}"),
    sa.Column("updated_at", sa.BigInteger, nullable=False, comment="Unix seconds"),
)
