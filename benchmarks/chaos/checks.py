"""What must be true whatever was killed: each invariant, how often it was looked at, and everything that breaks it."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from apps.simulators.ledger import REFUSED as WEBHOOK_REFUSED
from apps.simulators.ledger import WAITING as WEBHOOK_WAITING
from apps.simulators.ledger import Effect
from benchmarks.chaos.evidence import (
    CARD,
    Amendment,
    Document,
    Evidence,
    Movement,
    Operation,
    Order,
    Place,
    Shipment,
)
from models.amendment import AmendmentState
from models.base import Contract
from models.effects import Template
from models.identifiers import order_of_shipment, order_of_workflow
from models.ledger import CLEARING, HELD, TransactionKind
from models.order import TenderKind
from models.states import ORDER_TERMINAL, SHIPMENT_TERMINAL, OrderState, ShipmentState
from models.stock import MovementKind


class Invariant(StrEnum):
    """What is promised, as it stands in the report."""

    ORDERS_KEPT = "orders_kept"
    ORDERS_TAKEN_ONCE = "orders_taken_once"
    AMENDED_ONCE = "amended_once"
    NEVER_OVERSOLD = "never_oversold"
    STOCK_ADDS_UP = "stock_adds_up"
    MOVEMENTS_ARE_ORDERS = "movements_are_orders"
    GOODS_LEFT_ONCE = "goods_left_once"
    DOCUMENTS_APPLIED_ONCE = "documents_applied_once"
    LEDGER_MATCHES_STATEMENT = "ledger_matches_statement"
    BOOKS_MATCH_STATEMENT = "books_match_statement"
    PAID_FOR_WHAT_WAS_DELIVERED = "paid_for_what_was_delivered"
    CHARGED_ONCE = "charged_once"
    REFUNDED_ONCE = "refunded_once"
    VALUE_SPENT_ONCE = "value_spent_once"
    LABELLED_ONCE = "labelled_once"
    PICKED_ONCE = "picked_once"
    TOLD_ONCE = "told_once"
    NEWS_HEARD = "news_heard"
    EVENTS_DELIVERED = "events_delivered"
    EVENTS_TELL_THE_TRUTH = "events_tell_the_truth"
    EVERY_ORDER_OWNED = "every_order_owned"
    ENDED_RUNS_MENDED = "ended_runs_mended"


MEANS: Mapping[Invariant, str] = {
    Invariant.ORDERS_KEPT: "an order that was accepted is there and was started",
    Invariant.ORDERS_TAKEN_ONCE: "the same document sent again is the same order",
    Invariant.AMENDED_ONCE: "an amendment that was taken is decided; applied, it changed its order once and for good",
    Invariant.NEVER_OVERSOLD: "no node ever promised more of a SKU than it had, or gave away more than it got",
    Invariant.STOCK_ADDS_UP: "every stock row is the sum of its movements, and each says why it was made",
    Invariant.MOVEMENTS_ARE_ORDERS: "movements are shipments and what open orders hold, unit by unit",
    Invariant.GOODS_LEFT_ONCE: "a shipment took its units out of the stock once, when it was paid",
    Invariant.DOCUMENTS_APPLIED_ONCE: "what a warehouse told changed the stock once, by what it says",
    Invariant.LEDGER_MATCHES_STATEMENT: "each order's ledger is the provider's statement, and adds up to zero",
    Invariant.BOOKS_MATCH_STATEMENT: "every movement of money was asked for by us and done by the provider, key by key",
    Invariant.PAID_FOR_WHAT_WAS_DELIVERED: "an ended order cost what was delivered of it, and holds nothing",
    Invariant.CHARGED_ONCE: "a shipment was charged once",
    Invariant.REFUNDED_ONCE: "a charge was paid back once, and never more than it was",
    Invariant.VALUE_SPENT_ONCE: "gift cards and credits were filled once, and orders took from them what they cost",
    Invariant.LABELLED_ONCE: "a shipment has one label in force",
    Invariant.PICKED_ONCE: "a shipment has one pick in force",
    Invariant.TOLD_ONCE: "a message was sent once",
    Invariant.NEWS_HEARD: "what neighbours told was taken",
    Invariant.EVENTS_DELIVERED: "every event reached its subscriber, those of a key in order, each to be applied once",
    Invariant.EVENTS_TELL_THE_TRUTH: "who applied the events knows orders, stock and money as our books have them",
    Invariant.EVERY_ORDER_OWNED: "an order has ended, or a timer, an activity or a task goes on with it",
    Invariant.ENDED_RUNS_MENDED: "a run that was ended from outside became a task, and its order ended right",
}


class Violation(Contract):
    """Something that breaks an invariant. ``order_id``: whose timeline to look at, if it is about an order."""

    invariant: Invariant
    order_id: str | None
    what: str


class Result(Contract):
    """What one invariant came to."""

    invariant: Invariant
    checked: int
    violations: tuple[Violation, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing breaks it. One that was never looked at holds of nothing."""
        return not self.violations


# (order, what is wrong)
_Wrong = tuple[str | None, str]


def _result(invariant: Invariant, checked: int, wrong: Iterable[_Wrong]) -> Result:
    found = tuple(Violation(invariant=invariant, order_id=order_id, what=what) for order_id, what in wrong)
    return Result(invariant=invariant, checked=checked, violations=found)


def judge(evidence: Evidence) -> list[Result]:
    """Every invariant that can be judged by what is left behind."""
    return [check(evidence) for check in _CHECKS]


# --- orders ---
def orders_kept(evidence: Evidence) -> Result:
    """What the API accepted is in the intake; and all that is there was started, and is an order."""
    accepted = sorted(evidence.acknowledged | evidence.orders.keys())

    def wrong() -> Iterator[_Wrong]:
        for order_id in accepted:
            order = evidence.orders.get(order_id)
            if order is None:
                yield order_id, "was accepted, and is not there"
            elif order.state is None:
                yield order_id, "was accepted, and no order became of it"
            elif not order.started:
                yield order_id, "was accepted, and never started"

    return _result(Invariant.ORDERS_KEPT, len(accepted), wrong())


def amended_once(evidence: Evidence) -> Result:
    """An amendment that the API has taken is decided once its order has ended; those applied are one chain, each made
    of the one before, and the order is what the last of them makes of it.
    """
    by_order: defaultdict[str, list[Amendment]] = defaultdict(list)
    for amendment in evidence.amendments:
        by_order[amendment.order_id].append(amendment)
    known = {(one.order_id, one.request_id) for one in evidence.amendments}

    def wrong() -> Iterator[_Wrong]:
        yield from evidence.told.wrong_amendments
        for request_id, order_id in evidence.told.amended.items():
            if (order_id, request_id) not in known:
                yield order_id, f"amendment {request_id} was taken, and is not there"
        for order_id, amendments in by_order.items():
            yield from _amended(evidence, order_id, amendments)

    return _result(Invariant.AMENDED_ONCE, len(evidence.amendments), wrong())


def _amended(evidence: Evidence, order_id: str, amendments: Sequence[Amendment]) -> Iterator[_Wrong]:
    order = evidence.orders.get(order_id)
    if order is None or order.state in ORDER_TERMINAL:
        for one in amendments:
            if one.state == AmendmentState.PROPOSED:
                yield order_id, f"amendment {one.request_id} was never decided, and the order has ended"
    applied = [one for one in amendments if one.state == AmendmentState.APPLIED]
    version = 1
    for one in applied:
        if one.base_version != version:
            yield (
                order_id,
                f"version {one.number} was made of version {one.base_version}, and {version} was in force",
            )
        version = one.number
    if applied and order is not None:
        last = applied[-1]
        if order.total_minor != last.total_minor:
            yield (
                order_id,
                f"it costs {order.total_minor}, by version {last.number} of its document {last.total_minor}",
            )
        if evidence.lines.get(order_id) != last.lines:
            yield order_id, f"its lines are not those of version {last.number} of its document"


# --- goods ---
def never_oversold(evidence: Evidence) -> Result:
    """No row promises more than it holds, now or after any movement, and no place gave away more than it ever got."""
    given: Counter[Place] = Counter()
    for units in evidence.units:
        if units.state in ("held", "consumed"):
            given[(units.node, units.sku)] += units.quantity
    there = Counter(evidence.stocked)
    for move in evidence.movements:
        if move.kind not in _NOTHING_COMES:
            there[(move.node, move.sku)] += move.on_hand

    def wrong() -> Iterator[_Wrong]:
        for row in evidence.stock:
            if not 0 <= row.reserved <= row.on_hand:
                yield None, f"{row.sku} at {row.node}: {row.reserved} reserved of {row.on_hand} on hand"
        for move in evidence.movements:
            if not 0 <= move.reserved_after <= move.on_hand_after:
                yield (
                    _order_of_source(move.source),
                    f"{move.sku} at {move.node}: {move.reserved_after} reserved of {move.on_hand_after} on hand after "
                    f"movement {move.number} ({move.kind})",
                )
        for (node, sku), quantity in sorted(given.items()):
            if quantity > there[(node, sku)]:
                yield (
                    None,
                    f"{sku} at {node}: {quantity} given away of {there[(node, sku)]} that were ever there",
                )

    return _result(
        Invariant.NEVER_OVERSOLD, len(evidence.stock) + len(evidence.movements) + len(given), wrong()
    )


# Not counted as what came to a place: it lay there before the first order, or is what is given away.
_NOTHING_COMES = frozenset({MovementKind.OPENING, MovementKind.SEED, MovementKind.SHIP})


def stock_adds_up(evidence: Evidence) -> Result:
    """Each row is the sum of its movements, of which each follows from the one before and says why it was made."""
    sums: dict[Place, tuple[int, int]] = {}
    broken: list[_Wrong] = []
    for move in evidence.movements:
        before = sums.get((move.node, move.sku), (0, 0))
        after = (before[0] + move.on_hand, before[1] + move.reserved)
        what = f"movement {move.number} ({move.kind}) of {move.sku} at {move.node}"
        if after != (move.on_hand_after, move.reserved_after):
            broken.append(
                (
                    None,
                    f"{what} came to {move.on_hand_after}/{move.reserved_after}, {after[0]}/{after[1]} expected",
                )
            )
        if move.kind == MovementKind.UNEXPLAINED:
            broken.append((None, f"{what} changed it by {move.on_hand}/{move.reserved}, and nobody says why"))
        sums[(move.node, move.sku)] = after
    rows = {(row.node, row.sku): row for row in evidence.stock}

    def wrong() -> Iterator[_Wrong]:
        yield from broken
        for (node, sku), row in sorted(rows.items()):
            summed = sums.get((node, sku), (0, 0))
            if (row.on_hand, row.reserved) != summed:
                yield (
                    None,
                    f"{sku} at {node}: {row.on_hand} on hand and {row.reserved} reserved, its movements come to "
                    f"{summed[0]} and {summed[1]}",
                )
        for node, sku in sorted(evidence.stocked.keys() - rows.keys()):
            yield None, f"{sku} at {node} is gone"

    return _result(Invariant.STOCK_ADDS_UP, len(rows) + len(evidence.movements), wrong())


def movements_are_orders(evidence: Evidence) -> Result:
    """What movements reserved is what open orders hold; what they shipped is what shipments took; and nothing else."""
    held: Counter[Place] = Counter()
    taken: Counter[tuple[str, str, str]] = Counter()
    for units in evidence.units:
        if units.state == "held":
            held[(units.node, units.sku)] += units.quantity
        elif units.state == "consumed":
            taken[(units.shipment_id, units.node, units.sku)] += units.quantity
    reserved: Counter[Place] = Counter()
    shipped: Counter[tuple[str, str, str]] = Counter()
    freed: set[tuple[str | None, str, str]] = set()
    for move in evidence.movements:
        reserved[(move.node, move.sku)] += move.reserved
        if move.kind == MovementKind.SHIP:
            shipped[(move.source, move.node, move.sku)] -= move.on_hand
        elif move.kind == MovementKind.RELEASE:
            freed.add((_order_of_source(move.source), move.node, move.sku))

    def wrong() -> Iterator[_Wrong]:
        for node, sku in sorted(reserved.keys() | held.keys()):
            moved, open_orders = reserved[(node, sku)], held[(node, sku)]
            if moved != open_orders:
                yield None, f"{sku} at {node}: movements reserve {moved}, open orders hold {open_orders}"
        for shipment_id, node, sku in sorted(shipped.keys() | taken.keys()):
            out, due = shipped[(shipment_id, node, sku)], taken[(shipment_id, node, sku)]
            order_id = _order_of_source(shipment_id)
            # What left though it had been freed comes off the shelf only as far as nobody else is promised it.
            if out != due and not (out < due and (order_id, node, sku) in freed):
                yield (
                    order_id,
                    f"{sku} at {node}: movements took out {out} for shipment {shipment_id}, {due} left with it",
                )
        for units in evidence.units:
            order = evidence.orders.get(units.order_id)
            if units.state == "held" and (order is None or order.state in ORDER_TERMINAL):
                state = "not there" if order is None else order.state
                yield units.order_id, f"{units.quantity} of {units.sku} are held for it, and it is {state}"

    return _result(Invariant.MOVEMENTS_ARE_ORDERS, len(evidence.units) + len(shipped), wrong())


def goods_left_once(evidence: Evidence) -> Result:
    """Units of a shipment are taken out once, all of them, in the transaction that says it was captured.

    Those that a picker did not find went with the document that said so, also where they turned up afterwards.
    """
    consumed: Counter[str] = Counter()
    keys: defaultdict[str, set[str]] = defaultdict(set)
    for units in evidence.units:
        if units.state == "consumed":
            consumed[units.shipment_id] += units.quantity
            keys[units.shipment_id].add(units.key)
    captured = {
        move.shipment_id for move in evidence.money if move.kind == "capture" and move.state == "confirmed"
    }

    def wrong() -> Iterator[_Wrong]:
        for shipment in _in_order(evidence):
            taken = consumed[shipment.shipment_id]
            due = shipment.units - shipment.lost if shipment.shipment_id in captured else 0
            if taken != due:
                yield (
                    shipment.order_id,
                    f"shipment {shipment.shipment_id} ({shipment.state}): {taken} units taken out of the stock, "
                    f"{due} due",
                )
            if len(keys[shipment.shipment_id]) > 1:
                yield shipment.order_id, f"shipment {shipment.shipment_id} left by several reservations"
        for shipment_id in sorted(consumed.keys() - evidence.shipments.keys()):
            yield None, f"{consumed[shipment_id]} units left for shipment {shipment_id}, which is not there"

    return _result(Invariant.GOODS_LEFT_ONCE, len(evidence.shipments), wrong())


# What documents of these kinds do to a row: the kind of the movement, and by how much of what the line says.
_DOCUMENTED = {"receipt": (MovementKind.RECEIPT, 1), "damage": (MovementKind.DAMAGE, -1)}


def documents_applied_once(evidence: Evidence) -> Result:
    """A document that was answered is in the books with that answer, and moved each row that it names once, by what it
    says; no movement names a document that is not there.
    """
    moved: defaultdict[tuple[str, str, str], list[Movement]] = defaultdict(list)
    for move in evidence.movements:
        if move.document_id is not None and move.on_hand:
            moved[(move.document_id, move.node, move.sku)].append(move)
    documents = {document.document_id: document for document in evidence.documents}

    def wrong() -> Iterator[_Wrong]:
        yield from evidence.told.wrong_documents
        for document_id, answer in evidence.told.documents.items():
            document = documents.get(document_id)
            if document is None or document.answer is None:
                yield None, f"document {document_id} was answered, and is not there"
            elif {**document.answer, "repeated": False} != {**answer, "repeated": False}:
                yield None, f"document {document_id} was answered otherwise than our books say"
        for document in documents.values():
            for line in document.content.get("lines", ()):
                place = (document.content.get("node", ""), line["sku"])
                yield from _documented(document, line, place, moved[(document.document_id, *place)])
        for lost in evidence.lost:
            order = evidence.orders.get(lost.order_id)
            if not lost.heard and (order is None or order.state not in ORDER_TERMINAL):
                yield (
                    lost.order_id,
                    f"document {lost.document_id} took {lost.quantity} of {lost.sku} from {lost.shipment_id}, and its "
                    "order was never told",
                )
        for document_id, node, sku in sorted(key for key, moves in moved.items() if moves):
            if document_id not in documents:
                yield None, f"{sku} at {node} was moved by document {document_id}, which is not there"

    return _result(Invariant.DOCUMENTS_APPLIED_ONCE, len(documents), wrong())


def _documented(
    document: Document, line: Mapping[str, Any], place: Place, moves: Sequence[Movement]
) -> Iterator[_Wrong]:
    what = f"{document.kind} {document.document_id}: {place[1]} at {place[0]}"
    by = sum(move.on_hand for move in moves)
    if document.kind in _DOCUMENTED:
        kind, sign = _DOCUMENTED[document.kind]
        due = sign * line["quantity"]
        if by != due or [move.kind for move in moves] != [kind]:
            yield None, f"{what} was moved by {by} in {len(moves)} movements, {due} due in one"
    elif document.kind == "count" and (
        # One that found what the books say moves nothing; what has left and is not paid yet was on no shelf.
        len(moves) > 1 or any(move.on_hand_after < line["quantity"] for move in moves)
    ):
        after = ", ".join(str(move.on_hand_after) for move in moves)
        yield None, f"{what} was moved to {after}, and {line['quantity']} were counted"


# --- money ---
# Kind and state of a provider's effect -> the kind of our movement.
_MOVES: Mapping[str, tuple[str, frozenset[str]]] = {
    "authorisation": ("authorise", frozenset({"open", "used", "voided", "expired"})),
    "capture": ("capture", frozenset({"captured"})),
    "refund": ("refund", frozenset({"refunded"})),
    "void": ("void", frozenset({"voided", "nothing_held"})),
}


class _Sums(NamedTuple):
    """An order's money in minor units."""

    captured: int
    refunded: int
    held: int


def ledger_matches_statement(evidence: Evidence) -> Result:
    """Order by order: what the ledger says was captured, refunded and is held is what the provider says."""
    zero: Counter[tuple[str, str]] = Counter()
    captured, refunded, held = Counter[str](), Counter[str](), Counter[str]()
    for entry in evidence.ledger:
        zero[(entry.transaction_id, entry.currency)] += entry.amount_minor
        order_id = entry.order_id or ""
        if entry.instrument is not None:
            continue  # our own business, not the provider's: see value_spent_once
        if entry.account == HELD:
            held[order_id] += entry.amount_minor
        elif entry.account == CLEARING and entry.amount_minor > 0:
            captured[order_id] += entry.amount_minor
        elif entry.account == CLEARING:
            refunded[order_id] -= entry.amount_minor
    theirs = _by_the_provider(evidence.statements.payment)
    orders = sorted(captured.keys() | refunded.keys() | held.keys() | theirs.keys())

    def wrong() -> Iterator[_Wrong]:
        for (transaction_id, currency), rest in zero.items():
            if rest:
                yield (
                    order_of_workflow(_workflow(transaction_id)),
                    f"{transaction_id} is out by {rest} {currency}",
                )
        for order_id in orders:
            ours = _Sums(captured[order_id], refunded[order_id], held[order_id])
            if ours != theirs.get(order_id, _Sums(0, 0, 0)):
                yield order_id, f"the ledger says {ours}, the provider {theirs.get(order_id, _Sums(0, 0, 0))}"

    return _result(Invariant.LEDGER_MATCHES_STATEMENT, len(orders) + len(zero), wrong())


def _by_the_provider(payment: Sequence[Effect]) -> dict[str, _Sums]:
    """Captured, refunded and still held, by order."""
    captured, refunded, held, taken = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for effect in payment:
        if effect.kind == "capture":
            captured[effect.reference] += effect.amount_minor or 0
            taken[effect.parent_id or ""] += effect.amount_minor or 0
        elif effect.kind == "refund":
            refunded[effect.reference] += effect.amount_minor or 0
    for effect in payment:
        if effect.kind == "authorisation" and effect.state == "open":
            held[effect.reference] += (effect.amount_minor or 0) - taken[effect.effect_id]
    orders = captured.keys() | refunded.keys() | held.keys()
    return {order_id: _Sums(captured[order_id], refunded[order_id], held[order_id]) for order_id in orders}


def books_match_statement(evidence: Evidence) -> Result:
    """Key by key: what the provider did we know of, with the same amount; what we call done, it did."""
    theirs = {
        (_MOVES[effect.kind][0], effect.key): effect
        for effect in evidence.statements.payment
        if effect.kind in _MOVES and effect.state in _MOVES[effect.kind][1]
    }
    ours = {(move.kind, move.key): move for move in evidence.money if move.tender == CARD}

    def wrong() -> Iterator[_Wrong]:
        for (kind, key), effect in theirs.items():
            move = ours.get((kind, key))
            if move is None:
                yield effect.reference, f"the provider has a {effect.kind} under {key}, our books have none"
            elif not _stands_for(move, effect):
                yield (
                    effect.reference,
                    f"{kind} {key}: {move.amount_minor} {move.state} in our books, "
                    f"{effect.amount_minor} {effect.state} at the provider",
                )
        for (kind, key), move in ours.items():
            nothing = not move.amount_minor or kind == "void"
            if move.state == "confirmed" and not nothing and (kind, key) not in theirs:
                yield (
                    move.order_id,
                    f"our books have {kind} {key} of {move.amount_minor}, the provider has none",
                )

    return _result(Invariant.BOOKS_MATCH_STATEMENT, len(theirs.keys() | ours.keys()), wrong())


def _stands_for(move: Operation, effect: Effect) -> bool:
    # A hold that was voided, if only to see that nothing was left of it, is called off in our books.
    done = move.state == "confirmed" or (
        move.kind == "authorise" and move.state == "called_off" and effect.state != "open"
    )
    return done and move.amount_minor == effect.amount_minor


def paid_for_what_was_delivered(evidence: Evidence) -> Result:
    """By the provider: an ended order was charged what its customer has of it, and nothing is held for it."""
    provider = _by_the_provider(evidence.statements.payment)
    beside: Counter[str] = Counter()
    for move in _paid_otherwise(evidence):
        beside[move.order_id] += (move.amount_minor or 0) * (1 if move.kind == "capture" else -1)
    delivered: Counter[str] = Counter()
    for shipment in evidence.shipments.values():
        if shipment.state is ShipmentState.DELIVERED:
            delivered[shipment.order_id] += shipment.amount_minor
    ended = [order for order in evidence.orders.values() if order.state in ORDER_TERMINAL]
    # What a picker did not find was paid, and not delivered. Of a parcel that lost nothing nothing is to be paid back.
    short: Counter[str] = Counter()
    for move in evidence.money:
        parcel = evidence.shipments.get(move.shipment_id or "")
        if move.kind == "refund" and move.state == "confirmed" and ":refund-short:" in move.key:
            short[move.order_id] += (move.amount_minor or 0) if parcel and parcel.lost else 0

    def wrong() -> Iterator[_Wrong]:
        for order in ended:
            due = _due(order, evidence, delivered)
            due -= short[order.order_id]
            moved = provider.get(order.order_id, _Sums(0, 0, 0))
            charged = moved.captured - moved.refunded + beside[order.order_id]
            if charged != due:
                yield (
                    order.order_id,
                    f"it is {order.state}, {due} were delivered of it, and {charged} charged",
                )
            if moved.held:
                yield order.order_id, f"it is {order.state}, and the provider still holds {moved.held}"

    return _result(Invariant.PAID_FOR_WHAT_WAS_DELIVERED, len(ended), wrong())


def _due(order: Order, evidence: Evidence, delivered: Mapping[str, int]) -> int:
    """What an ended order costs: all of it if all of it arrived, else its delivered shipments.

    Who adds units and calls the order off at the same moment has the parcels that went before, and the order says so.
    """
    shipments = [one for one in evidence.shipments.values() if one.order_id == order.order_id]
    all_arrived = bool(shipments) and all(one.state is ShipmentState.DELIVERED for one in shipments)
    given_up = order.rest_dropped and sum(one.units for one in shipments) < order.unit_count
    whole = order.state is OrderState.CLOSED and all_arrived and not given_up
    return order.total_minor if whole else delivered[order.order_id]


def charged_once(evidence: Evidence) -> Result:
    """At most one capture per shipment and hold, together of what it is worth; none for one that is unknown."""
    charges = [effect for effect in evidence.statements.payment if effect.kind == "capture"]
    due = {one.shipment_id: one.amount_minor for one in evidence.shipments.values()}
    for move in _paid_otherwise(evidence):
        if move.kind == "capture" and move.shipment_id in due:
            due[move.shipment_id] -= move.amount_minor or 0
    charged: Counter[str] = Counter()
    for effect in charges:
        charged[_subject(effect.key)] += effect.amount_minor or 0

    def wrong() -> Iterator[_Wrong]:
        yield from _twice(
            charges, lambda effect: f"{_subject(effect.key)} (hold {effect.parent_id})", "charged"
        )
        for shipment_id, amount in charged.items():
            if amount != due.get(shipment_id):
                yield (
                    _order(shipment_id),
                    f"{amount} charged for shipment {shipment_id}, {due.get(shipment_id)} due",
                )

    return _result(Invariant.CHARGED_ONCE, len(charges), wrong())


def _paid_otherwise(evidence: Evidence) -> Iterator[Operation]:
    """What was taken from, and given back to, gift cards, credit and accounts: not the provider's business."""
    for move in evidence.money:
        if move.tender != CARD and move.state == "confirmed" and move.kind in ("capture", "refund"):
            yield move


def refunded_once(evidence: Evidence) -> Result:
    """At most one refund per charge and cause; all of them together within the charge."""
    payment = evidence.statements.payment
    charges = {effect.effect_id: effect for effect in payment if effect.kind == "capture"}
    refunds = [effect for effect in payment if effect.kind == "refund"]
    given: Counter[str] = Counter()
    for effect in refunds:
        given[effect.parent_id or ""] += effect.amount_minor or 0

    def wrong() -> Iterator[_Wrong]:
        yield from _twice(
            refunds,
            lambda effect: f"{effect.parent_id} for {(effect.details or {}).get('cause')}",
            "refunded",
        )
        for charge_id, amount in given.items():
            charge = charges.get(charge_id)
            if charge is None or amount > (charge.amount_minor or 0):
                taken = None if charge is None else charge.amount_minor
                yield (charge.reference if charge else None), f"{amount} refunded of a charge of {taken}"

    return _result(Invariant.REFUNDED_ONCE, len(refunds), wrong())


def value_spent_once(evidence: Evidence) -> Result:
    """Gift cards and credits hold what was put on them, once, less what orders took and did not give back; never less
    than nothing. What our books of payments say of them is what the ledger says.
    """
    due: Counter[str] = Counter()
    for issued in evidence.told.issued:
        due[issued.instrument] += issued.amount_minor
    filled, left = Counter[str](), Counter[str]()
    by_order: Counter[tuple[str, str]] = Counter()
    for entry in evidence.ledger:
        if entry.instrument is None:
            continue
        left[entry.instrument] -= entry.amount_minor
        if entry.kind == TransactionKind.ISSUE:
            filled[entry.instrument] -= entry.amount_minor
        elif entry.account != HELD:
            by_order[(entry.order_id or "", "moved")] += entry.amount_minor
        else:
            by_order[(entry.order_id or "", "held")] += entry.amount_minor
    books: Counter[str] = Counter()
    for move in _paid_otherwise(evidence):
        books[move.order_id] += (move.amount_minor or 0) * (1 if move.kind == "capture" else -1)
    orders = sorted({order_id for order_id, _ in by_order} | books.keys())

    def wrong() -> Iterator[_Wrong]:
        yield from evidence.told.wrong_value
        for instrument in sorted(filled.keys() | due.keys()):
            if filled[instrument] != due[instrument]:
                yield None, f"{filled[instrument]} were put on {instrument}, {due[instrument]} due"
        for instrument, rest in sorted(left.items()):
            if rest < 0 and not instrument.startswith(TenderKind.ON_ACCOUNT):
                yield None, f"{-rest} more were taken from {instrument} than were on it"
        for order_id in orders:
            moved = by_order[(order_id, "moved")]
            if moved != books[order_id]:
                yield (
                    order_id,
                    f"{moved} were taken for it by the ledger, {books[order_id]} by our books of payments",
                )
            order = evidence.orders.get(order_id)
            held = by_order[(order_id, "held")]
            if held and (order is None or order.state in ORDER_TERMINAL):
                yield order_id, f"{held} of gift cards or credits are still held for it, and it has ended"

    return _result(Invariant.VALUE_SPENT_ONCE, len(filled.keys() | due.keys()) + len(orders), wrong())


# --- labels, picks, messages, news ---
def labelled_once(evidence: Evidence) -> Result:
    """One label in force per shipment that is under way or arrived, none for one that was called off; all known."""
    return _in_force(
        Invariant.LABELLED_ONCE,
        evidence,
        evidence.statements.carrier,
        "label",
        frozenset({"bought", "returning"}),
    )


def picked_once(evidence: Evidence) -> Result:
    """The same for picks at the warehouse."""
    return _in_force(
        Invariant.PICKED_ONCE, evidence, evidence.statements.warehouse, "pick", frozenset({"accepted"})
    )


def _in_force(
    invariant: Invariant, evidence: Evidence, effects: Sequence[Effect], kind: str, states: frozenset[str]
) -> Result:
    made = [effect for effect in effects if effect.kind == kind and effect.state in states]
    known = {operation.key for operation in evidence.shipping if operation.kind == kind}
    left = {
        units.shipment_id for units in evidence.units if units.state == "consumed"
    }  # a parcel that overtook its cancellation keeps both

    def wrong() -> Iterator[_Wrong]:
        yield from _twice(made, lambda effect: effect.reference, f"given a {kind}")
        for effect in made:
            shipment = evidence.shipments.get(effect.reference)
            order_id = order_of_shipment(effect.reference)
            if effect.key not in known:
                yield order_id, f"{kind} {effect.key} is in force, our books do not know it"
            if shipment is None:
                yield order_id, f"{kind} {effect.key} is in force, its shipment is not there"
            elif shipment.state is ShipmentState.CANCELLED and shipment.shipment_id not in left:
                yield order_id, f"{kind} {effect.key} is in force, its shipment is cancelled"
        have = {effect.reference for effect in made}
        for shipment in _in_order(evidence):
            arrived = shipment.state in SHIPMENT_TERMINAL - {ShipmentState.CANCELLED}
            if arrived and shipment.shipment_id not in have:
                yield (
                    shipment.order_id,
                    f"shipment {shipment.shipment_id} is {shipment.state}, and no {kind} of it is in force",
                )

    return _result(invariant, len(made), wrong())


# What is said once to a customer about an order or a shipment, however often its run was reset.
_SAID_ONCE = frozenset(set(Template) - {Template.REVIEW_REMINDER, Template.REVIEW_ESCALATED, Template.LATE})


def told_once(evidence: Evidence) -> Result:
    """What our books call sent was sent under that key and no other; what was sent is in our books."""
    sent = {effect.key: effect for effect in evidence.statements.messages if effect.kind == "message"}
    ours = {message.key: message for message in evidence.messages}
    once = Counter(
        (_subject(key), effect.reference, _told_of(effect))
        for key, effect in sent.items()
        if effect.reference in _SAID_ONCE
    )
    amended = Counter(one.order_id for one in evidence.amendments if one.state == AmendmentState.APPLIED)

    def wrong() -> Iterator[_Wrong]:
        for key, effect in sent.items():
            message = ours.get(key)
            if message is None:
                yield order_of_workflow(_workflow(key)), f"message {key} was sent, our books do not know it"
            elif message.state == "sent" and message.message_id != effect.effect_id:
                yield (
                    message.order_id,
                    f"message {key} is {effect.effect_id}, our books say {message.message_id}",
                )
            elif message.state == "no_address":
                yield message.order_id, f"message {key} was sent, our books say that there is no address"
        for key, message in ours.items():
            if message.state == "sent" and key not in sent:
                yield message.order_id, f"message {key} is sent in our books, and never was"
        for (subject, template, of), count in once.items():
            most = amended[subject] if template == Template.ORDER_AMENDED else 1
            if count > most:
                yield _order(subject), f"{template} was said {count} times about {subject}{of}"

    return _result(Invariant.TOLD_ONCE, len(sent.keys() | ours.keys()), wrong())


def _told_of(effect: Effect) -> str:
    """An order tells of each of its parcels, and confirms each day that it promises."""
    facts = (effect.details or {}).get("facts")
    told: Mapping[str, Any] = facts if isinstance(facts, dict) else {}
    if effect.reference == Template.ORDER_CONFIRMED and "promised" in told:
        return f", promised {told['promised']}"
    return f", shipment {told['shipment']}" if "shipment" in told else ""


def ambiguous_messages(evidence: Evidence) -> int:
    """Messages whose first sending had no answer: a gateway that knows no idempotency keys might send them twice."""
    sent = {effect.key for effect in evidence.statements.messages}
    unanswered = {key for simulator, key in evidence.statements.unanswered if simulator == "messages"}
    pending = {message.key for message in evidence.messages if message.state == "pending"}
    return len((unanswered & sent) | pending)


# What a customer does with a pay link, and how the API says that it comes too late: for this order, or for any.
_PAYS = ":pays"
_TOO_LATE = frozenset({"HTTP 409", "HTTP 410"})


def news_heard(evidence: Evidence) -> Result:
    """No event of a neighbour was refused for good, and none is still to be delivered long after it was due.

    A customer who pays when the order has ended meanwhile, or was paid, is told so, and only then.
    """
    webhooks = evidence.statements.webhooks
    messages = {effect.effect_id: effect for effect in evidence.statements.messages}

    def wrong() -> Iterator[_Wrong]:
        for webhook in webhooks:
            pays = (
                messages.get(webhook.event_id.removesuffix(_PAYS))
                if webhook.event_id.endswith(_PAYS)
                else None
            )
            if webhook.state == WEBHOOK_REFUSED and pays is not None and webhook.last_error in _TOO_LATE:
                order = evidence.orders.get(order_of_workflow(_workflow(pays.key)) or "")
                if order is None or order.state is OrderState.AWAITING_CUSTOMER:
                    yield (
                        None if order is None else order.order_id,
                        f"{webhook.event_id} was refused ({webhook.last_error}), and the order still waits for it",
                    )
            elif webhook.state == WEBHOOK_REFUSED:
                yield None, f"{webhook.simulator} was refused {webhook.event_id}: {webhook.last_error}"
            elif webhook.state == WEBHOOK_WAITING and webhook.overdue:
                yield (
                    None,
                    f"{webhook.simulator} still waits to tell {webhook.event_id}: {webhook.last_error}",
                )

    return _result(Invariant.NEWS_HEARD, len(webhooks), wrong())


# --- what others are told ---
def events_delivered(evidence: Evidence) -> Result:
    """What is in the feed was heard, under the same id with the same content, and of each key in the feed's order."""
    heard = evidence.heard.applied

    def wrong() -> Iterator[_Wrong]:
        if evidence.unsent:
            yield None, f"{evidence.unsent} events were written and never put into the feed"
        for event in evidence.feed:
            told = heard.get(event.event_id)
            if told is None:
                yield event.data.get("order_id"), f"event {event.event_id} ({event.type}) never came"
            elif (told.position, told.key, told.data) != (event.position, event.key, event.data):
                yield (
                    event.data.get("order_id"),
                    f"event {event.event_id} came with other content than it has",
                )
        for event_id in sorted(heard.keys() - {event.event_id for event in evidence.feed}):
            yield None, f"event {event_id} came, and is not in the feed"
        for event_id, what in evidence.heard.wrong:
            told = heard.get(event_id)
            yield (told.data.get("order_id") if told else None), f"event {event_id} {what}"

    return _result(Invariant.EVENTS_DELIVERED, len(evidence.feed), wrong())


def events_tell_the_truth(evidence: Evidence) -> Result:
    """A neighbour that applied every event once knows what our books say."""
    states: dict[str, str] = {}
    available: dict[Place, int] = {}
    moved: Counter[tuple[str, str]] = Counter()
    for event in evidence.heard.applied.values():
        if event.type == "order.changed":
            states[event.key] = event.data["state"]
        elif event.type == "availability.changed":
            available[(event.data["node"], event.data["sku"])] = event.data["available"]
        elif event.type in ("ledger.capture", "ledger.refund"):
            moved[(event.key, event.type.partition(".")[2])] += event.data["amount_minor"]
    books: Counter[tuple[str, str]] = Counter()
    for move in evidence.money:
        if move.kind in ("capture", "refund") and move.state == "confirmed":
            books[(move.order_id, move.kind)] += move.amount_minor or 0
    rows = {(row.node, row.sku): row.on_hand - row.reserved for row in evidence.stock}

    def wrong() -> Iterator[_Wrong]:
        for order in evidence.orders.values():
            if order.state is not None and states.get(order.order_id) != order.state:
                yield (
                    order.order_id,
                    f"it is {order.state}, and others were told {states.get(order.order_id)}",
                )
        for (node, sku), units in sorted(available.items()):
            if rows.get((node, sku)) != units:
                yield (
                    None,
                    f"{sku} at {node}: {rows.get((node, sku))} available, and others were told {units}",
                )
        for order_id, kind in sorted(books.keys() | moved.keys()):
            ours, told = books[(order_id, kind)], moved[(order_id, kind)]
            if ours != told:
                yield order_id, f"{kind} of {ours} in our books, and others were told of {told}"

    checked = len(evidence.orders) + len(available) + len(books.keys() | moved.keys())
    return _result(Invariant.EVENTS_TELL_THE_TRUTH, checked, wrong())


_CHECKS: Sequence[Callable[[Evidence], Result]] = (
    orders_kept,
    amended_once,
    never_oversold,
    stock_adds_up,
    movements_are_orders,
    goods_left_once,
    documents_applied_once,
    ledger_matches_statement,
    books_match_statement,
    paid_for_what_was_delivered,
    charged_once,
    refunded_once,
    value_spent_once,
    labelled_once,
    picked_once,
    told_once,
    news_heard,
    events_delivered,
    events_tell_the_truth,
)

# ``shipment:web:1001:2:label:1`` is the key of ``shipment:web:1001:2``: two parts name what is done, for which time. Of
# several tenders each has a key of its own, which ends in its number: ``shipment:web:1001:2:capture:1/2``.
_KEY = re.compile(
    r"^(?P<workflow>(?:order|shipment):.+?):[a-z-]+[a-z_]*:[0-9]+(?:/[0-9]+)?(?::again:[0-9]+)?$"
)


def _workflow(key: str) -> str:
    found = _KEY.match(key)
    return found["workflow"] if found else key


def _subject(key: str) -> str:
    """The order or shipment that an idempotency key is about."""
    return _workflow(key).partition(":")[2]


def _order(subject: str) -> str | None:
    try:
        return order_of_shipment(subject)
    except ValueError:
        return subject


def _order_of_source(source: str) -> str | None:
    """The order behind a movement of stock, which names a reservation's key or a shipment."""
    return order_of_workflow(_workflow(source)) or order_of_workflow(f"shipment:{source}")


def _twice(effects: Sequence[Effect], about: Callable[[Effect], str], what: str) -> Iterator[_Wrong]:
    groups: defaultdict[str, list[Effect]] = defaultdict(list)
    for effect in effects:
        groups[about(effect)].append(effect)
    for subject, several in groups.items():
        if len(several) > 1:
            keys = ", ".join(effect.key for effect in several)
            yield _order_of_effect(several[0]), f"{subject} was {what} {len(several)} times: {keys}"


def _order_of_effect(effect: Effect) -> str | None:
    return order_of_workflow(_workflow(effect.key))


def _in_order(evidence: Evidence) -> list[Shipment]:
    return [evidence.shipments[name] for name in sorted(evidence.shipments)]
