"""The store: a pool of connections and the transactions on it. Reads and writes stand in the modules beside."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

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
        try:
            async with self._sessions.begin() as session:
                yield session
        except PoolTimeoutError as error:
            raise NotReachable("PostgreSQL: every connection of the pool is busy; try again") from error
        except DBAPIError as error:
            if _full(error):
                self._found_full()
            if _lost(error):
                raise NotReachable(f"PostgreSQL does not answer: {_first_line(error.orig)}") from error
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


def _lost(error: DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state is None:
        # The driver itself reports a broken or refused connection without a code.
        return type(error.orig).__name__ in ("OperationalError", "InterfaceError", "ConnectionTimeout")
    # 08 connection, 57P shutting down or starting up.
    return state[:2] == "08" or state[:3] == "57P" or state in _TRY_AGAIN or _full(error)


def _full(error: DBAPIError) -> bool:
    """It answers what is read, and refuses what is written: 53 is out of disk, memory or connections; 25006 read-only,
    which a managed database is made when its disk is full.
    """
    state: str = getattr(error.orig, "sqlstate", None) or ""
    return state[:2] == "53" or state == "25006"


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [""])[0]
