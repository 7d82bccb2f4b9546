"""The fulfilment network and the stock in it, as the router needs them."""

from collections.abc import Collection, Sequence

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.base import Contract
from models.errors import NotFound
from models.network import CarrierService, Network, Node, ServiceZone
from models.tables.stock import CarrierServiceRow, NetworkRow, NodeRow, StockRow


class StockLevel(Contract):
    """``on_hand`` units of ``sku`` lie at ``node``; ``reserved`` of them are promised to somebody.

    ``safety_stock`` is kept back from new promises.
    """

    node: str
    sku: str
    on_hand: int
    reserved: int = 0
    safety_stock: int = 0

    @property
    def available(self) -> int:
        """What can still be promised; the router must not plan with what a reservation would not get."""
        return max(self.on_hand - self.reserved - self.safety_stock, 0)


async def network(session: AsyncSession) -> Network:
    """The whole network. Raises ``NotFound`` when none was loaded."""
    settings = await session.get(NetworkRow, 1)
    if settings is None:
        raise NotFound("no fulfilment network is loaded: run orderwright prepare")
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
        services=tuple(
            CarrierService(
                carrier=service.carrier,
                service=service.service,
                max_weight_g=service.max_weight_g,
                zones=tuple(ServiceZone.model_validate(zone) for zone in service.zones),
                active=service.active,
            )
            for service in services
        ),
    )


async def active_services(session: AsyncSession) -> list[str]:
    """The services that parcels can go by, as ``carrier/service``."""
    rows = await session.execute(
        select(col(CarrierServiceRow.carrier), col(CarrierServiceRow.service))
        .where(col(CarrierServiceRow.active))
        .order_by(col(CarrierServiceRow.carrier), col(CarrierServiceRow.service))
    )
    return [f"{carrier}/{service}" for carrier, service in rows]


async def stock_of(session: AsyncSession, skus: Collection[str]) -> list[StockLevel]:
    """The stock of ``skus`` at every node, by node and SKU. A look, not a promise: reserving decides."""
    rows = await session.scalars(
        select(StockRow)
        .where(col(StockRow.sku).in_(sorted(skus)))
        .order_by(col(StockRow.node), col(StockRow.sku))
    )
    return [StockLevel.model_validate(row.model_dump()) for row in rows]


async def load_network(session: AsyncSession, wanted: Network) -> None:
    """Make the stored network equal to ``wanted``. What it no longer names stays, inactive: old plans refer to it."""
    settings = wanted.model_dump(exclude={"nodes", "services"})
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
        await session.merge(NodeRow(**node.model_dump()))
    for service in wanted.services:
        await session.merge(CarrierServiceRow(**service.model_dump(mode="json")))


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
