"""The optimiser against an oracle that looks at every plan, its methods against each other, and what it answers."""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings

from benchmarks.routing_instances import Kind, instance
from policies.routing import complete, dp, exact_general, greedy, kernels, optimiser, parcels, sets
from policies.routing.instance import Instance, Stepped
from policies.routing.solution import (
    Assignment,
    Code,
    NoPlan,
    OnlyBound,
    Outcome,
    Reason,
    Solution,
    Unfillable,
    fits,
    terms,
)
from tests.architecture.sources import REPOSITORY
from tests.policies.routing import oracle
from tests.policies.routing.orders import (
    a_line,
    an_instance,
    an_option,
    any_kind,
    linear_freight,
    whole_lines,
)

# Enough for any of these orders: what is asked is whether answers are right.
AMPLE_S = 30.0
MOST_PLANS = 3_000


def cost_of(order: Instance, outcome: Outcome | Unfillable) -> int | None:
    """What a proven answer costs, after all of it was checked; ``None``: there is no plan."""
    if isinstance(outcome, NoPlan | Unfillable):
        return None
    assert isinstance(outcome, Solution)
    parts = oracle.parts_of(outcome.assignments)
    assert oracle.broken_rules(order, parts) == []
    assert oracle.cost_of(order, parts) == outcome.cost_mills == terms(order, outcome.assignments).total_mills
    assert outcome.proven
    assert outcome.gap == 0
    assert list(outcome.unfilled) == [
        line.quantity - sum(units for place, _, units in parts if place == number)
        for number, line in enumerate(order.lines)
    ]
    return outcome.cost_mills


def solved(order: Instance) -> Solution:
    found = optimiser.solve(order, budget_s=AMPLE_S)
    assert isinstance(found, Solution)
    cost_of(order, found)
    return found


def refused(order: Instance) -> tuple[Reason, ...]:
    found = optimiser.solve(order, budget_s=AMPLE_S)
    assert isinstance(found, Unfillable)
    assert found.proven
    return found.reasons


@settings(max_examples=120)
@given(order=any_kind())
def test_no_plan_of_all_is_cheaper(order: Instance) -> None:
    assume(oracle.count_of_plans(order) <= MOST_PLANS)
    best = oracle.cheapest(order)
    assert cost_of(order, exact_general.solve(order, budget_s=AMPLE_S)) == best
    assert cost_of(order, optimiser.solve(order, budget_s=AMPLE_S)) == best
    if complete.supports(order) is None:
        assert cost_of(order, complete.solve(order)) == best


@settings(max_examples=120)
@given(order=any_kind())
def test_a_method_that_solves_less_than_the_whole_says_so_and_its_bound_holds(order: Instance) -> None:
    best = cost_of(order, exact_general.solve(order, budget_s=AMPLE_S))
    outcomes = []
    if dp.supports(order) is None:
        outcomes += [dp.solve(order, compiled=False), dp.solve(order, compiled=True)]
    if sets.supports(order) is None:
        outcomes.append(sets.solve(order, budget_s=AMPLE_S))
    if parcels.supports(order) is None:
        outcomes.append(parcels.solve(order, budget_s=AMPLE_S))
    for outcome in outcomes:
        if isinstance(outcome, OnlyBound):
            assert best is None or outcome.lower_bound_mills <= best
        else:
            assert cost_of(order, outcome) == best


@settings(max_examples=60)
@given(order=whole_lines())
def test_the_programme_over_sets_of_lines_finds_what_the_integer_programme_finds(order: Instance) -> None:
    assert dp.supports(order) is None
    on_numpy = dp.solve(order, compiled=False)
    assert on_numpy == dp.solve(order, compiled=True)
    best = cost_of(order, exact_general.solve(order, budget_s=AMPLE_S))
    if isinstance(on_numpy, OnlyBound):
        assert best is None or on_numpy.lower_bound_mills <= best
    else:
        assert cost_of(order, on_numpy) == best


@settings(max_examples=60)
@given(order=linear_freight())
def test_the_search_over_open_services_finds_what_the_integer_programme_finds(order: Instance) -> None:
    found = sets.solve(order, budget_s=AMPLE_S)
    assert cost_of(order, found) == cost_of(order, exact_general.solve(order, budget_s=AMPLE_S))


@settings(max_examples=60)
@given(order=any_kind())
def test_the_quick_plan_keeps_every_rule_and_claims_nothing(order: Instance) -> None:
    quick = greedy.solve(order)
    assume(quick is not None)
    assert quick is not None
    assert oracle.broken_rules(order, oracle.parts_of(quick.assignments)) == []
    assert oracle.cost_of(order, oracle.parts_of(quick.assignments)) == quick.cost_mills
    assert quick.fallback
    assert not quick.proven


@settings(max_examples=60)
@given(order=any_kind())
def test_the_same_order_gives_the_same_plan(order: Instance) -> None:
    assert optimiser.solve(order, budget_s=AMPLE_S) == optimiser.solve(order, budget_s=AMPLE_S)


@settings(max_examples=100)
@given(order=any_kind())
def test_whether_a_plan_fits_is_what_the_rules_say(order: Instance) -> None:
    plans = [complete.everything_from(order, option) for option in range(len(order.options))]
    quick = greedy.solve(order)
    for plan in [(), *plans, () if quick is None else quick.assignments]:
        assert fits(order, plan) == (oracle.broken_rules(order, oracle.parts_of(plan)) == [])


@settings(max_examples=60)
@given(order=any_kind())
def test_an_order_that_cannot_be_served_is_told_why(order: Instance) -> None:
    found = optimiser.solve(order, budget_s=AMPLE_S)
    assume(isinstance(found, Unfillable))
    assert isinstance(found, Unfillable)
    assert found.reasons
    for reason in found.reasons:
        assert reason.line_id is None or reason.found < reason.needed


def test_one_shipment_is_cheaper_than_two_that_are_each_cheaper() -> None:
    order = an_instance(
        (a_line("a"), a_line("b")),
        (an_option("near", 100), an_option("far", 150)),
        {("near", "a"): 1, ("far", "a"): 1, ("far", "b"): 1},
        split_penalty_mills=80,
    )
    found = solved(order)
    assert found.method == dp.METHOD
    assert found.assignments == (Assignment(0, 1, 1), Assignment(1, 1, 1))


def test_a_quantity_is_split_where_no_node_holds_all_of_it() -> None:
    order = an_instance(
        (a_line("a", 5, splittable=True),),
        (an_option("n1"), an_option("n2")),
        {("n1", "a"): 3, ("n2", "a"): 4},
        unit_cost=((7, 1),),
    )
    found = solved(order)
    assert found.method == parcels.METHOD
    assert found.assignments == (Assignment(0, 0, 1), Assignment(0, 1, 4))
    assert replace(found, method=sets.METHOD) == sets.solve(order, budget_s=AMPLE_S)


def test_lines_of_one_sku_share_what_lies_at_a_node() -> None:
    twice = (a_line("a", 2), a_line("a", 2, line_id="l-again"))
    order = an_instance(twice, (an_option("n1"), an_option("n2", 900)), {("n1", "a"): 3, ("n2", "a"): 3})
    found = solved(order)
    assert found.method == exact_general.METHOD
    assert found.cost_mills == 1_000


def test_lines_that_only_differ_in_their_id_are_served_as_one() -> None:
    twice = (a_line("a", 2, splittable=True), a_line("a", 3, splittable=True, line_id="l-again"))
    order = an_instance(
        twice,
        (an_option("n1"), an_option("n2")),
        {("n1", "a"): 4, ("n2", "a"): 2},
        unit_cost=((1, 2), (1, 2)),
    )
    found = solved(order)
    assert found.method == parcels.METHOD
    assert found.assignments == (Assignment(0, 0, 2), Assignment(1, 0, 2), Assignment(1, 1, 1))
    assert replace(found, method=sets.METHOD) == sets.solve(order, budget_s=AMPLE_S)


def test_a_kilogram_begun_is_paid_once_for_what_travels_together() -> None:
    order = an_instance(
        (a_line("a", unit_weight_g=400), a_line("b", unit_weight_g=500)),
        (an_option("n1", 0, rate=Stepped(1_000, 50)), an_option("n2", 0, rate=Stepped(1_000, 40))),
        {("n1", "a"): 1, ("n1", "b"): 1, ("n2", "a"): 1},
    )
    found = solved(order)
    assert found.method == dp.METHOD
    assert found.cost_mills == 50


def test_a_line_is_left_out_if_shipping_it_costs_more() -> None:
    order = an_instance(
        (a_line("a"), a_line("b", 2, unfilled_mills=30)),
        (an_option("n1"), an_option("n2")),
        {("n1", "a"): 1, ("n2", "b"): 2},
    )
    found = solved(order)
    assert found.unfilled == (0, 2)
    assert terms(order, found.assignments).unfilled_mills == 60


def test_a_plan_of_nothing_pays_no_split() -> None:
    order = an_instance(
        (a_line("a", unfilled_mills=1),), (an_option(),), {("n1", "a"): 1}, split_penalty_mills=500
    )
    assert solved(order).cost_mills == 1


def test_the_terms_add_up_to_what_a_plan_costs() -> None:
    order = an_instance(
        (a_line("a", 2, unit_weight_g=300), a_line("b"), a_line("c", 3, unfilled_mills=1)),
        (an_option("n1", 100, rate=Stepped(500, 20)), an_option("n2", 200)),
        {("n1", "a"): 2, ("n2", "b"): 1},
        unit_cost=((-5, None), (None, 9), (None, None)),
        split_penalty_mills=70,
    )
    told = terms(order, solved(order).assignments)
    assert (told.fixed_mills, told.freight_mills, told.unit_mills, told.split_mills, told.unfilled_mills) == (
        300,
        40,
        -1,
        70,
        3,
    )


@pytest.mark.parametrize(
    ("order", "reasons"),
    [
        (
            an_instance((a_line("a", 2),), (an_option(),), {}),
            (Reason(Code.NO_STOCK, 2, 0, "l-a"),),
        ),
        (
            an_instance(
                (a_line("a", 2), a_line("a", 3, line_id="l-again")),
                (an_option("n1"), an_option("n2")),
                {("n1", "a"): 3, ("n2", "a"): 1},
            ),
            (Reason(Code.NOT_ENOUGH_STOCK, 5, 4, "l-a"), Reason(Code.NOT_ENOUGH_STOCK, 5, 4, "l-again")),
        ),
        (
            an_instance((a_line("a"),), (an_option(),), {("n1", "a"): 1}, unit_cost=((None,),)),
            (Reason(Code.NO_ALLOWED_OPTION, 1, 0, "l-a"),),
        ),
        (
            an_instance(
                (a_line("a", 3, splittable=True),),
                (an_option("n1"), an_option("n2")),
                {("n1", "a"): 2, ("n2", "a"): 2},
                unit_cost=((0, None),),
            ),
            (Reason(Code.NOT_ENOUGH_ALLOWED, 3, 2, "l-a"),),
        ),
        (
            an_instance(
                (a_line("a", 3),), (an_option("n1"), an_option("n2")), {("n1", "a"): 2, ("n2", "a"): 2}
            ),
            (Reason(Code.NOT_WHOLE, 3, 2, "l-a"),),
        ),
        (
            an_instance((a_line("a", 3),), (an_option(max_weight_g=250),), {("n1", "a"): 3}),
            (Reason(Code.WEIGHT_LIMIT, 300, 200, "l-a"),),
        ),
        (
            an_instance((a_line("a", 3),), (an_option(),), {("n1", "a"): 3}, capacity={"n1": 2}),
            (Reason(Code.CAPACITY, 3, 2, "l-a"),),
        ),
        (
            an_instance(
                (a_line("a", 2), a_line("b", 2)),
                (an_option(),),
                {("n1", "a"): 2, ("n1", "b"): 2},
                capacity={"n1": 3},
            ),
            (Reason(Code.CAPACITY, 4, 3),),
        ),
        (
            an_instance(
                (a_line("a", 2), a_line("b", 2)),
                (an_option(max_weight_g=300),),
                {("n1", "a"): 2, ("n1", "b"): 2},
            ),
            (Reason(Code.WEIGHT_LIMIT, 400, 300),),
        ),
        (
            an_instance(
                (a_line("a"), a_line("b")),
                (an_option("n1"), an_option("n2")),
                {("n1", "a"): 1, ("n2", "b"): 1},
                max_shipments=1,
            ),
            (Reason(Code.MAX_SHIPMENTS, 2, 1),),
        ),
        (
            an_instance(
                (a_line("a", unit_value_minor=900), a_line("b", unit_value_minor=200)),
                (an_option("n1"), an_option("n2")),
                {("n1", "a"): 1, ("n2", "b"): 1},
                min_split_value_minor=500,
            ),
            (Reason(Code.MIN_SPLIT_VALUE, 500, 200),),
        ),
        (
            an_instance(
                (a_line("a", 3), a_line("b")),
                (an_option("n1"), an_option("n2")),
                {("n1", "a"): 3, ("n2", "b"): 1},
                ship_complete=True,
            ),
            (Reason(Code.SHIP_COMPLETE, 4, 3),),
        ),
        (
            an_instance(
                (a_line("a"), a_line("b")),
                (an_option(max_weight_g=150),),
                {("n1", "a"): 1, ("n1", "b"): 1},
                capacity={"n1": 1},
            ),
            (
                Reason(Code.TOGETHER, 2, 0),
                Reason(Code.WEIGHT_LIMIT, 200, 150),
                Reason(Code.CAPACITY, 2, 1),
            ),
        ),
    ],
    ids=lambda value: "+".join(reason.code for reason in value) if isinstance(value, tuple) else "",
)
def test_the_constraint_that_binds_is_named_with_its_numbers(
    order: Instance, reasons: tuple[Reason, ...]
) -> None:
    assert refused(order) == reasons


WHOLESALE = Kind(
    lines=120, nodes=8, services=3, most_units=60, splittable=1, partly=0.4, stepped=1, capacities=1
)


def test_out_of_time_the_best_plan_so_far_comes_with_its_gap() -> None:
    order = instance(WHOLESALE, 3)
    found = optimiser.solve(order, budget_s=0.15)
    assert isinstance(found, Solution)
    assert oracle.broken_rules(order, oracle.parts_of(found.assignments)) == []
    assert not found.proven
    assert 0 < found.gap < 1
    assert found.lower_bound_mills < found.cost_mills


def test_without_any_time_the_quick_plan_is_marked_as_one() -> None:
    order = instance(WHOLESALE, 3)
    found = optimiser.solve(order, budget_s=0)
    if isinstance(found, Solution):
        assert oracle.broken_rules(order, oracle.parts_of(found.assignments)) == []
        assert found.fallback
    else:
        assert found.reasons == (Reason(Code.OUT_OF_TIME, order.units, 0),)
        assert not found.proven


def test_a_search_that_is_out_of_time_keeps_a_bound_that_holds() -> None:
    order = instance(Kind(lines=40, nodes=8, services=3, most_units=40, splittable=1, partly=0.5), 5)
    short, ample = sets.solve(order, budget_s=0), sets.solve(order, budget_s=AMPLE_S)
    assert isinstance(short, Solution)
    assert isinstance(ample, Solution)
    assert ample.proven
    assert short.lower_bound_mills <= ample.cost_mills <= short.cost_mills


@pytest.mark.parametrize("compiled", [False, True])
def test_both_kernels_stop_at_the_most_shipments(compiled: bool) -> None:
    order = instance(Kind(lines=9, nodes=12, none=0.6), 11)
    costs = []
    for most in (1, 2, 3, None):
        capped = replace(order, max_shipments=most)
        found = dp.solve(capped, compiled=compiled)
        if isinstance(found, Solution):
            costs.append(found.cost_mills)
            assert most is None or len({one.option for one in found.assignments}) <= most
    assert costs == sorted(costs, reverse=True)
    assert len(costs) >= 2


def test_numpy_alone_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_compiled", lambda: None)
    order = instance(Kind(lines=6, nodes=10), 1)
    assert dp.solve(order) == dp.solve(order, compiled=False)
    kernels.warm_up()
    with pytest.raises(ModuleNotFoundError, match="numba is not installed"):
        dp.solve(order, compiled=True)


def test_only_the_general_method_loads_the_solver_and_only_when_it_is_asked() -> None:
    program = (
        "import sys; from policies.routing import optimiser, sets; "
        "from benchmarks.routing_instances import Kind, instance; "
        "optimiser.solve(instance(Kind(lines=3, nodes=4), 1)); "
        "optimiser.solve(instance(Kind(lines=30, nodes=4), 1)); "
        "before = 'ortools' in sys.modules; optimiser.warm_up(); "
        "print(before, 'ortools' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("False True", 0), done.stderr
