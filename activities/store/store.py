"""The store: a pool of connections and the transactions on it. Reads and writes stand in the modules beside."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from activities.store.engine import create_engine
from models.errors import NotReachable


def _nothing() -> None:
    """Nobody asked to be told."""


class Store:
    """Opens transactions. The functions of this package take the session of one: the caller decides what is atomic."""

    def __init__(self, engine: AsyncEngine, *, found_full: Callable[[], None] = _nothing) -> None:
        self._engine = engine
        self._found_full = found_full
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)

    @classmethod
    def at(
        cls,
        url: str,
        *,
        pool_size: int = 5,
        max_overflow: int = 5,
        found_full: Callable[[], None] = _nothing,
    ) -> "Store":
        """The store at a database URL; see ``create_engine``.

        ``found_full`` is told each time that PostgreSQL answers, and has no room for what it is asked to do.
        """
        return cls(create_engine(url, pool_size=pool_size, max_overflow=max_overflow), found_full=found_full)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed when the block ends, rolled back when it raises.

        Raises ``NotReachable`` when the database does not answer; a transaction whose commit was under way may then
        have happened, which is why every write of ours can be repeated.
        """
        with self._answering():
            async with self._sessions.begin() as session:
                yield session

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[psycopg.AsyncConnection[tuple[Any, ...]]]:
        """The driver's own connection, each statement of which is a transaction: nothing stays locked between them.

        For what is done for every order, where SQLAlchemy's part would be the larger. Raises ``NotReachable`` as above.
        """
        with self._answering():
            async with self._engine.connect() as pooled:
                connection = (await pooled.get_raw_connection()).driver_connection
                assert isinstance(connection, psycopg.AsyncConnection)  # noqa: S101 - the only driver there is
                try:
                    await connection.set_autocommit(True)
                    yield connection
                    await connection.set_autocommit(False)
                except BaseException:
                    # It may be broken, or busy with what nobody waits for any more.
                    await pooled.invalidate()
                    raise

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except PoolTimeoutError as error:
            raise NotReachable("PostgreSQL: every connection of the pool is busy; try again") from error
        except (DBAPIError, psycopg.Error) as error:
            if _full(error):
                self._found_full()
            if _lost(error):
                raise NotReachable(f"PostgreSQL does not answer: {_first_line(_said(error))}") from error
            raise

    async def ping(self) -> None:
        """Raise ``NotReachable`` unless the database answers."""
        async with self.transaction() as session:
            await session.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Give every connection back."""
        await self._engine.dispose()


# Serialisation failures and deadlocks are somebody else's turn, not a fault: the same transaction works later.
_TRY_AGAIN = ("40001", "40P01")


def _said(error: DBAPIError | psycopg.Error) -> BaseException | None:
    """The driver's own error, whether or not it was asked through SQLAlchemy."""
    return error.orig if isinstance(error, DBAPIError) else error


def _lost(error: DBAPIError | psycopg.Error) -> bool:
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    state: str | None = getattr(_said(error), "sqlstate", None)
    if state is None:
        # The driver itself reports a broken or refused connection without a code.
        return type(_said(error)).__name__ in ("OperationalError", "InterfaceError", "ConnectionTimeout")
    # 08 connection, 57P shutting down or starting up.
    return state[:2] == "08" or state[:3] == "57P" or state in _TRY_AGAIN or _full(error)


def _full(error: DBAPIError | psycopg.Error) -> bool:
    """It answers what is read, and refuses what is written: 53 is out of disk, memory or connections; 25006 read-only,
    which a managed database is made when its disk is full.
    """
    state: str = getattr(_said(error), "sqlstate", None) or ""
    return state[:2] == "53" or state == "25006"


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [""])[0]
