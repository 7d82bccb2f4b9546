"""What the policy in force changes: how orders are routed, what replaces goods that are short, who is served first."""

from typing import Any

import pytest
from sqlalchemy import text

from activities.classify import ClassifyActivities
from activities.orders import OrderActivities
from activities.routing import RoutingActivities
from activities.store import amendments
from activities.store.allocating import allocate
from activities.store.arrived import arrivals
from activities.store.plans import decision
from activities.store.store import Store
from models.allocation import AllocationKind, AllocationPolicy, AllocationRule
from models.amendment import AmendmentRequest, LineChange
from models.effects import ApplyAmendment, AssessOrder, KeptShipment, RiskDecision, RouteAnswer, RouteOrder
from models.messages import AmendOrder
from models.order import OrderDraft
from models.states import OrderState
from policies.routing.exact import ExactRouter
from policies.routing.questions import differences
from tests.activities.running import run
from tests.activities.test_part_ahead import arrive
from tests.builders import (
    NOON,
    a_draft,
    accepted,
    carrying,
    gbp,
    order_id_of,
    skus_of,
    stocked,
    under_policy,
    write_down,
)


@pytest.fixture
def routing(fresh_store: Store) -> RoutingActivities:
    return RoutingActivities(fresh_store, ExactRouter())


async def asked(
    routing: RoutingActivities, draft: OrderDraft, attempt: int = 1, **changes: Any
) -> RouteAnswer:
    effect = RouteOrder(
        order_id=order_id_of(draft), attempt=attempt, business_now=NOON, substitute=True, **changes
    )
    return await run(routing.route_order, effect)


async def test_a_plan_names_its_policy_keeps_to_it_and_can_be_made_again(
    fresh_store: Store, routing: RoutingActivities
) -> None:
    draft = a_draft(2, quantity=4)
    first, second = skus_of(draft)
    # Only north has both; the rule tries south and west, which need two parcels.
    await stocked(fresh_store, north={first: 9, second: 9}, south={first: 9}, west={second: 9})
    await accepted(fresh_store, draft)
    rules = {
        "node_groups": {"stores": ["south", "west"]},
        "routing_rules": [{"rule_id": "stores-first", "sequence": [["stores"], ["north"]]}],
        "plan_review": {"max_shipments": 1},
    }
    version = await under_policy(fresh_store, rules)
    answer = await asked(routing, draft)
    assert answer.plan is not None
    assert sorted(ref.node for ref in answer.plan.shipments) == ["south", "west"]
    assert answer.plan.limits is not None and answer.plan.limits.max_shipments == 1
    async with fresh_store.transaction() as session:
        made = await decision(session, order_id_of(draft))
    assert made.plan.policy == f"policy/{version}" and made.problem is not None
    assert "from step 1 of 2 of the sequence of rule stores-first" in made.plan.reasons
    # Another policy changes nothing of what was decided by this one.
    await under_policy(fresh_store, {"routing": {"max_parcels": 1}})
    assert differences(made.plan, made.problem) == []
    again = await asked(routing, draft, 2)
    assert again.plan is not None
    assert [ref.node for ref in again.plan.shipments] == ["north"]


async def test_an_order_of_which_no_rule_node_has_enough_goes_to_the_next_step(
    fresh_store: Store, routing: RoutingActivities
) -> None:
    draft = a_draft(quantity=4)
    (sku,) = skus_of(draft)
    await stocked(fresh_store, north={sku: 3}, south={sku: 3})
    await accepted(fresh_store, draft)
    await under_policy(
        fresh_store, {"routing_rules": [{"rule_id": "south-first", "sequence": [["south"], ["north"]]}]}
    )
    answer = await asked(routing, draft)
    assert answer.plan is not None and len(answer.plan.shipments) == 2
    await under_policy(fresh_store, {"routing": {"max_parcels": 1}})
    refused = await asked(routing, draft, 2)
    assert refused.plan is None and "more than 1 parcels" in refused.unfillable[0]


async def test_thresholds_are_the_policy_s(fresh_store: Store) -> None:
    draft = a_draft()
    await stocked(fresh_store, north={})
    order_id = await accepted(fresh_store, draft)
    classify = ClassifyActivities(fresh_store)
    assert (await run(classify.assess_order, AssessOrder(order_id=order_id))).decision is RiskDecision.PASS
    await under_policy(fresh_store, {"risk_review": {"refused_countries": ["GB"]}})
    found = await run(classify.assess_order, AssessOrder(order_id=order_id))
    assert (found.decision, found.policy_version) == (RiskDecision.REJECT, "policy/1")


# --- substitutes ---
async def short_of_red(store: Store, substitute: str = "if_agreed", **changes: Any) -> OrderDraft:
    """Four of each of two lines; one of the first is there, of its substitute 5, and 9 of the second."""
    draft = a_draft(2, quantity=4, **({"allow_substitutes": True} | changes))
    first, second = skus_of(draft)
    await stocked(store, north={first: 1, second: 9, f"{first}-pink": 5})
    await accepted(store, draft)
    await under_policy(
        store,
        {
            "shortage": {"substitute": substitute},
            "substitutes": [{"sku": first, "by": [f"{first}-pink"]}],
        },
    )
    return draft


async def applied(store: Store, draft: OrderDraft, order: AmendOrder) -> None:
    answer = await run(
        OrderActivities(store).apply_amendment,
        ApplyAmendment(
            order_id=order_id_of(draft), amendment_id=order.amendment_id, kept=(), kept_amount=gbp(0)
        ),
    )
    assert answer.facts is not None, answer.refusal


async def test_what_is_short_is_replaced_by_an_amendment_at_the_same_total(
    fresh_store: Store, routing: RoutingActivities
) -> None:
    draft = await short_of_red(fresh_store)
    first, second = skus_of(draft)
    answer = await asked(routing, draft)
    assert answer.plan is None and answer.substitution is not None
    order = answer.substitution
    assert order.total == gbp(draft.totals.total_minor)
    assert order.told == f"3 × {first}-pink instead of {first}, which is short (policy/1)"
    # The answer was lost: the same amendment again, not a second one.
    assert (await asked(routing, draft)).substitution == order
    await applied(fresh_store, draft, order)
    answer = await asked(routing, draft, 2)
    assert answer.plan is not None and answer.plan.left_out == 0
    async with fresh_store.transaction() as session:
        made = await decision(session, order_id_of(draft))
        (view,) = await amendments.amendments(session, order_id_of(draft))
    sent = {line.sku: line.quantity for shipment in made.plan.shipments for line in shipment.lines}
    assert sent == {first: 1, f"{first}-pink": 3, second: 4}
    assert view.actor == "orderwright" and view.preview.difference.minor == 0


@pytest.mark.parametrize(
    ("substitute", "changes"),
    [
        ("never", {}),
        ("if_agreed", {"allow_substitutes": None}),
        ("unless_refused", {"allow_substitutes": False}),
    ],
)
async def test_nothing_is_replaced_without_consent(
    fresh_store: Store, routing: RoutingActivities, substitute: str, changes: dict[str, Any]
) -> None:
    draft = await short_of_red(fresh_store, substitute, allow_partial=False, **changes)
    answer = await asked(routing, draft)
    assert (answer.plan, answer.substitution) == (None, None)
    async with fresh_store.transaction() as session:
        assert await amendments.amendments(session, order_id_of(draft)) == ()


async def test_a_run_that_has_had_enough_of_substitutes_gets_none(
    fresh_store: Store, routing: RoutingActivities
) -> None:
    draft = await short_of_red(fresh_store, allow_partial=False)
    effect = RouteOrder(order_id=order_id_of(draft), attempt=1, business_now=NOON)
    answer = await run(routing.route_order, effect)
    assert (answer.plan, answer.substitution) == (None, None)


async def test_a_substitute_that_is_not_there_is_said_and_the_order_waits(
    fresh_store: Store, routing: RoutingActivities
) -> None:
    draft = await short_of_red(fresh_store, allow_partial=False)
    first, _ = skus_of(draft)
    async with fresh_store.transaction() as session:
        await session.execute(text("UPDATE stock SET on_hand = 2 WHERE sku = :sku"), {"sku": f"{first}-pink"})
    answer = await asked(routing, draft)
    assert answer.substitution is None
    assert "policy/1 has no substitutes that are there for all of it" in answer.unfillable


async def test_where_the_best_substitute_cannot_be_sent_the_next_one_is(
    fresh_store: Store, routing: RoutingActivities
) -> None:
    draft = a_draft(2, quantity=4, allow_substitutes=True, allow_partial=False)
    first, second = skus_of(draft)
    # Pink lies apart from the rest, which would be two parcels.
    await stocked(fresh_store, north={first: 1, second: 9, f"{first}-rose": 9}, south={f"{first}-pink": 9})
    await accepted(fresh_store, draft)
    document = {
        "routing": {"max_parcels": 1},
        "shortage": {"substitute": "if_agreed"},
        "substitutes": [{"sku": first, "by": [f"{first}-pink", f"{first}-rose"]}],
    }
    await under_policy(fresh_store, document)
    answer = await asked(routing, draft)
    assert answer.substitution is not None
    assert answer.substitution.told.startswith(f"3 × {first}-rose instead of {first}")


async def test_what_cannot_be_sent_either_is_said_of_each(
    fresh_store: Store, routing: RoutingActivities
) -> None:
    draft = a_draft(2, quantity=4, allow_substitutes=True, allow_partial=False)
    first, second = skus_of(draft)
    apart = {f"{first}-pink": 9, f"{first}-rose": 9}
    await stocked(fresh_store, north={first: 1, second: 9}, south=apart)
    await accepted(fresh_store, draft)
    document = {
        "routing": {"max_parcels": 1},
        "shortage": {"substitute": "if_agreed"},
        "substitutes": [{"sku": first, "by": [f"{first}-pink", f"{first}-rose"]}],
    }
    await under_policy(fresh_store, document)
    answer = await asked(routing, draft)
    assert answer.substitution is None
    assert answer.unfillable[-2:] == tuple(
        f"3 × {first}-{colour} instead of {first} cannot be sent either" for colour in ("pink", "rose")
    )


async def test_parcels_of_earlier_plans_count_among_the_most_that_there_may_be(
    fresh_store: Store, routing: RoutingActivities
) -> None:
    draft = a_draft(2, quantity=4, allow_partial=False)
    first, second = skus_of(draft)
    await stocked(fresh_store, north={first: 9}, south={second: 9})
    order_id = await accepted(fresh_store, draft)
    made = await asked(routing, draft)
    assert made.plan is not None and len(made.plan.shipments) == 2
    await under_policy(fresh_store, {"routing": {"max_parcels": 1}})
    kept = (KeptShipment(plan_id=made.plan.plan_id, number=1),)
    answer = await asked(routing, draft, 2, kept=kept, first_number=3, outstanding=gbp(100))
    assert answer.plan is None
    assert answer.unfillable[0].startswith("it would take more than 1 parcels with the 1 that go on already")
    await under_policy(fresh_store, {"routing": {"max_parcels": 2}})
    answer = await asked(routing, draft, 3, kept=kept, first_number=3, outstanding=gbp(100))
    assert answer.plan is not None and order_id in answer.plan.plan_id


async def test_somebody_else_s_amendment_is_neither_taken_for_a_substitute_nor_outdated_by_one(
    fresh_store: Store, routing: RoutingActivities
) -> None:
    draft = await short_of_red(fresh_store, allow_partial=False)
    theirs = AmendmentRequest(
        request_id="substitute:1",
        actor="ana",
        reason="fewer",
        lines=(LineChange(line_id=draft.lines[1].line_id, quantity=1),),
    )
    async with fresh_store.transaction() as session:
        assert isinstance(await amendments.propose(session, order_id_of(draft), theirs), amendments.Proposal)
    assert (await asked(routing, draft)).substitution is None
    waiting = await asked(routing, draft, 2)
    assert waiting.substitution is None
    assert "somebody else has asked for a change of the order" in waiting.unfillable


async def test_no_more_of_a_substitute_is_counted_on_than_the_channel_may_have(
    fresh_store: Store, routing: RoutingActivities
) -> None:
    draft = await short_of_red(fresh_store, allow_partial=False)
    first, _ = skus_of(draft)
    rule = AllocationRule(
        rule_id="few", kind=AllocationKind.LIMIT, sku=f"{first}-pink", channels=(draft.channel,), units=2
    )
    async with fresh_store.transaction() as session:
        await allocate(session, AllocationPolicy(document_id="few", actor="jo", rules=(rule,)))
    answer = await asked(routing, draft)
    assert answer.substitution is None
    assert any("no substitutes that are there" in reason for reason in answer.unfillable)


# --- what is new ---
async def test_a_plan_says_what_is_new_and_is_seen_by_a_person_where_the_policy_says_so(
    fresh_store: Store, routing: RoutingActivities
) -> None:
    draft = a_draft(2, quantity=1)
    first, second = skus_of(draft)
    await stocked(fresh_store, north={first: 99, second: 99})
    await under_policy(
        fresh_store, {"cold_start": {"sku_orders": 2, "channel_orders": 3, "review": ["skus"]}}
    )
    seen = []
    for number in range(4):
        again = a_draft(2, quantity=1, channel=draft.channel)
        lines = tuple(
            line.model_copy(update={"sku": sku})
            for line, sku in zip(again.lines, (first, second), strict=True)
        )
        again = again.model_copy(update={"lines": lines if number else lines[:1]})
        await accepted(fresh_store, again)
        answer = await asked(routing, again)
        assert answer.plan is not None
        async with fresh_store.transaction() as session:
            made = await decision(session, order_id_of(again))
        assert made.problem is not None and differences(made.plan, made.problem) == []
        seen.append([reason for reason in made.plan.reasons if reason.startswith("new ")])
        limits = answer.plan.limits
        assert (limits is None) == (number == 3)
        if limits is not None:
            assert limits.newcomers == tuple(reason for reason in seen[-1] if "SKU" in reason)
    node = "new node north (0): fewer than 20 parcels delivered so far"
    channel = f"new channel {draft.channel} (%s): fewer than 3 orders so far"
    assert seen == [
        [node, f"new SKU {first} (0): fewer than 2 orders so far", channel % 0],
        [node, f"new SKUs {first} (1), {second} (0): fewer than 2 orders so far", channel % 1],
        [node, f"new SKU {second} (1): fewer than 2 orders so far", channel % 2],
        [node],
    ]


# --- priorities ---
async def test_the_policy_says_who_is_served_first_when_goods_arrive(fresh_store: Store) -> None:
    plain, gold, business = (
        a_draft(),
        a_draft(customer_tier="gold"),
        a_draft(customer_tier="gold"),
    )
    (sku,) = skus_of(plain)
    await stocked(fresh_store, north={sku: 0})
    drafts = [
        draft.model_copy(update={"lines": (draft.lines[0].model_copy(update={"sku": sku}),)})
        for draft in (plain, gold, business)
    ]
    waiting = [await accepted(fresh_store, draft) for draft in drafts]
    for order_id in waiting:
        await write_down(fresh_store, order_id, carrying(order_id, OrderState.BACKORDERED, 2))
    async with fresh_store.transaction() as session:
        await session.execute(
            text("UPDATE orders SET customer_type = 'b2b' WHERE order_id = :order"), {"order": waiting[2]}
        )
    await arrive(fresh_store, sku, 5)

    async def order_of() -> list[str]:
        async with fresh_store.transaction() as session:
            return [arrival.order_id for arrival in await arrivals(session, 10)]

    assert await order_of() == waiting
    await under_policy(
        fresh_store,
        {
            "priorities": [
                {"rule_id": "business", "customer_types": ["b2b"], "rank": 2},
                {"rule_id": "gold", "tiers": ["gold"], "rank": 1},
            ]
        },
    )
    assert await order_of() == [waiting[1], waiting[2], waiting[0]]
