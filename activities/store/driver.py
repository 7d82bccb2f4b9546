"""Calls of the database's functions, past SQLAlchemy: for what is done for every order its part would be the larger."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from sqlalchemy.ext.asyncio import AsyncSession


async def call(session: AsyncSession, statement: LiteralString, values: Sequence[Any]) -> Any:
    """The one value that ``statement`` answers, in the session's transaction."""
    pooled = await (await session.connection()).get_raw_connection()
    connection = pooled.driver_connection
    assert isinstance(connection, psycopg.AsyncConnection)  # noqa: S101 - the only driver there is
    return await only(connection, statement, values)


async def only(
    connection: psycopg.AsyncConnection[Any], statement: LiteralString, values: Sequence[Any]
) -> Any:
    """The one value that ``statement`` answers; it is planned once for each connection."""
    row = await (await connection.execute(statement, values, prepare=True)).fetchone()
    return None if row is None else row[0]


def array(values: Iterable[str | int | datetime | None]) -> str:
    """PostgreSQL's text form of an array: the driver takes far longer to write one."""
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: str | int | datetime | None) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, datetime):
        return f'"{value.isoformat()}"'
    return "NULL" if value is None else str(value)
