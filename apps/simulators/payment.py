"""A stand-in payment provider: holds, captures, voids and refunds, never above what was held or captured.

The token decides: ``tok_declined_…`` is declined for good, ``tok_insufficient_…`` for now, anything else is approved.
It runs on wall time, as a real provider does: a hold ends seven days after it was made, however fast the business
clock is. With ``--notify`` it tells of every movement by itself, and disputes what was captured on ``tok_disputed_…``.
"""

from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from pydantic import Field, StringConstraints
from starlette.routing import Route

from apps.simulators.faults import DECLINES, FaultKind
from apps.simulators.ledger import Effect, wall_time
from apps.simulators.serving import (
    Answer,
    Asked,
    Body,
    Desk,
    effect_route,
    look_up_route,
    new_id,
    refusal,
    statement_route,
)
from models.base import Document
from models.identifiers import OrderId
from models.messages import PaymentEvent, PaymentEventKind
from models.money import Currency, Money
from models.webhooks import WebhookEnvelope, WebhookKind

Text = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Amount = Annotated[int, Field(strict=True, gt=0)]

_HARD_DECLINE: Body = {"decline_code": "do_not_honour", "final": True}
_SOFT_DECLINE: Body = {"decline_code": "insufficient_funds", "final": False}

DISPUTED_AFTER = timedelta(days=10)


class AuthoriseRequest(Document):
    """``POST /authorisations``: hold this much."""

    reference: OrderId
    token: Text
    amount_minor: Amount
    currency: Currency


class CaptureRequest(Document):
    """``POST /authorisations/{id}/captures``: take this much of the hold."""

    amount_minor: Amount
    currency: Currency


class RefundRequest(Document):
    """``POST /captures/{id}/refunds``: give this much back."""

    amount_minor: Amount
    currency: Currency
    cause: Text


class VoidRequest(Document):
    """``POST /authorisations/{id}/void``: let go of what is still held."""


class CallOffRequest(Document):
    """``POST /authorisations/void``: the same by key, also for an authorisation that has not arrived yet."""

    authorisation_key: Text


def routes(desk: Desk) -> list[Route]:
    """The provider's HTTP surface."""
    return [
        effect_route(desk, "/authorisations", AuthoriseRequest, authorise),
        look_up_route(desk, "/authorisations", "authorisation", _authorisation_body),
        effect_route(desk, "/authorisations/void", CallOffRequest, void_by_key),
        effect_route(desk, "/authorisations/{id}/void", VoidRequest, void),
        effect_route(desk, "/authorisations/{id}/captures", CaptureRequest, capture),
        look_up_route(desk, "/captures", "capture", _capture_body),
        effect_route(desk, "/captures/{id}/refunds", RefundRequest, refund),
        look_up_route(desk, "/refunds", "refund", _refund_body),
        statement_route(
            desk, ("authorisation", "capture", "refund", "void"), lambda effect: _line(desk, effect)
        ),
    ]


def authorise(desk: Desk, asked: Asked[AuthoriseRequest]) -> Answer:
    """Approve or decline, as the token says."""
    if desk.ledger.is_called_off("authorisation", asked.key):
        return refusal(HTTPStatus.CONFLICT, "called_off", "this authorisation was called off before it came")
    body = asked.body
    decline: Body | None = None
    if body.token.startswith("tok_declined_"):
        decline = _HARD_DECLINE
    elif body.token.startswith("tok_insufficient_"):
        decline = _SOFT_DECLINE
    elif fault := desk.faults.strikes(DECLINES, "POST /authorisations", asked.key):
        decline = _HARD_DECLINE if fault.do is FaultKind.DECLINE_HARD else _SOFT_DECLINE
    expires_at = datetime.now(UTC) + timedelta(days=desk.settings.hold_days)
    authorisation = desk.ledger.record(
        Effect(
            effect_id=new_id("auth"),
            kind="authorisation",
            key=asked.key,
            reference=body.reference,
            state="declined" if decline else "open",
            amount_minor=body.amount_minor,
            currency=body.currency,
            at=wall_time(),
            details=decline or {"expires_at": expires_at.isoformat(), "token": body.token},
        )
    )
    if decline:
        return Answer(HTTPStatus.PAYMENT_REQUIRED, _authorisation_body(authorisation))
    _tell(desk, authorisation, PaymentEventKind.AUTHORISED)
    return Answer(HTTPStatus.CREATED, _authorisation_body(authorisation))


def void(desk: Desk, asked: Asked[VoidRequest]) -> Answer:
    """Let go of what is held; nothing held gives zero, as a second void does."""
    authorisation = desk.ledger.effect("authorisation", asked.path["id"])
    if authorisation is None:
        return _unknown("authorisation", asked.path["id"])
    return _void(desk, asked.key, authorisation)


def void_by_key(desk: Desk, asked: Asked[CallOffRequest]) -> Answer:
    """Void what was authorised under a key, or see to it that nothing ever will be."""
    authorisation = desk.ledger.effect_of("authorisation", asked.body.authorisation_key)
    if authorisation is not None:
        return _void(desk, asked.key, authorisation)
    desk.ledger.call_off("authorisation", asked.body.authorisation_key)
    return Answer(HTTPStatus.OK, {"amount_minor": 0, "currency": None})


def capture(desk: Desk, asked: Asked[CaptureRequest]) -> Answer:
    """Take some of an open hold."""
    authorisation = desk.ledger.effect("authorisation", asked.path["id"])
    if authorisation is None:
        return _unknown("authorisation", asked.path["id"])
    if authorisation.state in ("voided", "declined"):
        return refusal(
            HTTPStatus.CONFLICT,
            "not_held",
            f"authorisation {authorisation.effect_id} is {authorisation.state}",
        )
    if datetime.now(UTC) > _expiry(authorisation):
        if authorisation.state == "open":
            desk.ledger.set_state(authorisation.effect_id, "expired")
        return refusal(
            HTTPStatus.CONFLICT,
            "hold_expired",
            f"authorisation {authorisation.effect_id} expired at {_expiry(authorisation).isoformat()}",
        )
    held = _held(desk, authorisation)
    body = asked.body
    if body.currency != authorisation.currency or body.amount_minor > held:
        return refusal(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "above_hold",
            f"{body.amount_minor} {body.currency} asked, {held} {authorisation.currency} held",
        )
    captured = desk.ledger.record(
        Effect(
            effect_id=new_id("cap"),
            kind="capture",
            key=asked.key,
            reference=authorisation.reference,
            parent_id=authorisation.effect_id,
            state="captured",
            amount_minor=body.amount_minor,
            currency=body.currency,
            at=wall_time(),
        )
    )
    if body.amount_minor == held:
        desk.ledger.set_state(authorisation.effect_id, "used")
    _tell(desk, captured, PaymentEventKind.CAPTURED)
    if str((authorisation.details or {}).get("token", "")).startswith("tok_disputed_"):
        _tell(desk, captured, PaymentEventKind.DISPUTED, after=DISPUTED_AFTER)
    return Answer(HTTPStatus.CREATED, _capture_body(captured))


def refund(desk: Desk, asked: Asked[RefundRequest]) -> Answer:
    """Give some of a capture back."""
    captured = desk.ledger.effect("capture", asked.path["id"])
    if captured is None or captured.amount_minor is None:
        return _unknown("capture", asked.path["id"])
    left = captured.amount_minor - desk.ledger.sum_of("refund", captured.effect_id)
    body = asked.body
    if body.currency != captured.currency or body.amount_minor > left:
        return refusal(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "above_capture",
            f"{body.amount_minor} {body.currency} asked, {left} {captured.currency} left of the capture",
        )
    refunded = desk.ledger.record(
        Effect(
            effect_id=new_id("ref"),
            kind="refund",
            key=asked.key,
            reference=captured.reference,
            parent_id=captured.effect_id,
            state="refunded",
            amount_minor=body.amount_minor,
            currency=body.currency,
            at=wall_time(),
            details={"cause": body.cause},
        )
    )
    _tell(desk, refunded, PaymentEventKind.REFUNDED)
    return Answer(HTTPStatus.CREATED, _refund_body(refunded))


def _void(desk: Desk, key: str, authorisation: Effect) -> Answer:
    # A hold that has expired went back to the customer by itself: there is nothing left to give back.
    still_held = authorisation.state == "open" and datetime.now(UTC) < _expiry(authorisation)
    held = _held(desk, authorisation) if still_held else 0
    voided = desk.ledger.record(
        Effect(
            effect_id=new_id("void"),
            kind="void",
            key=key,
            reference=authorisation.reference,
            parent_id=authorisation.effect_id,
            state="voided" if held else "nothing_held",
            amount_minor=held,
            currency=authorisation.currency,
            at=wall_time(),
        )
    )
    if authorisation.state == "open" and not still_held:
        desk.ledger.set_state(authorisation.effect_id, "expired")
    if held:
        desk.ledger.set_state(authorisation.effect_id, "voided")
        _tell(desk, voided, PaymentEventKind.VOIDED)
    return Answer(HTTPStatus.OK, {"amount_minor": held, "currency": authorisation.currency})


def _held(desk: Desk, authorisation: Effect) -> int:
    return (authorisation.amount_minor or 0) - desk.ledger.sum_of("capture", authorisation.effect_id)


def _expiry(authorisation: Effect) -> datetime:
    return datetime.fromisoformat(str((authorisation.details or {})["expires_at"]))


def _tell(desk: Desk, effect: Effect, kind: PaymentEventKind, *, after: timedelta = timedelta(0)) -> None:
    if not desk.settings.notify or effect.currency is None:
        return
    event_id = f"{effect.effect_id}:{kind}"
    desk.courier.plan(
        WebhookEnvelope(
            event_id=event_id,
            kind=WebhookKind.PAYMENT_EVENT,
            order_id=effect.reference,
            event=PaymentEvent(
                event_id=event_id,
                kind=kind,
                occurred_at=datetime.now(UTC) + after / desk.settings.speed,
                provider_ref=effect.effect_id,
                amount=Money(minor=effect.amount_minor or 0, currency=effect.currency),
            ),
        ),
        key=effect.key,
        subject=effect.effect_id,
        after=after,
    )


def _unknown(what: str, effect_id: str) -> Answer:
    return refusal(HTTPStatus.NOT_FOUND, f"unknown_{what}", f"there is no {what} {effect_id}")


def _line(desk: Desk, effect: Effect) -> Body:
    """An effect as the statement shows it. ``held_minor``: what an authorisation still holds just now."""
    body: Body = {
        "line_id": effect.effect_id,
        "kind": effect.kind,
        "state": effect.state,
        "key": effect.key,
        "reference": effect.reference,
        "parent_id": effect.parent_id,
        "amount_minor": effect.amount_minor,
        "currency": effect.currency,
        "held_minor": None,
        "at": effect.at,
        "changed_at": effect.changed_at,
    }
    if effect.kind == "authorisation":
        holds = effect.state in ("open", "used") and datetime.now(UTC) < _expiry(effect)
        body["held_minor"] = _held(desk, effect) if holds else 0
    return body


def _authorisation_body(authorisation: Effect) -> Body:
    details = authorisation.details or {}
    return {
        "authorisation_id": authorisation.effect_id,
        "approved": authorisation.state != "declined",
        "state": authorisation.state,
        "reference": authorisation.reference,
        "amount_minor": authorisation.amount_minor,
        "currency": authorisation.currency,
        "expires_at": details.get("expires_at"),
        "decline_code": details.get("decline_code"),
        "final": details.get("final", False),
    }


def _capture_body(captured: Effect) -> Body:
    return {
        "capture_id": captured.effect_id,
        "authorisation_id": captured.parent_id,
        "amount_minor": captured.amount_minor,
        "currency": captured.currency,
    }


def _refund_body(refunded: Effect) -> Body:
    return {
        "refund_id": refunded.effect_id,
        "capture_id": refunded.parent_id,
        "amount_minor": refunded.amount_minor,
        "currency": refunded.currency,
    }
