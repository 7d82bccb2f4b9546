"""Comparing two sides, and which differences may be mended without a person. Pure: two sides in, differences out.

What is under way is no difference. Every effect at a neighbour is intended in our books before it is asked for, and
its answer is written down after it. So a line of theirs that was read before our rows, and has none of them, is
nobody's next moment; one whose row is only intended may be.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from models.base import Contract
from models.ledger import TransactionKind
from models.money import Money
from models.operations import OperationState, PaymentKind
from models.reconciliation import (
    Compared,
    Comparison,
    Difference,
    DifferenceKind,
    LineState,
    Rule,
    Side,
    StatementLine,
)
from models.review import Verdict
from models.states import ORDER_TERMINAL, SHIPMENT_HANDED_OVER, SHIPMENT_TERMINAL, OrderState, ShipmentState

LABEL = "label"
_PROVIDER = "payment provider"
_CARRIER = "carrier"
_NOUN: Mapping[PaymentKind, str] = MappingProxyType(
    {
        PaymentKind.AUTHORISE: "authorisation",
        PaymentKind.CAPTURE: "capture",
        PaymentKind.REFUND: "refund",
        PaymentKind.VOID: "void",
    }
)
_A: Mapping[PaymentKind, str] = MappingProxyType(
    {kind: f"an {noun}" if noun[0] == "a" else f"a {noun}" for kind, noun in _NOUN.items()}
)
_NOT_ANSWERED = frozenset({OperationState.INTENDED, OperationState.REFUSED})


# --- money ---
_ABOUT_CAPTURES = frozenset(
    {DifferenceKind.AMOUNT_DIFFERS, DifferenceKind.OURS_ONLY, DifferenceKind.ANSWER_LOST}
)


class OurMovement(Contract):
    """A movement of money in our books. ``touched_at``: when it was asked for, or answered.

    ``posted``: what the ledger has of it; None where nothing is to be posted (yet).
    """

    key: str
    order_id: str
    kind: PaymentKind
    state: OperationState
    amount: Money
    provider_ref: str | None = None
    parent: str | None = None
    posted: Money | None = None
    touched_at: datetime


def compare_money(
    subject: str,
    ours: Sequence[OurMovement],
    theirs: Sequence[StatementLine],
    *,
    order_state: OrderState | None,
    now: datetime,
    grace: timedelta,
) -> Compared:
    """Our movements of one order against the lines of the provider's statement that name it.

    ``order_state`` None: no order of ours goes by that name. An effect without an answer is given ``grace`` before the
    answer counts as lost.
    """
    pairs = _paired(ours, theirs)
    matched = {line.line_id for lines in pairs.values() for line in lines}
    strangers = [line for line in theirs if line.line_id not in matched]
    found: list[Difference] = []
    under_way = 0
    for movement in ours:
        difference, busy = _movement(
            subject,
            movement,
            pairs[movement.key],
            theirs,
            settled_before=now - grace,
            order_state=order_state,
        )
        under_way += busy
        found += [difference] if difference else []
    found += [
        difference
        for line in strangers
        if (difference := _stranger(subject, line, ours, theirs, matched=matched, order_state=order_state))
        is not None
    ]
    taken = {difference.about for difference in found}
    # What is left of a hold is known only where both sides agree on what was taken of it.
    unsure = any(difference.kind in _ABOUT_CAPTURES for difference in found)
    found += [
        difference
        for line in theirs
        if line.line_id not in taken
        and (difference := _still_held(subject, line, ours, pairs, order_state)) is not None
        and not (unsure and difference.kind is DifferenceKind.HELD_ONLY_OURS)
    ]
    return Compared(checked=len(ours) + len(strangers), under_way=under_way, differences=tuple(_once(found)))


def _paired(
    ours: Sequence[OurMovement], theirs: Sequence[StatementLine]
) -> Mapping[str, tuple[StatementLine, ...]]:
    """Which lines speak of which movement: by the key that we sent, else by the provider's own reference."""
    return {
        movement.key: tuple(
            line
            for line in theirs
            if line.kind == movement.kind
            and (line.key == movement.key or line.line_id == movement.provider_ref)
        )
        for movement in ours
    }


def _movement(  # noqa: PLR0911 - one sentence each
    subject: str,
    ours: OurMovement,
    lines: Sequence[StatementLine],
    theirs: Sequence[StatementLine],
    *,
    settled_before: datetime,
    order_state: OrderState | None,
) -> tuple[Difference | None, bool]:
    """How a movement differs from its lines, and whether it is still under way."""
    done = [line for line in lines if line.state is not LineState.DECLINED]

    def differs(kind: DifferenceKind, what: str, about: str = ours.key) -> tuple[Difference, bool]:
        return (
            _difference(
                kind, subject, identity=about, what=what, ours=[ours], theirs=lines, amount=ours.amount
            ),
            False,
        )

    if ours.state in _NOT_ANSWERED:
        if not done or ours.kind is PaymentKind.VOID:
            # Nothing was done; or a void, whose hold says all there is to say.
            return None, ours.state is OperationState.INTENDED
        if ours.kind is PaymentKind.AUTHORISE and order_state in ORDER_TERMINAL:
            # What it still holds is given back; nobody needs the answer any more.
            return None, False
        if ours.touched_at > settled_before:
            return None, True
        return differs(
            DifferenceKind.ANSWER_LOST,
            f"the {_PROVIDER} did our {_NOUN[ours.kind]} of {_amount(done[0])}, and its answer never came",
        )
    if ours.state is OperationState.DECLINED or (
        ours.state is OperationState.CALLED_OFF and ours.kind is not PaymentKind.AUTHORISE
    ):
        if not done:
            return None, False
        return differs(
            DifferenceKind.THEIRS_ONLY,
            f"the {_PROVIDER} did {_A[ours.kind]} of {_amount(done[0])} that is {ours.state} in our books",
            about=done[0].line_id,
        )
    if ours.state is OperationState.CALLED_OFF:
        return None, False
    if len(done) > 1:
        return differs(
            DifferenceKind.TWICE_THEIRS,
            f"the {_PROVIDER} did our {_NOUN[ours.kind]} of {ours.amount} {len(done)} times",
        )
    if not done:
        if ours.amount.minor == 0 or _gone_by_itself(ours, theirs):
            return None, False
        return differs(
            DifferenceKind.OURS_ONLY,
            f"our books have {_A[ours.kind]} of {ours.amount} that the {_PROVIDER} does not know",
        )
    if done[0].amount is not None and done[0].amount != ours.amount:
        return differs(
            DifferenceKind.AMOUNT_DIFFERS,
            f"our books have {_A[ours.kind]} of {ours.amount}, the {_PROVIDER} one of {done[0].amount}",
        )
    if ours.posted is not None and ours.posted != ours.amount:
        return differs(
            DifferenceKind.LEDGER_DIFFERS,
            f"the ledger has {ours.posted} of {_A[ours.kind]} of {ours.amount}",
        )
    return None, False


def _gone_by_itself(ours: OurMovement, theirs: Sequence[StatementLine]) -> bool:
    """A void that somebody did in another way, or that came too late to matter: its hold holds nothing."""
    return ours.kind is PaymentKind.VOID and any(
        line.kind == PaymentKind.AUTHORISE and line.line_id == ours.parent and not _holds(line)
        for line in theirs
    )


def _stranger(
    subject: str,
    line: StatementLine,
    ours: Sequence[OurMovement],
    theirs: Sequence[StatementLine],
    *,
    matched: Iterable[str],
    order_state: OrderState | None,
) -> Difference | None:
    """A line that no movement of ours speaks of."""
    moved = line.amount is not None and line.amount.minor > 0
    if line.state is LineState.DECLINED or not moved or line.kind not in set(PaymentKind):
        return None
    if line.kind == PaymentKind.AUTHORISE and not _holds(line):
        # It took no money, and holds none: what was captured of it is a line of its own.
        return None
    # Of an order that has ended its hold tells: see _still_held.
    ended = order_state in ORDER_TERMINAL
    if line.kind == PaymentKind.VOID and (ended or _we_know_of_void(line, ours, theirs, matched)):
        return None
    known = set(matched)
    twin = next(
        (
            other
            for other in theirs
            if other.line_id in known
            and (other.kind, other.amount, other.state) == (line.kind, line.amount, line.state)
            and line.kind in (PaymentKind.CAPTURE, PaymentKind.REFUND)
        ),
        None,
    )
    who = f"order {subject}" if order_state is not None else f"{subject!r}, which is no order of ours"
    moved_as = PaymentKind(line.kind)
    if twin is not None:
        kind = DifferenceKind.TWICE_THEIRS
        what = (
            f"the {_PROVIDER} did a second {_NOUN[moved_as]} of {_amount(line)} for {who}; our books have one"
        )
    else:
        kind = DifferenceKind.THEIRS_ONLY
        what = f"the {_PROVIDER} did {_A[moved_as]} of {_amount(line)} for {who} that our books do not have"
    return _difference(
        kind,
        subject,
        identity=line.line_id,
        what=what,
        ours=[movement for movement in ours if movement.kind == line.kind],
        theirs=[line, *([twin] if twin else [])],
        amount=line.amount,
        order_id=subject if order_state is not None else None,
    )


def _we_know_of_void(
    line: StatementLine,
    ours: Sequence[OurMovement],
    theirs: Sequence[StatementLine],
    matched: Iterable[str],
) -> bool:
    """The hold that it gave back is given back in our books, too, or was never in them."""
    hold = next((other for other in theirs if other.line_id == line.parent_id), None)
    if hold is None or hold.line_id not in set(matched):
        # A stranger's hold, given back: nothing is left of it.
        return True
    mine = [
        movement
        for movement in ours
        if movement.kind is PaymentKind.AUTHORISE
        and (movement.key == hold.key or movement.provider_ref == hold.line_id)
    ]
    return any(movement.state is not OperationState.CONFIRMED for movement in mine)


def _still_held(
    subject: str,
    line: StatementLine,
    ours: Sequence[OurMovement],
    pairs: Mapping[str, Sequence[StatementLine]],
    order_state: OrderState | None,
) -> Difference | None:
    """Money that one side still holds though our order has ended, or our books have it given back."""
    if line.kind != PaymentKind.AUTHORISE or line.state is LineState.DECLINED:
        return None
    mine = next((movement for movement in ours if line in pairs[movement.key]), None)
    if mine is None:
        return None
    if not _holds(line):
        left = _left_in_our_books(mine, ours)
        if order_state not in ORDER_TERMINAL or left.minor <= 0:
            return None
        return _difference(
            DifferenceKind.HELD_ONLY_OURS,
            subject,
            identity=mine.key,
            what=f"order {subject} is {order_state}, our books still have {left} of it held, the {_PROVIDER} nothing",
            ours=[mine],
            theirs=[line],
            amount=left,
        )
    if mine.state is OperationState.CALLED_OFF:
        why = "our books have it given back"
    elif order_state in ORDER_TERMINAL:
        why = f"order {subject} is {order_state}"
    else:
        return None
    return _difference(
        DifferenceKind.HELD_AFTER_END,
        subject,
        identity=mine.key,
        what=f"the {_PROVIDER} still holds {line.held}, and {why}",
        ours=[mine],
        theirs=[line],
        amount=line.held,
    )


def _left_in_our_books(hold: OurMovement, ours: Sequence[OurMovement]) -> Money:
    """What our books have held: nothing of a hold that is no hold any more."""
    if hold.state is not OperationState.CONFIRMED:
        return Money.zero(hold.amount.currency)
    taken = (
        movement.amount
        for movement in ours
        if movement.kind is PaymentKind.CAPTURE
        and movement.state is OperationState.CONFIRMED
        and movement.parent == hold.provider_ref
    )
    return hold.amount - Money.total(taken, hold.amount.currency)


class Posting(Contract):
    """What a transaction of the ledger moved under one hold, in minor units: of what is held, and of money.

    ``tender`` and ``currency`` None: it moved nothing under any hold.
    """

    transaction: str
    kind: TransactionKind
    source: str
    tender: str | None = None
    currency: str | None = None
    held: int = 0
    money: int = 0


# What posts itself from a movement: without one behind it, somebody else has written it. The other kinds are written by
# hand, or stand for what concerns no hold.
_POSTED_FROM: Mapping[TransactionKind, tuple[str, frozenset[PaymentKind]]] = MappingProxyType(
    {
        TransactionKind.AUTHORISE: ("", frozenset({PaymentKind.AUTHORISE})),
        TransactionKind.CAPTURE: ("", frozenset({PaymentKind.CAPTURE})),
        TransactionKind.REFUND: ("", frozenset({PaymentKind.REFUND})),
        TransactionKind.VOID: ("", frozenset({PaymentKind.VOID})),
        TransactionKind.LAPSE: ("/lapse", frozenset({PaymentKind.AUTHORISE})),
        TransactionKind.REINSTATE: ("/reinstate", frozenset({PaymentKind.CAPTURE, PaymentKind.VOID})),
    }
)


def compare_ledger(
    subject: str,
    ours: Sequence[OurMovement],
    postings: Sequence[Posting],
    theirs: Sequence[StatementLine] = (),
    *,
    order_state: OrderState | None,
) -> tuple[Difference, ...]:
    """An order's ledger, summed for each hold, against the movements that it follows from; those of all tenders.

    A transaction that posts itself, and that no movement stands behind, is a difference until an adjustment under the
    same hold makes the sums right again. ``theirs`` only says which movements wait for an answer that was given: the
    ledger may have them.
    """
    done = {line.key for line in theirs if line.state is not LineState.DECLINED} - {None}
    # One whose answer was lost is in the ledger once the answer is written down, and not before.
    counted = [
        movement for movement in ours if _is_posted(movement, done & {one.transaction for one in postings})
    ]
    by_key = {movement.key: movement for movement in counted}
    lone = [posting for posting in postings if not _stands_behind(posting, by_key)]
    moved: dict[tuple[str | None, str | None], list[Posting]] = defaultdict(list)
    for posting in postings:
        if posting.tender is not None or posting in lone:
            moved[posting.tender, posting.currency].append(posting)
    holds = {(hold.key, hold.amount.currency): hold for hold in counted if hold.kind is PaymentKind.AUTHORISE}
    found = []
    for tender, currency in sorted(moved.keys() | holds.keys(), key=str):
        under = moved[tender, currency]
        hold = holds.get((str(tender), str(currency)))
        of_hold = [] if hold is None else _of_hold(hold, counted)
        strangers = [posting for posting in under if posting in lone]
        adjusted = any(posting.kind is TransactionKind.ADJUSTMENT for posting in under)
        money, held = sum(one.money for one in under), sum(one.held for one in under)
        due, due_held = _expected(hold, of_hold)
        agrees = money == due and due_held in (None, held)
        if agrees and (adjusted or not strangers):
            continue
        found.append(
            Difference(
                key=f"{DifferenceKind.LEDGER_DIFFERS}:{subject}|{tender or ''}|{currency or ''}",
                comparison=Comparison.MONEY,
                kind=DifferenceKind.LEDGER_DIFFERS,
                subject=subject,
                order_id=subject if order_state is not None else None,
                what=_of_ledger(subject, currency, (money, held), (due, due_held), strangers),
                ours=Side(of="ours", found=tuple(_shown(movement) for movement in of_hold)),
                theirs=Side(of="ledger", found=tuple(_shown(posting) for posting in under)),
                amount=None if currency is None else Money(minor=abs(money - due), currency=currency),
                about=tender or subject,
            )
        )
    return tuple(found)


def _is_posted(movement: OurMovement, done: Iterable[str | None]) -> bool:
    """Whether the ledger has, or may have, this movement."""
    if movement.state is OperationState.CALLED_OFF:
        return movement.kind is PaymentKind.AUTHORISE and movement.provider_ref is not None
    return movement.state is OperationState.CONFIRMED or (
        movement.state in _NOT_ANSWERED and movement.key in set(done)
    )


def _stands_behind(posting: Posting, by_key: Mapping[str, OurMovement]) -> bool:
    if posting.kind not in _POSTED_FROM:
        return True
    ending, kinds = _POSTED_FROM[posting.kind]
    movement = by_key.get(posting.transaction.removesuffix(ending))
    return (
        movement is not None
        and movement.kind in kinds
        and posting.transaction == movement.key + ending
        and posting.tender is not None
    )


def _of_hold(hold: OurMovement, movements: Sequence[OurMovement]) -> list[OurMovement]:
    """The hold with what was taken of it, given back of it, and paid back of what was taken."""
    drawn = [
        movement
        for movement in movements
        if movement.kind in (PaymentKind.CAPTURE, PaymentKind.VOID)
        and movement.parent is not None
        and movement.parent == hold.provider_ref
    ]
    taken = {movement.provider_ref for movement in drawn if movement.kind is PaymentKind.CAPTURE} - {None}
    paid_back = [
        movement for movement in movements if movement.kind is PaymentKind.REFUND and movement.parent in taken
    ]
    return [hold, *drawn, *paid_back]


def _expected(hold: OurMovement | None, movements: Sequence[OurMovement]) -> tuple[int, int | None]:
    """The money that the ledger has to have under a hold, and what is held; None where nobody can say.

    A movement that was posted with another amount is told of as such, and taken here as it was posted.
    """
    if hold is None:
        return 0, 0

    def of(kind: PaymentKind) -> int:
        return sum(
            (
                one.amount if one.posted is None or one.state is not OperationState.CONFIRMED else one.posted
            ).minor
            for one in movements
            if one.kind is kind
        )

    money = of(PaymentKind.CAPTURE) - of(PaymentKind.REFUND)
    if any(one.posted not in (None, one.amount) for one in movements):
        return money, None
    if hold.state is OperationState.CALLED_OFF:
        return money, 0
    return money, max(0, hold.amount.minor - of(PaymentKind.CAPTURE) - of(PaymentKind.VOID))


_NAMED = 3


def _of_ledger(
    subject: str,
    currency: str | None,
    ledger: tuple[int, int],
    due: tuple[int, int | None],
    strangers: Sequence[Posting],
) -> str:
    said = []
    if currency is not None and ledger[0] != due[0]:
        has, should = (Money(minor=minor, currency=currency) for minor in (ledger[0], due[0]))
        said.append(f"it has {has} taken, the movements of money come to {should}")
    if currency is not None and due[1] is not None and ledger[1] != due[1]:
        has, should = (Money(minor=minor, currency=currency) for minor in (ledger[1], due[1]))
        said.append(f"it has {has} held, the movements leave {should}")
    if strangers:
        names = [f"{posting.kind} {posting.transaction}" for posting in strangers[:_NAMED]]
        more = f" and {len(strangers) - _NAMED} more" if len(strangers) > _NAMED else ""
        said.append(f"no movement stands behind its {', '.join(names)}{more}")
    return f"the ledger of {subject} does not follow from the movements of money: {'; '.join(said)}"


def _holds(line: StatementLine) -> bool:
    return line.held is not None and line.held.minor > 0


def _amount(line: StatementLine) -> str:
    return str(line.amount) if line.amount is not None else "nothing"


def _difference(
    kind: DifferenceKind,
    subject: str,
    *,
    identity: str,
    what: str,
    ours: Sequence[OurMovement],
    theirs: Sequence[StatementLine],
    amount: Money | None,
    order_id: str | None = "",
) -> Difference:
    return Difference(
        key=f"{kind}:{identity}",
        comparison=Comparison.MONEY,
        kind=kind,
        subject=subject,
        order_id=(ours[0].order_id if ours else None) if order_id == "" else order_id,
        what=what,
        ours=Side(of="ours", found=tuple(_shown(movement) for movement in ours)),
        theirs=Side(of=_PROVIDER, found=tuple(_shown(line) for line in theirs)),
        amount=amount,
        about=identity,
    )


# --- labels ---
class OurLabel(Contract):
    """A label that we asked for, and what it was to cost."""

    key: str
    state: OperationState
    provider_ref: str | None = None
    cost: Money | None = None
    touched_at: datetime


class ShipmentStanding(Contract):
    """Where a shipment stands, as far as its label goes."""

    shipment_id: str
    order_id: str
    state: ShipmentState
    handed_over: bool


def compare_labels(
    subject: str,
    ours: Sequence[OurLabel],
    theirs: Sequence[StatementLine],
    *,
    shipment: ShipmentStanding | None,
    order_id: str | None,
    now: datetime,
    grace: timedelta,
) -> Compared:
    """The labels of one shipment, in our books and by the carrier's statement.

    ``shipment`` None: no shipment of ours goes by that name, or it has written nothing yet. ``order_id``: whose it is.
    A parcel that moves although its shipment is cancelled is no matter of its label: the invariant job tells of it.
    """
    in_force = [line for line in theirs if line.kind == LABEL and line.state is LineState.DONE]
    found: list[Difference] = []
    under_way = 0
    matched = set[str]()

    def differs(
        kind: DifferenceKind,
        identity: str,
        what: str,
        mine: Iterable[OurLabel],
        lines: Iterable[StatementLine],
    ) -> Difference:
        lines = tuple(lines)
        return Difference(
            key=f"{kind}:{identity}",
            comparison=Comparison.LABELS,
            kind=kind,
            subject=subject,
            order_id=order_id,
            what=what,
            ours=Side(of="ours", found=tuple(map(_shown, mine)) + ((_shown(shipment),) if shipment else ())),
            theirs=Side(of=_CARRIER, found=tuple(map(_shown, lines))),
            amount=lines[0].amount if lines else None,
            about=identity,
        )

    cancelled = shipment is not None and shipment.state is ShipmentState.CANCELLED
    for label in ours:
        lines = [line for line in in_force if label.key == line.key or label.provider_ref == line.line_id]
        matched |= {line.line_id for line in lines}
        if not lines:
            continue
        kept = [line for line in lines if not line.in_use]
        if label.state in _NOT_ANSWERED and not cancelled:
            if label.touched_at > now - grace:
                under_way += 1
            else:
                what = f"the {_CARRIER} sold the label of shipment {subject}, and its answer never came"
                found.append(differs(DifferenceKind.LABEL_ANSWER_LOST, label.key, what, [label], lines))
        elif label.state is OperationState.DECLINED:
            what = f"the {_CARRIER} sold a label for shipment {subject} that it declined in our books"
            found.append(differs(DifferenceKind.LABEL_UNKNOWN, lines[0].line_id, what, [label], lines))
        elif cancelled or label.state is OperationState.CALLED_OFF:
            if kept:
                why = "the shipment is cancelled" if cancelled else "our books have it given back"
                what = f"a label of shipment {subject} is still in force at the {_CARRIER}, and {why}"
                found.append(differs(DifferenceKind.LABEL_OF_CANCELLED, label.key, what, [label], kept))
        elif label.cost is not None and lines[0].amount is not None and label.cost != lines[0].amount:
            what = (
                f"the label of shipment {subject} cost {label.cost}, the {_CARRIER} counts {lines[0].amount}"
            )
            found.append(differs(DifferenceKind.LABEL_COST_DIFFERS, label.key, what, [label], lines))
    for line in in_force:
        if line.line_id not in matched:
            whose = (
                f"shipment {subject}"
                if order_id is not None
                else f"{subject!r}, which is no shipment of ours"
            )
            what = f"the {_CARRIER} sold a label for {whose} that our books do not have"
            found.append(differs(DifferenceKind.LABEL_UNKNOWN, line.line_id, what, ours, [line]))
    if shipment is not None and _has_left(shipment) and not in_force:
        known = [label for label in ours if label.state is OperationState.CONFIRMED]
        what = f"shipment {subject} was handed over, and " + (
            f"the {_CARRIER} does not know its label" if known else "no label was bought for it"
        )
        found.append(differs(DifferenceKind.LEFT_WITHOUT_LABEL, subject, what, ours, theirs))
    strangers = sum(line.line_id not in matched for line in in_force)
    return Compared(checked=len(ours) + strangers or 1, under_way=under_way, differences=tuple(_once(found)))


def _has_left(shipment: ShipmentStanding) -> bool:
    return shipment.state is not ShipmentState.CANCELLED and (
        shipment.handed_over or shipment.state in SHIPMENT_HANDED_OVER
    )


# --- reservations ---
class ReservedUnits(Contract):
    """Units of a reservation for one shipment in one stock row. ``held``: reserved now; else they have left."""

    key: str
    shipment_id: str
    node: str
    sku: str
    quantity: int
    held: bool


class OrderStock(Contract):
    """What an order has to do with stock. ``state`` None: there is no such order. ``kept``: money taken and kept."""

    order_id: str
    state: OrderState | None = None
    paid: bool = False
    kept: Money | None = None
    shipments: tuple[ShipmentStanding, ...] = ()
    units: tuple[ReservedUnits, ...] = ()


# From its release on an order's units are reserved until they leave. Pauses and undoing may be in between.
_RELEASED = frozenset({OrderState.RELEASED, OrderState.PARTIALLY_SHIPPED, OrderState.SHIPPED})
_BEFORE_IT_LEAVES = frozenset(
    {ShipmentState.PLANNED, ShipmentState.PICK_REQUESTED, ShipmentState.PICKED, ShipmentState.LABELLED}
)


def compare_reservations(order: OrderStock) -> Compared:
    """What is reserved for an order against where the order stands."""
    held = [units for units in order.units if units.held]
    if order.state is None or order.state in ORDER_TERMINAL:
        found = _held_for_nobody(order, held)
        if order.state is OrderState.CLOSED and order.kept is not None and order.kept.minor > 0:
            found += _paid_for_nothing(order)
    elif order.state in _RELEASED:
        found = _not_reserved(order)
    else:
        found = []
    return Compared(checked=1, differences=tuple(found))


def _held_for_nobody(order: OrderStock, held: Sequence[ReservedUnits]) -> list[Difference]:
    # Of an order that was closed while a parcel of it is being packed, the parcel still needs its units.
    under_way = {one.shipment_id for one in order.shipments if one.state not in SHIPMENT_TERMINAL}
    by_key: dict[str, list[ReservedUnits]] = defaultdict(list)
    for units in held:
        if units.shipment_id not in under_way:
            by_key[units.key].append(units)
    kind = DifferenceKind.HELD_FOR_UNKNOWN if order.state is None else DifferenceKind.HELD_FOR_ENDED
    why = "there is no such order" if order.state is None else f"it is {order.state}"
    return [
        _about_order(
            kind,
            order,
            identity=key,
            what=f"{sum(units.quantity for units in some):,} units are held for order {order.order_id}, and {why}",
            ours=some,
            units=sum(units.quantity for units in some),
        )
        for key, some in sorted(by_key.items())
    ]


def _not_reserved(order: OrderStock) -> list[Difference]:
    covered = {units.shipment_id for units in order.units}
    left = any(_has_left(shipment) for shipment in order.shipments)
    if not covered and not left:
        if order.paid:
            return _paid_for_nothing(order)
        what = f"order {order.order_id} is {order.state}, and nothing is reserved for it"
        return [
            _about_order(
                DifferenceKind.OPEN_WITHOUT_RESERVATION, order, identity=order.order_id, what=what, ours=()
            )
        ]
    bare = sorted(
        one.shipment_id
        for one in order.shipments
        if one.state in _BEFORE_IT_LEAVES and not one.handed_over and one.shipment_id not in covered
    )
    if not bare:
        return []
    what = f"order {order.order_id} is {order.state}, and nothing is reserved for shipment {', '.join(bare)}"
    return [
        _about_order(
            DifferenceKind.OPEN_WITHOUT_RESERVATION,
            order,
            identity=order.order_id,
            what=what,
            ours=order.units,
        )
    ]


def _paid_for_nothing(order: OrderStock) -> list[Difference]:
    if any(_has_left(shipment) for shipment in order.shipments) or any(
        not units.held for units in order.units
    ):
        return []
    what = (
        f"order {order.order_id} is {order.state} and paid, nothing is reserved for it, and nothing has left"
    )
    return [
        _about_order(
            DifferenceKind.PAID_WITHOUT_STOCK,
            order,
            identity=order.order_id,
            what=what,
            ours=order.units,
            amount=order.kept,
        )
    ]


def _about_order(
    kind: DifferenceKind,
    order: OrderStock,
    *,
    identity: str,
    what: str,
    ours: Sequence[ReservedUnits],
    units: int | None = None,
    amount: Money | None = None,
) -> Difference:
    standing = order.model_dump(mode="json", include={"order_id", "state", "paid", "kept"})
    return Difference(
        key=f"{kind}:{identity}",
        comparison=Comparison.RESERVATIONS,
        kind=kind,
        subject=order.order_id,
        order_id=order.order_id if order.state is not None else None,
        what=what,
        ours=Side(of="reservations", found=tuple(_shown(one) for one in ours)),
        theirs=Side(
            of="orders",
            found=(standing, *(_shown(shipment) for shipment in order.shipments)) if order.state else (),
        ),
        units=units,
        amount=amount,
        about=identity,
    )


# --- stock rows ---
class Counts(Contract):
    """Units on hand and reserved."""

    on_hand: int
    reserved: int


class StockStanding(Contract):
    """A stock row's own counts, the sum of what reservations hold of it, and what of it expired.

    ``moved``: what its movements add up to.
    """

    node: str
    sku: str
    reserved: int
    held: int
    on_hand: int = 0
    moved: Counts | None = None
    expired: int = 0

    @property
    def counts(self) -> Counts:
        """What the row says of itself."""
        return Counts(on_hand=self.on_hand, reserved=self.reserved)

    @property
    def agrees(self) -> bool:
        """Whether nobody has to look at it."""
        return self.reserved == self.held and self.moved in (None, self.counts) and not self.expired


def compare_stock(row: StockStanding) -> Compared:
    """The counts of one row against what is held of it and what moved it, and whether it has units that expired."""
    differences = []
    name = f"{row.node}/{row.sku}"

    def differs(kind: DifferenceKind, what: str, ours: Side, theirs: Side, units: int) -> None:
        differences.append(
            Difference(
                key=f"{kind}:{name}",
                comparison=Comparison.STOCK,
                kind=kind,
                subject=name,
                what=what,
                ours=ours,
                theirs=theirs,
                units=units,
                about=name,
            )
        )

    def stock(**counts: int) -> Side:
        return Side(of="stock", found=({"node": row.node, "sku": row.sku, **counts},))

    if row.reserved != row.held:
        differs(
            DifferenceKind.RESERVED_DIFFERS,
            f"{row.sku} at {row.node} counts {row.reserved:,} reserved units, reservations hold {row.held:,}",
            stock(reserved=row.reserved),
            Side(of="reservations", found=({"held": row.held},)),
            abs(row.reserved - row.held),
        )
    if row.moved is not None and row.moved != row.counts:
        differs(
            DifferenceKind.MOVEMENTS_DIFFER,
            f"{row.sku} at {row.node} counts {row.on_hand:,} units on hand and {row.reserved:,} reserved, "
            f"its movements add up to {row.moved.on_hand:,} and {row.moved.reserved:,}",
            stock(on_hand=row.on_hand, reserved=row.reserved),
            Side(of="movements", found=(row.moved.model_dump(),)),
            abs(row.on_hand - row.moved.on_hand) + abs(row.reserved - row.moved.reserved),
        )
    if row.expired:
        differs(
            DifferenceKind.EXPIRED,
            f"{row.expired:,} units of {row.sku} at {row.node} have expired",
            stock(expired=row.expired),
            Side(of="the calendar"),
            row.expired,
        )
    return Compared(checked=1, differences=tuple(differences))


class AllocationCounter(Contract):
    """What a rule has counted of a SKU at a node (``""``: at all together), and the units that it is about."""

    rule_id: str
    sku: str
    node: str
    counted: int
    units: int

    @property
    def subject(self) -> str:
        """How a difference of it is called."""
        return f"{self.rule_id}:{self.node or '*'}/{self.sku}"


def compare_allocation(counter: AllocationCounter) -> Compared:
    """A rule's counter against the units that it counts."""
    if counter.counted == counter.units:
        return Compared(checked=1)
    kind, where = DifferenceKind.ALLOCATION_DIFFERS, f" at {counter.node}" if counter.node else ""
    place = {"rule_id": counter.rule_id, "sku": counter.sku, "node": counter.node}
    difference = Difference(
        key=f"{kind}:{counter.subject}",
        comparison=Comparison.STOCK,
        kind=kind,
        subject=counter.subject,
        what=f"rule {counter.rule_id} has counted {counter.counted:,} units of {counter.sku}{where}, "
        f"reservations come to {counter.units:,}",
        ours=Side(of="counter", found=(place | {"counted": counter.counted},)),
        theirs=Side(of="reservations", found=({"units": counter.units},)),
        units=abs(counter.counted - counter.units),
        about=counter.subject,
    )
    return Compared(checked=1, differences=(difference,))


# --- rules ---
class HealingPolicy(Contract):
    """What may be mended without a person, and up to how much. People set the limits; 0 leaves all of it to people.

    ``void_hold_up_to_minor`` in minor units of the hold's own currency.
    """

    version: str = "reconciliation-2026-11-1"
    release_up_to_units: int = 1_000
    void_hold_up_to_minor: int = 100_000
    void_labels: bool = True
    write_down_answers: bool = True


_RULES: Mapping[DifferenceKind, Rule] = MappingProxyType(
    {
        DifferenceKind.HELD_FOR_ENDED: Rule.RELEASE_UNITS,
        DifferenceKind.HELD_FOR_UNKNOWN: Rule.RELEASE_UNITS,
        DifferenceKind.HELD_AFTER_END: Rule.VOID_HOLD,
        DifferenceKind.HELD_ONLY_OURS: Rule.WRITE_DOWN_ANSWER,
        DifferenceKind.ANSWER_LOST: Rule.WRITE_DOWN_ANSWER,
        DifferenceKind.LABEL_OF_CANCELLED: Rule.VOID_LABEL,
        DifferenceKind.LABEL_ANSWER_LOST: Rule.WRITE_DOWN_ANSWER,
    }
)
# Nobody has asked for these units under a name that we know: a person looks first.
_ONLY_BY_A_PERSON = frozenset({DifferenceKind.HELD_FOR_UNKNOWN})


def remedy(kind: DifferenceKind) -> Rule | None:
    """What would mend a difference of this kind; None: only people can."""
    return _RULES.get(kind)


def rule_for(difference: Difference, policy: HealingPolicy) -> Rule | None:
    """The rule that mends this difference without a person, or None: then a person is asked."""
    rule = _RULES.get(difference.kind)
    if rule is None or difference.kind in _ONLY_BY_A_PERSON:
        return None
    allowed = {
        Rule.RELEASE_UNITS: (difference.units or 0) <= policy.release_up_to_units,
        Rule.VOID_HOLD: difference.amount is not None
        and difference.amount.minor <= policy.void_hold_up_to_minor,
        Rule.VOID_LABEL: policy.void_labels,
        Rule.WRITE_DOWN_ANSWER: policy.write_down_answers,
    }
    return rule if allowed[rule] else None


_MENDS: Mapping[Rule, str] = MappingProxyType(
    {
        Rule.RELEASE_UNITS: "free these units: they are on sale at once",
        Rule.VOID_HOLD: "give back what the provider still holds",
        Rule.VOID_LABEL: "give the label back to the carrier",
        Rule.WRITE_DOWN_ANSWER: "write the answer down as the neighbour has it",
    }
)
_TO_DO: Mapping[DifferenceKind, str] = MappingProxyType(
    {
        DifferenceKind.OURS_ONLY: "Ask the payment provider for this movement by our key and reference. If it never "
        "was, the customer was told of money that did not move: charge or refund it there, then finish.",
        DifferenceKind.THEIRS_ONLY: "See at the payment provider who did it and why. If it was not due, refund or "
        "void it there; then accept it here with the reference of that.",
        DifferenceKind.AMOUNT_DIFFERS: "See at the payment provider which amount is right. Put the difference right "
        "there, then accept it here with the reference of that.",
        DifferenceKind.LEDGER_DIFFERS: "Somebody wrote past our code: see the order's ledger and timeline. Correct the "
        "ledger by an adjustment under the same hold, then finish; or accept it here with the id of what explains it.",
        DifferenceKind.TWICE_THEIRS: "The customer was charged, or paid back, twice. Refund or reclaim the second one "
        "at the payment provider, then accept it here with the reference of that.",
        DifferenceKind.LABEL_UNKNOWN: "Ask who bought this label. If nobody uses it, give it back at the carrier, "
        "then finish.",
        DifferenceKind.LABEL_COST_DIFFERS: "Compare the carrier's price list with the plan's, and claim the "
        "difference or accept it.",
        DifferenceKind.LEFT_WITHOUT_LABEL: "Ask the warehouse what the parcel travels by. If it was sent by hand, "
        "accept it with the tracking number.",
        DifferenceKind.OPEN_WITHOUT_RESERVATION: "These units may be sold to somebody else before they are picked. "
        "See the order's timeline for who freed them. Reserve them again, or call the order off; then finish.",
        DifferenceKind.PAID_WITHOUT_STOCK: "The customer has paid, and nothing is on its way. See the order's "
        "timeline; send the goods, or call the order off and pay back.",
        DifferenceKind.RESERVED_DIFFERS: "See who changed the count or the reservations by hand. Put the count right, "
        "then finish.",
        DifferenceKind.MOVEMENTS_DIFFER: "Somebody changed the row past its movements, or the movements. Count what "
        "lies on the shelf, and see what was reserved; put the row right as it was changed, then finish.",
        DifferenceKind.ALLOCATION_DIFFERS: "This rule lets through too much, or too little. Set the allocation without "
        "the rule, then with it (orderwright stock allocate): it then counts anew. Then finish.",
        DifferenceKind.EXPIRED: "Nothing of it is sent to anybody any more. Take it off the shelf and write it off "
        "(orderwright stock damage, with --lot), then finish.",
        DifferenceKind.HELD_FOR_UNKNOWN: "No order of this id is in our books. If nothing is on its way under it, "
        "approve.",
    }
)
# What a person does at the neighbour leaves both sides as they are: their word settles it.
_ACCEPTED_AFTERWARDS = frozenset(
    {
        DifferenceKind.THEIRS_ONLY,
        DifferenceKind.AMOUNT_DIFFERS,
        DifferenceKind.LEDGER_DIFFERS,
        DifferenceKind.TWICE_THEIRS,
        DifferenceKind.LABEL_COST_DIFFERS,
        DifferenceKind.LEFT_WITHOUT_LABEL,
    }
)


def remedies(difference: Difference) -> tuple[dict[Verdict, str], Verdict, str]:
    """The options that a person is given, which is recommended, and how to go about it."""
    accept = {
        Verdict.REJECT: "accept it as it is: nothing is moved, and it is not asked again unless a side changes"
    }
    again = {Verdict.FINISH: "it was looked after: compare again, and ask anew if it is still there"}
    rule = remedy(difference.kind)
    if rule is None:
        settled = Verdict.REJECT if difference.kind in _ACCEPTED_AFTERWARDS else Verdict.FINISH
        return accept | again, settled, _TO_DO[difference.kind]
    usual = f"No rule of ours may do it alone. Approve to {_MENDS[rule]}."
    return (
        {Verdict.APPROVE: _MENDS[rule]} | accept | again,
        Verdict.APPROVE,
        _TO_DO.get(difference.kind, usual),
    )


def fingerprint(difference: Difference) -> tuple[Any, ...]:
    """What a person has seen of a difference: while it is the same, an accepted one stays accepted."""
    return (difference.kind, difference.ours.found, difference.theirs.found)


def _once(found: Sequence[Difference]) -> list[Difference]:
    """Two movements of ours that one line of theirs answers would tell of it twice."""
    seen = Counter[str]()
    kept = []
    for difference in found:
        seen[difference.key] += 1
        if seen[difference.key] == 1:
            kept.append(difference)
    return kept


def _shown(one: Contract) -> dict[str, Any]:
    """As a person sees it: without what only we reckon with."""
    return {
        name: value
        for name, value in one.model_dump(
            mode="json", exclude={"touched_at", "changed_at", "order_id"}
        ).items()
        if value not in (None, "", False)
    }
