"""Whether this process lives, whether it can work, and what it counts."""

import asyncio
from collections.abc import Awaitable

from fastapi import APIRouter, Response

from activities.store.measures import measures
from apps.api.contracts import Health, Readiness
from apps.api.metrics import CONTENT_TYPE
from apps.api.parts import PartsOf
from apps.api.problems import answers
from models.errors import OrderwrightError

# Query parameters are let pass: some probes and caches add one of their own.
router = APIRouter(tags=["operations"])

_READY = {"ready": True, "parts": {"database": "ok", "temporal": "ok"}}
_NOT_READY = {
    "ready": False,
    "parts": {"database": "ok", "temporal": "Temporal does not answer; try again in a few seconds"},
}


@router.get(
    "/healthz",
    summary="Is the process up?",
    openapi_extra={"security": []},
    responses={200: {"content": {"application/json": {"example": {"status": "ok"}}}}},
)
async def healthz() -> Health:
    """Answers as long as the process lives. Needs no token."""
    return Health()


@router.get(
    "/readyz",
    summary="Can it work?",
    openapi_extra={"security": []},
    responses={
        200: {"content": {"application/json": {"example": _READY}}},
        503: {
            "model": Readiness,
            "description": "A part that is needed does not answer",
            "content": {"application/json": {"example": _NOT_READY}},
        },
    },
)
async def readyz(parts: PartsOf, response: Response) -> Readiness:
    """Ready when PostgreSQL and Temporal answer. Needs no token."""

    async def ask(check: Awaitable[None]) -> str:
        try:
            await check
        except OrderwrightError as failed:
            return failed.message
        return "ok"

    database, temporal = await asyncio.gather(ask(parts.store.ping()), ask(parts.runs.check()))
    ready = database == temporal == "ok"
    response.status_code = 200 if ready else 503
    return Readiness(ready=ready, parts={"database": database, "temporal": temporal})


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses=answers(401, 503)
    | {200: {"content": {"text/plain": {"example": 'orderwright_orders{state="released"} 12.0\n'}}}},
)
async def metrics(parts: PartsOf) -> Response:
    """Counters of this process (requests, intake, sweeper, webhooks); and of all orders: states, reviews, effects."""
    async with parts.store.transaction() as session:
        found = await measures(session)
    return Response(parts.metrics.render(found), media_type=CONTENT_TYPE)
