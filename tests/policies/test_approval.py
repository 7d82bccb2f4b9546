from datetime import timedelta

from models.money import Money
from models.review import ReviewKind, Verdict
from policies.approval import ApprovalPolicy, gate_b
from tests.workflows.scripted import PLACED, some_facts, some_plan

POLICY = ApprovalPolicy()


def codes(**changes: object) -> list[str]:
    facts = some_facts("web:1", total=10_000).model_copy(
        update={k: v for k, v in changes.items() if k == "promise_by"}
    )
    plan = some_plan(
        shipments=int(str(changes.get("shipments", 1))), total=10_000, cost=int(str(changes.get("cost", 500)))
    )
    return [flag.code for flag in gate_b(facts, plan, POLICY)]


def test_a_cheap_single_parcel_needs_nobody() -> None:
    assert codes() == []


def test_cost_is_flagged_just_above_its_share_of_the_total() -> None:
    assert codes(cost=6_000) == []
    assert codes(cost=6_001) == ["thin_margin"]


def test_a_small_order_may_cost_its_floor() -> None:
    small = some_facts("web:1", total=300)
    assert gate_b(small, some_plan(total=300, cost=2_000), POLICY) == ()


def test_too_many_parcels_are_flagged() -> None:
    assert codes(shipments=3) == []
    assert codes(shipments=4) == ["many_shipments"]


def test_a_promise_later_than_asked_for_is_flagged() -> None:
    assert codes(promise_by=PLACED) == ["late_promise"]


def test_a_plan_in_another_currency_is_looked_at_instead_of_compared() -> None:
    plan = some_plan().model_copy(update={"cost": Money(minor=1, currency="EUR")})
    assert [flag.code for flag in gate_b(some_facts("web:1"), plan, POLICY)] == ["foreign_cost"]


def test_every_kind_of_review_reminds_before_it_escalates_and_escalates_before_it_ends() -> None:
    for kind in ReviewKind:
        terms = POLICY.terms(kind)
        assert timedelta(0) < terms.remind_after < terms.escalate_after
        assert terms.escalate_after < terms.deadline


def test_a_gate_that_nobody_answers_stays_shut() -> None:
    gates = (ReviewKind.RISK, ReviewKind.PLAN, ReviewKind.BACKORDER)
    assert all(POLICY.terms(kind).on_deadline is Verdict.REJECT for kind in gates)
