"""Small builders: an order, a carried journal, a review, a network, stock. Each gives something valid to vary."""

import itertools
import os
from datetime import UTC, datetime, timedelta
from typing import Any

from activities.store import proposing
from activities.store.intake import Accepted, accept_draft
from activities.store.network import StockLevel, load_network, seed_stock
from activities.store.record import record
from activities.store.store import Store
from models.identifiers import order_workflow_id, review_task_id, shipment_id
from models.journal import Carried, OrderProjection, ShipmentProjection, TimelineEntry
from models.money import Money
from models.network import CarrierService, Network, Node, ServiceZone
from models.order import OrderDraft
from models.policy import PolicyDecision, PolicyDocument, PolicyProposal
from models.review import Flag, ReviewKind, ReviewTask, Verdict
from models.states import OrderState, ShipmentState

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)

_numbers = itertools.count(1)


def new_number() -> str:
    """An order number that no other test uses."""
    return f"{os.getpid()}-{next(_numbers)}"


def gbp(minor: int) -> Money:
    return Money(minor=minor, currency="GBP")


def a_draft(lines: int = 1, *, quantity: int = 2, price: int = 500, **changes: Any) -> OrderDraft:
    """An acceptable order of ``lines`` lines with 3.95 postage. Its number and its SKUs are its own."""
    goods = lines * quantity * price
    number = new_number()
    document: dict[str, Any] = {
        "channel": "web",
        "external_id": number,
        "placed_at": "2026-03-02T09:30:00Z",
        "currency": "GBP",
        "customer": {"name": "Wilhelmina Testperson", "email": "wilhelmina@customers.example"},
        "ship_to": {"lines": ["7 Hidden Lane"], "city": "Leeds", "postcode": "LS1 4DY", "country": "GB"},
        "lines": [
            {"line_id": str(n), "sku": f"{number}-S{n}", "quantity": quantity, "unit_price_minor": price}
            for n in range(1, lines + 1)
        ],
        "charges": [{"code": "POST", "kind": "shipping", "amount_minor": 395}],
        "tenders": [{"token": "tok_visa", "amount_minor": goods + 395}],
        "totals": {"lines_minor": goods, "charges_minor": 395, "total_minor": goods + 395},
    }
    return OrderDraft.model_validate(document | changes)


def paying_with(token: str, draft: OrderDraft) -> dict[str, Any]:
    """The change that makes ``draft`` pay with ``token``."""
    return {"tenders": [{"token": token, "amount_minor": draft.totals.total_minor}]}


def skus_of(draft: OrderDraft) -> list[str]:
    return [line.sku for line in draft.lines]


def order_id_of(draft: OrderDraft) -> str:
    return f"{draft.channel}:{draft.external_id}"


async def accepted(store: Store, draft: OrderDraft) -> str:
    """The id of ``draft``'s order, accepted by the intake."""
    return (await accept(store, draft)).order_id


async def accept(store: Store, draft: OrderDraft) -> Accepted:
    async with store.transaction() as session:
        return await accept_draft(session, draft, source="test")


def an_entry(order_id: str, number: int = 1, **changes: Any) -> TimelineEntry:
    entry = TimelineEntry(
        entry_id=f"{order_workflow_id(order_id)}/{number}",
        order_id=order_id,
        at=NOON,
        business_at=NOON,
        kind="order.assessed",
        what="The risk rules were applied",
    )
    return entry.model_copy(update=changes)


def a_review(order_id: str, number: int = 1, **changes: Any) -> ReviewTask:
    """An open review task."""
    task = ReviewTask(
        task_id=review_task_id(order_id, number),
        order_id=order_id,
        workflow_id=order_workflow_id(order_id),
        kind=ReviewKind.RISK,
        what_happened="an order above the limit came in",
        why_flagged=(Flag(code="high_value", reason="2,100.00 GBP is above 2,000.00 GBP"),),
        recommended=Verdict.APPROVE,
        recommendation="Approve: the customer is known.",
        options={Verdict.APPROVE: "the order goes on", Verdict.REJECT: "the order is rejected"},
        opened_at=NOON,
        remind_at=NOON + timedelta(hours=4),
        escalate_at=NOON + timedelta(hours=12),
        policy_version="test",
    )
    return task.model_copy(update=changes)


def carrying(order_id: str, state: OrderState, version: int, **changes: Any) -> Carried:
    """What a run carries when its order has come to ``state``: one entry and the projection."""
    return Carried(
        entries=(an_entry(order_id, version, kind=f"order.{state}"),),
        order=OrderProjection(version=version, state=state, **changes),
    )


def a_shipment(order_id: str, number: int = 1, **changes: Any) -> ShipmentProjection:
    shipment = ShipmentProjection(
        shipment_id=shipment_id(order_id, number),
        order_id=order_id,
        number=number,
        version=1,
        state=ShipmentState.PLANNED,
        node="north",
        carrier="islandpost",
        service="tracked48",
        units=2,
        amount=gbp(1395),
        promised_at=NOON + timedelta(days=3),
    )
    return shipment.model_copy(update=changes)


async def write_down(store: Store, order_id: str, carried: Carried) -> None:
    async with store.transaction() as session:
        await record(session, order_id, carried)


def a_network(*nodes: str) -> Network:
    """Nodes in Great Britain, served by one parcel service."""
    return Network(
        currency="GBP",
        unit_weight_g=200,
        split_penalty_minor=450,
        processing_days=1,
        nodes=tuple(
            Node(node_id=node, name=node, country="GB", time_zone="Europe/London", handling_minor=100)
            for node in nodes or ("north", "south")
        ),
        services=(
            CarrierService(
                carrier="islandpost",
                service="tracked48",
                max_weight_g=30_000,
                zones=(
                    ServiceZone(
                        origin="GB", destinations=("GB",), base_minor=300, per_kg_minor=50, transit_days=2
                    ),
                ),
            ),
        ),
    )


async def stocked(store: Store, **on_hand: dict[str, int]) -> None:
    """Load a network with a node per argument: ``await stocked(store, north={"SKU-1": 10})``."""
    levels = [
        StockLevel(node=node, sku=sku, on_hand=units)
        for node, skus in on_hand.items()
        for sku, units in skus.items()
    ]
    async with store.transaction() as session:
        await load_network(session, a_network(*on_hand))
        await seed_stock(session, levels)


async def under_policy(store: Store, document: dict[str, Any]) -> int:
    """Have ``document`` be the policy in force; its version."""
    proposal = PolicyProposal(
        request_id=f"p-{new_number()}",
        actor="jo",
        reason="a test",
        document=PolicyDocument.model_validate(document),
    )
    async with store.transaction() as session:
        version = (await proposing.propose(session, proposal)).version
        await proposing.approve(session, version, PolicyDecision(actor="dana"))
    return version
