"""Bring the database up to date; ``orderwright migrate`` does it. Safe when two run at once."""

import time
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from psycopg import sql
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from models.errors import NotReachable
from models.tables import migrations

# Any number of our own; whoever holds it migrates, everybody else waits.
_LOCK = 0x0DE12317


def migrate(url: str, *, wait: float = 30.0) -> None:
    """Create the database if it is missing and apply every migration it lacks.

    Waits up to ``wait`` seconds for a server that is just starting. Raises ``NotReachable`` after that.
    """
    parsed = make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    _wait_for_database(parsed, time.monotonic() + wait)
    engine = create_engine(parsed, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            command.upgrade(alembic_config(connection), "head")
    finally:
        engine.dispose()


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for our migrations on ``connection``."""
    config = Config()
    config.set_main_option("script_location", str(Path(str(migrations.__file__)).parent))
    config.attributes["connection"] = connection
    return config


def _wait_for_database(url: URL, deadline: float) -> None:
    while True:
        try:
            return _ensure_database(url)
        except OperationalError as error:
            if time.monotonic() >= deadline:
                where = url.host or url.query.get("host") or "localhost"
                raise NotReachable(
                    f"PostgreSQL does not answer at {where}: {str(error.orig).strip().splitlines()[0]}"
                ) from error
        time.sleep(0.2)


def _ensure_database(url: URL) -> None:
    try:
        _query(url, "SELECT 1")
    except OperationalError as error:
        if "does not exist" not in str(error.orig):
            raise
    else:
        return
    assert url.database is not None  # noqa: S101 - a database that does not exist has a name
    create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(url.database)).as_string(None)
    try:
        _query(url.set(database="postgres"), create)
    except Exception as error:
        # Somebody else created it at the same moment, which is as good.
        if not isinstance(
            getattr(error, "orig", None), psycopg.errors.DuplicateDatabase | psycopg.errors.UniqueViolation
        ):
            raise


def _query(url: URL, statement: str) -> None:
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
    finally:
        engine.dispose()
