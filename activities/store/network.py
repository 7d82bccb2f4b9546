"""The fulfilment network and the stock in it, as the router needs them."""

from collections.abc import Collection, Sequence

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.base import Contract
from models.errors import NoNetwork
from models.network import CarrierService, Centroid, Network, Node, Point
from models.tables.stock import CarrierServiceRow, NetworkRow, NodeRow, PostcodeCentroidRow
from policies.routing.distance import beginnings


class StockLevel(Contract):
    """``on_hand`` units of ``sku`` lie at ``node``."""

    node: str
    sku: str
    on_hand: int


class OpenStock(StockLevel):
    """What of it can still be promised to an order: the router must not plan with what a reservation would not get.

    With what the order holds there itself, which it gets again by reserving anew. ``unreserved`` units are promised to
    nobody else, but may be kept for somebody. ``shared`` is how much of the SKU can be promised to it at all nodes
    together; None: all that is available at each. At a node that is not ``active`` nothing is planned.
    """

    reserved: int
    available: int
    unreserved: int
    shared: int | None
    active: bool = True


async def network(session: AsyncSession) -> Network:
    """The whole network. Raises ``NotFound`` when none was loaded."""
    settings = await session.get(NetworkRow, 1)
    if settings is None:
        raise NoNetwork("no fulfilment network is loaded: run orderwright prepare")
    nodes = await session.scalars(select(NodeRow).order_by(col(NodeRow.node_id)))
    services = await session.scalars(
        select(CarrierServiceRow).order_by(col(CarrierServiceRow.carrier), col(CarrierServiceRow.service))
    )
    return Network(
        currency=settings.currency,
        unit_weight_g=settings.unit_weight_g,
        split_penalty_minor=settings.split_penalty_minor,
        processing_days=settings.processing_days,
        nodes=tuple(Node.model_validate(node.model_dump()) for node in nodes),
        services=tuple(CarrierService.model_validate(service.model_dump()) for service in services),
    )


async def destination_of(session: AsyncSession, country: str, postcode: str) -> Point | None:
    """About where a postcode is: the centroid of the longest beginning that is known, or None."""
    prefixes = beginnings(country, postcode)
    row = await session.scalar(
        select(PostcodeCentroidRow)
        .where(col(PostcodeCentroidRow.country) == country, col(PostcodeCentroidRow.prefix).in_(prefixes))
        .order_by(func.length(col(PostcodeCentroidRow.prefix)).desc())
        .limit(1)
    )
    if row is None:
        return None
    # About a kilometre: it is kept with the plan, and a person's address must not be.
    return Point(latitude=round(row.latitude, 2), longitude=round(row.longitude, 2))


async def active_services(session: AsyncSession) -> list[str]:
    """The services that parcels can go by, as ``carrier/service``."""
    rows = await session.execute(
        select(col(CarrierServiceRow.carrier), col(CarrierServiceRow.service))
        .where(col(CarrierServiceRow.active))
        .order_by(col(CarrierServiceRow.carrier), col(CarrierServiceRow.service))
    )
    return [f"{carrier}/{service}" for carrier, service in rows]


async def stock_of(
    session: AsyncSession, skus: Collection[str], order_id: str, *, goes_on: Collection[str] | None = None
) -> list[OpenStock]:
    """What is open to an order of ``skus`` at every node, by node and SKU. A look, not a promise: reserving decides.

    What the order holds for its shipments ``goes_on`` is not to be planned with; None: for all that are not called off.
    """
    values = {
        "skus": sorted(skus),
        "order_id": order_id,
        "goes_on": None if goes_on is None else sorted(goes_on),
    }
    rows = await session.execute(text(_OPEN), values)
    return [OpenStock.model_validate(row) for row in rows.mappings()]


async def stock_open_to(
    session: AsyncSession, skus: Collection[str], channel: str, tier: str | None
) -> list[OpenStock]:
    """What is open to whoever might order ``skus`` by ``channel`` as one of ``tier``, by node and SKU. A look."""
    values = {"skus": sorted(skus), "channel": channel, "tier": tier}
    rows = await session.execute(text(_OPEN_TO), values)
    return [OpenStock.model_validate(row) for row in rows.mappings()]


async def unknown_skus(session: AsyncSession, skus: Collection[str]) -> list[str]:
    """Those of ``skus`` that no active node stocks, and none expects a delivery of: nothing can come of them."""
    rows = await session.scalars(text(_UNKNOWN), {"skus": sorted(skus)})
    return list(rows)


# As stock_reserve_again has it: what the order frees itself it may have again, and all else counts as before. Units of
# lots that are not good for it any more it would not get.
_OPEN = """
WITH own AS (
    SELECT units.node, units.sku,
           sum(CASE WHEN stock.lots THEN coalesce(good.quantity, 0) ELSE units.quantity END)::bigint AS quantity
      FROM reservations AS holding
      JOIN reserved_units AS units USING (key)
      JOIN stock USING (node, sku)
      LEFT JOIN LATERAL (
          SELECT sum(part.quantity) AS quantity
            FROM stock_lot_wanted(:order_id) AS wanted, reserved_lots AS part
            JOIN stock_lots USING (node, sku, lot)
           WHERE stock.lots AND part.key = units.key AND part.shipment_id = units.shipment_id
             AND part.node = units.node AND part.sku = units.sku
             AND (expires_on >= wanted.good_on OR (expires_on IS NULL AND NOT wanted.asks))) AS good ON true
     WHERE holding.order_id = :order_id AND units.state = 'held' AND units.sku = ANY (CAST(:skus AS text[]))
       AND units.shipment_id <> ALL (coalesce(CAST(:goes_on AS text[]), ARRAY(
               SELECT shipment_id FROM shipments WHERE order_id = :order_id AND state <> 'cancelled')))
     GROUP BY units.node, units.sku)
SELECT node, sku, on_hand, reserved,
       greatest(stock_committable(stock, :order_id), 0) + coalesce(own.quantity, 0) AS available,
       on_hand - reserved + coalesce(own.quantity, 0) AS unreserved,
       room.shared + coalesce((SELECT sum(quantity) FROM own WHERE own.sku = room.sku), 0)::bigint AS shared,
       nodes.active
  FROM stock
  JOIN nodes ON node_id = node
  JOIN (SELECT sku, stock_shared(sku, :order_id) AS shared
          FROM unnest(CAST(:skus AS text[])) AS sku) AS room USING (sku)
  LEFT JOIN own USING (node, sku)
 ORDER BY node, sku
"""

# The same for somebody who has no order, and so holds nothing yet.
_OPEN_TO = """
SELECT node, sku, on_hand, reserved,
       greatest(least(on_hand - reserved - safety_stock, allowed.free, allowed.most,
                      CASE WHEN lots THEN stock_lot_limit(stock, NULL) END), 0) AS available,
       on_hand - reserved AS unreserved, allowed.shared, nodes.active
  FROM stock
  JOIN nodes ON node_id = node
  LEFT JOIN LATERAL (
       SELECT * FROM stock_allowed(stock, :channel, :tier)
        WHERE EXISTS (SELECT FROM stock_allocations AS rule WHERE rule.sku IS NULL OR rule.sku = stock.sku)
       ) AS allowed ON true
 WHERE sku = ANY (CAST(:skus AS text[]))
 ORDER BY node, sku
"""

_UNKNOWN = """
SELECT sku FROM unnest(CAST(:skus AS text[])) AS asked (sku)
 WHERE NOT EXISTS (SELECT FROM stock JOIN nodes ON node_id = node WHERE stock.sku = asked.sku AND active)
   AND NOT EXISTS (SELECT FROM inbound_supply AS supply JOIN nodes ON node_id = node
                    WHERE supply.sku = asked.sku AND received < quantity AND active)
 ORDER BY sku
"""


async def load_network(session: AsyncSession, wanted: Network) -> None:
    """Make the stored network equal to ``wanted``. What it no longer names stays, inactive: old plans refer to it."""
    settings = wanted.model_dump(exclude={"nodes", "services", "centroids"})
    await session.execute(
        insert(NetworkRow)
        .values(id=1, **settings)
        .on_conflict_do_update(index_elements=["id"], set_=settings)
    )
    named_nodes = {node.node_id for node in wanted.nodes}
    named_services = {(service.carrier, service.service) for service in wanted.services}
    for stored_node in await session.scalars(select(NodeRow)):
        stored_node.active = stored_node.active and stored_node.node_id in named_nodes
    for stored in await session.scalars(select(CarrierServiceRow)):
        stored.active = stored.active and (stored.carrier, stored.service) in named_services
    for node in wanted.nodes:
        await session.merge(NodeRow(**node.model_dump(mode="json")))
    for service in wanted.services:
        await session.merge(CarrierServiceRow(**service.model_dump(mode="json")))


async def load_centroids(session: AsyncSession, wanted: Sequence[Centroid]) -> None:
    """Make the stored centroids equal to ``wanted``, of which no two are of one country and prefix."""
    values = {
        "countries": [one.country for one in wanted],
        "prefixes": [one.prefix for one in wanted],
        "latitudes": [one.latitude for one in wanted],
        "longitudes": [one.longitude for one in wanted],
    }
    await session.execute(text(_LOAD_CENTROIDS), values)


# Rows that are as they should be are left alone: it is loaded again at every start.
_LOAD_CENTROIDS = """
WITH wanted AS (
    SELECT country, prefix, latitude, longitude
      FROM unnest(CAST(:countries AS text[]), CAST(:prefixes AS text[]),
                  CAST(:latitudes AS float8[]), CAST(:longitudes AS float8[]))
        AS row (country, prefix, latitude, longitude)),
gone AS (
    DELETE FROM postcode_centroids AS stored
     WHERE NOT EXISTS (SELECT FROM wanted
                        WHERE wanted.country = stored.country AND wanted.prefix = stored.prefix))
INSERT INTO postcode_centroids AS stored (country, prefix, latitude, longitude)
SELECT country, prefix, latitude, longitude FROM wanted
    ON CONFLICT (country, prefix) DO UPDATE SET latitude = excluded.latitude, longitude = excluded.longitude
 WHERE (stored.latitude, stored.longitude) <> (excluded.latitude, excluded.longitude)
"""


async def seed_stock(session: AsyncSession, levels: Sequence[StockLevel]) -> int:
    """Insert stock rows that do not exist yet; rows in use keep their counts. Answers how many were inserted."""
    # One statement with three arrays: ten thousand rows of bound values would take seconds to compile.
    done = await session.execute(
        text(
            "INSERT INTO stock (node, sku, on_hand, reserved) "
            "SELECT node, sku, on_hand, 0 "
            "FROM unnest(CAST(:nodes AS text[]), CAST(:skus AS text[]), CAST(:on_hand AS bigint[])) "
            "AS level (node, sku, on_hand), "
            """(SELECT set_config('orderwright.movement', '{"kind": "seed", "actor": "orderwright"}', true)) AS said """
            "ON CONFLICT (node, sku) DO NOTHING RETURNING 1"
        ),
        {
            "nodes": [level.node for level in levels],
            "skus": [level.sku for level in levels],
            "on_hand": [level.on_hand for level in levels],
        },
    )
    return len(done.all())
