"""How often SKUs and channels were seen in orders, as far as that makes a difference."""

from collections.abc import Set as AbstractSet

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from models.policy import MOST_SEEN
from policies.cold_start import Kind, Seen


async def orders_with(
    session: AsyncSession, skus: AbstractSet[str], channel: str, *, but: str
) -> tuple[Seen, ...]:
    """Which of ``skus``, and whether ``channel``, were in fewer than ``MOST_SEEN`` orders beside ``but``.

    No more rows are read of any than that: it is asked for each order and cart.
    """
    wanted = {"skus": sorted(skus), "channel": channel, "but": but, "most": MOST_SEEN}
    rows = await session.execute(text(_SELDOM), wanted)
    return tuple(Seen(kind=Kind(kind), name=name, times=times) for kind, name, times in rows)


_SELDOM = """
SELECT kind, name, times FROM (
    SELECT 'sku' AS kind, sku AS name,
           (SELECT count(DISTINCT order_id)
              FROM (SELECT order_id FROM order_lines
                     WHERE order_lines.sku = wanted.sku AND order_id <> :but LIMIT :most) had) AS times
      FROM unnest(CAST(:skus AS text[])) AS wanted(sku)
    UNION ALL
    SELECT 'channel', CAST(:channel AS text),
           (SELECT count(*) FROM (SELECT 1 FROM orders WHERE channel = :channel AND order_id <> :but LIMIT :most) came)
) counted
 WHERE times < :most
 ORDER BY kind DESC, name
"""
