"""Amended documents: they always add up, a change taken back leaves no trace, many edits are as good as one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.amendment import AmendmentRequest, LineChange
from models.clock import LATEST
from models.money import MAX_MINOR, Money
from models.order import MAX_LINES, Address, ChargeKind, DraftCharge, DraftLine, OrderDraft
from models.plan import PlannedLine
from models.states import ORDER_TERMINAL, OrderState
from policies.amendment import REST_CODE, Kept, Versions, amend, cut_off, preview, units_left
from policies.intake import check_draft
from tests.builders import a_draft, gbp

NOTHING_KEPT = Kept(amount=gbp(0))


def asking(*lines: LineChange, **changes: Any) -> AmendmentRequest:
    return AmendmentRequest(request_id="r1", actor="dana", reason="the customer rang", lines=lines, **changes)


def units(sku: str, quantity: int, price: int | None = None) -> LineChange:
    return LineChange(sku=sku, quantity=quantity, unit_price_minor=price)


def a_taxed_draft(**changes: Any) -> OrderDraft:
    """Three lines of 2 units at 500, a tenth off, 20 % tax on what is left, 3.95 postage."""
    charges = [
        {"code": "SALE", "kind": "discount", "amount_minor": -300},
        {"code": "VAT", "kind": "tax", "amount_minor": 540},
        {"code": "POST", "kind": "shipping", "amount_minor": 395},
    ]
    return a_draft(
        3,
        charges=charges,
        totals={"lines_minor": 3000, "charges_minor": 635, "total_minor": 3635},
        tenders=[{"token": "tok_visa", "amount_minor": 3635}],
        **changes,
    )


def amended(draft: OrderDraft | Versions, request: AmendmentRequest, kept: Kept = NOTHING_KEPT) -> OrderDraft:
    versions = draft if isinstance(draft, Versions) else Versions.unamended(draft)
    found = amend(versions, request, kept)
    assert isinstance(found, OrderDraft), found
    assert check_draft(found) == ()
    return found


def codes(
    draft: OrderDraft | Versions, request: AmendmentRequest, kept: Kept = NOTHING_KEPT
) -> dict[str, str]:
    versions = draft if isinstance(draft, Versions) else Versions.unamended(draft)
    found = amend(versions, request, kept)
    assert isinstance(found, tuple), "it was accepted"
    assert all(problem.message for problem in found)
    return {problem.path: problem.code for problem in found}


def after(versions: Versions, changed: OrderDraft, *, stated: bool = False) -> Versions:
    """The versions once ``changed`` is in force."""
    return Versions(
        first=versions.first,
        stated=changed if stated else versions.stated,
        current=changed,
        number=versions.number + 1,
    )


def keeping(draft: OrderDraft, quantities: dict[int, int], amount: int) -> Kept:
    """``quantities`` by position of the line are kept and take ``amount``."""
    return Kept(
        lines=tuple(
            PlannedLine(
                line_id=draft.lines[position].line_id, sku=draft.lines[position].sku, quantity=quantity
            )
            for position, quantity in quantities.items()
        ),
        amount=gbp(amount),
    )


def test_fewer_units_lower_goods_taxes_discounts_and_the_tender_and_leave_postage() -> None:
    draft = a_taxed_draft()
    found = amended(draft, asking(units(draft.lines[0].sku, 1)))
    assert [line.quantity for line in found.lines] == [1, 2, 2]
    assert [charge.amount_minor for charge in found.charges] == [-250, 450, 395]
    assert found.totals.total_minor == found.tenders[0].amount_minor == 2500 + 595


def test_the_shelf_life_that_the_customer_asked_for_stays() -> None:
    draft = a_draft(2, min_shelf_life_days=30)
    assert amended(draft, asking(units(draft.lines[0].sku, 1))).min_shelf_life_days == 30


def test_no_units_remove_a_line_and_a_new_sku_adds_one_at_its_price() -> None:
    draft = a_draft(2)
    first, second = (line.sku for line in draft.lines)
    found = amended(draft, asking(units(first, 0), units("NEW", 3, 700)))
    assert [(line.sku, line.quantity, line.unit_price_minor) for line in found.lines] == [
        (second, 2, 500),
        ("NEW", 3, 700),
    ]


def test_a_line_that_came_in_and_was_removed_comes_back_where_it_was_at_its_old_price() -> None:
    draft = a_taxed_draft()
    versions = Versions.unamended(draft)
    without = amended(versions, asking(units(draft.lines[0].sku, 0)))
    assert amended(after(versions, without), asking(units(draft.lines[0].sku, 2))) == draft


def test_stated_charges_are_taken_as_they_are_and_followed_from_then_on() -> None:
    draft = a_taxed_draft()
    versions = Versions.unamended(draft)
    stated = (DraftCharge(code="VAT", kind=ChargeKind.TAX, amount_minor=333),)
    changed = amended(versions, asking(charges=stated))
    assert changed.charges == stated
    halved = asking(*(units(line.sku, 1) for line in draft.lines))
    assert [
        charge.amount_minor for charge in amended(after(versions, changed, stated=True), halved).charges
    ] == [
        167  # 166.5, halves away from zero
    ]


def test_the_bill_goes_where_it_went_when_only_the_goods_go_elsewhere() -> None:
    draft = a_draft()
    elsewhere = Address(lines=("2 New Road",), city="York", country="GB")
    versions = Versions.unamended(draft)
    moved = amended(versions, asking(ship_to=elsewhere))
    assert (moved.ship_to, moved.bill_to) == (elsewhere, draft.ship_to)
    assert amended(after(versions, moved), asking(ship_to=draft.ship_to)) == draft


def test_service_and_promise_are_changed_alone() -> None:
    draft = a_draft()
    found = amended(draft, asking(service="islandpost/express", promise_by="2026-03-09T17:00:00Z"))
    assert found.carrier_service == "islandpost/express"
    assert found.promise_by is not None
    assert found.totals == draft.totals


def test_a_line_is_named_by_its_id_where_several_have_its_sku() -> None:
    draft = a_draft(2)
    twins = draft.model_copy(
        update={"lines": (draft.lines[0], draft.lines[1].model_copy(update={"sku": draft.lines[0].sku}))}
    )
    assert codes(twins, asking(units(draft.lines[0].sku, 1))) == {"lines[0]": "ambiguous_sku"}
    found = amended(twins, asking(LineChange(line_id="2", quantity=1)))
    assert [line.quantity for line in found.lines] == [2, 1]


def test_an_added_line_gets_an_id_that_no_other_line_has() -> None:
    draft = a_draft(2)
    found = amended(draft, asking(units("1", 4, 100)))
    assert [line.line_id for line in found.lines] == ["1", "2", "1-2"]


@pytest.mark.parametrize(
    ("request_", "path", "code"),
    [
        (asking(units("NONE", 0)), "lines[0]", "unknown_line"),
        (asking(LineChange(line_id="9", quantity=1)), "lines[0]", "unknown_line"),
        (asking(LineChange(quantity=1)), "lines[0]", "unknown_line"),
        (asking(LineChange(line_id="1", sku="OTHER", quantity=1)), "lines[0]", "unknown_line"),
        (asking(units("NEW", 1)), "lines[0].unit_price_minor", "price_missing"),
        (
            asking(LineChange(line_id="1", quantity=1), LineChange(line_id="1", quantity=3)),
            "lines[1]",
            "duplicate_change",
        ),
        (asking(), "", "nothing_changes"),
        (asking(LineChange(line_id="1", quantity=2)), "", "nothing_changes"),
        (
            asking(LineChange(line_id="1", quantity=0), LineChange(line_id="2", quantity=0)),
            "lines",
            "nothing_left",
        ),
        (asking(base_version=2), "base_version", "stale_version"),
        (asking(units("DEAR", 1_000_000, MAX_MINOR)), "totals", "amount_too_large"),
        (
            asking(*(units(f"N{number}", 1, 1) for number in range(MAX_LINES))),
            "lines",
            "too_many_lines",
        ),
        (
            asking(
                charges=(DraftCharge(code="OFF", kind=ChargeKind.DISCOUNT, amount_minor=-2000),),
            ),
            "totals.total_minor",
            "not_an_order",
        ),
        (
            asking(charges=(DraftCharge(code=REST_CODE, kind=ChargeKind.ADJUSTMENT, amount_minor=1),)),
            "charges[0].code",
            "reserved_code",
        ),
        (asking(promise_by=LATEST.replace(year=LATEST.year + 1)), "promise_by", "impossible_time"),
        (asking(promise_by="2025-01-01T00:00:00Z"), "promise_by", "promise_before_order"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_code(request_: AmendmentRequest, path: str, code: str) -> None:
    assert codes(a_draft(2), request_) == {path: code}


def test_every_problem_of_the_lines_is_listed_at_once() -> None:
    assert codes(a_draft(1), asking(units("NEW", 1), units("GONE", 0))) == {
        "lines[0].unit_price_minor": "price_missing",
        "lines[1]": "unknown_line",
    }


# --- what is kept ---
def test_packed_units_stay_in_the_document() -> None:
    draft = a_draft(2)
    kept = keeping(draft, {0: 2}, 1000)
    assert codes(draft, asking(units(draft.lines[0].sku, 1)), kept) == {"lines": "below_shipped"}
    assert codes(draft, asking(units(draft.lines[0].sku, 0)), kept) == {"lines": "below_shipped"}
    assert amended(draft, asking(units(draft.lines[0].sku, 3)), kept).lines[0].quantity == 3


def test_a_total_below_what_packed_units_take_is_refused() -> None:
    draft = a_draft(2)
    kept = keeping(draft, {0: 2}, 1198)
    request = asking(charges=(DraftCharge(code="OFF", kind=ChargeKind.DISCOUNT, amount_minor=-900),))
    assert codes(draft, request, kept) == {"charges": "total_below_shipped"}


def test_the_share_of_what_is_not_ordered_any_more_falls_away_with_it() -> None:
    draft = a_draft(2)  # 20.00 of goods, 3.95 postage, of which either half bears 1.97 or 1.98
    kept = keeping(draft, {0: 2}, 1198)
    found = amended(draft, asking(units(draft.lines[1].sku, 0)), kept)
    assert found.totals.total_minor == 1198
    assert found.charges[-1].code == REST_CODE
    assert found.charges[-1].amount_minor == -197
    assert units_left(found, kept) == 0


def test_the_adjustment_goes_when_something_is_ordered_again() -> None:
    draft = a_draft(2)
    kept = keeping(draft, {0: 2}, 1198)
    versions = Versions.unamended(draft)
    only_kept = amended(versions, asking(units(draft.lines[1].sku, 0)), kept)
    assert amended(after(versions, only_kept), asking(units(draft.lines[1].sku, 2)), kept) == draft


def test_stated_charges_that_are_too_low_for_what_is_kept_are_not_made_up_for() -> None:
    draft = a_draft(2)
    kept = keeping(draft, {0: 2}, 1198)
    assert codes(draft, asking(units(draft.lines[1].sku, 0), charges=()), kept) == {
        "charges": "total_below_shipped"
    }


def test_address_service_and_promise_cannot_change_for_goods_that_are_all_packed() -> None:
    draft = a_draft(1)
    kept = keeping(draft, {0: 2}, 1395)
    elsewhere = Address(lines=("2 New Road",), city="York", country="GB")
    request = asking(ship_to=elsewhere, service="a/b", promise_by="2026-03-09T17:00:00Z")
    assert codes(draft, request, kept) == dict.fromkeys(
        ("ship_to", "service", "promise_by"), "everything_left"
    )


@pytest.mark.parametrize("state", sorted(OrderState))
def test_an_order_that_ended_or_is_being_called_off_is_amended_no_more(state: OrderState) -> None:
    closed = ORDER_TERMINAL | {
        OrderState.CANCELLING,
        OrderState.COMPENSATING,
        OrderState.SHIPPED,
        OrderState.DELIVERED,
    }
    assert (cut_off(state) is not None) == (state in closed)


# --- the preview ---
def test_the_preview_asks_for_the_whole_where_what_is_held_does_not_suffice() -> None:
    draft = a_draft(1)
    changed = amended(draft, asking(units(draft.lines[0].sku, 3)))
    found = preview(
        "web:1", Versions.unamended(draft), changed, NOTHING_KEPT, held=gbp(1395), captured=gbp(0)
    )
    assert (found.total_before, found.total_after, found.difference) == (gbp(1395), gbp(1895), gbp(500))
    assert (found.to_authorise, found.to_release) == (gbp(1895), gbp(1395))
    assert [(line.units_before, line.units_after) for line in found.lines] == [(2, 3)]


def test_the_preview_gives_back_what_is_held_too_much() -> None:
    draft = a_draft(2)
    changed = amended(draft, asking(units(draft.lines[0].sku, 0)))
    found = preview(
        "web:1", Versions.unamended(draft), changed, NOTHING_KEPT, held=gbp(2395), captured=gbp(0)
    )
    assert (found.to_authorise, found.to_release) == (gbp(0), gbp(1000))
    assert [(line.units_before, line.units_after) for line in found.lines] == [(2, 2), (2, 0)]


def test_the_preview_leaves_kept_shipments_what_they_are_still_to_take() -> None:
    draft = a_draft(2)
    kept = keeping(draft, {0: 2}, 1198)
    changed = amended(draft, asking(units(draft.lines[1].sku, 1)), kept)
    found = preview("web:1", Versions.unamended(draft), changed, kept, held=gbp(2395), captured=gbp(0))
    assert (found.to_authorise, found.to_release) == (gbp(0), gbp(500))


def test_the_preview_counts_what_was_captured_already() -> None:
    draft = a_draft(2)
    kept = keeping(draft, {0: 2}, 1198)
    changed = amended(draft, asking(units(draft.lines[1].sku, 3)), kept)
    found = preview("web:1", Versions.unamended(draft), changed, kept, held=gbp(1197), captured=gbp(1198))
    assert found.kept == gbp(1198)
    assert (found.to_authorise, found.to_release) == (gbp(1697), gbp(1197))


# --- for all inputs ---
_skus = st.sampled_from(["S1", "S2", "S3", "N1", "N2"])
_charges = st.lists(
    st.builds(
        lambda kind, amount: DraftCharge(
            code=kind, kind=kind, amount_minor=-amount if kind is ChargeKind.DISCOUNT else amount
        ),
        st.sampled_from(ChargeKind),
        st.integers(0, 300),
    ),
    max_size=4,
)


@st.composite
def drafts(draw: st.DrawFn) -> OrderDraft:
    """Three lines S1 to S3 with charges that never eat the goods up."""
    lines = [
        DraftLine(
            line_id=str(number),
            sku=f"S{number}",
            quantity=draw(st.integers(1, 9)),
            unit_price_minor=draw(st.integers(700, 9_999)),
        )
        for number in (1, 2, 3)
    ]
    charges = draw(_charges)
    goods = sum(line.quantity * line.unit_price_minor for line in lines)
    extra = sum(charge.amount_minor for charge in charges)
    changes = {
        "lines": [line.model_dump() for line in lines],
        "charges": [charge.model_dump() for charge in charges],
        "totals": {"lines_minor": goods, "charges_minor": extra, "total_minor": goods + extra},
        "tenders": [{"token": "tok_visa", "amount_minor": goods + extra}],
    }
    return OrderDraft.model_validate(a_draft().model_dump() | changes)


_edits = st.dictionaries(_skus, st.integers(0, 9), max_size=4).map(
    lambda wanted: tuple(
        units(sku, quantity, 333 if sku[0] == "N" else None) for sku, quantity in wanted.items()
    )
)


@given(draft=drafts(), edits=st.lists(_edits, max_size=5), stated=st.none() | _charges)
def test_totals_always_add_up(
    draft: OrderDraft, edits: list[tuple[LineChange, ...]], stated: list[DraftCharge] | None
) -> None:
    versions = Versions.unamended(draft)
    for number, edit in enumerate(edits):
        own = None if stated is None or number != 1 else tuple(stated)
        found = amend(versions, asking(*edit, charges=own), NOTHING_KEPT)
        if isinstance(found, OrderDraft):
            assert check_draft(found) == ()
            goods = sum(line.quantity * line.unit_price_minor for line in found.lines)
            assert found.totals.lines_minor == goods
            assert found.totals.total_minor == goods + sum(charge.amount_minor for charge in found.charges)
            versions = after(versions, found, stated=own is not None)


@given(draft=drafts(), edit=_edits)
def test_a_change_that_is_taken_back_leaves_the_document_as_it_was(
    draft: OrderDraft, edit: tuple[LineChange, ...]
) -> None:
    versions = Versions.unamended(draft)
    changed = amend(versions, asking(*edit), NOTHING_KEPT)
    if not isinstance(changed, OrderDraft):
        return
    back = [units(line.sku, line.quantity) for line in draft.lines]
    back += [units(line.sku, 0) for line in changed.lines if line.sku[0] == "N"]
    assert amended(after(versions, changed), asking(*back)) == draft


@given(draft=drafts(), edits=st.lists(_edits, min_size=1, max_size=5))
def test_many_edits_come_to_the_same_as_one_that_says_it_all(
    draft: OrderDraft, edits: list[tuple[LineChange, ...]]
) -> None:
    versions = Versions.unamended(draft)
    for edit in edits:
        found = amend(versions, asking(*edit), NOTHING_KEPT)
        if isinstance(found, OrderDraft):
            versions = after(versions, found)
    wanted = {line.sku: line for line in versions.current.lines}
    at_once = [units(line.sku, 0) for line in draft.lines if line.sku not in wanted]
    at_once += [units(line.sku, line.quantity, line.unit_price_minor) for line in wanted.values()]
    found = amend(Versions.unamended(draft), asking(*at_once), NOTHING_KEPT)
    assert versions.current in (found, draft)


@given(draft=drafts(), edit=_edits, data=st.data())
def test_what_is_kept_stays_and_is_paid(
    draft: OrderDraft, edit: tuple[LineChange, ...], data: st.DataObject
) -> None:
    parts = [data.draw(st.integers(0, line.quantity)) for line in draft.lines]
    goods = [line.unit_price_minor for line in draft.lines]
    weights = [
        sum(part * price for part, price in zip(parts, goods, strict=True)),
        sum(
            (line.quantity - part) * line.unit_price_minor
            for line, part in zip(draft.lines, parts, strict=True)
        ),
    ]
    if not weights[0]:
        return
    share = Money(minor=draft.totals.total_minor, currency="GBP").allocate(weights)[0]
    kept = keeping(draft, {at: part for at, part in enumerate(parts) if part}, share.minor)
    found = amend(Versions.unamended(draft), asking(*edit), kept)
    if isinstance(found, OrderDraft):
        left = {(line.line_id, line.sku): line.quantity for line in found.lines}
        assert all(left[line] >= count for line, count in kept.units().items())
        assert found.totals.total_minor >= share.minor
        if units_left(found, kept) == 0:
            assert found.totals.total_minor == share.minor


def split(draft: OrderDraft) -> OrderDraft:
    """Paid by two cards."""
    total = draft.totals.total_minor
    tenders = [{"token": "tok_one", "amount_minor": 1000}, {"token": "tok_two", "amount_minor": total - 1000}]
    return OrderDraft.model_validate(draft.model_dump(mode="json") | {"tenders": tenders})


def test_the_total_of_an_order_with_several_tenders_stays_as_it_is() -> None:
    draft = split(a_taxed_draft())
    assert codes(draft, asking(units(draft.lines[0].sku, 1))) == {"": "several_tenders"}
    moved = amended(draft, asking(ship_to=draft.ship_to.model_copy(update={"city": "York"})))
    assert moved.tenders == draft.tenders
