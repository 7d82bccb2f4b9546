"""A stand-in warehouse: takes pick requests and tells by webhook, some business hours later, that the goods are picked.

A line whose SKU starts with ``SHORT-`` ends in a short pick. A node or SKU starting with ``REFUSE-``, or a node that
the warehouse does not know (``--node``), is refused at once; so is a SKU starting with ``BUSY-``, for want of hands.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from http import HTTPStatus
from typing import Annotated

from pydantic import AwareDatetime, Field, StringConstraints
from starlette.routing import Route

from apps.simulators.chance import between, fraction
from apps.simulators.faults import PICKS, FaultKind
from apps.simulators.ledger import Effect, wall_time
from apps.simulators.serving import Answer, Asked, Body, Desk, effect_route, look_up_route, new_id
from models.base import Document
from models.messages import MissingUnits, Refusal, WmsEvent, WmsEventKind
from models.webhooks import ShipmentId, WebhookEnvelope, WebhookKind

Text = Annotated[str, StringConstraints(min_length=1, max_length=255)]

FASTEST_PICK = timedelta(hours=1)
SLOWEST_PICK = timedelta(hours=6)


class PickLot(Document):
    """``quantity`` units of a lot; without a name, of those that nobody knows the lot of."""

    lot: Text | None
    expires_on: date | None
    quantity: Annotated[int, Field(strict=True, ge=1)]


class PickLine(Document):
    """``quantity`` units to take from the shelf; of these ``lots``, if the goods come in lots."""

    line_id: Text
    sku: Text
    quantity: Annotated[int, Field(strict=True, ge=1)]
    lots: tuple[PickLot, ...] = ()


class PickRequest(Document):
    """``POST /picks``: pick and pack a shipment. ``business_now`` is when it is asked."""

    node: Text
    shipment_id: ShipmentId
    lines: tuple[PickLine, ...] = Field(min_length=1)
    business_now: AwareDatetime


class CancelRequest(Document):
    """``POST /picks/cancel``: call off the pick asked for under ``pick_key``."""

    pick_key: Text


def routes(desk: Desk) -> list[Route]:
    """The warehouse's HTTP surface."""
    return [
        effect_route(desk, "/picks", PickRequest, request_pick),
        look_up_route(desk, "/picks", "pick", lambda pick: _pick_body(pick) | _progress_body(desk, pick)),
        effect_route(desk, "/picks/cancel", CancelRequest, cancel_pick),
    ]


def request_pick(desk: Desk, asked: Asked[PickRequest]) -> Answer:
    """Take the pick on and plan its end, or refuse it."""
    body = asked.body
    fault = desk.faults.strikes(PICKS, "POST /picks", asked.key)
    struck = fault.do if fault else None
    reason, refusal = _reason_to_refuse(desk, asked)
    missing: tuple[MissingUnits, ...] = ()
    if not reason and struck is FaultKind.REFUSE_PICK:
        first = body.lines[0]
        reason = f"not_on_hand: {first.sku} is not there, whatever the books say"
        refusal, missing = (
            Refusal.OUT_OF_STOCK,
            (MissingUnits(sku=first.sku, quantity=first.quantity),),
        )
    pick = desk.ledger.record(
        Effect(
            effect_id=new_id("pick"),
            kind="pick",
            key=asked.key,
            reference=body.shipment_id,
            state="refused" if reason else "accepted",
            at=wall_time(),
            details={
                "node": body.node,
                "units": sum(line.quantity for line in body.lines),
                "reason": reason,
                "refusal": refusal,
                "missing": [units.model_dump(mode="json") for units in missing],
                "lots": [lot.model_dump(mode="json") for line in body.lines for lot in line.lots],
            },
        )
    )
    if reason:
        return Answer(HTTPStatus.CONFLICT, _pick_body(pick))
    after = between(FASTEST_PICK, SLOWEST_PICK, fraction(desk.settings.seed, asked.key, "pick"))
    short = [line for line in body.lines if line.sku.startswith("SHORT-")]
    if not short and struck is FaultKind.SHORT_PICK:
        short = [body.lines[0]]
    event_id = f"{pick.effect_id}:end"
    desk.courier.plan(
        WebhookEnvelope(
            event_id=event_id,
            kind=WebhookKind.WMS_EVENT,
            shipment_id=body.shipment_id,
            event=WmsEvent(
                event_id=event_id,
                kind=WmsEventKind.SHORT if short else WmsEventKind.PICKED,
                occurred_at=body.business_now + after,
                pick_id=pick.effect_id,
                detail=f"not on the shelf: {', '.join(line.sku for line in short)}" if short else "",
                missing=tuple(MissingUnits(sku=line.sku, quantity=line.quantity) for line in short),
            ),
        ),
        key=asked.key,
        subject=pick.effect_id,
        after=after,
    )
    return Answer(HTTPStatus.CREATED, _pick_body(pick))


def cancel_pick(desk: Desk, asked: Asked[CancelRequest]) -> Answer:
    """Stop the pick, or put back what was picked; a pick that has not arrived yet will be refused when it does."""
    pick = desk.ledger.effect_of("pick", asked.body.pick_key)
    if pick is None:
        desk.ledger.call_off("pick", asked.body.pick_key)
        reason = "the pick had not arrived and will be refused"
    elif pick.state == "accepted":
        desk.ledger.set_state(pick.effect_id, "cancelled")
        desk.courier.forget(pick.effect_id)
        reason = "stopped, and anything picked goes back to its place"
    else:
        reason = f"the pick was {pick.state} already"
    return Answer(HTTPStatus.OK, {"undone": True, "reason": reason})


def _reason_to_refuse(desk: Desk, asked: Asked[PickRequest]) -> tuple[str, Refusal | None]:
    """In words, and as far as another plan is the answer; nothing where it is picked."""
    body = asked.body
    if desk.ledger.is_called_off("pick", asked.key):
        return "called_off: this pick was called off before it came", None
    known = desk.settings.nodes
    if body.node.startswith("REFUSE-") or (known and body.node not in known):
        return f"unknown_node: no node {body.node} here", None
    for prefix, (said, refusal) in _REFUSED_BY_SKU.items():
        for line in body.lines:
            if line.sku.startswith(prefix):
                return said.format(sku=line.sku, node=body.node), refusal
    return "", None


_REFUSED_BY_SKU: Mapping[str, tuple[str, Refusal | None]] = {
    "REFUSE-": ("not_stocked: {sku} is not kept at {node}", None),
    "BUSY-": ("no_capacity: {node} has no hands for {sku} today", Refusal.NO_CAPACITY),
}


def _progress_body(desk: Desk, pick: Effect) -> Body:
    return {"events": [told.event.model_dump(mode="json") for told in desk.courier.happened(pick.effect_id)]}


def _pick_body(pick: Effect) -> Body:
    details = pick.details or {}
    accepted = pick.state != "refused"
    return {
        "accepted": accepted,
        "pick_id": pick.effect_id if accepted else None,
        "state": pick.state,
        "reason": details.get("reason", ""),
        "refusal": details.get("refusal"),
        "missing": details.get("missing", []),
    }
