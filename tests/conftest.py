"""What every test can have: a real PostgreSQL, and a database of its own on it."""

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from activities.store.migrate import migrate
from activities.store.store import Store
from workers.embedded.postgres import EmbeddedPostgres
from workers.exit import leave

# How long an example takes says something about the machine, not about the code.
settings.register_profile("orderwright", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Only test_conservation.py asks for it: a thousand orders instead of fifty.
settings.register_profile("long", settings.get_profile("orderwright"), max_examples=1_000)
settings.load_profile("orderwright")

_LONGEST = ("chaos", "workflows")
_TEMPLATE = "ow_template"
_numbers = itertools.count(1)
_exit_code: list[int] = []


@pytest.fixture(scope="session")
def database_server() -> Iterator[EmbeddedPostgres]:
    """One PostgreSQL for the session, started when the first test asks for it."""
    # A short path that PostgreSQL's user may enter, which pytest's own private directories are not.
    folder = Path(tempfile.mkdtemp(prefix="ow-db-"))
    folder.chmod(0o711)
    try:
        with EmbeddedPostgres(folder, settings={"fsync": "off"}) as server:
            yield server
            if server.pid is not None:
                # Nobody needs these data again: leave without the last checkpoint.
                os.kill(server.pid, signal.SIGQUIT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def database_template(database_server: EmbeddedPostgres) -> str:
    """The name of a migrated database that others are copied from."""
    migrate(database_server.url(_TEMPLATE))
    return _TEMPLATE


@pytest.fixture(scope="module")
def database_url(database_server: EmbeddedPostgres, database_template: str) -> Iterator[str]:
    """The URL of a migrated database that is this module's own; tests in it use orders and SKUs of their own."""
    with _copy_of(database_server, database_template) as url:
        yield url


@pytest.fixture(scope="module")
async def store(database_url: str) -> AsyncIterator[Store]:
    """The store on the module's database."""
    opened = Store.at(database_url, pool_size=10, max_overflow=20)
    yield opened
    await opened.close()


@pytest.fixture
def fresh_database(database_server: EmbeddedPostgres, database_template: str) -> Iterator[str]:
    """The URL of a migrated, empty database that is this test's own."""
    with _copy_of(database_server, database_template) as url:
        yield url


@pytest.fixture
async def fresh_store(fresh_database: str) -> AsyncIterator[Store]:
    """The store on an empty database."""
    opened = Store.at(fresh_database)
    yield opened
    await opened.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-histories", action="store_true", help="keep what the workflow tests did for tests/replay"
    )
    parser.addoption(
        "--api-examples",
        type=int,
        help="try so many made-up requests per operation of the API, other ones every time",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first: run side by side, no single file is then waited for at the end."""
    items.sort(key=lambda item: item.path.parent.name not in _LONGEST)


def pytest_sessionfinish(exitstatus: int) -> None:
    _exit_code.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Leave as every process that used a Temporal client has to. Everything has been reported and torn down by now."""
    if _exit_code:
        leave(_exit_code[-1])


@contextmanager
def _copy_of(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"ow_test_{next(_numbers)}"
    _on(server, "CREATE DATABASE {} TEMPLATE {}", name, template)
    yield server.url(name)
    _on(server, "DROP DATABASE {} WITH (FORCE)", name)


def _on(server: EmbeddedPostgres, statement: str, *names: str) -> None:
    with psycopg.connect(server.url("postgres").replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
