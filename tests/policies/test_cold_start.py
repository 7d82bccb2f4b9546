"""What is new goes by explicit rules until it has some history, and plans say so."""

import pytest

from activities.store.problems import under
from models.policy import MOST_SEEN, PolicyDocument
from policies.approval import ApprovalPolicy, gate_b
from policies.cold_start import ColdStartPolicy, Kind, Seen, for_review, last, newcomers
from policies.document import Asker, Policy
from policies.routing.carriers import FrequencyTable, LegRecord
from policies.routing.exact import ExactRouter
from policies.routing.problem import RoutingProblem
from policies.routing.questions import differences
from tests.policies.test_router import a_node, a_problem, routed
from tests.workflows.scripted import some_facts, some_plan

ROUTER = ExactRouter()
HISTORY = (
    Seen(kind=Kind.NODE, name="n1", times=3),
    Seen(kind=Kind.NODE, name="n2", times=20),
    Seen(kind=Kind.SKU, name="a", times=9),
    Seen(kind=Kind.SKU, name="b", times=0),
    Seen(kind=Kind.CHANNEL, name="web", times=19),
)


def under_rules(problem: RoutingProblem, cold_start: dict[str, object], **document: object) -> RoutingProblem:
    parsed = PolicyDocument.model_validate({"cold_start": cold_start} | document)
    return under(Policy(version=3, document=parsed), Asker(channel="web"), problem)


def two_nodes(history: tuple[Seen, ...] = HISTORY) -> RoutingProblem:
    """n1, which is new, is the cheaper one."""
    problem = a_problem({"a": 1}, {("n1", "a"): 1, ("n2", "a"): 1}, history=history)
    return problem.model_copy(update={"nodes": (a_node("n1", 100), a_node("n2", 300))})


def test_as_built_in_the_plan_says_what_is_new_and_nothing_else_comes_of_it() -> None:
    plain = routed(ROUTER, two_nodes())
    plan = routed(ROUTER, under_rules(two_nodes(), {}))
    assert [one.node for one in plan.shipments] == ["n1"]
    assert plan.reasons == (
        *plain.reasons,
        # Not b, which is not in it, and not n2, which is not new.
        "new node n1 (3): fewer than 20 parcels delivered so far",
        "new SKU a (9): fewer than 10 orders so far",
        "new channel web (19): fewer than 20 orders so far",
    )
    assert plan.model_copy(update={"reasons": plain.reasons}) == plain


def test_many_are_counted() -> None:
    history = tuple(Seen(kind=Kind.SKU, name=f"s{number}", times=number) for number in range(7))
    skus = {one.name: 1 for one in history}
    problem = a_problem(skus, {("n1", sku): 1 for sku in skus}, history=history)
    (said,) = [one for one in routed(ROUTER, under_rules(problem, {})).reasons if one.startswith("new")]
    assert said == "new SKUs s0 (0), s1 (1), s2 (2), s3 (3), s4 (4) and 2 more: fewer than 10 orders so far"


def test_new_nodes_come_last_where_the_policy_says_so() -> None:
    problem = under_rules(two_nodes(), {"nodes_last": True})
    plan = routed(ROUTER, problem)
    assert [one.node for one in plan.shipments] == ["n2"]
    assert "from step 1 of 2 of the sequence of nodes, new ones last" in plan.reasons
    assert differences(plan, problem) == []
    # What it was decided by stays with it, whatever is known later.
    assert problem.history == HISTORY


def test_new_nodes_fill_what_others_cannot() -> None:
    problem = a_problem({"a": 3}, {("n1", "a"): 3, ("n2", "a"): 2}, history=HISTORY)
    plan = routed(ROUTER, under_rules(problem, {"nodes_last": True}))
    assert [one.node for one in plan.shipments] == ["n1"]
    assert any("step 2 of 2" in reason for reason in plan.reasons)


@pytest.mark.parametrize(
    ("cold_start", "node"),
    [
        ({"nodes_last": True, "node_parcels": 3}, "n1"),
        ({"nodes_last": True, "node_parcels": 0}, "n1"),
        # All are: it makes no difference.
        ({"nodes_last": True, "node_parcels": 50}, "n1"),
        ({"nodes_last": True, "node_parcels": 4}, "n2"),
        ({"nodes_last": False, "node_parcels": 4}, "n1"),
    ],
)
def test_what_is_new_the_policy_says(cold_start: dict[str, object], node: str) -> None:
    plan = routed(ROUTER, under_rules(two_nodes(), cold_start))
    assert [one.node for one in plan.shipments] == [node]


def test_they_come_behind_the_steps_of_a_rule_and_within_its_bounds() -> None:
    rules = [{"rule_id": "r", "without": ["n3"], "sequence": [["n1"], ["n2", "n3"]]}]
    problem = under_rules(two_nodes(), {"nodes_last": True}, routing_rules=rules)
    assert problem.sequence == (("n2",), ("n1",))
    assert under_rules(two_nodes(), {}, routing_rules=rules).sequence == (("n1",), ("n2",))


def test_a_step_of_new_nodes_alone_is_left_to_the_last() -> None:
    assert last((("a", "b"), ("c",), ("d",)), {"b", "c"}) == (("a",), ("d",), ("b", "c"))
    assert last((("a",), ("b",)), ()) == (("a",), ("b",))
    assert last((("a",), ("b",)), {"a", "b"}) == (("a",), ("b",))


def test_a_person_sees_plans_with_what_is_new_where_the_policy_says_so() -> None:
    problem = under_rules(two_nodes(), {"review": ["nodes", "channels"]})
    plan = routed(ROUTER, problem)
    why = for_review(problem, plan.shipments)
    assert why == (
        "new node n1 (3): fewer than 20 parcels delivered so far",
        "new channel web (19): fewer than 20 orders so far",
    )
    policy = Policy(version=3, document=PolicyDocument())
    summary = some_plan().model_copy(update={"limits": policy.limits_for(why)})
    flags = gate_b(some_facts("web:1"), summary, ApprovalPolicy())
    assert [(flag.code, flag.reason) for flag in flags] == [("cold_start", reason) for reason in why]
    assert summary.limits is not None and summary.limits.max_shipments == ApprovalPolicy().max_shipments
    assert policy.limits_for(()) is None
    asked_nobody = under_rules(two_nodes(), {})
    assert for_review(asked_nobody, plan.shipments) == ()
    assert newcomers(asked_nobody, plan.shipments) != ()


def test_nothing_is_new_that_is_not_counted_so_far() -> None:
    built_in = ColdStartPolicy()
    assert all(0 < built_in.needed(kind) <= MOST_SEEN for kind in Kind)


def test_parcels_of_a_node_are_those_of_all_its_services() -> None:
    legs = [("n1", "x", 3), ("n1", "y", 4), ("n2", "x", 5)]
    records = [
        LegRecord(node=node, carrier="post", service=service, parcels=parcels, late=0, days_late=0)
        for node, service, parcels in legs
    ]
    table = FrequencyTable(records)
    assert [table.delivered_from(node) for node in ("n1", "n2", "n3")] == [7, 5, 0]
