"""Stand-in carriers: sell labels, collect the parcel and tell each scan by webhook until it is delivered.

Of a hundred parcels 96 or 97 come within the transit time, counted from the label, and the others one or two days late.
Some towns have a fate of their own, for trying things out:

=================  ===================================================================
``LATEVILLE``      delivered five days after the transit time
``LOSTVILLE``      collected, in transit, and declared lost five days after that time
``SILENTVILLE``    collected, and never heard of again
``IDLEVILLE``      labelled, and never collected
``TROUBLEVILLE``   a failed delivery attempt (``exception``), delivered the next day
``REFUSEVILLE``    no carrier goes there: the label is refused
=================  ===================================================================
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated

from pydantic import AwareDatetime, Field, StringConstraints
from starlette.routing import Route

from apps.simulators.chance import between, fraction
from apps.simulators.faults import LABELS, FaultKind
from apps.simulators.ledger import Effect, wall_time
from apps.simulators.serving import (
    Answer,
    Asked,
    Body,
    Desk,
    effect_route,
    look_up_route,
    new_id,
    statement_route,
)
from models.base import Document
from models.messages import CarrierEvent, CarrierEventKind, Refusal
from models.money import Currency
from models.order import Address
from models.webhooks import ShipmentId, WebhookEnvelope, WebhookKind

Text = Annotated[str, StringConstraints(min_length=1, max_length=255)]

SILENCE = "silence"
IDLENESS = "idleness"
_FATE_OF_TOWN: Mapping[str, FaultKind | str] = {
    "LATEVILLE": FaultKind.LATE_PARCEL,
    "LOSTVILLE": FaultKind.LOST_PARCEL,
    "SILENTVILLE": SILENCE,
    "IDLEVILLE": IDLENESS,
    "TROUBLEVILLE": FaultKind.FAILED_DELIVERY,
    "REFUSEVILLE": FaultKind.REFUSE_LABEL,
}

FASTEST_COLLECTION = timedelta(hours=2)
SLOWEST_COLLECTION = timedelta(hours=8)
SHARE_LATE = 0.035
# However short the way: from collection to the customer's door.
SHORTEST_TRIP = timedelta(hours=4)
FORCED_DELAY = timedelta(days=5)
TURNED_ROUND = timedelta(hours=2)
WAY_BACK = timedelta(days=2)
_TOO_FAR = frozenset(
    {
        CarrierEventKind.OUT_FOR_DELIVERY,
        CarrierEventKind.DELIVERED,
        CarrierEventKind.EXCEPTION,
        CarrierEventKind.LOST,
        CarrierEventKind.DAMAGED,
    }
)


class LabelRequest(Document):
    """``POST /labels``. ``transit_days`` is what the service promises; ``business_now`` is when it is bought."""

    carrier: Text
    service: Text
    shipment_id: ShipmentId
    node: Text
    ship_to: Address
    recipient: Text
    weight_g: Annotated[int, Field(strict=True, ge=0)]
    transit_days: Annotated[int, Field(strict=True, ge=0, le=60)]
    price_minor: Annotated[int, Field(strict=True, ge=0)]
    currency: Currency
    business_now: AwareDatetime


class VoidRequest(Document):
    """``POST /labels/void``: give back the label bought under ``label_key``."""

    label_key: Text


class InterceptRequest(Document):
    """``POST /labels/intercept``: bring the parcel with the label bought under ``label_key`` back to its sender."""

    label_key: Text
    business_now: AwareDatetime


@dataclass(frozen=True)
class Scan:
    """What is seen of a parcel, how long after its label was bought."""

    kind: CarrierEventKind
    after: timedelta
    detail: str = ""


def routes(desk: Desk) -> list[Route]:
    """The carriers' HTTP surface."""
    return [
        effect_route(desk, "/labels", LabelRequest, buy_label),
        look_up_route(desk, "/labels", "label", lambda label: _label_body(label) | _scans_body(desk, label)),
        effect_route(desk, "/labels/void", VoidRequest, void_label),
        effect_route(desk, "/labels/intercept", InterceptRequest, intercept),
        statement_route(desk, ("label",), lambda label: _line(desk, label)),
    ]


def buy_label(desk: Desk, asked: Asked[LabelRequest]) -> Answer:
    """Sell a label and plan the parcel's way, or refuse."""
    body = asked.body
    fault = desk.faults.strikes(LABELS, "POST /labels", asked.key)
    fate = fault.do if fault else fate_of_town(body)
    reason, refusal = "", None
    if desk.ledger.is_called_off("label", asked.key):
        reason = "called_off: this label was called off before it came"
    elif fate is FaultKind.REFUSE_LABEL:
        reason, refusal = f"no_service: {body.carrier} does not deliver there", Refusal.NOT_SERVED
    label_id = new_id("lab")
    label = desk.ledger.record(
        Effect(
            effect_id=label_id,
            kind="label",
            key=asked.key,
            reference=body.shipment_id,
            state="refused" if reason else "bought",
            amount_minor=body.price_minor,
            currency=body.currency,
            at=wall_time(),
            details={
                "carrier": body.carrier,
                "service": body.service,
                "tracking": f"{body.carrier.upper()}{label_id[4:16].upper()}",
                "reason": reason,
                "refusal": refusal,
            },
        )
    )
    if reason:
        return Answer(HTTPStatus.CONFLICT, _label_body(label))
    for scan in way_of(body, fate, seed=desk.settings.seed, key=asked.key):
        event_id = f"{label.effect_id}:{scan.kind}"
        desk.courier.plan(
            WebhookEnvelope(
                event_id=event_id,
                kind=WebhookKind.CARRIER_EVENT,
                shipment_id=body.shipment_id,
                event=CarrierEvent(
                    event_id=event_id,
                    kind=scan.kind,
                    occurred_at=body.business_now + scan.after,
                    tracking=_tracking(label),
                    detail=scan.detail,
                ),
            ),
            key=asked.key,
            subject=label.effect_id,
            after=scan.after,
        )
    return Answer(HTTPStatus.CREATED, _label_body(label))


def void_label(desk: Desk, asked: Asked[VoidRequest]) -> Answer:
    """Take the label back unless the parcel was collected; one not bought yet will be refused when it comes."""
    label = desk.ledger.effect_of("label", asked.body.label_key)
    if label is None:
        desk.ledger.call_off("label", asked.body.label_key)
        return Answer(HTTPStatus.OK, {"undone": True, "reason": "not bought yet, and will be refused"})
    if label.state not in ("bought", "returning"):
        return Answer(HTTPStatus.OK, {"undone": True, "reason": f"the label was {label.state} already"})
    collected_at = desk.ledger.due_at(f"{label.effect_id}:{CarrierEventKind.COLLECTED}")
    # The parcel is gone from the moment of the scan on, whether or not anybody has been told yet.
    if collected_at is not None and collected_at <= time.time():
        return Answer(
            HTTPStatus.OK, {"undone": False, "reason": "handed_over: the parcel is with the carrier"}
        )
    desk.ledger.set_state(label.effect_id, "voided")
    desk.courier.forget(label.effect_id)
    return Answer(HTTPStatus.OK, {"undone": True, "reason": "the label was taken back"})


def intercept(desk: Desk, asked: Asked[InterceptRequest]) -> Answer:
    """Turn a parcel round that is on its way, until the van to the customer has it."""
    label = desk.ledger.effect_of("label", asked.body.label_key)
    if label is None or label.state != "bought":
        reason = "unknown: no parcel travels by this label"
        return Answer(HTTPStatus.OK, {"accepted": False, "reason": reason})
    seen = {told.event.kind for told in desk.courier.happened(label.effect_id)}
    if CarrierEventKind.COLLECTED not in seen or seen & _TOO_FAR:
        reason = (
            "too_late: it is out for delivery or beyond" if seen else "not_collected: void the label instead"
        )
        return Answer(HTTPStatus.OK, {"accepted": False, "reason": reason})
    desk.ledger.set_state(label.effect_id, "returning")
    desk.courier.forget(label.effect_id)
    for kind, after in ((CarrierEventKind.RETURNING, TURNED_ROUND), (CarrierEventKind.RETURNED, WAY_BACK)):
        event_id = f"{label.effect_id}:{kind}"
        desk.courier.plan(
            WebhookEnvelope(
                event_id=event_id,
                kind=WebhookKind.CARRIER_EVENT,
                shipment_id=label.reference,
                event=CarrierEvent(
                    event_id=event_id,
                    kind=kind,
                    occurred_at=asked.body.business_now + after,
                    tracking=_tracking(label),
                ),
            ),
            key=asked.key,
            subject=label.effect_id,
            after=after,
        )
    return Answer(HTTPStatus.OK, {"accepted": True, "reason": "it is brought back"})


def fate_of_town(label: LabelRequest) -> FaultKind | str | None:
    """What happens to every parcel to some towns."""
    return _FATE_OF_TOWN.get(label.ship_to.city.upper())


def way_of(label: LabelRequest, fate: FaultKind | str | None = None, *, seed: int, key: str) -> list[Scan]:
    """The scans of a parcel in order; the same label under the same key and seed always goes the same way."""
    transit = timedelta(days=label.transit_days)
    collected = between(FASTEST_COLLECTION, SLOWEST_COLLECTION, fraction(seed, key, "collected"))
    on_time = between(transit * 0.6, transit * 0.95, fraction(seed, key, "transit"))
    delivered = max(on_time, collected + SHORTEST_TRIP)
    if fate is FaultKind.LATE_PARCEL:
        delivered = transit + FORCED_DELAY
    elif fraction(seed, key, "late") < SHARE_LATE:
        delay = between(timedelta(days=1), timedelta(days=2), fraction(seed, key, "delay"))
        delivered = max(transit, collected) + delay
    in_transit = collected + (delivered - collected) * 0.3
    out_for_delivery = collected + (delivered - collected) * 0.8
    start = [Scan(CarrierEventKind.COLLECTED, collected)]
    if fate == IDLENESS:
        return []
    if fate == SILENCE:
        return start
    start.append(Scan(CarrierEventKind.IN_TRANSIT, in_transit))
    if fate is FaultKind.LOST_PARCEL:
        given_up = max(transit, in_transit) + FORCED_DELAY
        return [*start, Scan(CarrierEventKind.LOST, given_up, "not found after a search")]
    if fate is FaultKind.DAMAGED_PARCEL:
        return [*start, Scan(CarrierEventKind.DAMAGED, out_for_delivery, "crushed in the depot")]
    start.append(Scan(CarrierEventKind.OUT_FOR_DELIVERY, out_for_delivery))
    if fate is FaultKind.FAILED_DELIVERY:
        start.append(Scan(CarrierEventKind.EXCEPTION, delivered, "nobody was there"))
        delivered += timedelta(days=1)
    return [*start, Scan(CarrierEventKind.DELIVERED, delivered)]


def _scans_body(desk: Desk, label: Effect) -> Body:
    return {"events": [told.event.model_dump(mode="json") for told in desk.courier.happened(label.effect_id)]}


def _line(desk: Desk, label: Effect) -> Body:
    """A label as the statement shows it. ``in_use``: the parcel was collected."""
    collected_at = desk.ledger.due_at(f"{label.effect_id}:{CarrierEventKind.COLLECTED}")
    return {
        "line_id": label.effect_id,
        "kind": label.kind,
        "state": label.state,
        "key": label.key,
        "reference": label.reference,
        "amount_minor": label.amount_minor,
        "currency": label.currency,
        "in_use": collected_at is not None and collected_at <= time.time(),
        "at": label.at,
        "changed_at": label.changed_at,
    }


def _tracking(label: Effect) -> str:
    return str((label.details or {})["tracking"])


def _label_body(label: Effect) -> Body:
    accepted = label.state != "refused"
    return {
        "accepted": accepted,
        "label_id": label.effect_id if accepted else None,
        "tracking": _tracking(label) if accepted else None,
        "cost_minor": label.amount_minor if accepted else None,
        "currency": label.currency if accepted else None,
        "state": label.state,
        "reason": (label.details or {}).get("reason", ""),
        "refusal": (label.details or {}).get("refusal"),
    }
