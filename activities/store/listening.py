"""What PostgreSQL notifies us of, as long as a connection for it lasts."""

from collections.abc import AsyncIterator

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from models.errors import NotReachable

# After so long without a word it is asked whether it is still there: a connection can be gone without a sign.
_ASK_AFTER_SECONDS = 15.0


async def notifications(url: str, channel: str) -> AsyncIterator[str | None]:
    """The payloads of ``channel``; None once at the beginning, when everything from then on will be heard.

    Raises ``NotReachable`` when there is no connection, or no more.
    """
    parsed = make_url(url)
    _, options = parsed.get_dialect()().create_connect_args(parsed)
    try:
        async with await psycopg.AsyncConnection.connect(
            autocommit=True, connect_timeout=10, **options
        ) as connection:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            yield None
            while True:
                async for heard in connection.notifies(timeout=_ASK_AFTER_SECONDS):
                    yield heard.payload
                await connection.execute("SELECT 1")
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise NotReachable(f"PostgreSQL does not notify: {type(error).__name__}") from error
