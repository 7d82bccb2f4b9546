"""``POST /v1/promise``: what a cart would be shipped by, before there is an order."""

import asyncio
from datetime import UTC, datetime
from functools import cache
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Header, Path, Request

from activities.store import problems, promises
from activities.store.problems import problem_of_cart
from apps.api import examples
from apps.api.bodies import body_of, parse_message, read_body
from apps.api.contracts import PromiseAsked
from apps.api.orders import BUSINESS_START_HEADER, possible
from apps.api.parts import PartsOf
from apps.api.problems import answers
from apps.api.queries import only_known_parameters
from models.base import SentMoment
from models.errors import NoNetwork
from models.plan import Plan, Unfillable
from models.promise import CartLine, PromiseAnswer, PromiseView
from policies.routing.problem import RoutingProblem
from policies.routing.router import Router

router = APIRouter(prefix="/v1/promise", tags=["promises"], dependencies=[Depends(only_known_parameters)])

MAX_CART_BYTES = 256 * 1024
# A customer waits at the checkout: the best plan that is found in so long has to do.
_BUDGET_SECONDS = 0.05


@router.post(
    "",
    summary="Promise a delivery",
    openapi_extra=body_of(PromiseAsked, {"two lines to Leeds": examples.CART}),
    responses=answers(401, 409, 413, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.PROMISE}}}},
)
async def make_promise(
    request: Request,
    parts: PartsOf,
    business_start: Annotated[
        SentMoment,
        Header(
            alias=BUSINESS_START_HEADER,
            description="When the order would be placed, for replaying old orders; default is now",
        ),
    ] = None,  # type: ignore[assignment] # may be left out, but is no null when it is there
) -> PromiseAnswer:
    """When the goods of a cart would be there, from where, and what that costs. Nothing is held for it.

    An order that names the `promise_id` in time, with the same goods to the same country, is shipped by this very plan;
    if its stock is gone by then, or the order is another one, it is planned anew, and its plan says why. Where nothing
    can be promised, because goods are missing or there is no network of nodes yet, there is no `promise_id`, and
    `reasons` and `missing` say why.
    """
    raw = await read_body(request, MAX_CART_BYTES, parts.settings.api_body_seconds)
    asked = parse_message(raw, PromiseAsked)
    structlog.contextvars.bind_contextvars(channel=asked.channel)
    now = possible(business_start) or datetime.now(UTC)
    carriers = await parts.carriers.model()
    async with parts.store.transaction() as session:
        if (before := await promises.known(session, asked)) is not None:
            return before
        try:
            problem = await problem_of_cart(session, asked, now, carriers)
        except NoNetwork as nothing:
            return PromiseAnswer(reasons=(nothing.message,), missing=asked.lines)
    answer = await asyncio.to_thread(_route, _in_time(problem))
    if isinstance(answer, Unfillable):
        return PromiseAnswer(
            reasons=answer.reasons,
            missing=tuple(CartLine(sku=line.sku, quantity=line.quantity) for line in answer.missing),
            policy=problem.policy,
        )
    async with parts.store.transaction() as session:
        planned = answer.model_copy(update={"policy": problem.policy})
        return await promises.keep(session, asked, planned, _in_time(problem))


@router.get(
    "/{promise_id}",
    summary="Look at a promise",
    responses=answers(401, 404, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.PROMISE_VIEW}}}},
)
async def show_promise(
    promise_id: Annotated[
        str, Path(description="As `POST /v1/promise` gave it", examples=[examples.PROMISE["promise_id"]])
    ],
    parts: PartsOf,
) -> PromiseView:
    """What was promised, which order took it, what that one is promised now, and when it was there.

    One that no order took is kept for two days after its time.
    """
    async with parts.store.transaction() as session:
        return await promises.view(session, promise_id.replace("\x00", "\ufffd"))


def warm_up() -> None:
    """Load the optimiser and the public holidays: the first promise after a start would wait for them, for seconds."""
    problems.warm_up()
    _router()


# Its libraries are large: an API that is never asked for a promise does without.
@cache
def _router() -> Router:
    from policies.routing import optimiser  # noqa: PLC0415
    from policies.routing.exact import ExactRouter  # noqa: PLC0415

    optimiser.warm_up()
    return ExactRouter()


def _route(problem: RoutingProblem) -> Plan | Unfillable:
    return _router().route(problem)


def _in_time(problem: RoutingProblem) -> RoutingProblem:
    weights = problem.weights
    assert weights is not None  # noqa: S101 - the policy's are always there
    seconds = min(weights.budget_seconds, _BUDGET_SECONDS)
    return problem.model_copy(update={"weights": weights.model_copy(update={"budget_seconds": seconds})})
