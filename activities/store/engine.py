"""Connections to PostgreSQL: one pool per process."""

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine


def create_engine(url: str, *, pool_size: int = 5, max_overflow: int = 5) -> AsyncEngine:
    """A pool for ``url`` (``postgresql+psycopg://…``). Nothing is connected before first use.

    Times come back in UTC. A connection that died while pooled is replaced unnoticed, so a restarted server costs
    a retry at most.
    """
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_timeout=20,
        pool_pre_ping=True,
        # Error texts reach logs and Temporal; statements' parameters hold names and addresses.
        hide_parameters=True,
        connect_args={"connect_timeout": 10, "options": "-c timezone=UTC"},
    )
