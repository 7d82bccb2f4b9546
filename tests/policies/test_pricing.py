"""What a business's order ought to cost by its list, and what a person is told when it does not."""

from typing import Any

import pytest

from models.effects import RiskAssessment, RiskDecision
from models.order import OrderDraft
from models.prices import AgreedPrices, AssigneeKind, NoAgreedPrices
from models.review import Flag, Verdict
from policies.pricing import PricePolicy, check_prices, with_prices
from tests.builders import a_draft, gbp

POLICY = PricePolicy()
PASSED = RiskAssessment(decision=RiskDecision.PASS, policy_version="risk-1")


def agreed(**breaks: tuple[tuple[int, int], ...]) -> AgreedPrices:
    return AgreedPrices(
        list_id="trade",
        version=3,
        currency="GBP",
        assigned_to=AssigneeKind.CUSTOMER,
        breaks=breaks or {"A": ((1, 255), (12, 240), (48, 210))},
    )


def an_order(quantity: int, price: int, sku: str = "A", **changes: Any) -> OrderDraft:
    """An order of one line."""
    draft = a_draft(1, quantity=quantity, price=price, **changes)
    return draft.model_copy(update={"lines": (draft.lines[0].model_copy(update={"sku": sku}),)})


@pytest.mark.parametrize(
    ("quantity", "price"), [(1, 255), (11, 255), (12, 240), (47, 240), (48, 210), (5_000, 210)]
)
def test_the_lists_price_for_so_many_units_is_no_finding(quantity: int, price: int) -> None:
    found = check_prices(an_order(quantity, price), agreed(), POLICY)
    assert (found.flags, found.noted) == ((), ())
    assert with_prices(PASSED, found, POLICY) is PASSED


@pytest.mark.parametrize(("quantity", "price"), [(11, 240), (12, 255), (47, 210), (48, 240)])
def test_the_price_of_another_break_is_a_finding(quantity: int, price: int) -> None:
    [flag] = check_prices(an_order(quantity, price), agreed(), POLICY).flags
    assert flag.code == "price_differs"


def test_a_finding_says_what_was_found_what_was_expected_and_by_how_much() -> None:
    [flag] = check_prices(an_order(12, 255), agreed(), POLICY).flags
    assert flag.reason == (
        "line 1: 12 of A at 2.55 GBP are 30.60 GBP; price list trade (version 3) says 2.40 GBP from 12 units on, which "
        "is 28.80 GBP: 1.80 GBP too much"
    )


@pytest.mark.parametrize(
    ("quantity", "price", "within"),
    [
        # Half a percent of 2,400.00 is 12.00.
        (1_000, 210, True),
        (1_000, 211, True),
        (1_000, 212, False),
        (1_000, 209, True),
        (1_000, 208, False),
        # And of little, five pence: three units that cost a penny more, and two.
        (3, 256, True),
        (3, 257, False),
    ],
)
def test_within_tolerance_it_is_only_noted(quantity: int, price: int, within: bool) -> None:
    found = check_prices(an_order(quantity, price), agreed(), POLICY)
    assert bool(found.flags) is not within
    assert bool(found.noted) is (within and price != 210)


def test_what_is_noted_stands_in_the_assessment_and_asks_nobody() -> None:
    found = check_prices(an_order(3, 256), agreed(), POLICY)
    assessed = with_prices(PASSED, found, POLICY)
    assert (assessed.decision, assessed.recommendation) == (RiskDecision.PASS, None)
    assert [flag.code for flag in assessed.flags] == ["price_within_tolerance"]
    assert assessed.policy_version == f"risk-1, {POLICY.version}"


def test_a_policy_without_tolerance_asks_about_every_penny() -> None:
    exact = PricePolicy(tolerance_minor=0, tolerance_basis_points=0)
    assert check_prices(an_order(3, 256), agreed(), exact).flags


def test_a_person_is_told_what_to_do_about_it() -> None:
    assessed = with_prices(PASSED, check_prices(an_order(12, 200), agreed(), POLICY), POLICY)
    assert (assessed.decision, assessed.recommended) == (RiskDecision.REVIEW, Verdict.REJECT)
    assert assessed.recommendation is not None
    assert assessed.recommendation.startswith("In all the customer would pay 4.80 GBP too little. Find out")
    assert "orders amend" in assessed.recommendation
    assert "check with the customer" not in assessed.recommendation


def test_what_the_risk_rules_say_stays() -> None:
    risky = PASSED.model_copy(
        update={"decision": RiskDecision.REJECT, "flags": (Flag(code="refused_country", reason="no"),)}
    )
    assessed = with_prices(risky, check_prices(an_order(12, 255), agreed(), POLICY), POLICY)
    assert assessed.decision is RiskDecision.REJECT
    assert [flag.code for flag in assessed.flags] == ["refused_country", "price_differs"]
    assert "check with the customer" in (assessed.recommendation or "")


def test_what_the_list_has_no_price_for_is_a_finding_unless_policy_says_otherwise() -> None:
    for quantity, sku, says in ((1, "B", "has no price for B"), (5, "C", "from 6 units on only, 2.00 GBP")):
        prices = agreed(A=((1, 255),), C=((6, 200),))
        order = an_order(quantity, 100, sku)
        [flag] = check_prices(order, prices, POLICY).flags
        assert flag.code == "price_not_listed"
        assert says in flag.reason
        lenient = check_prices(order, prices, PricePolicy(review_unlisted=False))
        assert (lenient.flags, [one.code for one in lenient.noted]) == ((), ["price_not_listed"])


def test_a_list_in_another_currency_is_a_finding_and_one_that_ran_out_is_noted() -> None:
    for code, asked in (("price_list_currency", True), ("price_list_not_valid", False)):
        found = check_prices(an_order(1, 1), NoAgreedPrices(code=code, why="because"), POLICY)
        assert bool(found.flags) is asked
        assert [flag.code for flag in (*found.flags, *found.noted)] == [code]


def test_a_customer_without_a_list_is_not_checked() -> None:
    assert check_prices(an_order(1, 1), None, POLICY).flags == ()


def test_of_a_thousand_lines_the_first_are_told_and_the_rest_counted() -> None:
    prices = agreed(other=((1, 1),))
    flags = check_prices(a_draft(lines=1_000), prices, POLICY).flags
    assert len(flags) == 21
    assert flags[-1].reason == "and 980 more lines of this kind"
    assert check_prices(a_draft(lines=1), prices, POLICY).difference == gbp(0)
