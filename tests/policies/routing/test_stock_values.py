"""What units weigh where they lie: part of what is made as small as possible, exactly, and told apart from money."""

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.network import CarrierService
from models.plan import Plan
from policies.routing import dp, exact, exact_general, parcels, sets
from policies.routing.exact import ExactRouter
from policies.routing.instance import Instance
from policies.routing.optimiser import solve
from policies.routing.problem import RoutingProblem, StockRow
from policies.routing.questions import differences
from policies.routing.solution import Assignment, OnlyBound, Solution, solution
from policies.routing.terms import terms_of
from tests.policies.routing.orders import a_line, an_instance, an_option
from tests.policies.test_router import NOW, a_node, a_problem, a_service, routed

ROUTER = ExactRouter()
AMPLE_S = 30.0
NODES, SKUS = ("n1", "n2", "n3"), ("a", "b")
# Fractions of a minor unit too, and enough to outweigh a parcel.
mills = st.sampled_from((0, 0, 1, 499, 1_501, 40_000, 400_333, 2_000_000))


@st.composite
def priced(draw: st.DrawFn) -> RoutingProblem:
    """Two SKUs at three nodes of which each unit weighs something, by one or two services, one of which is limited."""
    demand = draw(st.dictionaries(st.sampled_from(SKUS), st.integers(1, 3), min_size=1))
    services = (
        by_the_step(a_service(), draw(st.sampled_from((1, 100, 1_000)))),
        a_service("light", base=draw(st.integers(100, 300)), max_weight_g=200),
    )
    problem = a_problem(
        demand,
        {(node, sku): draw(st.integers(0, 3)) for node in NODES for sku in SKUS},
        services=services[: draw(st.integers(1, 2))],
        nodes=tuple(a_node(name, draw(st.integers(0, 300))) for name in NODES),
        split_penalty_minor=draw(st.sampled_from((0, 150, 400))),
        ship_complete=draw(st.sampled_from((False, False, True))),
        max_parcels=draw(st.sampled_from((None, None, 2))),
    )
    rows = tuple(
        row.model_copy(update={"look_ahead_mills": draw(mills), "markdown_mills": draw(mills)})
        for row in problem.stock
    )
    return problem.model_copy(update={"stock": rows})


def by_the_step(service: CarrierService, step_g: int) -> CarrierService:
    zones = tuple(zone.model_copy(update={"weight_step_g": step_g}) for zone in service.zones)
    return service.model_copy(update={"zones": zones})


Taken = Counter[tuple[str, str, str]]


def every_plan(problem: RoutingProblem) -> Iterator[Taken]:
    """Units by SKU, node and service of each plan that keeps to the rules: all of them are looked at."""
    ways = [(node.node_id, service.service) for node in problem.nodes for service in problem.services]
    held = {(row.node, row.sku): row.available for row in problem.stock}
    limit = {service.service: service.max_weight_g for service in problem.services}
    divisions = [
        [
            {(line.sku, *way): units for way, units in zip(ways, parts, strict=True) if units}
            for parts in itertools.product(range(line.quantity + 1), repeat=len(ways))
            if sum(parts) == line.quantity
        ]
        for line in problem.lines
    ]
    for chosen in itertools.product(*divisions):
        taken: Taken = Counter()
        for part in chosen:
            taken.update(part)
        of_node, of_parcel = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for (sku, node, service), units in taken.items():
            of_node[node, sku] += units
            of_parcel[node, service] += units
        if (
            all(units <= held[place] for place, units in of_node.items())
            and all(100 * units <= limit[way[1]] for way, units in of_parcel.items())
            and (problem.max_parcels is None or len(of_parcel) <= problem.max_parcels)
            and (not problem.ship_complete or len(of_parcel) == 1)
        ):
            yield taken


def mills_of(problem: RoutingProblem, taken: Taken) -> int:
    """What a plan weighs in all."""
    zone = {service.service: service.zones[0] for service in problem.services}
    handling = {node.node_id: node.handling_minor for node in problem.nodes}
    value = {(row.node, row.sku): row.look_ahead_mills - row.markdown_mills for row in problem.stock}
    grams = Counter[tuple[str, str]]()
    for (_, node, service), units in taken.items():
        grams[node, service] += 100 * units
    # So many minor units a kilogram are as many mills a gram.
    freight = sum(
        -(-weight // zone[service].weight_step_g) * zone[service].weight_step_g * zone[service].per_kg_minor
        for (_, service), weight in grams.items()
    )
    return (
        sum(1_000 * (handling[node] + zone[service].base_minor) for node, service in grams)
        + 1_000 * problem.split_penalty_minor * (len(grams) - 1)
        + freight
        + sum(units * value[node, sku] for (sku, node, _), units in taken.items())
    )


def taken_by(plan: Plan) -> Taken:
    taken: Taken = Counter()
    for one in plan.shipments:
        for line in one.lines:
            taken[line.sku, one.node, one.service] += line.quantity
    return taken


@settings(max_examples=80)
@given(priced(), st.randoms(use_true_random=False))
def test_no_plan_of_all_weighs_less_and_the_order_of_rows_makes_no_difference(
    problem: RoutingProblem, shuffled: random.Random
) -> None:
    every = list(every_plan(problem))
    assume(every)
    best = min(mills_of(problem, plan) for plan in every)
    plan = routed(ROUTER, problem)
    assert plan.proof is not None and plan.proof.proven
    assert mills_of(problem, taken_by(plan)) == best
    assert plan.proof.objective_minor == -(-best // 1_000)
    assert differences(plan, problem) == []
    rows, lines = list(problem.stock), list(problem.lines)
    shuffled.shuffle(rows)
    shuffled.shuffle(lines)
    again = routed(ROUTER, problem.model_copy(update={"stock": tuple(rows), "lines": tuple(lines)}))
    assert (again.proof, again.look_ahead, again.markdown) == (plan.proof, plan.look_ahead, plan.markdown)


def test_a_plan_that_time_ran_out_on_weighs_no_more_than_the_simple_rules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def in_a_hurry(instance: Instance, **_: object) -> Solution:
        found = [Assignment(0, 0, instance.lines[0].quantity)]
        return solution(instance, found, "hurry", lower_bound_mills=-(10**9), fallback=True)

    monkeypatch.setattr(exact, "solve", in_a_hurry)
    problem = a_problem({"a": 2}, {("n1", "a"): 5, ("n2", "a"): 5})
    problem = problem.model_copy(update={"nodes": (a_node("n1", 300), a_node("n2", 200))})
    for mills, chosen, method in ((49_999, "n2", "simple rule, hurry"), (50_001, "n1", "hurry")):
        rows = (problem.stock[0], problem.stock[1].model_copy(update={"look_ahead_mills": mills}))
        plan = routed(ROUTER, problem.model_copy(update={"stock": rows}))
        assert [one.node for one in plan.shipments] == [chosen]
        assert plan.proof is not None and plan.proof.method == method
        ahead = 0 if plan.look_ahead is None else plan.look_ahead.minor
        assert plan.proof.objective_minor == plan.cost.minor + ahead
        assert plan.shipments[0].look_ahead == plan.look_ahead


@given(priced())
def test_what_is_told_is_rounded_once_and_is_nobodys_money(problem: RoutingProblem) -> None:
    plan = ROUTER.route(problem)
    assume(isinstance(plan, Plan))
    assert isinstance(plan, Plan)
    rows = {(row.node, row.sku): row for row in problem.stock}
    ahead = sum(n * rows[node, sku].look_ahead_mills for (sku, node, _), n in taken_by(plan).items())
    credit = sum(n * rows[node, sku].markdown_mills for (sku, node, _), n in taken_by(plan).items())
    told = {term.term: term.amount.minor for term in terms_of(plan)}
    assert abs(1_000 * told.pop("look-ahead", 0) - ahead) <= 500
    assert abs(1_000 * told.pop("markdown credit", 0) + credit) <= 500
    assert sum(told.values()) == plan.cost.minor
    parcels_told = [one.look_ahead.minor for one in plan.shipments if one.look_ahead is not None]
    assert abs(1_000 * sum(parcels_told) - ahead) <= 500 * len(plan.shipments)


def test_stock_that_is_worth_more_elsewhere_is_spared_and_the_other_way_says_what_it_weighs() -> None:
    problem = a_problem({"a": 2}, {("n1", "a"): 5, ("n2", "a"): 5})
    problem = problem.model_copy(update={"nodes": (a_node("n1", 100), a_node("n2", 150))})
    assert [one.node for one in routed(ROUTER, problem).shipments] == ["n1"]
    rows = (StockRow(node="n1", sku="a", available=5, look_ahead_mills=26_000), problem.stock[1])
    plan = routed(ROUTER, problem.model_copy(update={"stock": rows}))
    assert [one.node for one in plan.shipments] == ["n2"]
    assert (plan.look_ahead, plan.markdown) == (None, None)
    (other,) = plan.alternatives
    assert other.look_ahead is not None and other.cost is not None
    assert (other.cost - plan.cost).minor == -50 and other.look_ahead.minor == 52


def test_an_overstocked_node_goes_first_as_far_as_the_credit_goes() -> None:
    problem = a_problem({"a": 2}, {("n1", "a"): 5, ("n2", "a"): 5})
    problem = problem.model_copy(update={"nodes": (a_node("n1", 100), a_node("n2", 150))})
    for credit, chosen in ((24_999, "n1"), (25_001, "n2")):
        rows = (problem.stock[0], problem.stock[1].model_copy(update={"markdown_mills": credit}))
        plan = routed(ROUTER, problem.model_copy(update={"stock": rows}))
        assert [one.node for one in plan.shipments] == [chosen]
    assert plan.markdown is not None and plan.markdown.minor == -50
    assert plan.shipments[0].markdown == plan.markdown
    assert plan.proof is not None and plan.proof.objective_minor == plan.cost.minor - 50


def test_where_units_of_several_skus_weigh_differently_the_search_over_parcels_leaves_it_to_others() -> None:
    lines = (a_line("a", 3, splittable=True), a_line("b", 2, splittable=True))
    options = (an_option("n1", max_weight_g=300), an_option("n2", 90), an_option("n3", 120))
    stock = {(node, sku): 3 for node in ("n1", "n2", "n3") for sku in ("a", "b")}
    alike = an_instance(lines, options, stock, unit_cost=((-7, 5, 3),) * 2)
    apart = an_instance(lines, options, stock, unit_cost=((-7, 5, 3), (4, -90, 3)))
    assert parcels.supports(alike) is None and parcels.supports(apart) is not None
    for order in (alike, apart):
        best = exact_general.solve(order, budget_s=AMPLE_S)
        assert isinstance(best, Solution) and best.proven
        for found in (solve(order, budget_s=AMPLE_S), sets.solve(order, budget_s=AMPLE_S)):
            if not isinstance(found, OnlyBound):
                assert isinstance(found, Solution) and found.cost_mills == best.cost_mills
    found = parcels.solve(alike, budget_s=AMPLE_S)
    assert isinstance(found, Solution)
    assert dp.supports(alike) is not None


def test_a_row_that_weighs_more_than_can_be_added_up_is_refused() -> None:
    with pytest.raises(ValueError, match="less than or equal to 1000000000"):
        StockRow(node="n1", sku="a", available=1, look_ahead_mills=1_000_000_001)


def test_a_problem_that_was_stored_before_reads_as_one_without_values() -> None:
    problem = a_problem({"a": 2}, {("n1", "a"): 5, ("n2", "a"): 5}, promise_by=NOW + timedelta(days=9))
    old = problem.model_dump(mode="json")
    for row in old["stock"]:
        del row["look_ahead_mills"], row["markdown_mills"]
    assert RoutingProblem.model_validate(old) == problem
    assert differences(routed(ROUTER, problem), RoutingProblem.model_validate(old)) == []
