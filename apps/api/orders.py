"""Orders over HTTP: hand one over, look at it, call it off."""

from datetime import datetime
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Header, Path, Request, Response
from pydantic import TypeAdapter, ValidationError

from activities.store import broken, ledger, reads
from activities.store.intake import Acceptance
from activities.store.ledger import OrderLedger
from activities.store.views import OrderView, Page, TimelineView
from apps.api import examples
from apps.api.asking import ask_or_leave, new_request_id
from apps.api.bodies import body_of, read_body, read_message
from apps.api.contracts import CancelRequest, CancelTaken, OrderAccepted, OrderLinks, Queued
from apps.api.intake import call_off_unstarted, check, state_of, take_in
from apps.api.paging import Cursor, Limit
from apps.api.parts import Parts, PartsOf
from apps.api.problems import InvalidRequest, answers
from apps.api.queries import only_known_parameters
from apps.api.runs import NoRun, Told
from models.base import SentMoment
from models.clock import EARLIEST, LATEST, ClockStart
from models.errors import (
    Conflict,
    DocumentTooLarge,
    InvalidDocument,
    NeverAccepted,
    NotFound,
    Problem,
    Refused,
)
from models.identifiers import Channel, OrderId, order_workflow_id
from models.identifiers import order_id as make_order_id
from models.messages import CancelAnswer, CancelOrder, CancelOutcome
from models.order import MAX_DOCUMENT_BYTES, CustomerType, OrderDraft
from models.states import ORDER_TERMINAL, OrderState

router = APIRouter(prefix="/v1/orders", tags=["orders"], dependencies=[Depends(only_known_parameters)])

_LOCATION = {
    "Location": {"description": "The order", "required": True, "schema": {"type": "string"}},
}
BUSINESS_START_HEADER = "Orderwright-Business-Start"
_ORDER_ID: TypeAdapter[str] = TypeAdapter(OrderId)
# Only described: what does not look like an order's id is not found, like an order that does not exist.
AnOrder = Annotated[
    str,
    Path(
        description="The order's id, `{channel}:{external_id}`",
        examples=["web:1001"],
        json_schema_extra={"pattern": TypeAdapter(OrderId).json_schema()["pattern"]},
    ),
]


@router.post(
    "",
    status_code=202,
    summary="Hand an order over",
    openapi_extra=body_of(OrderDraft, examples.ORDERS),
    responses=answers(401, 409, 413, 422, 503)
    | {
        200: {
            "model": OrderAccepted,
            "description": "The same document was accepted before; this is its order",
            "headers": _LOCATION,
            "content": {"application/json": {"example": examples.ACCEPTED | {"state": "released"}}},
        },
        202: {
            "description": "Stored; its run starts now, or as soon as Temporal is there again",
            "headers": _LOCATION,
            "content": {"application/json": {"example": examples.ACCEPTED}},
        },
    },
)
async def submit_order(
    request: Request,
    response: Response,
    parts: PartsOf,
    business_start: Annotated[
        SentMoment,
        Header(
            alias=BUSINESS_START_HEADER,
            description="When the order's business clock starts, for replaying old orders; default is now",
        ),
    ] = None,  # type: ignore[assignment] # may be left out, but is no null when it is there
) -> OrderAccepted:
    """Check the document and store it; from then on it is accepted. Sending the same document again is always safe.

    A document is identified by `channel` and `external_id`. At most 5 MB and 1,000 lines.
    """
    intake = parts.metrics.intake
    try:
        raw = await read_body(request, MAX_DOCUMENT_BYTES, parts.settings.api_body_seconds)
        draft = await check(raw)
        _bind(make_order_id(draft.channel, draft.external_id))
        clock = ClockStart(speed=parts.settings.speed, business_start=possible(business_start))
        accepted = await take_in(parts.store, parts.runs, draft, clock)
    except InvalidDocument:
        intake.labels("invalid").inc()
        raise
    except DocumentTooLarge:
        intake.labels("too_large").inc()
        raise
    except Conflict:
        intake.labels("conflict").inc()
        raise
    repeated = accepted.acceptance is Acceptance.SAME
    intake.labels("repeated" if repeated else "accepted").inc()
    response.status_code = 200 if repeated else 202
    links = _links(accepted.order_id)
    response.headers["Location"] = links.self
    return OrderAccepted(
        order_id=accepted.order_id,
        workflow_id=accepted.workflow_id,
        state=await state_of(parts.store, accepted),
        links=links,
    )


@router.get(
    "",
    summary="List orders, newest first",
    responses=answers(401, 422, 503) | {200: {"content": {"application/json": {"example": examples.PAGE}}}},
)
async def list_orders(
    *,
    parts: PartsOf,
    state: OrderState | None = None,
    channel: Channel | None = None,
    customer_type: CustomerType | None = None,
    needs_review: bool | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page:
    """A page of orders. Follow `next_cursor` until it is null."""
    filters = reads.OrderFilters(
        state=state, channel=channel, customer_type=customer_type, needs_review=needs_review
    )
    async with parts.store.transaction() as session:
        try:
            return await reads.orders(session, filters, cursor, limit)
        except InvalidDocument as invalid:
            raise InvalidRequest(invalid.problems) from None


@router.get(
    "/{order_id}",
    summary="Look at an order",
    responses=answers(401, 404, 503) | {200: {"content": {"application/json": {"example": examples.VIEW}}}},
)
async def show_order(order_id: AnOrder, parts: PartsOf) -> OrderView:
    """The order with lines, shipments, review tasks and money. Names and addresses are not shown."""
    return await known_order(parts, order_id)


@router.get(
    "/{order_id}/timeline",
    summary="What happened to an order",
    responses=answers(401, 404, 503)
    | {200: {"content": {"application/json": {"example": [examples.ENTRY | {"position": 1204}]}}}},
)
async def show_timeline(order_id: AnOrder, parts: PartsOf) -> list[TimelineView]:
    """Every fact in the order of writing: who did what, when, why, under which policy.

    A document that came in by Temporal and was refused has a timeline too, though it never became an order.
    """
    _check_order_id(order_id)
    async with parts.store.transaction() as session:
        entries = await reads.timeline(session, order_id)
    if not entries:
        await known_order(parts, order_id)
    return entries


@router.get(
    "/{order_id}/ledger",
    summary="What happened to an order's money",
    responses=answers(401, 404, 503) | {200: {"content": {"application/json": {"example": examples.LEDGER}}}},
)
async def show_order_ledger(order_id: AnOrder, parts: PartsOf) -> OrderLedger:
    """Every transaction of the order in the books, with the entries that add up to zero, and each account's balance.

    Amounts are debits above zero and credits below. An order whose money has not moved has empty books.
    """
    await known_order(parts, order_id)
    async with parts.store.transaction() as session:
        return await ledger.of_order(session, order_id)


@router.post(
    "/{order_id}/cancel",
    summary="Call an order off",
    openapi_extra=body_of(CancelRequest, {"a cancellation": examples.CANCEL}),
    responses=answers(401, 404, 409, 413, 422, 503)
    | {
        200: {"content": {"application/json": {"example": examples.CANCEL_TAKEN}}},
        202: {
            "model": Queued,
            "description": "No worker is up, or the order's run is only just started; the wish is kept and read as "
            "soon as it can be",
            "content": {"application/json": {"example": examples.QUEUED}},
        },
    },
)
async def cancel_order(
    order_id: AnOrder, request: Request, response: Response, parts: PartsOf
) -> CancelTaken | Queued:
    """Ask the running order to stop. It answers what happens to goods and money; parcels on their way go on."""
    wish = await read_message(request, CancelRequest, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(actor=wish.actor)
    order = await known_order(parts, order_id)
    if order.state in ORDER_TERMINAL:
        return await _called_off_before(parts, order, wish)
    message = CancelOrder(
        request_id=wish.request_id or new_request_id(), actor=wish.actor, reason=wish.reason
    )
    try:
        answer = await ask_or_leave(
            parts.runs,
            order_workflow_id(order_id),
            update="cancel",
            question=message,
            gives=CancelAnswer,
            signal="cancel_order",
            message=message,
            request_id=message.request_id,
            # The carriers may have answered since it was asked first.
            afresh=True,
        )
    except NoRun as nobody:
        answer = await _without_a_run(parts, order_id, message, nobody)
    if isinstance(answer, Queued):
        response.status_code = 202
        return answer
    return CancelTaken(request_id=message.request_id, outcome=answer.outcome, message=answer.message)


async def _without_a_run(parts: Parts, order_id: str, message: CancelOrder, nobody: NoRun) -> Queued:
    """Call off an order whose run has yet to be started. Raises ``Refused`` for one that has had a run."""
    if await call_off_unstarted(parts.store, parts.runs, order_id, message):
        return Queued(request_id=message.request_id)
    # The sweeper may have been the first.
    if await parts.runs.tell(order_workflow_id(order_id), "cancel_order", message) is Told.DELIVERED:
        return Queued(request_id=message.request_id)
    async with parts.store.transaction() as session:
        tasks = await broken.open_tasks(session, [order_workflow_id(order_id)])
    if tasks:
        raise Refused(
            f"its run is lost, so that it cannot be called off by itself: review task {tasks[0].task_id} says how it "
            "can be, or how it goes on"
        ) from nobody
    raise nobody


async def _called_off_before(parts: Parts, order: OrderView, wish: CancelRequest) -> CancelTaken:
    """The answer to a wish that is repeated after the order came to its end. Raises ``Refused`` for any other."""
    async with parts.store.transaction() as session:
        repeated = wish.request_id is not None and await reads.was_called_off_by(
            session, order.order_id, wish.request_id
        )
    if not repeated or wish.request_id is None:
        raise Refused(f"order {order.order_id} is already {order.state}")
    went_on = order.state in (OrderState.CLOSED, OrderState.COMPENSATED)
    return CancelTaken(
        request_id=wish.request_id,
        outcome=CancelOutcome.PARTLY if went_on else CancelOutcome.CANCELLING,
        message=f"this request called the order off; it is {order.state} now",
    )


def possible(business_start: datetime | None) -> datetime | None:
    """The header's time. Raises ``InvalidRequest`` for one that no order can be placed at."""
    if business_start is not None and not EARLIEST <= business_start <= LATEST:
        message = f"must lie between the years {EARLIEST.year} and {LATEST.year}"
        raise InvalidRequest([Problem(path=BUSINESS_START_HEADER, code="impossible_time", message=message)])
    return business_start


async def known_order(parts: Parts, order_id: str) -> OrderView:
    """The order. Raises ``NotFound``, or ``NeverAccepted`` when a document was refused under this id."""
    _check_order_id(order_id)
    async with parts.store.transaction() as session:
        order = await reads.order(session, order_id)
        refused = order is None and bool(await reads.timeline(session, order_id))
    if order is not None:
        return order
    if refused:
        raise NeverAccepted(
            f"order {order_id} was never accepted: its document was refused, see {_links(order_id).timeline}"
        )
    raise NotFound(f"there is no order {order_id}")


def _check_order_id(order_id: str) -> None:
    """Raise ``NotFound`` for what cannot be an order id, which the database need not hear of."""
    try:
        _ORDER_ID.validate_python(order_id)
    except ValidationError:
        raise NotFound("there is no such order: an order id looks like web:1001") from None
    _bind(order_id)


def _bind(order_id: str) -> None:
    structlog.contextvars.bind_contextvars(order_id=order_id, workflow_id=order_workflow_id(order_id))


def _links(order_id: str) -> OrderLinks:
    path = f"/v1/orders/{order_id}"
    return OrderLinks(
        self=path, timeline=f"{path}/timeline", cancel=f"{path}/cancel", amendments=f"{path}/amendments"
    )
