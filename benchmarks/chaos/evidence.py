"""What is left behind when all has come to rest: our own books, the neighbours' statements, and what was there before.

Read in plain SQL and from the neighbours' own files, not through the code whose work is judged by it.
"""

import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from activities.store.store import Store
from apps.simulators.faults import FaultKind, FaultScript
from apps.simulators.ledger import Effect, Ledger
from apps.simulators.statement import ledger_path
from benchmarks.chaos.subscriber import Heard
from models.states import OrderState, ShipmentState

Place = tuple[str, str]
CARD = "card"
# A webhook that is due goes out at once, and again after five seconds at most.
_TAKEN_WITHIN = 20.0


class Order(NamedTuple):
    """An accepted document, and the order that became of it (``state`` None: none did).

    ``rest_dropped``: it says that what was not on its way will not be shipped.
    """

    order_id: str
    started: bool
    state: OrderState | None
    total_minor: int
    unit_count: int
    rest_dropped: bool


class Shipment(NamedTuple):
    """A shipment as it stands in our books. ``lost`` of its units a warehouse's document took: they were not there."""

    shipment_id: str
    order_id: str
    state: ShipmentState
    node: str
    units: int
    amount_minor: int
    handed_over: bool
    lost: int = 0


class StockRow(NamedTuple):
    """Units of a SKU at a node."""

    node: str
    sku: str
    on_hand: int
    reserved: int


class Units(NamedTuple):
    """Units that a reservation holds, freed, or that left."""

    key: str
    order_id: str
    shipment_id: str
    node: str
    sku: str
    quantity: int
    state: str


class Movement(NamedTuple):
    """One change of a stock row, as it was written down with it: by how much, and what it came to."""

    number: int
    node: str
    sku: str
    kind: str
    on_hand: int
    reserved: int
    on_hand_after: int
    reserved_after: int
    source: str
    document_id: str | None


class Entry(NamedTuple):
    """An amount on an account of the ledger: a debit above zero, a credit below. ``tender``: the hold it moves.

    ``instrument``: the gift card, credit or account that it moves; None where it is the provider's business.
    """

    transaction_id: str
    order_id: str | None
    kind: str
    account: str
    amount_minor: int
    currency: str
    tender: str | None
    instrument: str | None


class Operation(NamedTuple):
    """What we asked of a neighbour, as it stands in our books. ``amount_minor`` is None where no money moves.

    ``tender``: what is paid with. Only of cards the payment provider knows; the others are books of our own.
    """

    key: str
    order_id: str
    shipment_id: str | None
    kind: str
    state: str
    provider_ref: str | None
    amount_minor: int | None
    tender: str = CARD


class Amendment(NamedTuple):
    """A change of an order's document as our books have it. ``lines``: (line, SKU, units) of what it makes of it."""

    order_id: str
    number: int
    base_version: int
    state: str
    request_id: str
    total_minor: int
    lines: frozenset[tuple[str, str, int]]


class Document(NamedTuple):
    """What a warehouse told, as it stands in our books, and what it was answered."""

    document_id: str
    kind: str
    content: Mapping[str, Any]
    answer: Mapping[str, Any] | None


class Lost(NamedTuple):
    """Units that a document took from a promise. ``heard``: its order's run was told, to plan them anew."""

    document_id: str
    order_id: str
    shipment_id: str
    sku: str
    quantity: int
    heard: bool


class Issued(NamedTuple):
    """Value that the harness had put on a gift card or a store credit, under a request id."""

    request_id: str
    instrument: str
    amount_minor: int


@dataclass
class Told:
    """What customers and warehouses of the harness were answered: it must be found in our books.

    Attributes:
        issued: what was put on gift cards and credits.
        amended: orders by the request id of the amendment that the API has taken.
        documents: answers by the id of the document.
        wrong_value, wrong_amendments, wrong_documents: answers that were wrong already, and about which order.
    """

    issued: list[Issued] = field(default_factory=list)
    amended: dict[str, str] = field(default_factory=dict)
    documents: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    wrong_value: list[tuple[str | None, str]] = field(default_factory=list)
    wrong_amendments: list[tuple[str | None, str]] = field(default_factory=list)
    wrong_documents: list[tuple[str | None, str]] = field(default_factory=list)


class Message(NamedTuple):
    """A message that somebody was or is to be told."""

    key: str
    order_id: str
    audience: str
    template: str
    state: str
    message_id: str | None


class Webhook(NamedTuple):
    """What a neighbour had to tell us. ``overdue``: it should have been taken by now."""

    simulator: str
    event_id: str
    state: str
    overdue: bool
    last_error: str | None
    body: str


class Event(NamedTuple):
    """What others are to be told of, as it stands in the feed."""

    position: int
    event_id: str
    topic: str
    key: str
    type: str
    data: Mapping[str, Any]


class Statements(NamedTuple):
    """What the four neighbours did, by their own account.

    ``unanswered``: (simulator, idempotency key) of requests whose answer was lost on purpose after it was done.
    """

    payment: Sequence[Effect]
    warehouse: Sequence[Effect]
    carrier: Sequence[Effect]
    messages: Sequence[Effect]
    webhooks: Sequence[Webhook] = ()
    unanswered: frozenset[tuple[str, str]] = frozenset()


class Evidence(NamedTuple):
    """All of it.

    ``stocked``: the units of each (node, SKU) before the first order. ``lines``: (line, SKU, units) of each order now.
    ``told``: what customers and warehouses were answered. ``unsent``: events that are not in the feed yet.
    ``alarms``: tasks about runs that were found broken for a while, and had healed by themselves before anybody
    answered.
    """

    stocked: Mapping[Place, int]
    acknowledged: frozenset[str]
    orders: Mapping[str, Order]
    shipments: Mapping[str, Shipment]
    stock: Sequence[StockRow]
    movements: Sequence[Movement]
    units: Sequence[Units]
    money: Sequence[Operation]
    ledger: Sequence[Entry]
    shipping: Sequence[Operation]
    messages: Sequence[Message]
    statements: Statements
    feed: Sequence[Event]
    heard: Heard
    told: Told
    amendments: Sequence[Amendment] = ()
    documents: Sequence[Document] = ()
    lost: Sequence[Lost] = ()
    lines: Mapping[str, frozenset[tuple[str, str, int]]] = {}
    unsent: int = 0
    alarms: int = 0


async def collect(
    store: Store,
    simulators: Path,
    script: FaultScript,
    *,
    stocked: Mapping[Place, int],
    acknowledged: frozenset[str],
    heard: Heard,
    told: Told,
) -> Evidence:
    """Read everything. ``simulators``: where they keep their state; ``script``: the faults that they followed.

    Raises ``NotReachable`` when the database does not answer.
    """
    async with store.transaction() as session:
        # All of our own books as of one moment.
        await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        orders = [
            Order(
                order_id,
                started=state == "started",
                state=None if became is None else OrderState(became),
                total_minor=total or 0,
                unit_count=units or 0,
                rest_dropped=dropped,
            )
            for order_id, state, became, total, units, dropped in await _rows(session, _ORDERS)
        ]
        shipments = [
            Shipment(row[0], row[1], ShipmentState(row[2]), *row[3:])
            for row in await _rows(session, _SHIPMENTS)
        ]
        stock = [StockRow(*row) for row in await _rows(session, _STOCK)]
        movements = [Movement(*row) for row in await _rows(session, _MOVEMENTS)]
        ledger = [Entry(*row) for row in await _rows(session, _LEDGER)]
        units = [Units(*row) for row in await _rows(session, _UNITS)]
        amendments = [
            Amendment(*row)._replace(lines=_lines(row.lines)) for row in await _rows(session, _AMENDMENTS)
        ]
        documents = [Document(*row) for row in await _rows(session, _DOCUMENTS)]
        lost = [Lost(*row) for row in await _rows(session, _LOST)]
        lines: dict[str, set[tuple[str, str, int]]] = {}
        for order_id, line_id, sku, quantity in await _rows(session, _LINES):
            lines.setdefault(order_id, set()).add((line_id, sku, quantity))
        money = [Operation(*row) for row in await _rows(session, _MONEY)]
        shipping = [Operation(*row) for row in await _rows(session, _SHIPPING)]
        feed = [Event(*row) for row in await _rows(session, _FEED)]
        (unsent,) = (await _rows(session, _UNSENT))[0]
        (alarms,) = (await _rows(session, _ALARMS))[0]
        messages = [Message(*row) for row in await _rows(session, _MESSAGES)]
    return Evidence(
        stocked=stocked,
        acknowledged=acknowledged,
        orders={order.order_id: order for order in orders},
        shipments={shipment.shipment_id: shipment for shipment in shipments},
        stock=stock,
        movements=movements,
        units=units,
        money=money,
        ledger=ledger,
        shipping=shipping,
        messages=messages,
        statements=statements(simulators, script),
        feed=feed,
        heard=heard,
        told=told,
        amendments=amendments,
        documents=documents,
        lost=lost,
        lines={order_id: frozenset(of_order) for order_id, of_order in lines.items()},
        unsent=unsent,
        alarms=alarms,
    )


async def stock_now(store: Store) -> dict[Place, int]:
    """The units on hand of each (node, SKU)."""
    async with store.transaction() as session:
        return {(row[0], row[1]): row[2] for row in await _rows(session, _STOCK)}


async def oversold_now(store: Store) -> list[StockRow]:
    """The stock rows of which more is promised than is there, as of now. Raises ``NotReachable``."""
    async with store.transaction() as session:
        return [StockRow(*row) for row in await _rows(session, f"{_STOCK} WHERE {_OVERSOLD}")]


async def working_orders(store: Store) -> list[str]:
    """The orders that the machinery works on now, by id."""
    async with store.transaction() as session:
        return [row[0] for row in await _rows(session, _WORKING_ORDERS)]


async def working_shipments(store: Store) -> list[str]:
    """The shipments that the machinery works on now, by id."""
    async with store.transaction() as session:
        return [row[0] for row in await _rows(session, _WORKING_SHIPMENTS)]


async def amendable_orders(store: Store) -> list[str]:
    """The orders that the machinery works on now, and that it is not too late to change, by id."""
    async with store.transaction() as session:
        return [row[0] for row in await _rows(session, _AMENDABLE_ORDERS)]


async def places_to_tell_of(store: Store) -> list[Place]:
    """Where open orders hold units now; while they hold none, wherever anything lies."""
    async with store.transaction() as session:
        return [(row[0], row[1]) for row in await _rows(session, _PLACES_TO_TELL_OF)]


def statements(simulators: Path, script: FaultScript) -> Statements:
    """What the neighbours did, from their own files; empty for one that never ran."""
    lost = [
        number
        for number, fault in enumerate(script.fault)
        if fault.do in (FaultKind.RESET_AFTER, FaultKind.TIME_OUT_AFTER)
    ]
    kept = {
        name: _kept(name, ledger_path(simulators, name), script.digest(), lost)
        for name in Statements._fields[:4]
    }
    return Statements(
        **{name: one.effects for name, one in kept.items()},
        webhooks=[webhook for one in kept.values() for webhook in one.webhooks],
        unanswered=frozenset((name, key) for name, one in kept.items() for key in one.unanswered),
    )


def _lines(document_lines: Sequence[Mapping[str, Any]]) -> frozenset[tuple[str, str, int]]:
    return frozenset((line["line_id"], line["sku"], line["quantity"]) for line in document_lines)


class _Kept(NamedTuple):
    effects: Sequence[Effect] = ()
    webhooks: Sequence[Webhook] = ()
    unanswered: Sequence[str] = ()


def _kept(simulator: str, path: Path, script: str, lost: Sequence[int]) -> _Kept:
    if not path.exists():
        return _Kept()
    ledger = Ledger(path, exclusive=False)
    try:
        effects = ledger.effects()
    finally:
        ledger.close()
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as file:
        webhooks = file.execute(_WEBHOOKS, (time.time() - _TAKEN_WITHIN,)).fetchall()
        struck = file.execute("select key, fault from faults_struck where script = ?", (script,)).fetchall()
    return _Kept(
        effects=effects,
        webhooks=[
            Webhook(simulator, event, state, bool(due), error, body)
            for event, state, due, error, body in webhooks
        ],
        unanswered=[key for key, fault in struck if fault in lost],
    )


async def _rows(session: AsyncSession, query: str) -> Sequence[Any]:
    return (await session.execute(text(query))).all()


_WEBHOOKS = "select event_id, state, due_at < ?, last_error, body from webhooks order by due_at"
_OVERSOLD = "reserved > on_hand OR reserved < 0 OR on_hand < 0"
_STOCK = "SELECT node, sku, on_hand, reserved FROM stock"
_ORDERS = """
    SELECT intake.order_id, intake.state, orders.state, orders.total_minor, orders.unit_count,
           EXISTS (SELECT FROM timeline AS dropped
                    WHERE dropped.order_id = intake.order_id AND dropped.kind = 'order.rest_dropped'
                      AND NOT EXISTS (SELECT FROM timeline AS later
                                       WHERE later.order_id = intake.order_id AND later.kind = 'order.amended'
                                         AND later.position > dropped.position))
    FROM intake LEFT JOIN orders USING (order_id)
"""
_WORKED_ON = """
    SELECT orders.order_id FROM orders JOIN intake USING (order_id)
    WHERE intake.state = 'started' AND NOT orders.needs_review AND orders.state NOT IN
        ('closed', 'rejected', 'cancelled', 'compensated', 'in_review', 'awaiting_customer', 'needs_operator')
"""
_WORKING_ORDERS = f"{_WORKED_ON} ORDER BY orders.order_id"
_AMENDABLE_ORDERS = (
    f"{_WORKED_ON} AND orders.state NOT IN ('shipped', 'delivered', 'cancelling', 'compensating')"
    " ORDER BY orders.order_id"
)
_PLACES_TO_TELL_OF = """
    SELECT node, sku FROM stock
    WHERE reserved > 0 OR on_hand > 0 AND NOT EXISTS (SELECT FROM stock WHERE reserved > 0) ORDER BY sku, node
"""
_WORKING_SHIPMENTS = """
    SELECT shipment_id FROM shipments
    WHERE state NOT IN ('delivered', 'cancelled', 'lost', 'returned', 'in_review', 'needs_operator')
    ORDER BY shipment_id
"""
_SHIPMENTS = """
    SELECT shipment_id, order_id, state, node, units, amount_minor, handed_over_at IS NOT NULL,
           (SELECT coalesce(sum(quantity), 0)::bigint FROM stock_released AS lost
             WHERE lost.shipment_id = shipments.shipment_id
               -- Not from a plan before, whose shipment of that number was never started.
               AND EXISTS (SELECT FROM reserved_units AS units
                            WHERE units.key = lost.reservation AND units.shipment_id = lost.shipment_id
                              AND units.state = 'consumed'))
      FROM shipments
"""
_UNITS = """
    SELECT key, order_id, shipment_id, node, sku, quantity, reserved_units.state
    FROM reserved_units JOIN reservations USING (key)
"""
_MOVEMENTS = """
    SELECT movement_id, node, sku, kind, on_hand, reserved, on_hand_after, reserved_after, source, document_id
    FROM stock_movements ORDER BY movement_id
"""
_LEDGER = """
    SELECT t.id, t.order_id, t.kind, e.account, e.amount_minor, e.currency, e.tender, e.instrument
    FROM ledger_transactions AS t JOIN ledger_entries AS e ON e.transaction_id = t.id ORDER BY t.position, e.number
"""
_AMENDMENTS = """
    SELECT order_id, number, base_version, state, request_id,
           (document -> 'totals' ->> 'total_minor')::bigint, document -> 'lines' AS lines
    FROM order_amendments ORDER BY order_id, number
"""
_DOCUMENTS = "SELECT document_id, kind, document, answer FROM stock_documents ORDER BY at, document_id"
_LOST = """
    SELECT document_id, order_id, shipment_id, sku, quantity, handled_at IS NOT NULL
    FROM stock_released ORDER BY released_id
"""
_LINES = "SELECT order_id, line_id, sku, quantity FROM order_lines"
_MONEY = """
    SELECT key, order_id, shipment_id, kind, state, provider_ref, amount_minor, tender
    FROM payment_operations
    ORDER BY intended_at, key
"""
_SHIPPING = """
    SELECT key, order_id, shipment_id, kind, state, provider_ref, NULL FROM shipping_operations
    ORDER BY intended_at, key
"""
_FEED = "SELECT position, event_id, topic, key, type, payload FROM outbox ORDER BY position"
_UNSENT = "SELECT count(*) FROM outbox_staged"
_ALARMS = "SELECT count(*) FROM review_tasks WHERE kind = 'run_broken' AND state = 'withdrawn'"
_MESSAGES = (
    "SELECT key, order_id, audience, template, state, message_id FROM notifications ORDER BY created_at, key"
)
