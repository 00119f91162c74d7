"""Opens the one relational database and brings its schema up to date. Knows no query."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import event

from gateway.errors import ConfigurationError

_MIGRATIONS = Path(__file__).parent / "migrations"
_WAL_ATTEMPTS = 100


def connect(url: str) -> sa.Engine:
    """An engine for SQLite (write-ahead log, foreign keys on) or PostgreSQL; opens no connection yet."""
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise ConfigurationError(f"database_url is not a database URL: {error}") from error
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return sa.create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    if backend != "sqlite":
        raise ConfigurationError(f"database_url names {backend}; SQLite and PostgreSQL are supported")
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(parsed, connect_args={"timeout": 30})
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def migrate(engine: sa.Engine) -> None:
    """Bring the schema to the newest version. Two processes may call it at once: one waits for the other."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    try:
        with engine.connect() as connection:
            _serialise(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    except sa.exc.DatabaseError as error:
        raise ConfigurationError(f"cannot open the database {_shown(engine)}: {error.orig}") from error
    except CommandError as error:
        raise ConfigurationError(
            f"the database {_shown(engine)} was made by a newer Repertory ({error}): run that version"
        ) from error


def _shown(engine: sa.Engine) -> str:
    return engine.url.render_as_string(hide_password=True)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    _enter_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()


def _enter_wal(cursor: Any) -> None:
    """Switch to the write-ahead log. Of those that switch a new file at once, SQLite makes no one wait."""
    for _ in range(_WAL_ATTEMPTS):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(0.05)
    cursor.execute("PRAGMA journal_mode=WAL")


def _serialise(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(7273652074)"))
    else:
        connection.execute(sa.text("BEGIN IMMEDIATE"))
