"""The search over sets of parcels, for units that are all alike: the cheapest, and what it does not do."""

import pytest
from hypothesis import given, settings

from policies.routing import exact_general, optimiser, parcels
from policies.routing.instance import Instance, Linear, Stepped
from policies.routing.solution import Assignment, NoPlan, OnlyBound, Solution
from tests.policies.routing import oracle
from tests.policies.routing.orders import a_line, an_instance, an_option, units_alike

AMPLE_S = 30.0


@settings(max_examples=150)
@given(order=units_alike())
def test_it_finds_what_the_integer_programme_finds(order: Instance) -> None:
    assert parcels.supports(order) is None
    right, found = exact_general.solve(order, budget_s=AMPLE_S), parcels.solve(order, budget_s=AMPLE_S)
    if isinstance(right, NoPlan):
        assert isinstance(found, NoPlan) or (isinstance(found, OnlyBound) and not order.linear)
        return
    assert isinstance(right, Solution)
    assert right.proven
    if isinstance(found, OnlyBound):
        assert not order.linear
        assert found.lower_bound_mills <= right.cost_mills
        return
    assert isinstance(found, Solution)
    parts = oracle.parts_of(found.assignments)
    assert oracle.broken_rules(order, parts) == []
    assert oracle.cost_of(order, parts) == found.cost_mills == right.cost_mills
    assert found.proven
    assert found == parcels.solve(order, budget_s=AMPLE_S)


def an_order_of_kilograms(*options: object, held: dict[tuple[str, str], int], **changes: object) -> Instance:
    lines = (
        a_line("a", 6, splittable=True, unit_weight_g=1_000),
        a_line("b", 6, splittable=True, unit_weight_g=1_000),
    )
    return an_instance(lines, options, held, **changes)  # type: ignore[arg-type]


EVERYWHERE = {(node, sku): 6 for node in ("n1", "n2") for sku in ("a", "b")}


def test_what_is_too_heavy_for_one_parcel_goes_in_two_if_that_is_cheaper_than_the_strong_service() -> None:
    light = an_option("n1", 100, max_weight_g=10_000, rate=Linear(1))
    other = an_option("n2", 100, max_weight_g=10_000, rate=Linear(2))
    strong = an_option("n1", 5_000, service="post/heavy", rate=Linear(1))
    order = an_order_of_kilograms(light, other, strong, held=EVERYWHERE)
    found = optimiser.solve(order)
    assert isinstance(found, Solution)
    assert (found.method, found.proven) == (parcels.METHOD, True)
    assert found.cost_mills == 200 + 10_000 + 2 * 2_000
    dear = an_order_of_kilograms(light, other, strong, held=EVERYWHERE, split_penalty_mills=3_000)
    assert {one.option for one in parcels_of(dear).assignments} == {2}


def test_what_a_node_can_pick_limits_its_parcels_together() -> None:
    express = an_option("n1", 0, service="post/express", max_weight_g=8_000)
    order = an_order_of_kilograms(
        an_option("n1", 0, max_weight_g=8_000),
        express,
        an_option("n2", 0, rate=Linear(1)),
        held=EVERYWHERE,
        capacity={"n1": 9},
    )
    assert parcels_of(order).cost_mills == 3_000


def test_units_are_passed_on_from_node_to_node_until_every_count_fits() -> None:
    """n1 alone has a, only n2 and n3 have b: the limit of n2 is kept by what n3 has."""
    held = {("n1", "a"): 6, ("n2", "a"): 6, ("n2", "b"): 6, ("n3", "b"): 4}
    order = an_order_of_kilograms(
        an_option("n1", 0, max_weight_g=4_000),
        an_option("n2", 0, max_weight_g=5_000),
        an_option("n3", 0, rate=Linear(1)),
        held=held,
    )
    found = parcels_of(order)
    assert found.cost_mills == 3_000
    assert found.assignments == (
        Assignment(0, 0, 4),
        Assignment(0, 1, 2),
        Assignment(1, 1, 3),
        Assignment(1, 2, 3),
    )


def parcels_of(order: Instance) -> Solution:
    found = parcels.solve(order, budget_s=AMPLE_S)
    assert isinstance(found, Solution)
    assert found.proven
    return found


def test_that_limits_leave_no_plan_is_proven() -> None:
    weak = [an_option(node, max_weight_g=5_000) for node in ("n1", "n2")]
    assert parcels.solve(an_order_of_kilograms(*weak, held=EVERYWHERE)) == NoPlan()
    strong = [an_option(node, max_weight_g=7_000) for node in ("n1", "n2")]
    assert parcels.solve(an_order_of_kilograms(*strong, held=EVERYWHERE, max_shipments=1)) == NoPlan()
    assert parcels.solve(an_order_of_kilograms(*strong, held={})) == NoPlan()


def test_without_time_there_is_a_plan_and_a_bound_that_holds() -> None:
    options = [
        an_option(
            f"n{node}", 100 + 7 * node + service, service=f"post/{service}", max_weight_g=2_000 + 500 * node
        )
        for node in range(6)
        for service in range(3)
    ]
    held = {(f"n{node}", sku): 2 + node % 3 for node in range(6) for sku in ("a", "b")}
    order = an_order_of_kilograms(*options, held=held, split_penalty_mills=50)
    soon, best = parcels.solve(order, budget_s=0), parcels_of(order)
    assert isinstance(soon, Solution)
    assert soon.lower_bound_mills <= best.cost_mills <= soon.cost_mills


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ship_complete": True}, "ship_complete"),
        ({"min_split_value_minor": 1}, "min_split_value_minor"),
        ({"lines": (a_line("a", 2),)}, "line l-a stays whole"),
        ({"lines": (a_line("a", unfilled_mills=1),)}, "line l-a may be left out"),
        (
            {"lines": (a_line("a"), a_line("b", unit_weight_g=7)), "unit_cost": ((0,), (0,))},
            "a unit of line l-b weighs something else than one of l-a",
        ),
        (
            {"lines": (a_line("a"), a_line("b")), "unit_cost": ((0,), (1,))},
            "a unit of line l-b costs something else than one of l-a",
        ),
    ],
)
def test_what_makes_units_differ_is_not_for_it(changes: dict[str, object], why: str) -> None:
    plain: dict[str, object] = {"lines": (a_line("a"),), "unit_cost": ((0,),)} | changes
    order = an_instance(options=(an_option(),), stock={("n1", "a"): 9}, **plain)  # type: ignore[arg-type]
    assert parcels.supports(order) == why


def test_nodes_and_options_are_few() -> None:
    many = tuple(an_option(f"n{number}") for number in range(9))
    assert parcels.supports(an_instance((a_line("a"),), many, {})) == "more than 8 nodes"
    services = tuple(an_option("n1", service=f"post/{number}") for number in range(61))
    assert parcels.supports(an_instance((a_line("a"),), services, {})) == "more than 60 options"


def test_steps_of_freight_that_are_full_are_proven_and_others_a_bound() -> None:
    stepped = an_option("n1", 100, rate=Stepped(6_000, 600))
    held = {("n1", "a"): 6, ("n1", "b"): 6}
    assert parcels_of(an_order_of_kilograms(stepped, held=held)).cost_mills == 1_300
    begun = an_option("n1", 100, rate=Stepped(7_000, 700))
    found = parcels.solve(an_order_of_kilograms(begun, held=held), budget_s=AMPLE_S)
    assert isinstance(found, OnlyBound)
    assert found.lower_bound_mills == 1_300
