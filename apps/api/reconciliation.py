"""Reconciliation over HTTP: what differs, what became of it, and a run for whoever cannot wait."""

import re
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Depends, Path, Query, Request

from activities.store import reconciliation as books
from activities.store.reconciliation import DifferencePage, RunView
from apps.api import examples
from apps.api.asking import new_request_id
from apps.api.bodies import body_of, read_message
from apps.api.contracts import ReconciliationAsked, ReconciliationRequest, ReconciliationRuns
from apps.api.paging import Cursor, Limit
from apps.api.parts import Parts, PartsOf
from apps.api.problems import InvalidRequest, answers
from apps.api.queries import only_known_parameters
from models.errors import InvalidDocument, NotFound, OrderwrightError
from models.identifiers import OrderId
from models.reconciliation import COMPARISONS, Area, DifferenceKind, DifferenceState
from models.review import ReviewTask, Verdict
from workers.logging import get_logger

router = APIRouter(
    prefix="/v1/reconciliation", tags=["reconciliation"], dependencies=[Depends(only_known_parameters)]
)

_log = get_logger(__name__)
_RUN_ID = re.compile(r"^reconciliation:[A-Za-z0-9._:-]{1,160}$")
ARun = Annotated[
    str,
    Path(
        description="The run's id",
        examples=["reconciliation:money:api-1"],
        json_schema_extra={"pattern": _RUN_ID.pattern},
    ),
]


@router.get(
    "/differences",
    summary="List differences, oldest first",
    responses=answers(401, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.DIFFERENCE_PAGE}}}},
)
async def list_differences(
    *,
    parts: PartsOf,
    state: DifferenceState | Literal["all"] = DifferenceState.OPEN,
    area: Annotated[Area | None, Query(description="Only what this area compares")] = None,
    kind: DifferenceKind | None = None,
    order_id: OrderId | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> DifferencePage:
    """Where two sides did not agree, with both sides as they were found. `state` asks for those that are settled.

    Follow `next_cursor` until it is null.
    """
    async with parts.store.transaction() as session:
        try:
            return await books.differences(
                session,
                state=None if state == "all" else state,
                comparisons=None if area is None else COMPARISONS[area],
                kind=kind,
                order_id=order_id,
                cursor=cursor,
                limit=limit,
            )
        except InvalidDocument as invalid:
            raise InvalidRequest(invalid.problems) from None


@router.get(
    "/runs",
    summary="Look at the last run of each area",
    responses=answers(401, 503)
    | {200: {"content": {"application/json": {"example": examples.RECONCILIATION_RUNS}}}},
)
async def last_reconciliations(parts: PartsOf) -> ReconciliationRuns:
    """How the newest run of each area that has ended came out."""
    async with parts.store.transaction() as session:
        found = await books.last_runs(session)
    return ReconciliationRuns(runs=tuple(found[area] for area in sorted(found)))


@router.get(
    "/runs/{run_id}",
    summary="Look at a run",
    responses=answers(401, 404, 503)
    | {200: {"content": {"application/json": {"example": examples.RECONCILIATION_RUN}}}},
)
async def show_reconciliation(run_id: ARun, parts: PartsOf) -> RunView:
    """Whether it is through, and what it counted. `404` until a worker has begun it."""
    found = None
    if _RUN_ID.fullmatch(run_id):
        async with parts.store.transaction() as session:
            found = await books.run(session, run_id)
    if found is None:
        raise NotFound("there is no such run, or no worker has begun it yet")
    return found


@router.post(
    "/runs",
    status_code=202,
    summary="Start a run now",
    openapi_extra=body_of(ReconciliationRequest, {"money": examples.RECONCILIATION_REQUEST}),
    responses=answers(401, 413, 422, 503)
    | {202: {"content": {"application/json": {"example": examples.RECONCILIATION_ASKED}}}},
)
async def start_reconciliation(request: Request, parts: PartsOf) -> ReconciliationAsked:
    """Start a run of the scheduled workflow now. With the same `request_id` a repeat starts none."""
    asked = await read_message(request, ReconciliationRequest, parts.settings.api_body_seconds)
    run_id = await parts.runs.reconcile(
        asked.area, request_id=asked.request_id or new_request_id(), everything=asked.everything
    )
    return ReconciliationAsked(run_id=run_id, area=asked.area)


async def decide_difference(
    parts: Parts, task_id: str, verdict: Verdict, *, actor: str, reason: str, request_id: str
) -> str:
    """Do what a person answered about a difference; answers with what that does, as a sentence.

    Raises ``Refused`` when there is nothing to decide any more.
    """
    async with parts.store.transaction() as session:
        task, area = await books.decide(session, task_id, verdict, actor=actor, reason=reason)
    structlog.contextvars.bind_contextvars(task_id=task_id)
    if verdict is not Verdict.REJECT:
        # The decision is kept: without Temporal just now, the next run of the schedule carries it out.
        try:
            await parts.runs.reconcile(area, request_id=request_id, everything=False)
        except OrderwrightError as error:
            _log.warning("reconciliation_not_started", area=area, reason=error.message)
    return task.options[verdict]


def is_about_a_difference(task: ReviewTask) -> bool:
    """Whether the reconciliation asks this, and not the invariant job."""
    return task.workflow_id.startswith(books.SUBJECT_PREFIX)
