from datetime import timedelta
from typing import Any

import pytest

from activities.classify import ClassifyActivities
from activities.orders import OrderActivities
from activities.store import reads
from activities.store.intake import canonical_hash, take_unstarted
from activities.store.store import Store
from activities.store.views import OrderView
from models.effects import AssessOrder, Patience, Recorded, RecordProgress, RiskDecision, ValidateOrder
from models.errors import Problem
from models.journal import Carried
from models.order import MAX_INLINE_BYTES, CustomerType
from models.review import ReviewKind, ReviewTask
from models.states import OrderState, ReviewState
from models.tables.journal import ReviewTaskRow
from tests.activities.running import failure_of, run
from tests.builders import (
    NOON,
    a_draft,
    accepted,
    carrying,
    gbp,
    order_id_of,
    stocked,
    under_policy,
    write_down,
)
from tests.policies.test_document import a_review


@pytest.fixture
def orders(store: Store) -> OrderActivities:
    return OrderActivities(store)


def validating(order_id: str, draft: Any = None) -> ValidateOrder:
    return ValidateOrder(
        order_id=order_id,
        workflow_id=f"order:{order_id}",
        draft=draft,
        carried=carrying(order_id, OrderState.VALIDATING, 1),
    )


async def order_of(store: Store, order_id: str) -> OrderView | None:
    async with store.transaction() as session:
        return await reads.order(session, order_id)


async def test_the_facts_of_a_stored_document(orders: OrderActivities, store: Store) -> None:
    draft = a_draft(lines=3, quantity=4, price=250, purchase_order="PO-1")
    order_id = await accepted(store, draft)

    answer = await run(orders.validate_order, validating(order_id))

    assert answer.problems == ()
    facts = answer.facts
    assert facts is not None
    assert (facts.total, facts.goods) == (gbp(3395), gbp(3000))
    assert (facts.line_count, facts.unit_count, facts.max_line_quantity) == (3, 12, 4)
    assert facts.customer_type is CustomerType.B2B
    assert facts.document_hash == canonical_hash(draft)
    order = await order_of(store, order_id)
    assert order is not None
    assert (order.state, order.customer_type) == (OrderState.VALIDATING, CustomerType.B2B)
    assert await run(orders.validate_order, validating(order_id)) == answer


async def test_a_running_order_is_no_work_for_the_sweeper(fresh_store: Store) -> None:
    order_id = await accepted(fresh_store, a_draft())
    await run(OrderActivities(fresh_store).validate_order, validating(order_id))
    async with fresh_store.transaction() as session:
        assert await take_unstarted(session, timedelta(0)) == []


async def test_an_inline_draft_is_stored_first_and_goes_on_by_reference(
    orders: OrderActivities, store: Store
) -> None:
    draft = a_draft()
    effect = validating(order_id_of(draft), draft.model_dump(mode="json"))
    first = await run(orders.validate_order, effect)
    assert first.facts is not None
    assert await run(orders.validate_order, effect) == first
    assert await run(orders.validate_order, validating(order_id_of(draft))) == first
    order = await order_of(store, order_id_of(draft))
    assert order is not None
    assert order.source == "temporal"


async def test_a_broken_inline_draft_lists_every_problem_and_stores_no_order(
    orders: OrderActivities, store: Store
) -> None:
    document = a_draft().model_dump(mode="json")
    order_id = f"web:{document['external_id']}"
    document["currency"] = "XXX"
    del document["ship_to"]
    answer = await run(orders.validate_order, validating(order_id, document))
    assert answer.facts is None
    assert {problem.path for problem in answer.problems} >= {"currency", "ship_to"}
    assert await order_of(store, order_id) is None
    async with store.transaction() as session:
        assert len(await reads.timeline(session, order_id)) == 1


async def test_an_inline_draft_of_another_order_is_a_problem(orders: OrderActivities) -> None:
    answer = await run(orders.validate_order, validating("web:other", a_draft().model_dump(mode="json")))
    assert [problem.code for problem in answer.problems] == ["id_mismatch"]


async def test_an_order_that_is_started_under_another_workflow_id_is_none(
    fresh_store: Store,
) -> None:
    orders, store = OrderActivities(fresh_store), fresh_store
    draft = a_draft()
    order_id = order_id_of(draft)
    misnamed = validating(order_id, draft.model_dump(mode="json")).model_copy(
        update={"workflow_id": order_id}
    )
    answer = await run(orders.validate_order, misnamed)
    assert answer.facts is None
    assert [(p.path, p.code) for p in answer.problems] == [("workflow_id", "wrong_workflow_id")]
    assert f"order:{order_id}" in answer.problems[0].message
    assert await order_of(store, order_id) is None, "the id is not used up"
    await accepted(store, draft)
    assert (await run(orders.validate_order, misnamed)).facts is None, (
        "nor is an accepted order carried out by it"
    )


async def test_an_oversized_inline_draft_is_a_problem(orders: OrderActivities) -> None:
    document = a_draft().model_dump(mode="json") | {"padding": "x" * MAX_INLINE_BYTES}
    answer = await run(orders.validate_order, validating("web:big", document))
    assert [problem.code for problem in answer.problems] == ["document_too_large"]


async def test_a_start_that_may_not_speak_for_the_accepted_order_leaves_it_alone(
    orders: OrderActivities, store: Store
) -> None:
    draft = a_draft()
    order_id = await accepted(store, draft)
    document = draft.model_dump(mode="json")
    for start, code in (
        (document | {"purchase_order": "PO-2"}, "conflict"),
        (document | {"lines": []}, "too_short"),
    ):
        answer = await run(orders.validate_order, validating(order_id, start))
        assert (answer.facts, [problem.code for problem in answer.problems]) == (None, [code])
    order = await order_of(store, order_id)
    assert order is not None
    assert (order.state, order.version) == (OrderState.RECEIVED, 0)
    async with store.transaction() as session:
        assert [taken.order_id for taken in await take_unstarted(session, timedelta(0))] == [order_id]


async def test_an_order_that_has_ended_is_not_carried_out_again(
    orders: OrderActivities, store: Store
) -> None:
    draft = a_draft()
    order_id = await accepted(store, draft)
    await write_down(store, order_id, carrying(order_id, OrderState.CLOSED, 9))
    answer = await run(orders.validate_order, validating(order_id, draft.model_dump(mode="json")))
    assert [problem.code for problem in answer.problems] == ["already_ended"]


async def test_without_a_document_there_is_nothing_to_validate(orders: OrderActivities) -> None:
    answer = await run(orders.validate_order, validating("web:none"))
    assert [(problem.path, problem.code) for problem in answer.problems] == [("draft", "no_document")]


@pytest.mark.parametrize("draft", [[], "x", 7, False])
async def test_a_draft_that_is_not_an_object_is_a_problem(orders: OrderActivities, draft: Any) -> None:
    answer = await run(orders.validate_order, validating("web:shapeless", draft))
    assert [problem.code for problem in answer.problems] == ["not_an_object"]


async def test_problems_of_the_start_stand_beside_those_of_the_draft(orders: OrderActivities) -> None:
    document = a_draft().model_dump(mode="json") | {"currency": "XXX"}
    problem = Problem(path="clock.speed", code="impossible_speed", message="must be at least 0.001")
    order_id = f"web:{document['external_id']}"
    effect = validating(order_id, document).model_copy(update={"problems": (problem,)})
    answer = await run(orders.validate_order, effect)
    assert [problem.path for problem in answer.problems] == ["clock.speed", "currency"]


async def test_a_database_that_is_away_is_worth_trying_again() -> None:
    away = Store.at("postgresql+psycopg://postgres@/orderwright?host=/nowhere")
    failure = await failure_of(OrderActivities(away).validate_order, validating("web:1"))
    await away.close()
    assert (failure.type, failure.non_retryable) == ("not_reachable", False)


async def test_progress_is_written(orders: OrderActivities, store: Store) -> None:
    order_id = await accepted(store, a_draft())
    effect = RecordProgress(order_id=order_id, carried=carrying(order_id, OrderState.ROUTING, 6))
    for _ in range(2):
        await run(orders.record_progress, effect)
    order = await order_of(store, order_id)
    assert order is not None
    assert order.state is OrderState.ROUTING


async def test_the_risk_rules_see_the_stored_document(store: Store) -> None:
    classify = ClassifyActivities(store)
    modest = await accepted(store, a_draft())
    grand = await accepted(store, a_draft(quantity=10, price=60_000))
    assert (await run(classify.assess_order, AssessOrder(order_id=modest))).decision is RiskDecision.PASS
    assessed = await run(classify.assess_order, AssessOrder(order_id=grand))
    assert assessed.decision is RiskDecision.REVIEW
    assert "high_value" in {flag.code for flag in assessed.flags}
    assert (await failure_of(classify.assess_order, AssessOrder(order_id="web:none"))).type == "not_found"


async def test_a_review_waits_as_the_policy_has_it_when_it_is_written_down(fresh_store: Store) -> None:
    draft = a_draft()
    await stocked(fresh_store, north={})
    order_id = await accepted(fresh_store, draft)
    activities = OrderActivities(fresh_store)

    async def written(task: ReviewTask) -> Recorded:
        effect = RecordProgress(order_id=order_id, carried=Carried(reviews=(task,)))
        return await run(activities.record_progress, effect)

    async def stored(task: ReviewTask) -> ReviewTask:
        async with fresh_store.transaction() as session:
            row = await session.get_one(ReviewTaskRow, task.task_id)
            return ReviewTask.model_validate(row.task)

    first = a_review(ReviewKind.PLAN, NOON).model_copy(update={"order_id": order_id})
    assert await written(first) == Recorded() and await stored(first) == first
    await under_policy(
        fresh_store, {"reviews": {"plan": {"remind_after_hours": 1, "escalate_after_hours": 3}}}
    )
    # Sent again, it waits as it did.
    assert await written(first) == Recorded()
    second = first.model_copy(update={"task_id": "t2"})
    answer = await written(second)
    assert answer.patience == Patience(
        task_id="t2", remind_after=timedelta(hours=1), escalate_after=timedelta(hours=3)
    )
    kept = await stored(second)
    assert (kept.remind_at, kept.remind_every) == (NOON + timedelta(hours=1), timedelta(hours=1))
    await under_policy(fresh_store, {})
    assert await written(second) == answer
    other = first.model_copy(update={"task_id": "t3", "kind": ReviewKind.RISK})
    assert await written(other) == Recorded()
    closed = second.model_copy(update={"state": ReviewState.DECIDED})
    assert await written(closed) == Recorded()
