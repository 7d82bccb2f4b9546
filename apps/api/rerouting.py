"""What keeps orders from going as they are planned, over HTTP: notices, and plans that a person sets."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

import structlog
from fastapi import APIRouter, Depends, Path, Query, Request

from activities.store import rerouting
from activities.store.problems import problem_of_rest
from apps.api import examples
from apps.api.bodies import body_of, read_message
from apps.api.contracts import NoticeLiftRequest, NoticeRequest, SetPlanRequest
from apps.api.orders import AnOrder, known_order
from apps.api.parts import Parts, PartsOf
from apps.api.problems import answers
from apps.api.queries import only_known_parameters
from models.errors import NotReachable, Refused
from models.identifiers import order_workflow_id
from models.money import Money
from models.plan import Plan, Unfillable
from models.rerouting import Notice, SetPlan, SetPlanAnswer
from models.states import ORDER_TERMINAL
from policies.routing.problem import RoutingProblem
from policies.routing.rerouting import as_set
from policies.routing.terms import terms_of

_AT_ONCE = 200

router = APIRouter(prefix="/v1", tags=["routing"], dependencies=[Depends(only_known_parameters)])


@router.post(
    "/routing/notices",
    summary="Post a notice",
    openapi_extra=body_of(
        NoticeRequest,
        {"a node is closed": examples.NOTICE_POST, "snow in the north": examples.NOTICE_OF_REGION},
    ),
    responses=answers(401, 404, 409, 413, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.NOTICE}}}},
)
async def post_notice(request: Request, parts: PartsOf) -> Notice:
    """A node is closed, a carrier is out, or a region cannot be reached: nothing is planned with it while this holds.

    Orders that are planned with it and have not left are planned anew within moments; what cannot be sent otherwise
    waits, as back-orders do. With the same `request_id` a repeat changes nothing.
    """
    wish = await read_message(request, NoticeRequest, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(actor=wish.actor)
    async with parts.store.transaction() as session:
        posted = await rerouting.post(session, wish)
    # Of a small shop all orders are told at once; of a large one the sweeper tells the others.
    async with parts.store.transaction() as session:
        await rerouting.spread(session, _AT_ONCE)
    async with parts.store.transaction() as session:
        return await rerouting.notice(session, posted.notice_id)


@router.get(
    "/routing/notices",
    summary="List the notices",
    responses=answers(401, 422, 503)
    | {200: {"content": {"application/json": {"example": [examples.NOTICE]}}}},
)
async def list_notices(
    parts: PartsOf,
    every: Annotated[bool, Query(description="Also those that are over; the last 200")] = False,
) -> list[Notice]:
    """The notices that hold now, in the order they came; or all of the last ones, the last first."""
    async with parts.store.transaction() as session:
        return list(await (rerouting.notices(session) if every else rerouting.in_force(session)))


@router.post(
    "/routing/notices/{notice_id}/lift",
    summary="Lift a notice",
    openapi_extra=body_of(NoticeLiftRequest, {"it is over": examples.NOTICE_LIFT}),
    responses=answers(401, 404, 413, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.LIFTED_NOTICE}}}},
)
async def lift_notice(
    notice_id: Annotated[int, Path(ge=1, le=2**63 - 1, description="The notice", examples=[1])],
    request: Request,
    parts: PartsOf,
) -> Notice:
    """It is over before its time. Orders that wait for goods look again within moments."""
    word = await read_message(request, NoticeLiftRequest, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(actor=word.actor)
    async with parts.store.transaction() as session:
        return await rerouting.lift(session, notice_id, word)


@router.post(
    "/orders/{order_id}/route",
    summary="Set an order's plan by hand",
    openapi_extra=body_of(SetPlanRequest, {"all from one node": examples.SET_PLAN}),
    responses=answers(401, 404, 409, 413, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.SET_PLAN_ANSWER}}}},
)
async def set_plan(
    order_id: AnOrder,
    request: Request,
    parts: PartsOf,
    preview: Annotated[bool, Query(description="Only answer what it would cost; nothing is done")] = False,
) -> SetPlanAnswer:
    """Where what is not packed yet is to come from. It is costed like any other plan, and carries who has set it.

    The policy's rules of nodes, parcels and review do not hold for it; stock, weights and days do. The order's run
    calls off what is not packed, and reserves it. With the same `request_id` a repeat changes nothing.
    """
    wish = await read_message(request, SetPlanRequest, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(actor=wish.actor, order_id=order_id)
    order = await known_order(parts, order_id)
    carriers = await parts.carriers.model()
    async with parts.store.transaction() as session:
        before = await rerouting.known_set(session, order_id, wish)
    if before is not None:
        return SetPlanAnswer(
            order_id=order_id, set_plan_id=before, reasons=("it was handed to the order before",)
        )
    if order.state in ORDER_TERMINAL:
        raise Refused(f"the order is {order.state}: nothing of it is planned any more")
    async with parts.store.transaction() as session:
        problem = await problem_of_rest(session, order_id, datetime.now(UTC), carriers)
    found = await asyncio.to_thread(_both, problem, wish)
    if not isinstance(found, _Both):
        return SetPlanAnswer(order_id=order_id, reasons=found)
    plan, own = found
    answer = SetPlanAnswer(
        order_id=order_id,
        plan=plan.model_copy(update={"set_by": wish.actor, "policy": problem.policy}),
        difference=None
        if isinstance(own, Unfillable)
        else Money(minor=plan.cost.minor - own.cost.minor, currency=plan.cost.currency),
        terms=terms_of(plan),
        reasons=plan.reasons,
    )
    if preview:
        return answer
    return answer.model_copy(update={"set_plan_id": await _hand_over(parts, order_id, wish)})


async def _hand_over(parts: Parts, order_id: str, wish: SetPlan) -> str:
    """Keep the wish and tell the order's run of it; the sweeper does, should Temporal not answer."""
    async with parts.store.transaction() as session:
        kept = await rerouting.keep_set(session, order_id, wish)
        waiting = await rerouting.untold(session, _AT_ONCE, order_id)
    with suppress(NotReachable):
        for one in waiting:
            await parts.runs.tell(order_workflow_id(order_id), "plan_again", one.message)
            async with parts.store.transaction() as session:
                await rerouting.told_of(session, [one.plan_again_id])
    return kept


class _Both(NamedTuple):
    """The plan as it is set, and the router's own."""

    plan: Plan
    own: Plan | Unfillable


# The optimiser's libraries are large, and the API rarely needs them: they are loaded when somebody asks.
def _both(problem: RoutingProblem, wish: SetPlan) -> _Both | tuple[str, ...]:
    """Why the plan cannot be as it is set, if it cannot."""
    restricted = as_set(problem, wish)
    if not isinstance(restricted, RoutingProblem):
        return restricted
    from policies.routing.exact import ExactRouter  # noqa: PLC0415

    router = ExactRouter()
    plan = router.route(restricted)
    return _Both(plan, router.route(problem)) if isinstance(plan, Plan) else plan.reasons
