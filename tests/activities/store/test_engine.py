"""Connections that died while they lay in the pool, on a real PostgreSQL."""

import asyncio

import psycopg
import pytest
from sqlalchemy import text

from activities.store import engine
from activities.store.store import Store
from models.errors import NotReachable


async def backend_of(store: Store) -> int:
    async with store.transaction() as session:
        return int(await session.scalar(text("SELECT pg_backend_pid()")) or 0)


async def end(database_url: str, backend: int) -> None:
    def at_once() -> None:
        with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (backend,))

    await asyncio.to_thread(at_once)


async def test_a_connection_that_died_while_it_lay_idle_is_replaced_unnoticed(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_TRUSTED_SECONDS", 0.0)
    store = Store.at(fresh_database, pool_size=1, max_overflow=0)
    first = await backend_of(store)
    await end(fresh_database, first)
    assert await backend_of(store) != first
    await store.close()


async def test_one_that_died_just_after_it_was_used_costs_one_try(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_TRUSTED_SECONDS", 600.0)
    store = Store.at(fresh_database, pool_size=1, max_overflow=0)
    first = await backend_of(store)
    assert await backend_of(store) == first
    await end(fresh_database, first)
    with pytest.raises(NotReachable):
        await backend_of(store)
    assert await backend_of(store) != first
    await store.close()
