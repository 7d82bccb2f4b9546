"""What an order is given of the values that were worked out: by the policy's terms and its own moment."""

from datetime import timedelta
from typing import Any

import pytest

from models.policy import PolicyDocument
from policies.document import Policy, problems_of
from policies.routing.exact import ExactRouter
from policies.routing.looking import LookAheadPolicy, Markdown, is_overstocked, notes_on_values, valued
from policies.routing.problem import KnownValues, RoutingProblem, StockFigures
from policies.routing.questions import differences
from tests.policies.test_router import NOW, a_node, a_problem, routed

HALF = LookAheadPolicy(percent=50, half_life_days=7)
OFF = LookAheadPolicy()
NODES = {"north": True, "south": True}


def figures(
    node: str, price: int | None, sold: int | None = 5, on_hand: int = 9, sku: str = "a"
) -> StockFigures:
    return StockFigures(node=node, sku=sku, price_mills=price, sold=sold, on_hand=on_hand)


def known(*found: StockFigures, days_old: float = 0) -> KnownValues:
    return KnownValues(
        run_id="stock-values",
        worked_out_at=NOW - timedelta(days=days_old),
        method="shadow-prices/1",
        window_days=28,
        least_lines=10,
        figures=found,
    )


def problem_with(
    values: KnownValues | None, stock: dict[tuple[str, str], int] | None = None
) -> RoutingProblem:
    return a_problem({"a": 2}, stock or {("n1", "a"): 5, ("n2", "a"): 5, ("n3", "a"): 0}, values=values)


def prices(problem: RoutingProblem) -> dict[str, int]:
    return {row.node: row.look_ahead_mills for row in problem.stock}


def credited(problem: RoutingProblem) -> dict[str, int]:
    return {row.node: row.markdown_mills for row in problem.stock}


@pytest.mark.parametrize(
    ("days_old", "counted"), [(0, 30_000), (7, 15_000), (14, 7_500), (-3, 30_000)], ids=str
)
def test_prices_count_for_what_they_differ_by_scaled_and_faded(days_old: float, counted: int) -> None:
    # The one without stock is the cheapest, and nothing can come from it.
    values = known(
        figures("n1", 80_000), figures("n2", 20_000), figures("n3", 0, on_hand=0), days_old=days_old
    )
    assert prices(valued(problem_with(values), HALF, {})) == {"n1": counted, "n2": 0, "n3": 0}


def test_stock_that_came_after_the_run_has_no_price_of_its_own() -> None:
    assert prices(valued(problem_with(known(figures("n1", 80_000))), HALF, {})) == {
        "n1": 40_000,
        "n2": 0,
        "n3": 0,
    }


def test_of_what_sells_too_seldom_nothing_is_spared_and_the_plan_says_so() -> None:
    problem = valued(problem_with(known(figures("n1", None), figures("n2", None))), HALF, {})
    assert set(prices(problem).values()) == {0}
    assert notes_on_values(problem) == (
        "look-ahead counts 50% of the prices of 2026-03-02 09:00 UTC",
        "a: fewer than 10 order lines in 28 days, so no look-ahead",
    )
    plan = routed(ExactRouter(), problem)
    assert plan.reasons[-2:] == notes_on_values(problem)


def test_without_a_run_and_without_a_policy_nothing_changes_and_only_the_first_is_told() -> None:
    none_yet = valued(problem_with(None), HALF, {"n1": Markdown(weeks_of_supply=1, credit_minor=10)})
    assert none_yet.stock == problem_with(None).stock
    assert notes_on_values(none_yet) == (
        "no values of stock were worked out yet: look-ahead and markdown had no say",
    )
    off = valued(problem_with(known(figures("n1", 80_000))), OFF, {})
    assert off.stock == problem_with(None).stock and off.value_terms is None and notes_on_values(off) == ()


def test_what_would_take_too_many_weeks_to_sell_is_credited_and_what_is_new_is_not() -> None:
    rules = {name: Markdown(weeks_of_supply=8, credit_minor=25) for name in ("n1", "n2", "gone")}
    values = known(figures("n1", 0, sold=4, on_hand=9), figures("n2", 0, sold=None), figures("n3", 0, sold=0))
    problem = valued(problem_with(values), OFF, rules)
    # 9 units at 4 in four weeks are nine weeks of supply.
    assert credited(problem) == {"n1": 25_000, "n2": 0, "n3": 0}
    assert notes_on_values(problem) == ("a at n2: stocked there for less than 28 days, so no markdown",)
    assert problem.value_terms is not None and problem.value_terms.overstocked == ("n1", "n2")


@pytest.mark.parametrize(
    ("sold", "on_hand", "over"), [(4, 8, False), (4, 9, True), (0, 1, True), (0, 0, False)]
)
def test_weeks_of_supply_are_what_lies_there_at_the_pace_of_the_window(
    sold: int, on_hand: int, over: bool
) -> None:
    assert is_overstocked(figures("n1", 0, sold=sold, on_hand=on_hand), 28, 8) is over


def test_a_plan_is_pinned_with_what_it_was_made_by() -> None:
    problem = problem_with(known(figures("n1", 60_000), figures("n2", 0)))
    problem = problem.model_copy(update={"nodes": (a_node("n1", 100), a_node("n2", 150), a_node("n3"))})
    spared = valued(problem, HALF, {})
    plan = routed(ExactRouter(), spared)
    assert [one.node for one in plan.shipments] == ["n2"]
    again = RoutingProblem.model_validate(spared.model_dump(mode="json"))
    assert again == spared and differences(plan, again) == []
    # Another policy's terms apply to what was found, not to what the first one made of it.
    assert [one.node for one in routed(ExactRouter(), valued(spared, OFF, {})).shipments] == ["n1"]


# --- the document ---
def policy(document: dict[str, Any]) -> Policy:
    return Policy(version=4, document=PolicyDocument.model_validate(document))


def test_a_document_says_how_far_to_look_and_where_too_much_lies() -> None:
    said = policy(
        {
            "node_groups": {"stores": ["south"]},
            "look_ahead": {"percent": 75, "window_days": 14},
            "markdown": [{"at": "stores", "weeks_of_supply": 8, "credit_minor": 40}],
        }
    )
    assert said.look_ahead == LookAheadPolicy(version="policy/4", percent=75, window_days=14)
    assert said.markdowns == {"south": Markdown(weeks_of_supply=8, credit_minor=40)}
    assert said.effective()["look_ahead"]["percent"] == 75
    assert policy({}).look_ahead == LookAheadPolicy() and LookAheadPolicy().percent == 0
    assert policy({}).markdowns == {}


def test_every_problem_of_a_markdown_is_listed() -> None:
    rule = {"weeks_of_supply": 8, "credit_minor": 40}
    parsed = PolicyDocument.model_validate(
        {
            "node_groups": {"stores": ["south", "north"]},
            "markdown": [{"at": "stores", **rule}, {"at": "south", **rule}, {"at": "moon", **rule}],
        }
    )
    found = problems_of(parsed, nodes=NODES, stocked=frozenset())
    assert [(one.path, one.code) for one in found] == [
        ("markdown[1]", "repeated"),
        ("markdown[2].at", "unknown_node"),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"look_ahead": {"percent": 101}},
        {"look_ahead": {"percent": 1.5}},
        {"look_ahead": {"half_life_days": 0}},
        {"look_ahead": {"weeks": 1}},
        {"markdown": [{"at": "south"}]},
        {"markdown": [{"at": "south", "weeks_of_supply": 1, "credit_minor": 0}]},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        PolicyDocument.model_validate(wrong)
