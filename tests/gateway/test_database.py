"""The schema is what the tables say, on both databases, however often and by however many it is made."""

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import adapters.tables
import gateway.tables
import retrieval.tables
from gateway.database import connect, migrate
from gateway.errors import ConfigurationError

METADATA = [gateway.tables.metadata, adapters.tables.metadata, retrieval.tables.metadata]


def test_a_fresh_schema_equals_the_tables(db: sa.Engine) -> None:
    with db.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, METADATA) == []


def test_every_table_of_every_package_is_there(db: sa.Engine) -> None:
    wanted = {name for metadata in METADATA for name in metadata.tables}
    assert wanted | {"alembic_version"} == set(sa.inspect(db).get_table_names())


def test_migrating_again_changes_nothing(db: sa.Engine) -> None:
    with db.begin() as connection:
        connection.execute(gateway.tables.catalog_version.insert().values(id=1, version=7))
    migrate(db)
    with db.connect() as connection:
        assert connection.scalar(sa.select(gateway.tables.catalog_version.c.version)) == 7


def test_gateways_that_start_together_migrate_once(empty_url: str) -> None:
    engines = [connect(empty_url) for _ in range(4)]
    failures: list[Exception] = []

    def start(engine: sa.Engine) -> None:
        try:
            migrate(engine)
        except Exception as error:  # noqa: BLE001  a thread has nobody else to tell
            failures.append(error)

    threads = [threading.Thread(target=start, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert failures == []
        with engines[0].connect() as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM alembic_version")) == 1
    finally:
        for engine in engines:
            engine.dispose()


def test_sqlite_is_durable_and_holds_foreign_keys(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'new' / 'folder' / 'a.db'}")
    with engine.connect() as connection:
        pragmas = [
            connection.scalar(sa.text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    engine.dispose()
    assert pragmas == ["wal", 2, 1]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("not a url", "is not a database URL"),
        ("mysql://host/db", "names mysql; SQLite and PostgreSQL are supported"),
    ],
)
def test_an_address_that_cannot_be_is_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        connect(url)


def test_a_server_that_is_away_is_one_sentence_without_the_password() -> None:
    engine = connect("postgresql://someone:hunter2@127.0.0.1:9/db?connect_timeout=2")
    with pytest.raises(ConfigurationError, match="cannot open the database") as caught:
        migrate(engine)
    engine.dispose()
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    file.write_bytes(b"not a database, but long enough to be looked at" * 50)
    engine = connect(f"sqlite:///{file}")
    with pytest.raises(ConfigurationError, match="cannot open the database"):
        migrate(engine)
    engine.dispose()


def test_a_schema_from_the_future_is_one_sentence(db: sa.Engine) -> None:
    with db.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="newer"):
        migrate(db)
