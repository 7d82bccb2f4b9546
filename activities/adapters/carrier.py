"""The carriers over HTTP."""

from typing import Annotated, Literal, Self

import httpx
from pydantic import AwareDatetime, Field, model_validator

from activities.adapters.http import HttpNeighbour, UndoneAnswer, Wire
from models.effects import Interception, Label, Undone
from models.messages import CarrierEvent, SaidRefusal
from models.money import Currency, Money
from models.order import Address
from models.reconciliation import LineState, StatementLine, StatementPage

Text = Annotated[str, Field(min_length=1)]


class HttpCarrier:
    """``activities.ports.Carrier`` over HTTP. A refused label (409) is an answer."""

    def __init__(self, base_url: str, client: httpx.AsyncClient, token: str = "") -> None:
        self._carrier = HttpNeighbour("carrier", base_url, client, token)

    async def buy_label(
        self,
        *,
        key: str,
        carrier: str,
        service: str,
        shipment_id: str,
        node: str,
        ship_to: Address,
        recipient: str,
        weight_g: int,
        transit_days: int,
        price: Money,
        business_now: AwareDatetime,
    ) -> Label:
        """Buy a label; ``POST /labels``."""
        answer = await self._carrier.act(
            "/labels",
            key=key,
            body={
                "carrier": carrier,
                "service": service,
                "shipment_id": shipment_id,
                "node": node,
                "ship_to": ship_to.model_dump(mode="json"),
                "recipient": recipient,
                "weight_g": weight_g,
                "transit_days": transit_days,
                "price_minor": price.minor,
                "currency": price.currency,
                "business_now": business_now.isoformat(),
            },
            gives=_Label,
            also_answers={409: _Refused},
        )
        return answer.meant()

    async def find_label(self, *, key: str) -> Label | None:
        """What was sold or refused under ``key``."""
        answer = await self._carrier.look_up("/labels", key=key, gives=_Label)
        return None if answer is None else answer.meant()

    async def scans(self, *, key: str) -> tuple[CarrierEvent, ...]:
        """The ``events`` of ``GET /labels``."""
        answer = await self._carrier.look_up("/labels", key=key, gives=_Scans)
        return () if answer is None else answer.events

    async def intercept(self, *, key: str, label_key: str, business_now: AwareDatetime) -> Interception:
        """Ask for a parcel back; ``POST /labels/intercept``. Not accepted: it is too far on its way."""
        answer = await self._carrier.act(
            "/labels/intercept",
            key=key,
            body={"label_key": label_key, "business_now": business_now.isoformat()},
            gives=_Interception,
        )
        return Interception(accepted=answer.accepted, reason=answer.reason)

    async def void_label(self, *, key: str, label_key: str) -> Undone:
        """Give a label back, also one never bought; ``POST /labels/void``. Not undone: the parcel was collected."""
        answer = await self._carrier.act(
            "/labels/void", key=key, body={"label_key": label_key}, gives=UndoneAnswer
        )
        return answer.meant()

    async def statement(
        self, *, since: AwareDatetime | None = None, reference: str | None = None, cursor: str | None = None
    ) -> StatementPage:
        """A page of labels that were sold or taken back; ``GET /statement/lines``."""
        page = await self._carrier.read(
            "/statement/lines",
            gives=_Statement,
            since=None if since is None else since.isoformat(),
            reference=reference,
            after=cursor,
        )
        return StatementPage(lines=tuple(line.meant() for line in page.lines), next_cursor=page.next)


class _Line(Wire):
    line_id: Text
    kind: str
    state: str
    key: str | None = None
    reference: str
    amount_minor: Annotated[int, Field(ge=0)] | None
    currency: Currency | None
    in_use: bool
    at: AwareDatetime
    changed_at: AwareDatetime

    def meant(self) -> StatementLine:
        states = {"voided": LineState.UNDONE, "refused": LineState.DECLINED}
        cost = None
        if self.amount_minor is not None and self.currency is not None:
            cost = Money(minor=self.amount_minor, currency=self.currency)
        return StatementLine(
            line_id=self.line_id,
            kind=self.kind,
            key=self.key,
            reference=self.reference,
            state=states.get(self.state, LineState.DONE),
            amount=cost,
            in_use=self.in_use,
            at=self.at,
            changed_at=self.changed_at,
        )


class _Statement(Wire):
    lines: tuple[_Line, ...]
    next: Text | None


class _Label(Wire):
    accepted: bool
    label_id: Text | None
    tracking: Text | None
    cost_minor: Annotated[int, Field(ge=0)] | None
    currency: Currency | None
    reason: str
    refusal: SaidRefusal = None

    @model_validator(mode="after")
    def _a_sold_label_is_whole(self) -> Self:
        if self.accepted and None in (self.label_id, self.tracking, self.cost_minor, self.currency):
            raise ValueError("accepted without label_id, tracking, cost_minor and currency")
        return self

    def meant(self) -> Label:
        cost = None
        if self.cost_minor is not None and self.currency is not None:
            cost = Money(minor=self.cost_minor, currency=self.currency)
        return Label(
            accepted=self.accepted,
            label_id=self.label_id,
            tracking=self.tracking,
            cost=cost,
            reason=self.reason,
            refusal=None if self.accepted else self.refusal,
        )


class _Interception(Wire):
    accepted: bool
    reason: str


class _Scans(Wire):
    events: tuple[CarrierEvent, ...]


class _Refused(_Label):
    accepted: Literal[False]
