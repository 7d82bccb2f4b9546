"""Whether this process lives, whether it can work, and what it counts."""

import asyncio

from fastapi import APIRouter, Response

from activities.store.measures import measures
from apps.api.contracts import Health, Readiness, ReadinessStatus
from apps.api.metrics import CONTENT_TYPE
from apps.api.parts import PartsOf
from apps.api.problems import answers
from models.errors import NotReachable
from workers.logging import get_logger

# Prometheus gives a scrape ten seconds unless told otherwise; by then it must have the answer.
DATABASE_SECONDS = 5.0

# Query parameters are let pass: some probes and caches add one of their own.
router = APIRouter(tags=["operations"])

_log = get_logger(__name__)

_READY = {"ready": True, "status": "ok", "parts": {"database": "ok", "temporal": "ok"}}
_NOT_READY = {
    "ready": False,
    "status": "down",
    "parts": {"database": "PostgreSQL does not answer; try again in a few seconds", "temporal": "ok"},
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
            "description": "The database does not answer",
            "content": {"application/json": {"example": _NOT_READY}},
        },
    },
)
async def readyz(parts: PartsOf, response: Response) -> Readiness:
    """Ready when PostgreSQL answers, asked at most once a second. Needs no token.

    Without Temporal it is ready too, and says `degraded`: orders are accepted then, so nobody should be sent away.
    """
    found = await parts.health.now()
    if found["database"] != "ok":
        status = ReadinessStatus.DOWN
    elif set(found.values()) != {"ok"}:
        status = ReadinessStatus.DEGRADED
    else:
        status = ReadinessStatus.OK
    ready = status is not ReadinessStatus.DOWN
    response.status_code = 200 if ready else 503
    return Readiness(ready=ready, status=status, parts=found)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses=answers(401)
    | {200: {"content": {"text/plain": {"example": 'orderwright_orders{state="released"} 12.0\n'}}}},
)
async def metrics(parts: PartsOf) -> Response:
    """Counters of this process (requests, intake, sweeper, webhooks); and of all orders: states, reviews, effects.

    While the database does not answer, only the counters are shown, and `orderwright_database_up` is 0.
    """
    found = None
    try:
        async with asyncio.timeout(DATABASE_SECONDS), parts.store.transaction() as session:
            found = await measures(session)
    except (NotReachable, TimeoutError):
        _log.warning("metrics_without_database")
    return Response(parts.metrics.render(found), media_type=CONTENT_TYPE)
