"""A promise before there is an order: a plan for a cart, which the order that names it is shipped by."""

from typing import Annotated, Self

from pydantic import AwareDatetime, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from models.base import Contract, Document, SentMoment
from models.identifiers import Channel, Sku
from models.messages import RequestId
from models.money import Money
from models.order import (
    MAX_LINES,
    MAX_QUANTITY,
    CarrierServiceName,
    Country,
    CustomerTier,
    CustomerType,
)
from models.stock import YesOrNo


class CartLine(Document):
    """``quantity`` units of a SKU."""

    sku: Sku
    quantity: Annotated[int, Field(strict=True, ge=1, le=MAX_QUANTITY)]


class Destination(Document):
    """Where the goods would go; the postcode, where it is known, says how far that is. It is not stored."""

    country: Country
    postcode: Annotated[str, StringConstraints(max_length=20, pattern=r"^[^\x00]*$")] = ""


class PromiseRequest(Document):
    """``POST /v1/promise``: what a customer might order. With the same ``request_id`` a repeat gives the same promise.

    ``deliver_from`` and ``promise_by`` are the window that it is wanted in. ``valid_minutes``: how long an order may
    come that is to be shipped like this. Each SKU is named once.
    """

    request_id: RequestId
    channel: Channel
    customer_type: CustomerType = CustomerType.B2C
    customer_tier: CustomerTier | None = None
    destination: Destination
    lines: tuple[CartLine, ...] = Field(min_length=1, max_length=MAX_LINES)
    promise_by: SentMoment | None = None
    deliver_from: SentMoment | None = None
    ship_complete: YesOrNo = False
    carrier_service: CarrierServiceName | None = None
    valid_minutes: Annotated[int, Field(strict=True, ge=1, le=24 * 60)] = 15

    @model_validator(mode="after")
    def _each_sku_once(self) -> Self:
        if len({line.sku for line in self.lines}) < len(self.lines):
            raise PydanticCustomError("repeated_sku", "each SKU is named once: add its quantities up")
        return self

    @model_validator(mode="after")
    def _window_is_one(self) -> Self:
        if self.deliver_from and self.promise_by and self.deliver_from > self.promise_by:
            raise PydanticCustomError("window", "deliver_from lies after promise_by: no day is in the window")
        return self


class PromisedParcel(Contract):
    """A parcel of the plan: what comes in it, how, and by the end of which day."""

    node: str
    carrier: str
    service: str
    lines: tuple[CartLine, ...]
    promised_at: AwareDatetime


class PromiseAnswer(Contract):
    """What is promised; no ``promise_id``: nothing can be, for these ``reasons``, short of ``missing`` units.

    ``cost`` is what shipping costs the shop, as its routing reckons. Stock is not held before there is an order: if it
    is gone by then, the order is planned anew.
    """

    promise_id: str | None = None
    valid_until: AwareDatetime | None = None
    promised_at: AwareDatetime | None = None
    cost: Money | None = None
    parcels: tuple[PromisedParcel, ...] = ()
    policy: str | None = None
    reasons: tuple[str, ...] = ()
    missing: tuple[CartLine, ...] = ()


class PromiseView(Contract):
    """A promise and what became of it: the order that took it, what that one is promised now, and when it was there.

    ``kept_to``: the order's plan is the promised one. ``delivered_at``: of its last parcel, once all have arrived.
    """

    promise: PromiseAnswer
    made_at: AwareDatetime
    order_id: str | None = None
    taken_at: AwareDatetime | None = None
    not_taken: str | None = None
    order_promised_at: AwareDatetime | None = None
    kept_to: bool = False
    delivered_at: AwareDatetime | None = None
