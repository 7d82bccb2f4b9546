"""Orders that are planned anew: somebody refuses them, a notice is posted, or a person sets the plan."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models import effects as e
from models.messages import (
    Avoided,
    CancelOrder,
    CarrierEventKind,
    MissingUnits,
    PlanAgain,
    Refusal,
    StockLost,
    WmsEvent,
    WmsEventKind,
)
from models.plan import PlanSummary
from models.review import Verdict
from models.states import OrderState
from tests.workflows.engine import Case, eventually
from tests.workflows.scripted import pounds, some_plan
from tests.workflows.test_amend import asked, memory
from tests.workflows.test_order import decision


def planned(case: Case, *, reroutes: int = 3, shipments: int = 1, **changes: Any) -> None:
    """Plans may be made anew so often; the first one has so many shipments, each later one has one."""

    def plan(request: e.RouteOrder) -> e.RouteAnswer:
        made: PlanSummary = some_plan(
            shipments if request.first_number == 1 else 1,
            first=request.first_number,
            total=request.outstanding.minor if request.outstanding else 5_000,
        )
        return e.RouteAnswer(plan=made.model_copy(update={"reroutes": reroutes, **changes}))

    case.script.answers["route_order"] = plan


def refused_first(refusal: str | None, times: int = 1) -> Callable[[e.RequestPick], e.PickRequested]:
    """The first picks that are asked for are refused, later ones are taken."""
    seen: list[str] = []

    def answer(request: e.RequestPick) -> e.PickRequested:
        if request.key not in seen:
            seen.append(request.key)
        if seen.index(request.key) < times:
            return e.PickRequested(accepted=False, reason="no hands today", refusal=refusal)  # type: ignore[arg-type] # as a warehouse would say it
        return e.PickRequested(accepted=True, pick_id=f"pick-{request.number}")

    return answer


def event(kind: WmsEventKind, number: int = 1, **says: Any) -> dict[str, Any]:
    return WmsEvent(
        event_id=f"{kind}-{number}",
        kind=kind,
        occurred_at=datetime.now(UTC),
        pick_id=f"pick-{number}",
        **says,
    ).model_dump(mode="json")


async def routed(case: Case) -> list[e.RouteOrder]:
    return asked(case, "route_order")


@pytest.mark.fingerprint
async def test_a_pick_that_is_refused_for_want_of_hands_is_planned_without_the_node(case: Case) -> None:
    planned(case)
    case.script.answers["request_pick"] = refused_first("no_capacity")
    await case.start()
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED
    first, second = await routed(case)
    assert not first.avoid
    [avoided] = second.avoid
    assert (avoided.node, avoided.carrier, avoided.why) == ("node-1", None, "no_capacity")
    assert avoided.until is not None and timedelta(hours=23) < avoided.until - second.business_now
    assert not case.script.reviews, "nobody had to be asked"
    assert [c.amount for c in asked(case, "capture_payment")] == [pounds(5_000)]
    assert len(asked(case, "reserve_stock")) == 2 and not asked(case, "release_reservation")
    assert "shipment_cancelled" not in case.told()


async def test_a_node_that_can_never_handle_the_goods_is_left_out_for_good(case: Case) -> None:
    planned(case)
    case.script.answers["request_pick"] = refused_first("cannot_handle")
    await case.start()
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert [one.until for one in (await routed(case))[1].avoid] == [None]


@pytest.mark.parametrize("refusal", [None, "a reason that nobody here knows"])
async def test_a_refusal_that_says_nothing_is_put_before_a_person(case: Case, refusal: str | None) -> None:
    planned(case)
    case.script.answers["request_pick"] = refused_first(refusal)
    await case.start()
    await case.shipment_exists(1)
    task = await case.review(1)
    assert task.why_flagged[0].code == "pick_refused"
    assert len(await routed(case)) == 1
    await decide_shipment(case, Verdict.APPROVE, task.task_id)
    await case.delivered(1)
    assert (await case.order.result()).state is OrderState.CLOSED


async def decide_shipment(case: Case, verdict: Verdict, task_id: str, number: int = 1) -> None:
    await case.shipment(number).execute_update("decide_review", decision(task_id, verdict))


async def test_it_is_bounded_and_then_a_person_decides(case: Case) -> None:
    planned(case, reroutes=2)
    case.script.answers["request_pick"] = refused_first("no_capacity", times=3)
    await case.start()
    await case.shipment_exists(3)
    task = await case.review(3)
    assert task.why_flagged[0].code == "pick_refused"
    assert len(await routed(case)) == 3
    assert [one.node for one in (await routed(case))[2].avoid] == ["node-1", "node-2"]
    await decide_shipment(case, Verdict.APPROVE, task.task_id, 3)
    await case.delivered(3)
    assert (await case.order.result()).state is OrderState.CLOSED


async def test_where_the_policy_wants_a_person_asked_one_is_at_once(case: Case) -> None:
    planned(case, reroutes=0)
    case.script.answers["request_pick"] = refused_first("no_capacity")
    await case.start()
    await case.shipment_exists(1)
    assert (await case.review(1)).why_flagged[0].code == "pick_refused"
    assert len(await routed(case)) == 1


@pytest.mark.fingerprint
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (WmsEventKind.REFUSED, {"refusal": "closed"}),
        (WmsEventKind.SHORT, {"missing": (MissingUnits(sku="A", quantity=1),)}),
    ],
)
async def test_what_the_warehouse_reports_later_is_planned_anew_as_well(
    case: Case, kind: WmsEventKind, says: dict[str, Any]
) -> None:
    planned(case, shipments=2)
    await case.start()
    await case.until_shipment("pick_requested", 1)
    await case.picked(2)
    await case.until_shipment("labelled", 2)
    await case.shipment(1).signal("wms_event", event(kind, 1, **says))
    await case.delivered(2)
    await case.delivered(3)
    assert (await case.order.result()).state is OrderState.CLOSED
    first, second = await routed(case)
    assert [one.number for one in second.kept] == [2], "what is packed goes on"
    assert second.outstanding == pounds(2_500)
    assert [one.node for one in second.avoid] == ["node-1"]
    assert [c.amount for c in asked(case, "capture_payment")] == [pounds(2_500), pounds(2_500)]
    assert not case.script.reviews
    assert first.first_number == 1 and second.first_number == 3


async def test_a_pick_that_is_overdue_is_planned_from_elsewhere(case: Case) -> None:
    planned(case)
    await case.start()
    await case.until_shipment("pick_requested")
    await case.skip(timedelta(days=2, hours=1), number=1)
    await case.until_shipment("cancelled", 1)
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert [one.why for one in (await routed(case))[1].avoid] == ["overdue"]
    assert len(asked(case, "cancel_pick")) == 1, "it is not picked twice"
    assert not case.script.reviews


@pytest.mark.fingerprint
async def test_a_label_that_the_carrier_does_not_sell_is_planned_by_another_service(case: Case) -> None:
    planned(case)
    case.script.answers["buy_label"] = lambda r: (
        e.Label(accepted=False, reason="no_service", refusal=Refusal.NOT_SERVED)
        if r.number == 1
        else e.Label(accepted=True, label_id="l2", tracking=f"T{r.number}", cost=pounds(400))
    )
    await case.start()
    await case.picked(1)
    await case.until_shipment("cancelled", 1)
    await case.picked(2)
    await case.until_shipment("labelled", 2)
    [avoided] = (await routed(case))[1].avoid
    assert (avoided.node, avoided.carrier, avoided.service, avoided.until) == (
        None,
        "post",
        "standard",
        None,
    )
    assert len(asked(case, "cancel_pick")) == 1 and not case.script.reviews


async def test_an_order_that_does_not_answer_leaves_it_to_a_person(case: Case) -> None:
    """Its run was ended from outside: nobody plans anew, so nobody may wait for that."""
    planned(case)
    await case.start()
    await case.until_shipment("pick_requested")
    await case.order.terminate()
    await case.shipment(1).signal(
        "wms_event", event(WmsEventKind.REFUSED, refusal="closed", detail="shut for the day")
    )
    await case.shipment_exists(1)
    task = await case.review(1)
    assert (task.why_flagged[0].code, task.why_flagged[0].reason) == ("pick_refused", "shut for the day")


async def test_one_that_is_called_off_meanwhile_is_not_planned_anew(case: Case) -> None:
    planned(case)
    holding = case.script.hold("cancel_pick")
    await case.start()
    await case.until_shipment("pick_requested")
    await case.shipment(1).signal("wms_event", event(WmsEventKind.REFUSED, refusal="closed"))
    await case.script.reached["cancel_pick"].wait()
    await case.order.signal(
        "cancel_order", CancelOrder(request_id="c", actor="ana", reason="enough").model_dump(mode="json")
    )
    holding.set()
    assert (await case.order.result()).state is OrderState.CANCELLED
    assert len(await routed(case)) == 1 and not asked(case, "capture_payment")


# --- notices, and plans that people set ---
async def plan_again(case: Case, event_id: str = "notice-1", **says: Any) -> None:
    wish = PlanAgain(event_id=event_id, actor="dana", reason="gb-north is closed: a flood", **says)
    await case.order.signal("plan_again", wish.model_dump(mode="json"))


@pytest.mark.fingerprint
async def test_a_notice_has_what_is_packed_unpacked_and_planned_anew_once(case: Case) -> None:
    planned(case)
    await case.start()
    await case.picked(1)
    await case.until_shipment("labelled", 1)
    await plan_again(case, shipments=(1,))
    await plan_again(case, shipments=(1,))
    await case.until_shipment("cancelled", 1)
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert len(await routed(case)) == 2
    assert len(asked(case, "void_label")) == len(asked(case, "cancel_pick")) == 1
    assert (await memory(case)).reroutes == 0, "what a person has said is not counted"


async def test_what_is_only_late_goes_on_once_it_is_packed(case: Case) -> None:
    planned(case)
    await case.start()
    await case.picked(1)
    await case.until_shipment("labelled", 1)
    await plan_again(case)
    await case.scanned(CarrierEventKind.COLLECTED)
    await case.scanned(CarrierEventKind.DELIVERED)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert len(await routed(case)) == 1 and not asked(case, "void_label")


@pytest.mark.fingerprint
async def test_what_went_on_once_is_planned_anew_when_it_cannot_go_after_all(case: Case) -> None:
    """It was packed when parcels were to be late, and goes on; then its carrier is out."""
    planned(case)
    await case.start()
    await case.picked(1)
    await case.until_shipment("labelled", 1)
    await plan_again(case, "late")

    async def goes_on() -> bool:
        return not (await memory(case)).again

    await eventually(goes_on, "the order to have heard that it goes on")
    await plan_again(case, "out", shipments=(1,))
    await case.until_shipment("cancelled", 1)
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert len(await routed(case)) == 2 and "order_cancelled" not in case.told()


async def test_what_is_lost_while_another_parcel_is_unpacked_is_planned_anew_as_well(case: Case) -> None:
    planned(case, shipments=2)
    unpacking = case.script.hold("cancel_pick")
    await case.start()
    for number in (1, 2):
        await case.picked(number)
        await case.until_shipment("labelled", number)
    await plan_again(case, shipments=(1,))
    await case.script.reached["cancel_pick"].wait()
    loss = StockLost(event_id="l1", actor="counter", reason="counted less", shipments=(2,))
    await case.order.signal("stock_lost", loss)
    unpacking.set()
    await case.until_shipment("cancelled", 1)
    await case.until_shipment("cancelled", 2)
    await case.delivered(3)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert [c.amount for c in asked(case, "capture_payment")] == [pounds(5_000)]


async def test_a_notice_is_matched_with_what_is_planned_when_it_is_heard(case: Case) -> None:
    planned(case, shipments=2)
    await case.start()
    for number in (1, 2):
        await case.picked(number)
        await case.until_shipment("labelled", number)
    await plan_again(case, "elsewhere", about=Avoided(node="node-9"))
    await plan_again(case, "here", about=Avoided(node="node-2"))
    await case.until_shipment("cancelled", 2)
    await case.delivered(1)
    await case.delivered(3)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert "plan.stays" in case.kinds()
    assert [one.number for one in (await routed(case))[1].kept] == [1]


async def test_several_refusals_at_once_are_one_plan(case: Case) -> None:
    planned(case, shipments=2, reroutes=1)
    case.script.answers["request_pick"] = refused_first("no_capacity", times=2)
    await case.start()
    await case.delivered(3)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert len(await routed(case)) == 2 and not case.script.reviews
    assert {one.node for one in (await routed(case))[1].avoid} <= {"node-1", "node-2"}


async def test_a_notice_comes_too_late_for_what_has_left(case: Case) -> None:
    planned(case)
    await case.start()
    await case.handed_over(1)
    await case.until(OrderState.SHIPPED)
    await plan_again(case, shipments=(1,))
    await case.scanned(CarrierEventKind.DELIVERED)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert "plan.stays" in case.kinds() and len(await routed(case)) == 1


async def test_an_order_at_gate_b_is_planned_anew_and_its_question_withdrawn(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(
        plan=some_plan(cost=9_000 if r.attempt == 1 else 600)
    )
    await case.start()
    task = await case.review()
    await plan_again(case)
    await case.delivered()
    assert (await case.order.result()).state is OrderState.CLOSED
    assert case.script.reviews[task.task_id].state == "withdrawn"


async def test_a_dearer_plan_is_put_before_a_person_though_the_first_one_was_approved(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(
        plan=some_plan(cost=9_000, first=r.first_number)
    )
    await case.start()
    first = await case.review()
    await case.order.execute_update("decide_review", decision(first.task_id, Verdict.APPROVE))
    await case.until_shipment("pick_requested", 1)
    await plan_again(case, shipments=(1,))
    second = await case.review()
    assert second.task_id != first.task_id and second.why_flagged[0].code == "thin_margin"


@pytest.mark.fingerprint
async def test_a_plan_that_a_person_has_set_is_asked_for_once_and_not_reviewed(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(
        plan=some_plan(cost=9_000 if r.set_plan else 600, first=r.first_number).model_copy(
            update={"set_by": "dana" if r.set_plan else None}
        )
    )
    await case.start()
    await case.until_shipment("pick_requested", 1)
    await plan_again(case, "set-1", set_plan="set-1")
    await case.until_shipment("pick_requested", 2)
    assert [one.set_plan for one in await routed(case)] == [None, "set-1"]
    assert not case.script.reviews, "dear as it is: a person has seen it"
    assert (await memory(case)).set_plan is None
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED


async def test_a_notice_that_comes_while_the_order_is_planned_has_it_planned_again(case: Case) -> None:
    planned(case)
    planning = case.script.hold("route_order")
    await case.start()
    await case.script.reached["route_order"].wait()
    await plan_again(case)
    planning.set()
    await case.delivered(1)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert len(await routed(case)) == len(asked(case, "reserve_stock")) == 2
    assert [one.plan_id for one in asked(case, "request_pick")] == ["plan-1"], "only what was planned last"


async def test_a_plan_that_is_set_before_anything_is_planned_is_the_first_one(case: Case) -> None:
    planned(case)
    asking = case.script.hold("assess_order")
    await case.start()
    await case.script.reached["assess_order"].wait()
    await plan_again(case, "set-1", set_plan="set-1")
    asking.set()
    await case.delivered(1)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert [one.set_plan for one in await routed(case)] == ["set-1"]


def back_ordered_until(case: Case, attempt: int) -> None:
    case.script.answers["route_order"] = lambda r: (
        e.RouteAnswer(plan=some_plan()) if r.attempt >= attempt else e.RouteAnswer(unfillable=("closed",))
    )


async def test_an_order_that_waits_looks_again_once_a_notice_is_lifted(case: Case) -> None:
    back_ordered_until(case, 2)
    await case.start()
    await case.until(OrderState.BACKORDERED)
    await plan_again(case, "notice-1-lifted", waiting=True)
    await case.delivered()
    assert (await case.order.result()).state is OrderState.CLOSED
    assert len(await routed(case)) == 2


async def test_an_order_that_does_not_wait_is_left_alone_by_it(case: Case) -> None:
    planned(case)
    await case.start()
    await case.until_shipment("pick_requested")
    await plan_again(case, "notice-1-lifted", waiting=True)
    await case.delivered()
    assert (await case.order.result()).state is OrderState.CLOSED
    assert len(await routed(case)) == 1 and "plan.stays" in case.kinds()


async def test_a_plan_that_is_set_is_kept_to_when_a_notice_comes_before_it_was_released(case: Case) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(
        plan=some_plan(first=r.first_number).model_copy(update={"set_by": "dana" if r.set_plan else None})
    )
    await case.start()
    await case.until_shipment("pick_requested", 1)
    reserving = case.script.hold("reserve_stock")
    case.script.reached["reserve_stock"].clear()
    await plan_again(case, "set-1", set_plan="set-1")
    await case.script.reached["reserve_stock"].wait()
    await plan_again(case, "notice-2")
    reserving.set()
    await case.delivered(2)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert [one.set_plan for one in await routed(case)] == [None, "set-1", "set-1"]


async def test_messages_that_make_no_sense_are_noted_and_nothing_else(case: Case) -> None:
    planned(case)
    await case.start()
    await case.until_shipment("pick_requested", 1)
    for payload in (None, 7, {"event_id": "x"}, {"event_id": "x", "actor": "a", "reason": ""}):
        await case.order.signal("plan_again", payload)
    await case.delivered(1)
    assert (await case.order.result()).state is OrderState.CLOSED
    assert case.kinds().count("signal.refused") == 4 and len(await routed(case)) == 1


def test_an_avoided_service_reads_back_as_it_was_sent() -> None:
    sent = Avoided(carrier="post", service="standard", why=Refusal.NOT_SERVED)
    assert Avoided.model_validate_json(sent.model_dump_json()) == sent
