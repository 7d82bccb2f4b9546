"""What is goods, postage, tax or discount of a part of an order: whatever the parts are, they add up to the whole."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.routing import _summary
from models.order import OrderDraft
from models.plan import Plan, PlannedLine, PlannedShipment
from policies import money
from policies.money import CHARGES, LineUnits, Parts
from tests.builders import NOON, a_draft, gbp

SHIPPING, DISCOUNT, TAX, FEE, ADJUSTMENT = "shipping", "discount", "tax", "fee", "adjustment"
# Each kind of charge but the one that takes up what rounding leaves is rounded once.
ROUNDING = len(CHARGES)


def draft_of(prices: list[int], quantities: list[int], **charges: int) -> OrderDraft:
    """An order with a line for each price, and a charge for each kind named."""
    goods = sum(price * quantity for price, quantity in zip(prices, quantities, strict=True))
    total = goods + sum(charges.values())
    document: dict[str, Any] = a_draft().model_dump() | {
        "lines": [
            {"line_id": str(n), "sku": f"S{n}", "quantity": quantity, "unit_price_minor": price}
            for n, (price, quantity) in enumerate(zip(prices, quantities, strict=True), start=1)
        ],
        "charges": [
            {"code": f"C{n}", "kind": kind, "amount_minor": amount}
            for n, (kind, amount) in enumerate(charges.items())
        ],
        "totals": {"lines_minor": goods, "charges_minor": total - goods, "total_minor": total},
        "tenders": [{"token": "tok", "amount_minor": max(total, 0)}],
    }
    return OrderDraft.model_validate(document)


def plan_of(*shipments: dict[str, int]) -> Plan:
    """A plan whose shipments have so many units of each line."""
    return Plan(
        shipments=tuple(
            PlannedShipment(
                number=number,
                node="north",
                carrier="islandpost",
                service="tracked48",
                lines=tuple(
                    PlannedLine(line_id=line, sku=f"S{line}", quantity=quantity)
                    for line, quantity in lines.items()
                ),
                weight_g=1,
                handling=gbp(0),
                freight=gbp(0),
                transit_days=1,
                promised_at=NOON,
            )
            for number, lines in enumerate(shipments, start=1)
        ),
        split_penalty=gbp(0),
        cost=gbp(0),
        promised_at=NOON,
        router="test",
    )


@st.composite
def drafts(draw: st.DrawFn) -> OrderDraft:
    """Orders of any make-up that intake accepts, with prices down to nothing."""
    size = draw(st.integers(1, 8))
    prices = draw(
        st.lists(st.one_of(st.integers(0, 3), st.integers(0, 20_000)), min_size=size, max_size=size)
    )
    quantities = draw(st.lists(st.integers(1, 12), min_size=size, max_size=size))
    goods = sum(price * quantity for price, quantity in zip(prices, quantities, strict=True))
    charges = {
        SHIPPING: draw(st.integers(0, 2_000)),
        TAX: draw(st.integers(0, 5_000)),
        FEE: draw(st.integers(0, 300)),
        DISCOUNT: -draw(st.integers(0, goods + 500)),
        ADJUSTMENT: draw(st.integers(-300, 300)),
    }
    short = 1 - (goods + sum(charges.values()))
    if short > 0:
        # Less than nothing is no order: the customer pays a penny.
        charges[SHIPPING] += short
    return draft_of(prices, quantities, **{kind: amount for kind, amount in charges.items() if amount})


@st.composite
def planned(draw: st.DrawFn) -> tuple[OrderDraft, Plan]:
    """An order, and its units dealt to up to four shipments."""
    draft = draw(drafts())
    shipments: list[dict[str, int]] = [{} for _ in range(draw(st.integers(1, 4)))]
    for line in draft.lines:
        for _ in range(line.quantity):
            shipment = draw(st.sampled_from(shipments))
            shipment[line.line_id] = shipment.get(line.line_id, 0) + 1
    return draft, plan_of(*(shipment for shipment in shipments if shipment))


def added_up(parts: Any) -> Parts:
    whole = Parts()
    for part in parts:
        whole += part
    return whole


def assert_sound(part: Parts) -> None:
    """No part costs less than nothing, and no kind of it has the other sign but for what rounding leaves."""
    assert part.total >= 0
    assert min(part.tax, part.freight, part.fees) > -ROUNDING
    assert part.discount < ROUNDING


def test_the_make_up_of_an_order_adds_charges_of_one_kind_up() -> None:
    draft = draft_of([1000], [2], shipping=395, tax=400)
    doubled = OrderDraft.model_validate(
        draft.model_dump()
        | {"charges": [charge.model_dump() for charge in (*draft.charges, draft.charges[0])]}
    )
    assert money.whole_of(doubled) == Parts(goods=2000, freight=790, tax=400)


@given(drafts())
def test_the_shares_of_the_lines_add_up_to_the_order(draft: OrderDraft) -> None:
    shares = money.by_line(draft)
    assert added_up(shares.values()) == money.whole_of(draft)
    assert money.whole_of(draft).total == draft.totals.total_minor
    for share in shares.values():
        assert_sound(share)


@given(drafts())
def test_a_lines_goods_are_what_they_cost(draft: OrderDraft) -> None:
    shares = money.by_line(draft)
    for line in draft.lines:
        assert shares[line.line_id].goods == line.quantity * line.unit_price_minor


@given(planned())
def test_the_shares_of_shipments_and_of_their_lines_add_up_to_the_order(
    planned: tuple[OrderDraft, Plan],
) -> None:
    draft, plan = planned
    shares = money.by_shipment(draft, plan)
    assert added_up(share.parts for share in shares.values()) == money.whole_of(draft)
    for share in shares.values():
        assert added_up(share.lines.values()) == share.parts
        assert_sound(share.parts)
        for line in share.lines.values():
            assert_sound(line)


@given(planned())
def test_a_shipments_share_is_what_the_router_said_it_would_be_charged(
    planned: tuple[OrderDraft, Plan],
) -> None:
    draft, plan = planned
    summary = _summary("web:1:p1", plan, draft, gbp(draft.totals.total_minor))
    shares = money.by_shipment(draft, plan)
    assert [gbp(shares[ref.number].parts.total) for ref in summary.shipments] == [
        ref.amount for ref in summary.shipments
    ]


@given(planned())
def test_what_is_left_out_of_a_plan_keeps_its_share(planned: tuple[OrderDraft, Plan]) -> None:
    draft, plan = planned
    *ahead, rest = plan.shipments
    part = plan.model_copy(update={"shipments": tuple(ahead), "left_out": rest.lines})
    whole = money.by_shipment(draft, plan)
    assert money.by_shipment(draft, part) == {one.number: whole[one.number] for one in ahead}
    summary = _summary("web:1:p1", part, draft, gbp(draft.totals.total_minor))
    assert [ref.amount for ref in summary.shipments] == [gbp(whole[one.number].parts.total) for one in ahead]
    kept = added_up(whole[one.number].parts for one in ahead)
    later = plan.model_copy(update={"shipments": (rest,)})
    assert money.by_shipment(draft, later, kept)[rest.number].parts == whole[rest.number].parts


@given(planned(), st.data())
def test_refunds_of_all_units_in_any_portions_are_what_was_captured(
    planned: tuple[OrderDraft, Plan], data: st.DataObject
) -> None:
    draft, plan = planned
    for share in money.by_shipment(draft, plan).values():
        left = dict(share.quantities)
        before: dict[str, int] = {}
        refunds = []
        while left:
            chosen = data.draw(st.lists(st.sampled_from(sorted(left)), min_size=1, unique=True))
            units = [
                LineUnits(line_id=line, quantity=data.draw(st.integers(1, left[line]), label=line))
                for line in chosen
            ]
            refunds.append(money.of_refund(share, units, before))
            for one in units:
                before[one.line_id] = before.get(one.line_id, 0) + one.quantity
                left[one.line_id] -= one.quantity
            left = {line: rest for line, rest in left.items() if rest}
        assert added_up(refunds) == share.parts
        for refund in refunds:
            assert refund.total >= 0


@given(planned(), st.data())
def test_units_cost_the_same_in_one_go_and_one_by_one(
    planned: tuple[OrderDraft, Plan], data: st.DataObject
) -> None:
    draft, plan = planned
    share = money.by_shipment(draft, plan)[1]
    line = data.draw(st.sampled_from(sorted(share.lines)))
    units = data.draw(st.integers(1, share.quantities[line]))
    at_once = money.of_refund(share, [LineUnits(line_id=line, quantity=units)])
    one_by_one = added_up(
        money.of_refund(share, [LineUnits(line_id=line, quantity=1)], {line: gone}) for gone in range(units)
    )
    assert at_once == one_by_one


def test_the_last_unit_takes_what_rounding_left() -> None:
    share = money.by_shipment(draft_of([500], [3], shipping=100, tax=50), plan_of({"1": 3}))[1]
    units = [money.of_refund(share, [LineUnits(line_id="1", quantity=1)], {"1": gone}) for gone in range(3)]
    assert units == [
        Parts(goods=500, freight=34, tax=16),
        Parts(goods=500, freight=33, tax=17),
        Parts(goods=500, freight=33, tax=17),
    ]


def test_goods_for_nothing_are_charged_nothing_beside_goods_that_cost() -> None:
    shares = money.by_line(draft_of([0, 1000], [5, 1], shipping=395))
    assert shares == {"1": Parts(), "2": Parts(goods=1000, freight=395)}


@pytest.mark.parametrize(
    ("units", "before", "message"),
    [(3, 0, "3 units after 0"), (1, 2, "1 units after 2"), (-1, 1, "-1 units")],
)
def test_more_units_than_a_line_has_cost_no_money(units: int, before: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        money.of_units(Parts(goods=1000), 2, units, before)


def test_units_of_a_line_that_a_shipment_does_not_have_cost_no_money() -> None:
    share = money.by_shipment(draft_of([500], [3]), plan_of({"1": 3}))[1]
    with pytest.raises(ValueError, match="has no line 2"):
        money.of_refund(share, [LineUnits(line_id="2", quantity=1)])
