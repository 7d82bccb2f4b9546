"""What neighbours post to us: an envelope around one event, signed with a shared secret.

The signature covers the time of sending and the exact bytes: a body can be neither changed nor replayed later::

    Orderwright-Timestamp: 1767225600
    Orderwright-Signature: v1=<hex of HMAC-SHA256(secret, "{timestamp}.{raw body}")>
"""

import hashlib
import hmac
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from models.base import Contract
from models.errors import Unauthorised
from models.identifiers import OrderId, order_of_shipment
from models.messages import CarrierEvent, PaymentEvent, RequestId, WmsEvent

TIMESTAMP_HEADER = "Orderwright-Timestamp"
SIGNATURE_HEADER = "Orderwright-Signature"
TOLERANCE_SECONDS = 300

_VERSION = "v1"


def _shipment_id(value: str) -> str:
    order_of_shipment(value)
    return value


ShipmentId = Annotated[str, AfterValidator(_shipment_id)]


class WebhookKind(StrEnum):
    """Whose event it is; also the name of the workflow signal that it becomes."""

    CARRIER_EVENT = "carrier_event"
    WMS_EVENT = "wms_event"
    PAYMENT_EVENT = "payment_event"


class WebhookEnvelope(Contract):
    """One event and whom it concerns: a shipment (carrier, warehouse) or an order (payment provider)."""

    event_id: RequestId
    kind: WebhookKind
    shipment_id: ShipmentId | None = None
    order_id: OrderId | None = None
    event: CarrierEvent | WmsEvent | PaymentEvent

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if not isinstance(self.event, _EVENT_OF[self.kind]):
            raise ValueError(f"kind {self.kind} comes with a {_EVENT_OF[self.kind].__name__}")
        if self.event.event_id != self.event_id:
            raise ValueError("the envelope and its event carry different event ids")
        if self.kind is WebhookKind.PAYMENT_EVENT:
            if self.order_id is None:
                raise ValueError("a payment_event names its order_id")
        elif self.shipment_id is None:
            raise ValueError(f"a {self.kind} names its shipment_id")
        return self


_EVENT_OF: dict[WebhookKind, type[CarrierEvent] | type[WmsEvent] | type[PaymentEvent]] = {
    WebhookKind.CARRIER_EVENT: CarrierEvent,
    WebhookKind.WMS_EVENT: WmsEvent,
    WebhookKind.PAYMENT_EVENT: PaymentEvent,
}


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """The value of the signature header for ``body`` sent at ``timestamp`` (Unix seconds)."""
    signed = f"{timestamp}.".encode() + body
    return f"{_VERSION}={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


def verify(
    secret: str,
    header_signature: str | None,
    header_timestamp: str | None,
    body: bytes,
    now: float,
    *,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> None:
    """Raise ``Unauthorised`` unless the two headers vouch for ``body``; ``now`` is Unix seconds.

    ``None`` stands for a missing header. A time-stamp over ``tolerance_seconds`` away, either way, is refused.
    """
    if not header_signature or not header_timestamp:
        raise Unauthorised(f"a webhook needs the headers {TIMESTAMP_HEADER} and {SIGNATURE_HEADER}")
    # isascii too: int() would also take other scripts' digits, which sign() never writes.
    if not (header_timestamp.isascii() and header_timestamp.isdigit() and len(header_timestamp) <= 12):
        raise Unauthorised(f"{TIMESTAMP_HEADER} must be whole Unix seconds")
    timestamp = int(header_timestamp)
    # The signature first: a stranger learns nothing about our clock.
    expected = sign(secret, timestamp, body)
    if not hmac.compare_digest(expected.encode(), header_signature.encode()):
        raise Unauthorised("the webhook's signature does not match its body")
    if abs(now - timestamp) > tolerance_seconds:
        raise Unauthorised(
            f"the webhook was signed {abs(now - timestamp):.0f} s away from our clock, at most "
            f"{tolerance_seconds:.0f} s are allowed: send it again with a fresh time-stamp"
        )
