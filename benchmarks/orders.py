"""Happy orders, as many as one likes: two lines of stock that lies at one node, paid by a card that is good."""

import itertools
from collections.abc import Iterator

from activities.store.network import StockLevel, seed_stock
from activities.store.store import Store
from models.order import OrderDraft

# Far enough apart that two orders in flight seldom want the same row, as in a shop with an assortment.
_SKUS = 1_000
_NODE = "gb-midlands"
_PLENTY = 10_000_000


async def stock_up(store: Store) -> None:
    """Lay enough of everything at one node, so that each order is one shipment."""
    async with store.transaction() as session:
        await seed_stock(
            session, [StockLevel(node=_NODE, sku=_sku(n), on_hand=_PLENTY) for n in range(_SKUS)]
        )


def drafts(series: str) -> Iterator[OrderDraft]:
    """Orders with numbers of their own, without end. ``series`` keeps those of one loop apart from all others."""
    for number in itertools.count(1):
        yield _draft(f"{series}-{number}", number)


def _draft(external_id: str, number: int) -> OrderDraft:
    return OrderDraft.model_validate(
        {
            "channel": "bench",
            "external_id": external_id,
            "placed_at": "2026-03-02T09:30:00Z",
            "currency": "GBP",
            "customer": {"name": "Alex Example", "email": "alex@example.com", "customer_ref": f"c-{number}"},
            "ship_to": {"lines": ["1 High Street"], "city": "Leeds", "postcode": "LS1 4DY", "country": "GB"},
            "lines": [
                {"line_id": "1", "sku": _sku(number * 7), "quantity": 2, "unit_price_minor": 295},
                {"line_id": "2", "sku": _sku(number * 7 + 3), "quantity": 1, "unit_price_minor": 1275},
            ],
            "charges": [{"code": "POST", "kind": "shipping", "amount_minor": 395}],
            "tenders": [{"kind": "card", "token": "tok_visa_4242", "amount_minor": 2260}],
            "totals": {"lines_minor": 1865, "charges_minor": 395, "total_minor": 2260},
        }
    )


def _sku(number: int) -> str:
    return f"BENCH-{number % _SKUS:04d}"
