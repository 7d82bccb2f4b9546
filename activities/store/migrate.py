"""Bring the database up to date; ``orderwright migrate`` does it. Safe when two run at once."""

import time
from pathlib import Path

import psycopg
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from models.errors import NotReachable, Refused
from models.tables import migrations
from models.tables.schema import metadata

# Any number of our own; whoever holds it migrates, everybody else waits.
_LOCK = 0x0DE12317

_log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)


def migrate(url: str, *, wait: float = 30.0) -> None:
    """Create the database if it is missing and apply every migration it lacks.

    A database that a later version has migrated is left as it is: going back to the version before must work, and does,
    because migrations only add (CONTRIBUTING.md).

    Waits up to ``wait`` seconds for a server that is just starting. Raises ``NotReachable`` after that, and ``Refused``
    for a database that is somebody else's.
    """
    parsed = make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    _wait_for_database(parsed, time.monotonic() + wait)
    engine = create_engine(parsed, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            config = alembic_config(connection)
            at = set(MigrationContext.configure(connection).get_current_heads())
            scripts = ScriptDirectory.from_config(config)
            known = {script.revision for script in scripts.walk_revisions()}
            if at <= known:
                _refuse_tables_of_others(connection, at)
                command.upgrade(config, "head")
            else:
                _refuse_unless_it_has_all_we_need(connection, at - known)
                _log.warning(
                    "the database is newer than this version, and left as it is",
                    database=", ".join(sorted(at)),
                    this_version=", ".join(scripts.get_heads()),
                )
    finally:
        engine.dispose()


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for our migrations on ``connection``."""
    config = Config()
    config.set_main_option("script_location", str(Path(str(migrations.__file__)).parent))
    config.attributes["connection"] = connection
    return config


def _refuse_tables_of_others(connection: Connection, at: set[str]) -> None:
    """A database without a revision is empty of what we would create."""
    taken = set(metadata.tables) & set(inspect(connection).get_table_names()) if not at else set()
    if taken:
        raise Refused(
            f"the database {connection.engine.url.database!r} has tables that were not made by orderwright migrate "
            f"({', '.join(sorted(taken))}): give Orderwright a database of its own (DATABASE_URL)"
        )


def _refuse_unless_it_has_all_we_need(connection: Connection, unknown: set[str]) -> None:
    """Whoever made the unknown revisions: a later version of ours has added to what is here, and taken nothing away."""
    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    lacking = [
        f"{table.name}.{column.name}" if table.name in there else table.name
        for table in metadata.sorted_tables
        for column in table.columns
        if table.name not in there
        or column.name not in {found["name"] for found in inspector.get_columns(table.name)}
    ]
    if lacking:
        raise Refused(
            f"the database {connection.engine.url.database!r} is at revision {', '.join(sorted(unknown))}, which this "
            f"version does not know, and lacks {', '.join(dict.fromkeys(lacking))}: it is not Orderwright's "
            "(DATABASE_URL), or a later version took away what this one needs (CHANGELOG.md)"
        )


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
