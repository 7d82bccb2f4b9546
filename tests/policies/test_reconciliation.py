"""Comparing is pure: two sides that agree have no difference, and every single disagreement has one."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ledger import TransactionKind
from models.money import Money
from models.operations import OperationState, PaymentKind
from models.reconciliation import (
    Comparison,
    Difference,
    DifferenceKind,
    LineState,
    Rule,
    Side,
    StatementLine,
)
from models.review import Verdict
from models.states import ORDER_TERMINAL, OrderState, ShipmentState
from policies.reconciliation import (
    AllocationCounter,
    Counts,
    HealingPolicy,
    OrderStock,
    OurLabel,
    OurMovement,
    Posting,
    ReservedUnits,
    ShipmentStanding,
    StockStanding,
    compare_allocation,
    compare_labels,
    compare_ledger,
    compare_money,
    compare_reservations,
    compare_stock,
    remedies,
    remedy,
    rule_for,
)
from tests.builders import gbp

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
EARLIER = NOW - timedelta(hours=1)
GRACE = timedelta(minutes=5)
ORDER = "web:1"


def ours(kind: PaymentKind, number: int = 1, minor: int = 1000, **changes: Any) -> OurMovement:
    movement = OurMovement(
        key=f"key-{kind}-{number}",
        order_id=ORDER,
        kind=kind,
        state=OperationState.CONFIRMED,
        amount=gbp(minor),
        provider_ref=f"ref-{kind}-{number}",
        parent="ref-authorise-1",
        touched_at=EARLIER,
    )
    return movement.model_copy(update=changes)


def theirs(movement: OurMovement, **changes: Any) -> StatementLine:
    """The line that answers ``movement``."""
    line = StatementLine(
        line_id=movement.provider_ref or f"line-of-{movement.key}",
        kind=movement.kind,
        key=movement.key,
        reference=ORDER,
        parent_id=movement.parent,
        state=LineState.DONE,
        amount=movement.amount,
        held=gbp(0) if movement.kind is PaymentKind.AUTHORISE else None,
        at=EARLIER,
        changed_at=EARLIER,
    )
    return line.model_copy(update=changes)


def compared(
    mine: list[OurMovement], lines: list[StatementLine], state: OrderState | None = OrderState.RELEASED
) -> list[DifferenceKind]:
    found = compare_money(ORDER, mine, lines, order_state=state, now=NOW, grace=GRACE)
    return [difference.kind for difference in found.differences]


# What an order's money can look like when all is well: a hold, captures of it, refunds of these, a void of the rest.
@st.composite
def books(draw: st.DrawFn) -> tuple[list[OurMovement], list[StatementLine]]:
    hold = draw(st.integers(1, 100_000))
    mine = [ours(PaymentKind.AUTHORISE, minor=hold)]
    left = hold
    for number in range(1, draw(st.integers(0, 4)) + 1):
        if left == 0:
            break
        taken = draw(st.integers(1, left))
        left -= taken
        mine.append(ours(PaymentKind.CAPTURE, number, taken))
        if draw(st.booleans()):
            back = draw(st.integers(1, taken))
            mine.append(ours(PaymentKind.REFUND, number, back, parent=f"ref-capture-{number}"))
    closed = draw(st.booleans())
    if closed and left:
        mine.append(ours(PaymentKind.VOID, 1, left, provider_ref=None))
        mine[0] = mine[0].model_copy(update={"state": OperationState.CALLED_OFF})
    lines = [theirs(movement) for movement in mine]
    if closed and left:
        lines[0] = lines[0].model_copy(update={"state": LineState.UNDONE, "held": gbp(0)})
    elif left:
        lines[0] = lines[0].model_copy(update={"held": gbp(left)})
    return mine, lines


@given(books(), st.randoms())
def test_books_that_agree_have_no_difference_in_whatever_order_they_are_read(
    both: tuple[list[OurMovement], list[StatementLine]], chance: Any
) -> None:
    mine, lines = both
    chance.shuffle(mine)
    chance.shuffle(lines)
    assert compared(mine, lines) == []


@given(books(), st.data())
def test_a_line_too_many_is_found(
    both: tuple[list[OurMovement], list[StatementLine]], data: st.DataObject
) -> None:
    mine, lines = both
    kind = data.draw(st.sampled_from([PaymentKind.CAPTURE, PaymentKind.REFUND]))
    stranger = theirs(ours(kind, 99, data.draw(st.integers(1, 100_000))), key="somebody's")
    found = compared(mine, [*lines, stranger])
    assert found in ([DifferenceKind.THEIRS_ONLY], [DifferenceKind.TWICE_THEIRS])


@given(books(), st.data())
def test_a_line_that_is_missing_is_found(
    both: tuple[list[OurMovement], list[StatementLine]], data: st.DataObject
) -> None:
    mine, lines = both
    moved = [line for line in lines if line.kind in (PaymentKind.CAPTURE, PaymentKind.REFUND)]
    if not moved:
        return
    gone = data.draw(st.sampled_from(moved))
    found = compared(mine, [line for line in lines if line is not gone])
    assert found == [DifferenceKind.OURS_ONLY]


@given(books(), st.data())
def test_another_amount_is_found_on_whichever_movement(
    both: tuple[list[OurMovement], list[StatementLine]], data: st.DataObject
) -> None:
    mine, lines = both
    place = data.draw(st.integers(0, len(lines) - 1))
    line = lines[place]
    if mine[place].state is OperationState.CALLED_OFF or line.amount is None:
        return
    off = data.draw(st.integers(1, 1_000))
    lines[place] = line.model_copy(update={"amount": line.amount + gbp(off)})
    assert DifferenceKind.AMOUNT_DIFFERS in compared(mine, lines)


@given(books())
def test_nothing_is_found_twice(both: tuple[list[OurMovement], list[StatementLine]]) -> None:
    mine, _ = both
    found = compare_money(ORDER, mine, [], order_state=OrderState.RELEASED, now=NOW, grace=GRACE)
    keys = [difference.key for difference in found.differences]
    assert len(keys) == len(set(keys))


# --- the ledger ---
HOLD = "key-authorise-1"


def a_posting(kind: TransactionKind, transaction: str, **changes: Any) -> Posting:
    posting = Posting(transaction=transaction, kind=kind, source="test", tender=HOLD, currency="GBP")
    return posting.model_copy(update=changes)


def posted(mine: list[OurMovement]) -> list[Posting]:
    """What posts itself from these movements."""
    wrote = []
    for movement in mine:
        amount, kind = movement.amount.minor, TransactionKind(movement.kind)
        held = {"authorise": amount, "refund": 0}.get(kind, -amount)
        money = {"capture": amount, "refund": -amount}.get(kind, 0)
        wrote.append(a_posting(kind, movement.key, held=held, money=money))
    left = sum(posting.held for posting in wrote)
    if mine[0].state is OperationState.CALLED_OFF and left:
        wrote.append(a_posting(TransactionKind.LAPSE, f"{HOLD}/lapse", held=-left))
    return wrote


def in_ledger(
    mine: list[OurMovement], postings: list[Posting], lines: list[StatementLine] | None = None
) -> list[Difference]:
    return list(compare_ledger(ORDER, mine, postings, lines or [], order_state=OrderState.RELEASED))


@given(books())
def test_a_ledger_that_follows_from_the_movements_is_no_difference(
    both: tuple[list[OurMovement], list[StatementLine]],
) -> None:
    assert in_ledger(both[0], posted(both[0])) == []


@given(books(), st.data(), st.integers(-1000, 1000).filter(bool), st.sampled_from(["held", "money"]))
def test_another_sum_under_a_hold_is_found_whoever_wrote_it(
    both: tuple[list[OurMovement], list[StatementLine]], data: st.DataObject, more: int, what: str
) -> None:
    wrote = posted(both[0])
    number = data.draw(st.integers(0, len(wrote) - 1))
    wrote[number] = wrote[number].model_copy(update={what: getattr(wrote[number], what) + more})
    (found,) = in_ledger(both[0], wrote)
    assert (found.kind, found.about) == (DifferenceKind.LEDGER_DIFFERS, HOLD)
    assert found.ours.found
    assert len(found.theirs.found) == len(wrote)


@given(books(), st.data())
def test_a_movement_that_the_ledger_lacks_is_found(
    both: tuple[list[OurMovement], list[StatementLine]], data: st.DataObject
) -> None:
    wrote = posted(both[0])
    del wrote[data.draw(st.integers(0, len(both[0]) - 1))]
    assert [one.kind for one in in_ledger(both[0], wrote)] == [DifferenceKind.LEDGER_DIFFERS]


@pytest.mark.parametrize(
    ("kind", "transaction"),
    [
        (TransactionKind.CAPTURE, "by-hand"),
        (TransactionKind.REFUND, "key-capture-1"),
        (TransactionKind.VOID, "by-hand"),
        (TransactionKind.AUTHORISE, "by-hand"),
        (TransactionKind.LAPSE, "by-hand/lapse"),
        (TransactionKind.LAPSE, HOLD),
        (TransactionKind.REINSTATE, f"{HOLD}/reinstate"),
    ],
)
@pytest.mark.parametrize("tender", [HOLD, None, "another"])
def test_a_transaction_that_no_movement_stands_behind_is_found_even_if_it_moves_nothing(
    kind: TransactionKind, transaction: str, tender: str | None
) -> None:
    mine = [ours(PaymentKind.AUTHORISE), ours(PaymentKind.CAPTURE)]
    currency = "GBP" if tender else None
    lone = a_posting(kind, transaction, tender=tender, currency=currency)
    (found,) = in_ledger(mine, [*posted(mine), lone])
    assert f"no movement stands behind its {kind} {transaction}" in found.what


@pytest.mark.parametrize("kind", [TransactionKind.FEE, TransactionKind.PAYMENT, TransactionKind.ISSUE])
def test_what_legitimately_has_no_movement_is_no_difference(kind: TransactionKind) -> None:
    mine = [ours(PaymentKind.AUTHORISE), ours(PaymentKind.CAPTURE)]
    assert in_ledger(mine, [*posted(mine), a_posting(kind, "f", tender=None, currency=None)]) == []


def test_an_adjustment_under_the_same_hold_mends_what_was_written_by_hand() -> None:
    mine = [ours(PaymentKind.AUTHORISE)]
    wrote = [*posted(mine), a_posting(TransactionKind.CAPTURE, "by-hand", money=300)]
    assert len(in_ledger(mine, wrote)) == 1
    mended = [*wrote, a_posting(TransactionKind.ADJUSTMENT, "mended", money=-300)]
    assert in_ledger(mine, mended) == []
    assert len(in_ledger(mine, [*mended, a_posting(TransactionKind.ADJUSTMENT, "more", money=-1)])) == 1


@pytest.mark.parametrize("state", [OperationState.INTENDED, OperationState.DECLINED])
def test_a_movement_that_is_not_confirmed_stands_behind_nothing_unless_the_provider_did_it(
    state: OperationState,
) -> None:
    mine = [ours(PaymentKind.AUTHORISE), ours(PaymentKind.CAPTURE, minor=400, state=state)]
    assert len(in_ledger(mine, posted(mine))) == 1
    found = in_ledger(mine, posted(mine), [theirs(mine[1])])
    assert len(found) == (0 if state is OperationState.INTENDED else 1)


def test_each_hold_has_its_own_sum() -> None:
    first, second = ours(PaymentKind.AUTHORISE, 1), ours(PaymentKind.AUTHORISE, 2, parent=None)
    wrote = [
        a_posting(TransactionKind.AUTHORISE, first.key, held=1000),
        a_posting(TransactionKind.AUTHORISE, second.key, held=1000, tender=second.key),
    ]
    assert in_ledger([first, second], wrote) == []
    moved = [wrote[0].model_copy(update={"held": 900}), wrote[1].model_copy(update={"held": 1100})]
    assert [one.about for one in in_ledger([first, second], moved)] == [first.key, second.key]


def test_another_currency_is_another_amount() -> None:
    movement = ours(PaymentKind.CAPTURE)
    line = theirs(movement, amount=Money(minor=1000, currency="EUR"))
    assert compared([movement], [line]) == [DifferenceKind.AMOUNT_DIFFERS]


def test_what_was_done_by_hand_is_found_by_the_providers_own_reference() -> None:
    movement = ours(PaymentKind.CAPTURE, provider_ref="cap-of-the-dashboard")
    assert compared([movement], [theirs(movement, key=None)]) == []


@pytest.mark.parametrize("state", sorted(ORDER_TERMINAL))
def test_a_hold_of_an_ended_order_is_found_at_either_side(state: OrderState) -> None:
    hold = ours(PaymentKind.AUTHORISE)
    assert compared([hold], [theirs(hold, held=gbp(1000))], state) == [DifferenceKind.HELD_AFTER_END]
    assert compared([hold], [theirs(hold, held=gbp(0))], state) == [DifferenceKind.HELD_ONLY_OURS]


@pytest.mark.parametrize("state", sorted(set(OrderState) - ORDER_TERMINAL))
def test_a_hold_of_an_open_order_is_its_runs_business(state: OrderState) -> None:
    hold = ours(PaymentKind.AUTHORISE)
    assert compared([hold], [theirs(hold, held=gbp(1000))], state) == []


@pytest.mark.parametrize(
    ("touched_at", "found"),
    [(NOW, []), (EARLIER, [DifferenceKind.ANSWER_LOST])],
    ids=["just now", "long ago"],
)
def test_an_answer_counts_as_lost_only_after_a_while(
    touched_at: datetime, found: list[DifferenceKind]
) -> None:
    lost = ours(PaymentKind.CAPTURE, state=OperationState.INTENDED, provider_ref=None, touched_at=touched_at)
    line = theirs(lost)
    assert compared([lost], [line]) == found


# --- labels ---
def a_label(**changes: Any) -> OurLabel:
    label = OurLabel(
        key="l1", state=OperationState.CONFIRMED, provider_ref="lab-1", cost=gbp(395), touched_at=EARLIER
    )
    return label.model_copy(update=changes)


def sold(**changes: Any) -> StatementLine:
    line = StatementLine(
        line_id="lab-1",
        kind="label",
        key="l1",
        reference=f"{ORDER}:1",
        state=LineState.DONE,
        amount=gbp(395),
        at=EARLIER,
        changed_at=EARLIER,
    )
    return line.model_copy(update=changes)


def labels(
    mine: list[OurLabel], lines: list[StatementLine], state: ShipmentState, *, handed_over: bool = False
) -> list[DifferenceKind]:
    shipment = ShipmentStanding(
        shipment_id=f"{ORDER}:1", order_id=ORDER, state=state, handed_over=handed_over
    )
    found = compare_labels(f"{ORDER}:1", mine, lines, shipment=shipment, order_id=ORDER, now=NOW, grace=GRACE)
    return [difference.kind for difference in found.differences]


@pytest.mark.parametrize("state", sorted(set(ShipmentState) - {ShipmentState.CANCELLED}))
def test_a_label_that_both_sides_know_is_no_difference(state: ShipmentState) -> None:
    assert labels([a_label()], [sold()], state) == []


def test_the_label_of_a_cancelled_shipment_is_found_unless_its_parcel_moves() -> None:
    cancelled = ShipmentState.CANCELLED
    assert labels([a_label()], [sold()], cancelled) == [DifferenceKind.LABEL_OF_CANCELLED]
    assert labels([a_label()], [sold(in_use=True)], cancelled) == [], "the invariant job tells of it"
    assert labels([a_label()], [sold(state=LineState.UNDONE)], cancelled) == []


@pytest.mark.parametrize("mine", [[], [a_label()]], ids=["no label", "one the carrier does not know"])
def test_a_parcel_that_left_without_a_label_is_found(mine: list[OurLabel]) -> None:
    assert labels(mine, [], ShipmentState.IN_REVIEW, handed_over=True) == [DifferenceKind.LEFT_WITHOUT_LABEL]
    assert labels(mine, [], ShipmentState.PICKED) == []


# --- reservations and stock ---
def an_order(state: OrderState | None, *, held: int = 0, gone: int = 0, **changes: Any) -> OrderStock:
    units = [
        ReservedUnits(key="k", shipment_id=f"{ORDER}:1", node="n", sku="s", quantity=quantity, held=is_held)
        for quantity, is_held in ((held, True), (gone, False))
        if quantity
    ]
    return OrderStock(order_id=ORDER, state=state, units=tuple(units), **changes)


@given(st.sampled_from(sorted(ORDER_TERMINAL)), st.integers(1, 10**6))
def test_units_held_for_an_ended_order_are_found_with_their_number(state: OrderState, units: int) -> None:
    (difference,) = compare_reservations(an_order(state, held=units)).differences
    assert (difference.kind, difference.units) == (DifferenceKind.HELD_FOR_ENDED, units)


@given(st.sampled_from(sorted(set(OrderState) - ORDER_TERMINAL)), st.integers(1, 10**6))
def test_units_held_for_an_open_order_are_no_difference(state: OrderState, units: int) -> None:
    assert compare_reservations(an_order(state, held=units)).differences == ()


@pytest.mark.parametrize("state", [OrderState.RELEASED, OrderState.PARTIALLY_SHIPPED, OrderState.SHIPPED])
def test_a_released_order_needs_units_that_are_held_or_have_left(state: OrderState) -> None:
    def kinds(order: OrderStock) -> list[DifferenceKind]:
        return [difference.kind for difference in compare_reservations(order).differences]

    assert kinds(an_order(state)) == [DifferenceKind.OPEN_WITHOUT_RESERVATION]
    assert kinds(an_order(state, paid=True)) == [DifferenceKind.PAID_WITHOUT_STOCK]
    assert kinds(an_order(state, gone=2, paid=True)) == []


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_counts_differ_by_what_they_differ(reserved: int, held: int) -> None:
    found = compare_stock(StockStanding(node="n", sku="s", reserved=reserved, held=held)).differences
    assert [difference.units for difference in found] == ([abs(reserved - held)] if reserved != held else [])


def test_expired_goods_on_a_shelf_are_a_persons_business() -> None:
    row = StockStanding(node="n", sku="s", reserved=2, held=2, expired=5)
    assert not row.agrees
    assert [(one.kind, one.units) for one in compare_stock(row).differences] == [(DifferenceKind.EXPIRED, 5)]


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_row_is_the_sum_of_its_movements(on_hand: int, reserved: int, came: int, kept: int) -> None:
    moved = Counts(on_hand=came, reserved=kept)
    row = StockStanding(node="n", sku="s", on_hand=on_hand, reserved=reserved, held=reserved, moved=moved)
    found = compare_stock(row).differences
    assert row.agrees is not bool(found)
    assert [(one.kind, one.units) for one in found] == (
        []
        if (on_hand, reserved) == (came, kept)
        else [(DifferenceKind.MOVEMENTS_DIFFER, abs(on_hand - came) + abs(reserved - kept))]
    )


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_counter_of_a_rule_is_what_it_counts(counted: int, units: int) -> None:
    counter = AllocationCounter(rule_id="web-only", sku="s", node="", counted=counted, units=units)
    found = compare_allocation(counter).differences
    assert [(one.kind, one.units) for one in found] == (
        [] if counted == units else [(DifferenceKind.ALLOCATION_DIFFERS, abs(counted - units))]
    )


# --- rules ---
def a_difference(kind: DifferenceKind, *, minor: int | None = None, units: int | None = None) -> Difference:
    return Difference(
        key=f"{kind}:x",
        comparison=Comparison.MONEY,
        kind=kind,
        subject=ORDER,
        what="they differ",
        ours=Side(of="ours"),
        theirs=Side(of="theirs"),
        amount=None if minor is None else gbp(minor),
        units=units,
    )


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_no_rule_goes_beyond_its_limit(limit: int, at_stake: int) -> None:
    policy = HealingPolicy(release_up_to_units=limit, void_hold_up_to_minor=limit)
    within = at_stake <= limit
    hold = a_difference(DifferenceKind.HELD_AFTER_END, minor=at_stake)
    units = a_difference(DifferenceKind.HELD_FOR_ENDED, units=at_stake)
    assert rule_for(hold, policy) == (Rule.VOID_HOLD if within else None)
    assert rule_for(units, policy) == (Rule.RELEASE_UNITS if within else None)


@pytest.mark.parametrize("kind", DifferenceKind)
def test_every_kind_has_answers_for_a_person_and_never_moves_anything_by_accepting(
    kind: DifferenceKind,
) -> None:
    options, recommended, recommendation = remedies(a_difference(kind))
    assert recommended in options
    assert recommendation
    assert {Verdict.REJECT, Verdict.FINISH} <= set(options)
    assert (Verdict.APPROVE in options) == (remedy(kind) is not None)


def test_no_rule_moves_money_or_frees_units_of_unknown_origin_by_itself() -> None:
    unlimited = HealingPolicy(release_up_to_units=10**9, void_hold_up_to_minor=10**12)
    alone = {kind for kind in DifferenceKind if rule_for(a_difference(kind, minor=1, units=1), unlimited)}
    assert alone == {
        DifferenceKind.HELD_FOR_ENDED,
        DifferenceKind.HELD_AFTER_END,
        DifferenceKind.HELD_ONLY_OURS,
        DifferenceKind.ANSWER_LOST,
        DifferenceKind.LABEL_OF_CANCELLED,
        DifferenceKind.LABEL_ANSWER_LOST,
    }
