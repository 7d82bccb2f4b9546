"""What can be promised of SKUs, from the rows that reservations are made on."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from typing import LiteralString

from activities.store.driver import array
from activities.store.store import Store
from models.availability import Availability, Inbound, NodePromise, SkuPromise
from policies.availability import limited, promisable, together


async def availability(
    store: Store,
    skus: Sequence[str],
    destination: str | None,
    today: date,
    *,
    channel: str | None = None,
    tier: str | None = None,
) -> Availability:
    """What active nodes can promise of ``skus``; with ``destination`` those that a carrier service goes there from.

    To an order of ``channel`` by a customer of ``tier``; without, to anybody.

    Two statements, each by itself: a look, no promise. Raises ``NotReachable``.
    """
    asked = (array(skus), destination, destination)
    async with store.statements() as connection:
        levels = await (await connection.execute(_LEVELS, (channel, tier, *asked), prepare=True)).fetchall()
        supply = await (await connection.execute(_SUPPLY, asked, prepare=True)).fetchall()
    free: dict[str, dict[str, int]] = defaultdict(dict)
    most: dict[tuple[str, str], int | None] = {}
    shared: dict[str, int | None] = {}
    inbound: dict[tuple[str, str], list[Inbound]] = defaultdict(list)
    for sku, node, units, at_most, of_all in levels:
        free[sku][node] = units
        most[(sku, node)] = at_most
        shared[sku] = of_all
    for sku, node, day, units in supply:
        inbound[(sku, node)].append(Inbound(on=day, quantity=units))
        free[sku].setdefault(node, 0)
    found = []
    for sku in dict.fromkeys(skus):
        nodes = tuple(
            NodePromise(
                node=node,
                **dict(limited(promisable(units, inbound[(sku, node)], today), most.get((sku, node)))),
            )
            for node, units in sorted(free[sku].items())
        )
        in_all = limited(together(nodes), shared.get(sku))
        found.append(SkuPromise(sku=sku, nodes=nodes, **dict(in_all)))
    return Availability(destination=destination, channel=channel, tier=tier, skus=tuple(found))


_SHIPS: LiteralString = """
   AND EXISTS (SELECT FROM nodes WHERE node_id = node AND active AND (
       %s::text IS NULL OR EXISTS (
           SELECT FROM carrier_services AS service, jsonb_array_elements(service.zones) AS zone
            WHERE service.active AND zone ->> 'origin' = nodes.country AND zone -> 'destinations' ? %s)))
"""
_LEVELS: LiteralString = (
    """
SELECT sku, node, least(on_hand - reserved - safety_stock, free, CASE WHEN lots THEN stock_lot_limit(stock, NULL) END),
       least(most, shared), shared
  FROM stock LEFT JOIN LATERAL (
       SELECT * FROM stock_allowed(stock, %s, %s)
        WHERE EXISTS (SELECT FROM stock_allocations AS rule WHERE rule.sku IS NULL OR rule.sku = stock.sku)
       ) AS allowed ON true
 WHERE sku = ANY (%s::text[])
"""  # noqa: S608 - both parts are ours
    + _SHIPS
)
_SUPPLY: LiteralString = (
    """
SELECT sku, node, expected_on, quantity - received FROM inbound_supply
 WHERE sku = ANY (%s::text[]) AND received < quantity
"""
    + _SHIPS
)
