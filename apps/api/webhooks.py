"""What neighbours tell us by themselves, in signed webhooks.

Warehouse and carriers tell a shipment's run something that it waits for: a signal. What a picker did not find is taken
out of stock besides. What the payment provider tells is a fact for the order's timeline.
"""

import time
from enum import StrEnum

import structlog
from fastapi import APIRouter, Request, Response

from activities.store.late import keep_late_event
from activities.store.notices import keep_notice
from activities.store.receipts import keep_receipt, receipt_of
from activities.store.short_picks import correct_stock
from apps.api import examples
from apps.api.bodies import MAX_MESSAGE_BYTES, body_of, parse_message, read_body
from apps.api.contracts import WebhookTaken
from apps.api.limits import Account
from apps.api.parts import Parts, PartsOf
from apps.api.problems import InvalidRequest, RateLimited, answers
from apps.api.runs import Told
from models.errors import Conflict, OrderwrightError, Problem
from models.identifiers import order_of_shipment, order_workflow_id, shipment_workflow_id
from models.messages import PaymentEvent, WmsEvent
from models.webhooks import (
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    WebhookEnvelope,
    WebhookKind,
    WebhookResult,
    signature_of,
    verify,
)

# Query parameters are let pass: what a neighbour's gateway adds to an address is not for us to mind.
router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

# Ten times the longest honest event.
SHORT_BYTES = 8 * 1024


class Neighbour(StrEnum):
    """Who may post here."""

    PAYMENT = "payment"
    WAREHOUSE = "warehouse"
    CARRIER = "carrier"


_KIND = {
    Neighbour.PAYMENT: WebhookKind.PAYMENT_EVENT,
    Neighbour.WAREHOUSE: WebhookKind.WMS_EVENT,
    Neighbour.CARRIER: WebhookKind.CARRIER_EVENT,
}


@router.post(
    "/{neighbour}",
    summary="Take a neighbour's event",
    openapi_extra=body_of(WebhookEnvelope, examples.WEBHOOKS)
    | {
        "security": [],
        "parameters": [
            {
                "name": name,
                "in": "header",
                "required": True,
                "schema": {"type": "string"},
                "description": meaning,
            }
            for name, meaning in (
                (TIMESTAMP_HEADER, "Unix seconds of sending; at most 5 minutes away from our clock"),
                (
                    SIGNATURE_HEADER,
                    'v1= and the hex HMAC-SHA256 of "{timestamp}.{raw body}" under the shared secret',
                ),
            )
        ],
    },
    responses=answers(401, 409, 413, 422, 503)
    | {
        200: {"content": {"application/json": {"example": {"status": "delivered"}}}},
        202: {
            "model": WebhookTaken,
            "description": "Kept: the run it concerns has ended or is unknown",
            "content": {"application/json": {"example": {"status": "late"}}},
        },
    },
)
async def take_event(
    neighbour: Neighbour, request: Request, parts: PartsOf, response: Response
) -> WebhookTaken:
    """Verify the signature, then hand the event to its run, or a payment's to its order's timeline.

    Sending an event twice is harmless. An event that was delivered is answered like the first time, marked `repeated`,
    and has no second effect, whoever sends it again; `409` is another event under an id that was used. Other answers
    than 2xx ask the sender to try again; 401, 409 and 422 will not get better by it.
    """
    try:
        envelope = await _envelope(neighbour, request, parts)
    except OrderwrightError as refused:
        parts.metrics.webhooks_refused.labels(neighbour.value, refused.code).inc()
        raise
    order_id, workflow_id = _concerns(envelope)
    structlog.contextvars.bind_contextvars(
        order_id=order_id, workflow_id=workflow_id, event_id=envelope.event_id, actor=neighbour.value
    )

    async with parts.store.transaction() as session:
        known = await receipt_of(session, workflow_id, envelope)
    if known is not None and known.fingerprint != envelope.fingerprint:
        parts.metrics.webhooks.labels(envelope.kind.value, "conflict").inc()
        # What it tells is lost, as with one that is not understood: it belongs to the same alarm.
        parts.metrics.webhooks_refused.labels(neighbour.value, Conflict.code).inc()
        raise Conflict(
            f"event {envelope.event_id} was already taken with other content: an event id is used once"
        )
    if known is not None and known.result is WebhookResult.DELIVERED:
        parts.metrics.webhooks.labels(envelope.kind.value, "repeated").inc()
        return WebhookTaken(status=known.result, repeated=True)

    # Told first and noted after: should we die in between, the neighbour sends it again and the run knows the event.
    # So does it when two processes take the same event at the same moment.
    event, heard = envelope.event, False
    if isinstance(event, WmsEvent) and envelope.shipment_id is not None:
        await correct_stock(parts.store, envelope.shipment_id, event)
    if not isinstance(event, PaymentEvent):
        heard = await parts.runs.tell(workflow_id, envelope.kind.value, event) is not Told.NO_RUN
    async with parts.store.transaction() as session:
        if isinstance(event, PaymentEvent):
            heard = await keep_notice(session, order_id, event)
        result = WebhookResult.DELIVERED if heard else WebhookResult.LATE
        if not heard:
            await keep_late_event(
                session,
                workflow_id=workflow_id,
                order_id=order_id,
                event_id=envelope.event_id,
                kind=envelope.kind,
                event=event,
            )
        await keep_receipt(session, workflow_id, envelope, result)
    if result is WebhookResult.LATE:
        response.status_code = 202
    parts.metrics.webhooks.labels(envelope.kind.value, result.value).inc()
    return WebhookTaken(status=result)


async def _envelope(neighbour: Neighbour, request: Request, parts: Parts) -> WebhookEnvelope:
    """What was sent, if the signature vouches for it and the neighbour may send such a thing."""
    envelope = parse_message(await _vouched_for(neighbour, request, parts), WebhookEnvelope)
    if envelope.kind is not _KIND[neighbour]:
        raise InvalidRequest(
            [Problem(path="kind", code="wrong_kind", message=f"{neighbour} sends {_KIND[neighbour]} only")]
        )
    return envelope


async def _vouched_for(neighbour: Neighbour, request: Request, parts: Parts) -> bytes:
    """The body, if its signature vouches for it; on the neighbour's account then, and on the strangers' if not.

    Raises ``Unauthorised``, ``RateLimited``, and as ``read_body`` does. A neighbour may share its address with
    strangers, so nothing that they do there may use up what is the neighbour's, or keep us from looking at what it
    sends. Looking at a short body costs less than refusing it would; for others there is a limit, as generous as the
    neighbour's own.
    """
    account: Account = request.state.account
    signature, timestamp = (request.headers.get(name) for name in (SIGNATURE_HEADER, TIMESTAMP_HEADER))
    try:
        signature_of(signature, timestamp)
        if not _is_short(request):
            account.spend(account.budgets.unverified, neighbour)
        raw = await read_body(request, MAX_MESSAGE_BYTES, parts.settings.api_body_seconds)
        verify(parts.settings.webhook_secrets(neighbour), signature, timestamp, raw, time.time())
    except RateLimited:
        raise
    except OrderwrightError:
        account.spend(account.budgets.strangers)
        raise
    # A budget each, so that a carrier that tells much does not hold up the money.
    account.spend(account.budgets.neighbours, neighbour)
    return raw


def _is_short(request: Request) -> bool:
    """Whether no more than a few kilobytes can follow: said beforehand, and kept to by the server."""
    announced = request.headers.get("content-length", "")
    chunked = "transfer-encoding" in request.headers
    return not chunked and announced.isdigit() and int(announced) <= SHORT_BYTES


def _concerns(envelope: WebhookEnvelope) -> tuple[str, str]:
    if envelope.kind is WebhookKind.PAYMENT_EVENT:
        assert envelope.order_id is not None  # noqa: S101 - the envelope checks itself
        return envelope.order_id, order_workflow_id(envelope.order_id)
    assert envelope.shipment_id is not None  # noqa: S101 - the envelope checks itself
    return order_of_shipment(envelope.shipment_id), shipment_workflow_id(envelope.shipment_id)
