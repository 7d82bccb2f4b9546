"""Amendments over HTTP: see what a change does to an order's money, then ask the order's run for it."""

from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Query, Request, Response

from activities.store import amendments, broken
from activities.store.amendments import Proposal
from apps.api import examples
from apps.api.asking import ask_or_leave
from apps.api.bodies import body_of, parse_message, read_body
from apps.api.contracts import AmendmentTaken, AmendRequest, Queued
from apps.api.intake import start_unstarted
from apps.api.orders import AnOrder, known_order
from apps.api.parts import Parts, PartsOf
from apps.api.problems import InvalidRequest, answers
from apps.api.queries import only_known_parameters
from apps.api.runs import NoRun, Told
from models.amendment import AmendmentPreview, AmendmentState, AmendmentView
from models.errors import AmendmentRefused, Problem, Refused
from models.identifiers import order_workflow_id
from models.messages import AmendAnswer, AmendOutcome
from policies import strict_json
from policies.amendment import NOT_NOW

router = APIRouter(prefix="/v1/orders", tags=["orders"], dependencies=[Depends(only_known_parameters)])

# A thousand lines, each with an id, a SKU and a long description.
MAX_AMENDMENT_BYTES = 512 * 1024


@router.post(
    "/{order_id}/amendments",
    summary="Amend an order",
    openapi_extra=body_of(AmendRequest, {"fewer units": examples.AMEND, "all of it": examples.AMEND_ALL}),
    responses=answers(401, 404, 409, 413, 422, 503)
    | {
        200: {"content": {"application/json": {"example": examples.AMENDMENT_TAKEN}}},
        202: {
            "model": Queued,
            "description": "No worker is up, or the order's run is only just started; the amendment is kept and looked "
            "at as soon as it can be",
            "content": {"application/json": {"example": examples.QUEUED}},
        },
    },
)
async def amend_order(
    order_id: AnOrder,
    request: Request,
    response: Response,
    parts: PartsOf,
    preview: Annotated[
        bool, Query(description="Only answer what it would do (an `AmendmentPreview`); nothing is stored")
    ] = False,
) -> AmendmentTaken | AmendmentPreview | Queued:
    """Add, remove or change lines, the address, the carrier's service, the delivery date or the charges.

    The order's run calls off what is not packed yet, has more money authorised if it takes more, and plans the rest
    anew. With the same `request_id` a repeat changes nothing and says what became of the amendment.
    """
    wish = await _read(request, parts)
    structlog.contextvars.bind_contextvars(actor=wish.actor)
    await known_order(parts, order_id)
    if preview:
        async with parts.store.transaction() as session:
            shown = await amendments.previewed(session, order_id, wish)
        return shown if isinstance(shown, AmendmentPreview) else _refuse(shown)
    async with parts.store.transaction() as session:
        proposal = await amendments.propose(session, order_id, wish)
    if not isinstance(proposal, Proposal):
        return _refuse(proposal)
    if proposal.view.state is not AmendmentState.PROPOSED:
        return _decided(proposal.view)
    answer = await _ask(parts, order_id, proposal)
    if isinstance(answer, Queued):
        response.status_code = 202
        return answer
    return await _taken(parts, proposal, answer)


@router.get(
    "/{order_id}/amendments",
    summary="List an order's amendments",
    responses=answers(401, 404, 503)
    | {200: {"content": {"application/json": {"example": [examples.AMENDMENT]}}}},
)
async def list_amendments(order_id: AnOrder, parts: PartsOf) -> list[AmendmentView]:
    """Every amendment that was asked for, by number: what it does to the money, and what became of it."""
    await known_order(parts, order_id)
    async with parts.store.transaction() as session:
        return list(await amendments.amendments(session, order_id))


async def _read(request: Request, parts: Parts) -> AmendRequest:
    raw = await read_body(request, MAX_AMENDMENT_BYTES, parts.settings.api_body_seconds)
    wish = parse_message(raw, AmendRequest)
    # Also of what does not end up in the document: the request is kept as it is.
    if unstorable := tuple(strict_json.unstorable_text(wish.model_dump(mode="json"))):
        raise InvalidRequest(unstorable)
    return wish


async def _ask(parts: Parts, order_id: str, proposal: Proposal) -> AmendAnswer | Queued:
    """The run's answer. Raises ``Refused`` when it says no, or when there is no run to ask and none can be started."""
    message = proposal.message()
    workflow_id = order_workflow_id(order_id)
    try:
        return await ask_or_leave(
            parts.runs,
            workflow_id,
            update="amend_order",
            question=message,
            gives=AmendAnswer,
            signal="amend_order",
            message=message,
            request_id=message.request_id,
            # It may have been applied since it was asked first.
            afresh=True,
        )
    except NoRun as nobody:
        await start_unstarted(parts.store, parts.runs, order_id)
        if await parts.runs.tell(workflow_id, "amend_order", message) is Told.DELIVERED:
            return Queued(request_id=message.request_id)
        async with parts.store.transaction() as session:
            tasks = await broken.open_tasks(session, [workflow_id])
        if tasks:
            raise Refused(
                f"its run is lost, so that nothing can be changed: review task {tasks[0].task_id} says how it goes on"
            ) from nobody
        raise


async def _taken(parts: Parts, proposal: Proposal, answer: AmendAnswer) -> AmendmentTaken:
    async with parts.store.transaction() as session:
        view = await amendments.amendment(session, proposal.view.amendment_id) or proposal.view
    if view.state is not AmendmentState.PROPOSED:
        # It may have been decided since the run said that it is under way.
        return _decided(view, answer.message if answer.outcome is AmendOutcome.APPLIED else None)
    if answer.outcome is AmendOutcome.REFUSED:
        refusal = Problem(path="", code=answer.code or Refused.code, message=answer.message)
        raise AmendmentRefused((refusal,))
    return _as_taken(view, answer.outcome, answer.message)


def _decided(view: AmendmentView, message: str | None = None) -> AmendmentTaken:
    """What became of an amendment. Raises ``AmendmentRefused`` if it was refused."""
    if view.refusal is not None:
        raise AmendmentRefused((view.refusal,))
    told = message or f"it was applied: the order's document is of version {view.number}, or of a later one"
    return _as_taken(view, AmendOutcome.APPLIED, told)


def _as_taken(view: AmendmentView, outcome: AmendOutcome, message: str) -> AmendmentTaken:
    return AmendmentTaken(
        request_id=view.request_id,
        amendment_id=view.amendment_id,
        number=view.number,
        outcome=outcome,
        message=message,
        preview=view.preview,
    )


def _refuse(problems: tuple[Problem, ...]) -> AmendmentTaken:
    """Raise: too late for something that could have been asked for earlier, or never possible as it is written."""
    if any(problem.code in NOT_NOW for problem in problems):
        raise AmendmentRefused(problems)
    raise InvalidRequest(problems)
