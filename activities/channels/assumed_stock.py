"""The stock that the online-retail example assumes, because the public data does not tell it.

The rule: enough overall for everything the file sells, so that a back-order is the exception. The Midlands hold all
but one article in a hundred, the North holds all, the four small nodes hold half of the articles each. Which half is
decided by a checksum, so the same file always gives the same stock.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from models.order import OrderDraft


@dataclass(frozen=True)
class AssumedShare:
    """What one node holds: ``articles_in_100`` of the articles, each ``percent`` of its demand plus ``spare`` units."""

    node: str
    articles_in_100: int
    percent: int
    spare: int


SHARES = (
    AssumedShare("gb-midlands", articles_in_100=99, percent=90, spare=60),
    AssumedShare("gb-north", articles_in_100=100, percent=50, spare=30),
    AssumedShare("gb-south", articles_in_100=50, percent=15, spare=12),
    AssumedShare("ie-dublin", articles_in_100=50, percent=15, spare=12),
    AssumedShare("de-west", articles_in_100=50, percent=15, spare=12),
    AssumedShare("nl-west", articles_in_100=50, percent=15, spare=12),
)


@dataclass(frozen=True)
class AssumedStock:
    """``on_hand`` units of ``sku`` at ``node``."""

    node: str
    sku: str
    on_hand: int


def demand_of(drafts: Iterable[OrderDraft]) -> dict[str, int]:
    """Units asked for per SKU over all the drafts."""
    demand: dict[str, int] = {}
    for draft in drafts:
        for line in draft.lines:
            demand[line.sku] = demand.get(line.sku, 0) + line.quantity
    return demand


def assumed_stock(demand: Mapping[str, int]) -> list[AssumedStock]:
    """The assumed stock for a demand in units per SKU, ordered by node and SKU.

    An article that the Midlands do not hold lies in the North in full.
    """
    stock = []
    for share in SHARES:
        for sku, units in sorted(demand.items()):
            if not _holds(share, sku):
                continue
            only_here = share.node == "gb-north" and not _holds(SHARES[0], sku)
            percent = 100 if only_here else share.percent
            stock.append(AssumedStock(share.node, sku, -(-units * percent // 100) + share.spare))
    return stock


def _holds(share: AssumedShare, sku: str) -> bool:
    return zlib.crc32(f"{share.node}/{sku}".encode()) % 100 < share.articles_in_100
