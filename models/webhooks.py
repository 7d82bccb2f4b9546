"""What neighbours post to us: an envelope around one event, signed with a shared secret.

The signature covers the time of sending and the exact bytes: a body can be neither changed nor replayed later::

    Orderwright-Timestamp: 1767225600
    Orderwright-Signature: v1=<hex of HMAC-SHA256(secret, "{timestamp}.{raw body}")>

Replayed at once, within the window, it is an event whose id was taken before: ``WebhookEnvelope.fingerprint`` tells it
from another event under the same id.
"""

import hashlib
import hmac
import json
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from models.base import Contract
from models.errors import Unauthorised
from models.identifiers import SHIPMENT_ID_PATTERN, OrderId, order_of_shipment
from models.messages import CarrierEvent, PaymentEvent, WmsEvent

TIMESTAMP_HEADER = "Orderwright-Timestamp"
SIGNATURE_HEADER = "Orderwright-Signature"
TOLERANCE_SECONDS = 300

_VERSION = "v1"


def _shipment_id(value: str) -> str:
    order_of_shipment(value)
    return value


ShipmentId = Annotated[
    str, AfterValidator(_shipment_id), Field(json_schema_extra={"pattern": SHIPMENT_ID_PATTERN})
]
# It stands in tables and logs.
EventId = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[!-~]+$")]


class WebhookKind(StrEnum):
    """Whose event it is; also the name of the workflow signal that it becomes."""

    CARRIER_EVENT = "carrier_event"
    WMS_EVENT = "wms_event"
    PAYMENT_EVENT = "payment_event"


def event_key(kind: WebhookKind, event_id: str) -> str:
    """Under which an event is known beside others of the same run: each neighbour numbers its own.

    The space sets it apart from every id that was kept before it had a kind: an event id has none.
    """
    return f"{kind} {event_id}"


class WebhookResult(StrEnum):
    """What became of an event. LATE: there was no run to take it."""

    DELIVERED = "delivered"
    LATE = "late"


class WebhookEnvelope(Contract):
    """One event and whom it concerns: a shipment (carrier, warehouse) or an order (payment provider)."""

    event_id: EventId
    kind: WebhookKind
    shipment_id: ShipmentId | None = None
    order_id: OrderId | None = None
    event: CarrierEvent | WmsEvent | PaymentEvent

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if not isinstance(self.event, EVENT_OF[self.kind]):
            raise ValueError(f"kind {self.kind} comes with a {EVENT_OF[self.kind].__name__}")
        if self.event.event_id != self.event_id:
            raise ValueError("the envelope and its event carry different event ids")
        if self.kind is WebhookKind.PAYMENT_EVENT:
            if self.order_id is None:
                raise ValueError("a payment_event names its order_id")
        elif self.shipment_id is None:
            raise ValueError(f"a {self.kind} names its shipment_id")
        return self

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what the envelope says: white space, order of keys and unknown fields do not matter."""
        content = self.model_dump(mode="json")
        # What is left out counts for nothing: an event that was taken before there was this field is still the same.
        for later in ("missing", "refusal"):
            if not content["event"].get(later):
                content["event"].pop(later, None)
        said = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(said.encode()).hexdigest()


EVENT_OF: dict[WebhookKind, type[CarrierEvent] | type[WmsEvent] | type[PaymentEvent]] = {
    WebhookKind.CARRIER_EVENT: CarrierEvent,
    WebhookKind.WMS_EVENT: WmsEvent,
    WebhookKind.PAYMENT_EVENT: PaymentEvent,
}


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """The value of the signature header for ``body`` sent at ``timestamp`` (Unix seconds)."""
    signed = f"{timestamp}.".encode() + body
    return f"{_VERSION}={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


def signature_of(header_signature: str | None, header_timestamp: str | None) -> tuple[str, int]:
    """Signature and time-stamp as ``verify`` needs them, ``None`` for a missing header. Raises ``Unauthorised``.

    It tells what nobody has signed before its body is read.
    """
    if not header_signature or not header_timestamp:
        raise Unauthorised(f"a webhook needs the headers {TIMESTAMP_HEADER} and {SIGNATURE_HEADER}")
    # isascii too: int() would also take other scripts' digits, which sign() never writes.
    if not (header_timestamp.isascii() and header_timestamp.isdigit() and len(header_timestamp) <= 12):
        raise Unauthorised(f"{TIMESTAMP_HEADER} must be whole Unix seconds")
    return header_signature, int(header_timestamp)


def verify(
    secrets: tuple[str, ...],
    header_signature: str | None,
    header_timestamp: str | None,
    body: bytes,
    now: float,
    *,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> None:
    """Raise ``Unauthorised`` unless the two headers vouch for ``body``; ``now`` is Unix seconds.

    ``None`` stands for a missing header. Any of ``secrets`` will do: while one is exchanged for another, both are in
    use. A time-stamp over ``tolerance_seconds`` away, either way, is refused.
    """
    signature, timestamp = signature_of(header_signature, header_timestamp)
    # Every secret is tried, also after one has matched: how long it takes says nothing about which one, or how nearly.
    matches = [
        hmac.compare_digest(sign(secret, timestamp, body).encode(), signature.encode()) for secret in secrets
    ]
    # The signature first: a stranger learns nothing about our clock.
    if not any(matches):
        raise Unauthorised("the webhook's signature does not match its body")
    if abs(now - timestamp) > tolerance_seconds:
        raise Unauthorised(
            f"the webhook was signed {abs(now - timestamp):.0f} s away from our clock, at most "
            f"{tolerance_seconds:.0f} s are allowed: send it again with a fresh time-stamp"
        )
