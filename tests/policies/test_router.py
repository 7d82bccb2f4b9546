from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.network import CarrierService, Node, ServiceZone
from models.plan import Plan, PlannedLine, Unfillable
from policies.routing.exact import ExactRouter
from policies.routing.problem import DemandLine, RoutingProblem, StockRow
from policies.routing.router import CheapestNodeRouter, Router

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
both = pytest.mark.parametrize(
    "router", (CheapestNodeRouter(), ExactRouter()), ids=lambda router: router.name
)


def a_node(name: str, handling: int = 100, country: str = "GB", *, active: bool = True) -> Node:
    return Node(
        node_id=name,
        name=name,
        country=country,
        time_zone="Europe/London",
        handling_minor=handling,
        active=active,
    )


def a_service(
    name: str = "standard", base: int = 300, days: int = 2, max_weight_g: int = 30_000
) -> CarrierService:
    zone = ServiceZone(origin="*", destinations=("*",), base_minor=base, per_kg_minor=10, transit_days=days)
    return CarrierService(carrier="post", service=name, max_weight_g=max_weight_g, zones=(zone,))


def a_problem(demand: dict[str, int], stock: dict[tuple[str, str], int], **changes: object) -> RoutingProblem:
    nodes = tuple(a_node(name) for name in sorted({node for node, _ in stock}))
    plain = RoutingProblem(
        order_id="web:1",
        currency="GBP",
        business_now=NOW,
        lines=tuple(DemandLine(line_id=f"l-{sku}", sku=sku, quantity=units) for sku, units in demand.items()),
        ship_country="GB",
        nodes=nodes,
        services=(a_service(),),
        stock=tuple(StockRow(node=node, sku=sku, available=units) for (node, sku), units in stock.items()),
        unit_weight_g=100,
        split_penalty_minor=400,
        processing_days=1,
    )
    return plain.model_copy(update=changes)


def routed(router: Router, problem: RoutingProblem) -> Plan:
    plan = router.route(problem)
    assert isinstance(plan, Plan)
    return plan


@both
def test_the_cheaper_of_two_complete_nodes_ships(router: Router) -> None:
    problem = a_problem({"a": 2}, {("n1", "a"): 5, ("n2", "a"): 5})
    problem = problem.model_copy(update={"nodes": (a_node("n1", 300), a_node("n2", 200))})
    assert [shipment.node for shipment in routed(router, problem).shipments] == ["n2"]


@both
def test_one_complete_node_beats_a_split(router: Router) -> None:
    problem = a_problem({"a": 1, "b": 1}, {("n1", "a"): 1, ("n2", "b"): 1, ("n3", "a"): 1, ("n3", "b"): 1})
    assert [shipment.node for shipment in routed(router, problem).shipments] == ["n3"]


@both
def test_a_line_may_be_split_in_quantity_when_no_node_holds_it_all(router: Router) -> None:
    plan = routed(router, a_problem({"a": 5}, {("n1", "a"): 3, ("n2", "a"): 2}))
    assert [(s.node, s.lines[0].quantity) for s in plan.shipments] == [("n1", 3), ("n2", 2)]
    assert plan.split_penalty.minor == 400


@both
def test_two_lines_of_one_sku_share_its_stock(router: Router) -> None:
    problem = a_problem({"a": 3}, {("n1", "a"): 4})
    twice = problem.model_copy(
        update={"lines": (*problem.lines, DemandLine(line_id="again", sku="a", quantity=3))}
    )
    assert isinstance(router.route(twice), Unfillable)


@both
def test_ship_complete_refuses_a_split_and_says_so(router: Router) -> None:
    answer = router.route(a_problem({"a": 5}, {("n1", "a"): 3, ("n2", "a"): 2}, ship_complete=True))
    assert isinstance(answer, Unfillable) and "ship_complete" in answer.reasons[0]


@both
def test_missing_stock_is_an_answer_that_names_the_line(router: Router) -> None:
    answer = router.route(a_problem({"a": 5, "b": 1}, {("n1", "a"): 3, ("n1", "b"): 1}))
    assert answer == Unfillable(
        reasons=("line l-a: 2 of 5 units of a cannot be served, active nodes hold 3 of the 5 asked for",),
        missing=(PlannedLine(line_id="l-a", sku="a", quantity=2),),
    )


@both
def test_units_that_are_kept_back_are_named_beside_what_is_missing(router: Router) -> None:
    problem = a_problem({"a": 5}, {("n1", "a"): 3})
    stock = tuple(row.model_copy(update={"kept_back": 4}) for row in problem.stock)
    answer = router.route(problem.model_copy(update={"stock": stock}))
    assert isinstance(answer, Unfillable)
    assert answer.reasons[0].endswith("3 of the 5 asked for (4 more lie there, but are kept back)")


@both
def test_an_inactive_node_ships_nothing(router: Router) -> None:
    problem = a_problem({"a": 1}, {("n1", "a"): 1}).model_copy(
        update={"nodes": (a_node("n1", active=False),)}
    )
    assert isinstance(router.route(problem), Unfillable)


@both
def test_a_dearer_service_is_taken_only_to_keep_the_date(router: Router) -> None:
    services = (a_service(), a_service("express", base=900, days=1))
    problem = a_problem({"a": 1}, {("n1", "a"): 1}, services=services)
    assert routed(router, problem).shipments[0].service == "standard"
    hurried = problem.model_copy(update={"promise_by": NOW.replace(day=4, hour=23, minute=59, second=59)})
    assert routed(router, hurried).shipments[0].service == "express"


@both
def test_the_service_that_is_asked_for_is_taken_though_another_is_cheaper(router: Router) -> None:
    services = (a_service(), a_service("express", base=900, days=1))
    problem = a_problem({"a": 1}, {("n1", "a"): 1}, services=services, carrier_service="post/express")
    assert routed(router, problem).shipments[0].service == "express"


@both
def test_a_service_that_is_asked_for_and_does_not_fit_is_named(router: Router) -> None:
    unknown = router.route(a_problem({"a": 1}, {("n1", "a"): 1}, carrier_service="post/drone"))
    assert unknown == Unfillable(reasons=("post/drone is asked for, and the network has no such service",))
    too_heavy = router.route(a_problem({"a": 400}, {("n1", "a"): 400}, carrier_service="post/standard"))
    assert isinstance(too_heavy, Unfillable) and "(only post/standard is asked for)" in too_heavy.reasons[0]


@both
def test_too_heavy_for_every_service_is_unfillable(router: Router) -> None:
    answer = router.route(a_problem({"a": 400}, {("n1", "a"): 400}))
    assert isinstance(answer, Unfillable) and "no carrier service takes them to GB" in answer.reasons[0]


demands = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9), min_size=1, max_size=6)
stocks = st.dictionaries(
    st.tuples(st.sampled_from(["n1", "n2", "n3", "n4"]), st.sampled_from("abcdef")),
    st.integers(0, 12),
    min_size=1,
    max_size=20,
)


@both
@settings(max_examples=150)
@given(demands, stocks)
def test_a_plan_serves_the_whole_demand_from_stock_that_exists(
    router: Router, demand: dict[str, int], stock: dict[tuple[str, str], int]
) -> None:
    answer = router.route(a_problem(demand, stock))
    held = Counter(dict.fromkeys(demand, 0))
    for (_, sku), units in stock.items():
        held[sku] += units
    enough = all(held[sku] >= units for sku, units in demand.items())
    # Any node may join a split, so a plan exists exactly when there is enough in all.
    assert isinstance(answer, Plan) is enough
    if isinstance(answer, Plan):
        served: Counter[str] = Counter()
        taken: Counter[tuple[str, str]] = Counter()
        for shipment in answer.shipments:
            for line in shipment.lines:
                served[line.sku] += line.quantity
                taken[shipment.node, line.sku] += line.quantity
        assert served == Counter(demand)
        assert all(units <= stock[place] for place, units in taken.items())
        assert len({shipment.node for shipment in answer.shipments}) == len(answer.shipments)
        assert answer.cost.minor == answer.split_penalty.minor + sum(
            (s.handling + s.freight).minor for s in answer.shipments
        )


@both
@settings(max_examples=50)
@given(demands, stocks, st.randoms())
def test_the_order_of_stock_rows_does_not_matter(
    router: Router, demand: dict[str, int], stock: dict[tuple[str, str], int], shuffler: object
) -> None:
    problem = a_problem(demand, stock)
    rows = list(problem.stock)
    shuffler.shuffle(rows)  # type: ignore[attr-defined]
    assert router.route(problem) == router.route(problem.model_copy(update={"stock": tuple(rows)}))
