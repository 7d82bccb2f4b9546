"""The policy document: what comes of it, whom its rules are for, and what is wrong with one."""

import re
import tomllib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from models.effects import Patience
from models.order import CustomerType
from models.policy import BUILT_IN, PolicyDocument
from models.review import ReviewKind, ReviewTask, Verdict
from policies.approval import ApprovalPolicy, as_patient_as, pinned
from policies.document import (
    Asker,
    Policy,
    allowed_nodes,
    differences,
    may_substitute,
    problems_of,
    skus_in,
)
from policies.pricing import PricePolicy
from policies.risk import RiskPolicy
from policies.routing.weights import RoutingWeights
from policies.shortage import ShortagePolicy
from workers.settings import REPOSITORY

NODES = {"north": True, "south": True, "closed": False}
GOLD = Asker(channel="web", tier="gold", customer_type=CustomerType.B2C, country="GB")


def policy(document: dict[str, Any], version: int = 3) -> Policy:
    return Policy(version=version, document=PolicyDocument.model_validate(document))


def codes(document: dict[str, Any], stocked: set[tuple[str, str]] | None = None) -> dict[str, str]:
    parsed = PolicyDocument.model_validate(document)
    return {
        problem.path: problem.code
        for problem in problems_of(parsed, nodes=NODES, stocked=frozenset(stocked or ()))
    }


def test_what_a_document_does_not_say_is_as_built_in_under_its_own_version() -> None:
    empty = policy({})
    assert empty.weights == RoutingWeights()
    assert empty.shortage == ShortagePolicy()
    assert empty.approval == ApprovalPolicy()
    assert empty.risk == RiskPolicy()
    assert empty.pricing == PricePolicy()
    assert empty.plan_limits is None
    assert Policy().label == "built-in"


def test_what_it_says_holds_under_its_version_and_the_rest_stays() -> None:
    said = policy(
        {
            "routing": {"late_day_minor": 0, "budget_ms": 100},
            "plan_review": {"max_shipments": 5},
            "risk_review": {"review_value_minor": {"b2c": {"GBP": 1}}, "refused_countries": ["XX"]},
            "price_review": {"review_unlisted": False},
            "shortage": {"part_at_least_percent": 80},
        }
    )
    assert said.weights == RoutingWeights(version="policy/3", late_day_minor=0, budget_seconds=0.1)
    assert (said.approval.version, said.approval.max_shipments) == ("policy/3", 5)
    assert said.approval.max_cost_percent == ApprovalPolicy().max_cost_percent
    assert said.plan_limits is not None
    assert (said.plan_limits.policy, said.plan_limits.max_shipments) == ("policy/3", 5)
    built_in = RiskPolicy().review_value_minor[CustomerType.B2C]
    assert said.risk.review_value_minor[CustomerType.B2C] == {**built_in, "GBP": 1}
    assert said.risk.review_value_minor[CustomerType.B2B] == RiskPolicy().review_value_minor[CustomerType.B2B]
    assert said.risk.refused_countries == frozenset({"XX"})
    assert not said.pricing.review_unlisted
    assert said.shortage.part_at_least_percent == 80
    shown = said.effective()
    assert shown["risk_review"]["refused_countries"] == ["XX"]
    assert shown["routing"]["late_day_minor"] == 0


def test_the_first_rule_that_an_order_is_of_counts() -> None:
    rules = policy(
        {
            "node_groups": {"stores": ["north", "closed"]},
            "routing_rules": [
                {"rule_id": "b2b", "customer_types": ["b2b"], "only": ["south"]},
                {"rule_id": "gold", "tiers": ["gold"], "countries": ["GB", "IE"], "without": ["stores"]},
                {"rule_id": "all", "sequence": [["stores"], ["south"]]},
            ],
        }
    )

    def rule_of(**changes: Any) -> str:
        rule = rules.routing_rule(GOLD.model_copy(update=changes))
        return rule.rule_id if rule else ""

    assert rule_of() == "gold"
    assert rule_of(customer_type=CustomerType.B2B) == "b2b"
    assert rule_of(country="DE") == rule_of(tier=None) == "all"
    by_name = {rule.rule_id: rule for rule in rules.document.routing_rules}
    assert allowed_nodes(rules, by_name["gold"], NODES) == ["south"]
    assert allowed_nodes(rules, by_name["all"], NODES) == ["north", "south", "closed"]
    assert Policy().routing_rule(GOLD) is None


@pytest.mark.parametrize(
    ("substitute", "allowed", "may"),
    [
        ("never", True, False),
        ("if_agreed", None, False),
        ("if_agreed", True, True),
        ("unless_refused", None, True),
        ("unless_refused", False, False),
    ],
)
def test_goods_are_replaced_by_policy_and_consent(substitute: str, allowed: bool | None, may: bool) -> None:
    shortage = policy({"shortage": {"substitute": substitute}}).shortage
    assert may_substitute(shortage, allowed) is may


def test_all_that_is_wrong_with_the_shape_is_said_at_once() -> None:
    with pytest.raises(ValidationError) as refused:
        PolicyDocument.model_validate(
            {
                "rooting": {},
                "routing": {"late_day_minor": -1, "max_parcels": 0, "weight": 3},
                "routing_rules": [{"rule_id": "says-nothing"}],
                "risk_review": {"review_discount_percent": 101},
                "shortage": {"substitute": "sometimes"},
            }
        )
    paths = {".".join(map(str, error["loc"])) for error in refused.value.errors()}
    assert paths == {
        "rooting",
        "routing.late_day_minor",
        "routing.max_parcels",
        "routing.weight",
        "routing_rules.0",
        "risk_review.review_discount_percent",
        "shortage.substitute",
    }


def test_all_that_makes_no_sense_is_said_at_once() -> None:
    found = codes(
        {
            "node_groups": {"north": ["south"], "empty": [], "ghosts": ["mars"]},
            "routing_rules": [
                {"rule_id": "twice", "channels": ["a"], "only": ["nowhere"]},
                {"rule_id": "twice", "channels": ["b"], "only": ["closed"]},
                {"rule_id": "none", "channels": ["c"], "only": ["north"], "without": ["north"]},
                {"rule_id": "hole", "channels": ["d"], "sequence": [["north"], []]},
            ],
            "substitutes": [{"sku": "A", "by": ["A", "B"]}, {"sku": "C", "by": ["B"]}],
            "priorities": [{"rule_id": "p", "rank": 1, "tiers": ["x"]}, {"rule_id": "p", "rank": 2}],
            "safety_stock": [
                {"sku": "A", "at": "south", "units": 1},
                {"sku": "A", "at": "north", "units": 1},
                {"sku": "A", "at": "atlantis", "units": 1},
            ],
        },
        stocked={("north", "A"), ("north", "B")},
    )
    assert found == {
        "node_groups.north": "ambiguous_group",
        "node_groups.empty": "empty_group",
        "node_groups.ghosts[0]": "unknown_node",
        "routing_rules[0].only[0]": "unknown_node",
        "routing_rules[1]": "no_active_node",
        "routing_rules[2]": "no_active_node",
        "routing_rules[3].sequence[1]": "empty_group",
        "routing_rules": "repeated",
        "substitutes[0].by[0]": "own_substitute",
        "substitutes[1].sku": "unknown_sku",
        "priorities": "repeated",
        "safety_stock[0].sku": "unknown_sku",
        # The group north means south, where it is kept back already.
        "safety_stock[1].sku": "unknown_sku",
        "safety_stock[1]": "repeated",
        "safety_stock[2].at": "unknown_node",
    }


@pytest.mark.parametrize(
    ("first", "second", "hidden"),
    [
        ({}, {"channels": ["web"]}, True),
        ({"countries": ["GB", "IE"]}, {"countries": ["IE"], "tiers": ["gold"]}, True),
        ({"tiers": ["gold"]}, {"tiers": ["gold"]}, True),
        ({"countries": ["GB"]}, {"countries": ["GB", "IE"]}, False),
        ({"channels": ["web"]}, {}, False),
        ({"channels": ["web"]}, {"tiers": ["gold"]}, False),
    ],
)
def test_a_rule_that_an_earlier_one_takes_all_orders_of_is_told(
    first: dict[str, Any], second: dict[str, Any], hidden: bool
) -> None:
    rules = [{"rule_id": "a", "only": ["north"]} | first, {"rule_id": "b", "only": ["south"]} | second]
    assert codes({"routing_rules": rules}) == ({"routing_rules[1]": "never_applies"} if hidden else {})
    ranks = [{"rule_id": "a", "rank": 2} | first, {"rule_id": "b", "rank": 1} | second]
    assert codes({"priorities": ranks}) == ({"priorities[1]": "never_applies"} if hidden else {})


def test_steps_of_a_sequence_that_add_nothing_are_told() -> None:
    document = {
        "node_groups": {"all": ["north", "south"]},
        "routing_rules": [
            {
                "rule_id": "r",
                "without": ["south"],
                "sequence": [["south"], ["all"], ["north"]],
            }
        ],
    }
    assert codes(document) == {
        "routing_rules[0].sequence[0]": "empty_step",
        # Those of before are tried with it.
        "routing_rules[0].sequence[2]": "repeated",
    }


def test_what_is_said_twice_is_told() -> None:
    document = {
        "node_groups": {"g": ["north", "north"]},
        "routing_rules": [
            {
                "rule_id": "r",
                "channels": ["web", "b2b", "web"],
                "only": ["north", "south", "south"],
                "without": ["closed", "closed"],
                "sequence": [["north", "north"]],
            }
        ],
        "substitutes": [{"sku": "A", "by": ["B", "C", "B"]}],
        "priorities": [{"rule_id": "p", "rank": 1, "countries": ["GB", "GB"]}],
        "risk_review": {"refused_countries": ["XX", "XX"]},
    }
    found = codes(document, stocked={("north", sku) for sku in "ABC"})
    assert found == dict.fromkeys(
        (
            "node_groups.g[1]",
            "routing_rules[0].channels[2]",
            "routing_rules[0].only[2]",
            "routing_rules[0].without[1]",
            "routing_rules[0].sequence[0][1]",
            "substitutes[0].by[2]",
            "priorities[0].countries[1]",
            "risk_review.refused_countries[1]",
        ),
        "repeated",
    )


def test_a_network_without_an_active_node_takes_no_policy() -> None:
    (problem,) = problems_of(PolicyDocument(), nodes={"closed": False}, stocked=frozenset())
    assert problem.code == "no_active_node"


def test_the_skus_that_a_document_names() -> None:
    document = PolicyDocument.model_validate(
        {
            "substitutes": [{"sku": "A", "by": ["B", "C"]}],
            "safety_stock": [{"sku": "D", "at": "north", "units": 0}],
        }
    )
    assert skus_in(document) == {"A", "B", "C", "D"}


def test_what_differs_is_told_by_the_names_of_rules() -> None:
    before = {"routing": {"late_day_minor": 1}, "priorities": [{"rule_id": "a", "rank": 1}]}
    after = {
        "routing": {"late_day_minor": 2},
        "priorities": [{"rule_id": "b", "rank": 2}, {"rule_id": "a", "rank": 1}],
    }
    assert differences(before, after) == [
        ("priorities (in this order)", ["a"], ["b", "a"]),
        ("priorities[b].rank", None, 2),
        ("priorities[b].rule_id", None, "b"),
        ("routing.late_day_minor", 1, 2),
    ]
    assert differences(after, after) == []
    kept = [{"sku": "A", "at": "x", "units": 1}, {"sku": "A", "at": "y", "units": 2}]
    assert differences({"safety_stock": kept}, {"safety_stock": [kept[0] | {"units": 9}, kept[1]]}) == [
        ("safety_stock[A at x].units", 1, 9)
    ]


def test_the_example_of_the_page_is_a_policy_and_says_what_is_built_in() -> None:
    page = (REPOSITORY / "docs" / "policy.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    document = PolicyDocument.model_validate(tomllib.loads(example))
    said = document.model_fields_set
    assert said == PolicyDocument.model_fields.keys() - {"schema_version"}
    effective, built_in = Policy(document=document).effective(), Policy().effective()
    del effective["routing"]["split_penalty_minor"], effective["routing"]["max_parcels"]
    assert effective["routing"] == built_in["routing"] | {"version": BUILT_IN}
    for section in ("look_ahead", "shortage", "plan_review", "price_review"):
        assert effective[section] == built_in[section] | {"version": BUILT_IN}


def test_how_long_a_review_waits_is_said_by_its_kind() -> None:
    said = policy({"reviews": {"plan": {"remind_after_hours": 2}, "return": {"escalate_after_hours": 200}}})
    opened = datetime(2026, 3, 2, 9, tzinfo=UTC)

    def patience(kind: ReviewKind) -> Patience | None:
        return said.patience(a_review(kind, opened))

    plan, returned = patience(ReviewKind.PLAN), patience(ReviewKind.RETURN)
    assert plan == Patience(task_id="t", remind_after=timedelta(hours=2), escalate_after=timedelta(hours=12))
    assert returned == Patience(
        task_id="t", remind_after=timedelta(days=7), escalate_after=timedelta(hours=200)
    )
    assert patience(ReviewKind.RISK) is patience(ReviewKind.RUN_BROKEN) is None
    waits = as_patient_as(a_review(ReviewKind.PLAN, opened), plan)
    assert (waits.remind_at, waits.escalate_at) == (opened + timedelta(hours=2), opened + timedelta(hours=12))
    assert pinned(waits) == plan
    reminded = a_review(ReviewKind.PLAN, opened).model_copy(update={"reminders": 1})
    assert as_patient_as(reminded, plan) == reminded
    assert pinned(reminded) is None
    assert said.effective()["reviews"]["plan"] == {"remind_after_hours": 2, "escalate_after_hours": 12}
    assert said.effective()["reviews"]["settlement"] == {"remind_after_hours": 1, "escalate_after_hours": 4}


def a_review(kind: ReviewKind, opened: datetime) -> ReviewTask:
    return ReviewTask(
        task_id="t",
        order_id="web:1",
        workflow_id="order/web:1",
        kind=kind,
        what_happened="",
        why_flagged=(),
        recommended=Verdict.APPROVE,
        recommendation="",
        options={},
        opened_at=opened,
        remind_at=opened + timedelta(hours=4),
        escalate_at=opened + timedelta(hours=12),
        policy_version="approval",
    )


def test_a_review_is_reminded_of_before_it_is_escalated_and_that_before_its_end() -> None:
    assert codes(
        {
            "reviews": {
                "plan": {"remind_after_hours": 12},
                "risk": {"escalate_after_hours": 48},
                "settlement": {"remind_after_hours": 3, "escalate_after_hours": 23},
            }
        }
    ) == {"reviews.plan": "no_reminder", "reviews.risk": "past_deadline"}
    with pytest.raises(ValidationError):
        PolicyDocument.model_validate({"reviews": {"run_broken": {"remind_after_hours": 1}}})
