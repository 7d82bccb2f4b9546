"""Review tasks over HTTP: what waits for a person, and the person's decision."""

import re
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Depends, Path, Request, Response

from activities.store import reads
from activities.store.views import ReviewPage
from apps.api import examples
from apps.api.asking import ask_or_leave, new_request_id
from apps.api.bodies import body_of, read_message
from apps.api.contracts import DecisionRequest, DecisionTaken, Queued
from apps.api.paging import Cursor, Limit
from apps.api.parts import Parts, PartsOf
from apps.api.problems import InvalidRequest, answers
from apps.api.queries import only_known_parameters
from apps.api.reconciliation import decide_difference, is_about_a_difference
from models.errors import InvalidDocument, NotFound, Refused
from models.identifiers import OrderId
from models.messages import DecideReview, DecisionAnswer, SignalledDecision
from models.review import ReviewKind, ReviewTask
from models.states import ReviewState

router = APIRouter(prefix="/v1/reviews", tags=["reviews"], dependencies=[Depends(only_known_parameters)])

_TASK_ID = re.compile(r"^[A-Za-z0-9._:-]{1,160}$")
ATask = Annotated[
    str,
    Path(
        description="The task's id", examples=["web:1001:r1"], json_schema_extra={"pattern": _TASK_ID.pattern}
    ),
]


@router.get(
    "",
    summary="List review tasks, oldest first",
    responses=answers(401, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.REVIEW_PAGE}}}},
)
async def list_reviews(
    *,
    parts: PartsOf,
    state: ReviewState | Literal["all"] = ReviewState.OPEN,
    kind: ReviewKind | None = None,
    order_id: OrderId | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> ReviewPage:
    """What waits for a person: what happened, why it was flagged, what is recommended. `state` asks for others.

    Follow `next_cursor` until it is null.
    """
    filters = reads.ReviewFilters(state=None if state == "all" else state, kind=kind, order_id=order_id)
    async with parts.store.transaction() as session:
        try:
            return await reads.reviews(session, filters, cursor, limit)
        except InvalidDocument as invalid:
            raise InvalidRequest(invalid.problems) from None


@router.get(
    "/{task_id}",
    summary="Look at a review task",
    responses=answers(401, 404, 503) | {200: {"content": {"application/json": {"example": examples.REVIEW}}}},
)
async def show_review(task_id: ATask, parts: PartsOf) -> ReviewTask:
    """The question, everything needed to answer it, and the answer if there is one."""
    return await _known_task(parts, task_id)


@router.post(
    "/{task_id}/decision",
    summary="Decide a review task",
    openapi_extra=body_of(DecisionRequest, {"an approval": examples.DECISION}),
    responses=answers(401, 404, 409, 413, 422, 503)
    | {
        200: {"content": {"application/json": {"example": examples.DECISION_TAKEN}}},
        202: {
            "model": Queued,
            "description": "No worker is up; the decision is kept and read as soon as one is",
            "content": {"application/json": {"example": examples.QUEUED}},
        },
    },
)
async def decide_review(
    task_id: ATask, request: Request, response: Response, parts: PartsOf
) -> DecisionTaken | Queued:
    """Give the decision to the waiting run. With the same `request_id` a repeat changes nothing."""
    decision = await read_message(request, DecisionRequest, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(actor=decision.actor)
    task = await _known_task(parts, task_id)
    if task.state is not ReviewState.OPEN:
        if _says_the_same(task, decision):
            return DecisionTaken(
                request_id=decision.request_id or new_request_id(),
                task_id=task_id,
                verdict=decision.verdict,
                message="it was already decided like this",
            )
        raise Refused(_closed(task))
    request_id = decision.request_id or new_request_id()
    if is_about_a_difference(task):
        done = await decide_difference(
            parts,
            task_id,
            decision.verdict,
            actor=decision.actor,
            reason=decision.reason,
            request_id=request_id,
        )
        return DecisionTaken(request_id=request_id, task_id=task_id, verdict=decision.verdict, message=done)
    if task.kind is ReviewKind.RUN_BROKEN:
        # There is no run to give it to.
        done = await parts.invariants.decide(
            task_id, decision.verdict, actor=decision.actor, reason=decision.reason, request_id=request_id
        )
        return DecisionTaken(request_id=request_id, task_id=task_id, verdict=decision.verdict, message=done)
    answer = await ask_or_leave(
        parts.runs,
        task.workflow_id,
        update="decide_review",
        question=DecideReview(
            request_id=request_id,
            actor=decision.actor,
            task_id=task_id,
            verdict=decision.verdict,
            reason=decision.reason,
            answer=decision.answer,
        ),
        gives=DecisionAnswer,
        signal=decision.verdict.value,
        message=SignalledDecision(
            actor=decision.actor,
            reason=decision.reason,
            task_id=task_id,
            request_id=request_id,
            answer=decision.answer,
        ),
        request_id=request_id,
    )
    if isinstance(answer, Queued):
        response.status_code = 202
        return answer
    return DecisionTaken(
        request_id=request_id, task_id=answer.task_id, verdict=answer.verdict, message=answer.message
    )


async def _known_task(parts: Parts, task_id: str) -> ReviewTask:
    task = None
    if _TASK_ID.fullmatch(task_id):
        async with parts.store.transaction() as session:
            task = await reads.review(session, task_id)
    if task is None:
        raise NotFound("there is no such review task: the open ones are listed at /v1/reviews")
    structlog.contextvars.bind_contextvars(
        order_id=task.order_id, workflow_id=task.workflow_id, task_id=task_id
    )
    return task


def _says_the_same(task: ReviewTask, decision: DecisionRequest) -> bool:
    """Whether somebody repeats a decision whose answer got lost."""
    return (
        decision.request_id is not None
        and task.state is ReviewState.DECIDED
        and (task.verdict, task.decided_by, task.reason)
        == (decision.verdict, decision.actor, decision.reason)
    )


def _closed(task: ReviewTask) -> str:
    if task.state is ReviewState.DECIDED:
        return f"review task {task.task_id} was already decided: {task.verdict} by {task.decided_by}"
    return f"review task {task.task_id} is no longer open: it was {task.state}"
