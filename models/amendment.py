"""Changes to an order that was accepted: what is asked for, what it would cost, and what became of it.

Each amendment that is applied makes a new version of the order's document; the one that came in is version 1.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field, StringConstraints

from models.base import Contract, Document, SentMoment
from models.errors import Problem
from models.identifiers import Sku
from models.messages import Actor, Reason, RequestId
from models.money import Money
from models.order import (
    MAX_LINES,
    MAX_QUANTITY,
    Address,
    CarrierServiceName,
    DraftCharge,
    PositiveMinor,
)

LineId = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class LineChange(Document):
    """How many units of a line are wanted from now on; none removes it, a SKU that the order has not adds a line.

    Name the line by ``line_id``, or by ``sku`` where only one line has it. A new line needs ``unit_price_minor``; one
    that the order came in with and that was removed comes back at its old price, unless another is given. For a
    business with a price list the list says what is left out: the price of a new line, and of another quantity.
    """

    line_id: LineId | None = None
    sku: Sku | None = None
    quantity: Annotated[int, Field(strict=True, ge=0, le=MAX_QUANTITY)]
    unit_price_minor: PositiveMinor | None = None
    description: Annotated[str, StringConstraints(max_length=200)] = ""


class AmendmentRequest(Document):
    """``POST /v1/orders/{order_id}/amendments``: what is to be different. What is left out stays as it is.

    ``service`` is ``carrier/service``; ``promise_by`` the latest delivery. ``charges`` replaces all charges of the
    order; without it taxes and discounts follow the goods in proportion, and other charges stay. ``base_version`` is
    the version of the document that the caller saw: a change to another one is refused.
    """

    request_id: RequestId
    actor: Actor
    reason: Reason
    lines: tuple[LineChange, ...] = Field(default=(), max_length=MAX_LINES)
    ship_to: Address | None = None
    service: CarrierServiceName | None = None
    promise_by: SentMoment | None = None
    charges: tuple[DraftCharge, ...] | None = Field(default=None, max_length=MAX_LINES)
    base_version: Annotated[int, Field(strict=True, ge=1)] | None = None


class LineDifference(Contract):
    """A line before and after, in units and money."""

    line_id: str
    sku: str
    units_before: int
    units_after: int
    amount_before: Money
    amount_after: Money


class AmendmentPreview(Contract):
    """What an amendment does to an order's money. Nothing has moved yet.

    ``difference`` is total after less total before. ``to_authorise`` is what the customer's tender is newly held for
    (the whole that is still to be planned, where what is held for it does not suffice), ``to_release`` what is given
    back.
    ``kept`` is the part of the total that parcels take which can no longer be changed. ``notes`` say in words what the
    figures do not: which parcels go on as they are, for example.
    """

    order_id: str
    base_version: int
    lines: tuple[LineDifference, ...]
    goods_before: Money
    goods_after: Money
    charges_before: Money
    charges_after: Money
    total_before: Money
    total_after: Money
    difference: Money
    kept: Money
    to_authorise: Money
    to_release: Money
    address_changes: bool = False
    service: str | None = None
    promise_by: AwareDatetime | None = None
    notes: tuple[str, ...] = ()


class AmendmentState(StrEnum):
    """PROPOSED: asked of the order's run. APPLIED: the document is of this version now. REFUSED: nothing changed."""

    PROPOSED = "proposed"
    APPLIED = "applied"
    REFUSED = "refused"


class AmendmentView(Contract):
    """An amendment as it stands. ``number`` is the version of the document that it makes."""

    amendment_id: str
    order_id: str
    number: int
    state: AmendmentState
    request_id: str
    actor: str
    reason: str
    preview: AmendmentPreview
    refusal: Problem | None = None
    created_at: AwareDatetime
    decided_at: AwareDatetime | None = None
