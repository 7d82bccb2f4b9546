"""The route of an order over HTTP: why it goes this way, what if it did not, and whether it would again."""

import asyncio
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Query, Request

from activities.store import plans
from activities.store.plans import Decision
from apps.api import examples
from apps.api.bodies import body_of, read_message
from apps.api.orders import AnOrder
from apps.api.parts import Parts, PartsOf
from apps.api.problems import answers
from apps.api.queries import only_known_parameters
from models.errors import Refused
from models.money import Money
from models.plan import Plan, Unfillable
from models.routing import RouteAnswer, RouteExplanation, RouteQuestion, RouteReplay
from policies.routing.problem import RoutingProblem
from policies.routing.terms import terms_of

router = APIRouter(prefix="/v1/orders", tags=["routing"], dependencies=[Depends(only_known_parameters)])

_PlanId = Annotated[
    str | None, Query(alias="plan", max_length=128, description="One of the order's plans; else the last")
]


@router.get(
    "/{order_id}/route",
    summary="Why an order goes this way",
    responses=answers(401, 404, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.ROUTE}}}},
)
async def explain_route(order_id: AnOrder, parts: PartsOf, plan_id: _PlanId = None) -> RouteExplanation:
    """The plan with what it costs, term by term, how far it is proven, and what it was preferred to."""
    made = await _decision(parts, order_id, plan_id)
    return RouteExplanation(
        order_id=order_id,
        plan_id=made.plan_id,
        attempt=made.attempt,
        made_at=made.made_at,
        pinned=made.problem is not None,
        terms=terms_of(made.plan),
        plan=made.plan,
    )


@router.post(
    "/{order_id}/route/what-if",
    summary="What if an order went another way",
    openapi_extra=body_of(RouteQuestion, {"from another node": examples.ROUTE_QUESTION}),
    responses=answers(401, 404, 409, 413, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.ROUTE_ANSWER}}}},
)
async def ask_what_if(order_id: AnOrder, request: Request, parts: PartsOf) -> RouteAnswer:
    """The plan that would have been made of what was known then, and what it costs more. Nothing acts on it."""
    question = await read_message(request, RouteQuestion, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(order_id=order_id)
    made = await _decision(parts, order_id, question.plan_id)
    answer = await asyncio.to_thread(_what_if, _pinned(made), question)
    if not isinstance(answer, Plan):
        return RouteAnswer(
            order_id=order_id, plan_id=made.plan_id, reasons=answer.reasons, missing=answer.missing
        )
    return RouteAnswer(
        order_id=order_id,
        plan_id=made.plan_id,
        plan=answer,
        difference=Money(minor=answer.cost.minor - made.plan.cost.minor, currency=answer.cost.currency),
        terms=terms_of(answer),
        reasons=answer.reasons,
    )


@router.post(
    "/{order_id}/route/replay",
    summary="Decide a route again",
    responses=answers(401, 404, 409, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.ROUTE_REPLAY}}}},
)
async def replay_route(order_id: AnOrder, parts: PartsOf, plan_id: _PlanId = None) -> RouteReplay:
    """Let the router of the plan decide again of all that it looked at: it must decide the same. Nothing acts on it."""
    made = await _decision(parts, order_id, plan_id)
    found = await asyncio.to_thread(_differences, made.plan, _pinned(made))
    return RouteReplay(
        order_id=order_id,
        plan_id=made.plan_id,
        router=made.plan.router,
        identical=not found,
        differences=tuple(found),
    )


# The optimiser's libraries are large, and the API rarely needs them: they are loaded when somebody asks.
def _what_if(problem: RoutingProblem, question: RouteQuestion) -> Plan | Unfillable:
    from policies.routing.questions import what_if  # noqa: PLC0415

    return what_if(problem, question)


def _differences(plan: Plan, problem: RoutingProblem) -> list[str]:
    from policies.routing.questions import differences  # noqa: PLC0415

    return differences(plan, problem)


async def _decision(parts: Parts, order_id: str, plan_id: str | None) -> Decision:
    async with parts.store.transaction() as session:
        return await plans.decision(session, order_id, plan_id)


def _pinned(made: Decision) -> RoutingProblem:
    if made.problem is None:
        raise Refused(f"plan {made.plan_id} was made before it was kept what a router looked at")
    return made.problem
