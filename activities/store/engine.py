"""Connections to PostgreSQL: one pool per process."""

import time
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

# A connection that was used this lately is trusted to live. A ping costs as much as many a statement of ours.
_TRUSTED_SECONDS = 1.0


def create_engine(url: str, *, pool_size: int = 5, max_overflow: int = 5) -> AsyncEngine:
    """A pool for ``url`` (``postgresql+psycopg://…``). Nothing is connected before first use.

    Times come back in UTC. A connection that died while it lay idle is replaced unnoticed; of those in use a restarted
    server costs a retry.
    """
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_timeout=20,
        # The last one given back is the first to be taken: a few stay warm, the others may close.
        pool_use_lifo=True,
        # Error texts reach logs and Temporal; statements' parameters hold names and addresses.
        hide_parameters=True,
        # Whatever the server's default is: bounds of money are kept by looking at what others have committed.
        connect_args={
            "connect_timeout": 10,
            "options": r"-c timezone=UTC -c default_transaction_isolation=read\ committed",
        },
    )
    _ping_what_lay_idle(engine)
    return engine


def _ping_what_lay_idle(engine: AsyncEngine) -> None:
    dialect = engine.sync_engine.dialect

    @event.listens_for(engine.sync_engine, "checkin")
    def note_the_time(_connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info["given_back"] = time.monotonic()

    @event.listens_for(engine.sync_engine, "checkout")
    def ping(connection: Any, entry: ConnectionPoolEntry, _borrowed: Any) -> None:
        if time.monotonic() - entry.info.get("given_back", time.monotonic()) < _TRUSTED_SECONDS:
            return
        try:
            dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as error:
            if dialect.is_disconnect(error, connection, None):
                # The pool then makes a new one, and gives up those that are as old.
                raise DisconnectionError from error
            raise
