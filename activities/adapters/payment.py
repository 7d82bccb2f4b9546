"""The payment provider over HTTP."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal
from urllib.parse import quote

import httpx
from pydantic import AwareDatetime, Field

from activities.adapters.http import HttpNeighbour, Wire
from models.effects import Authorisation, Captured, Refunded, Voided
from models.money import Currency, Money
from models.operations import PaymentKind
from models.reconciliation import LineState, StatementLine, StatementPage

Id = Annotated[str, Field(min_length=1)]
Minor = Annotated[int, Field(ge=0)]


class HttpPaymentProvider:
    """``activities.ports.PaymentProvider`` over HTTP. A declined authorisation (402) is an answer."""

    def __init__(self, base_url: str, client: httpx.AsyncClient, token: str = "") -> None:
        self._provider = HttpNeighbour("payment provider", base_url, client, token)

    async def authorise(self, *, key: str, reference: str, token: str, amount: Money) -> Authorisation:
        """Hold ``amount``; ``POST /authorisations``."""
        answer = await self._provider.act(
            "/authorisations",
            key=key,
            body={"reference": reference, "token": token, **_amount(amount)},
            gives=_Authorisation,
            also_answers={402: _Declined},
        )
        return answer.meant()

    async def find_authorisation(self, *, key: str) -> Authorisation | None:
        """What was approved or declined under ``key``."""
        answer = await self._provider.look_up("/authorisations", key=key, gives=_Authorisation)
        return None if answer is None else answer.meant()

    async def void_by_key(self, *, key: str, authorisation_key: str) -> Voided:
        """Give back what is held, also for an authorisation that never arrived; ``POST /authorisations/void``."""
        answer = await self._provider.act(
            "/authorisations/void", key=key, body={"authorisation_key": authorisation_key}, gives=_Voided
        )
        return answer.meant()

    async def capture(self, *, key: str, authorisation_id: str, amount: Money) -> Captured:
        """Take ``amount`` of the hold; ``POST /authorisations/{id}/captures``.

        A hold that has expired (409 ``hold_expired``) is an answer; any other 409 is a refusal.
        """
        answer: _Captured | _HoldExpired = await self._provider.act(
            f"/authorisations/{_segment(authorisation_id)}/captures",
            key=key,
            body=_amount(amount),
            gives=_Captured,
            also_answers={409: _HoldExpired},
        )
        if isinstance(answer, _HoldExpired):
            return Captured(capture_id="", amount=Money.zero(amount.currency), expired=True)
        return answer.meant()

    async def find_capture(self, *, key: str) -> Captured | None:
        """What was captured under ``key``."""
        answer = await self._provider.look_up("/captures", key=key, gives=_Captured)
        return None if answer is None else answer.meant()

    async def refund(self, *, key: str, capture_id: str, amount: Money, cause: str) -> Refunded:
        """Give back ``amount`` of a capture; ``POST /captures/{id}/refunds``."""
        answer = await self._provider.act(
            f"/captures/{_segment(capture_id)}/refunds",
            key=key,
            body={"cause": cause, **_amount(amount)},
            gives=_Refunded,
        )
        return answer.meant()

    async def find_refund(self, *, key: str) -> Refunded | None:
        """What was refunded under ``key``."""
        answer = await self._provider.look_up("/refunds", key=key, gives=_Refunded)
        return None if answer is None else answer.meant()

    async def statement(
        self, *, since: AwareDatetime | None = None, reference: str | None = None, cursor: str | None = None
    ) -> StatementPage:
        """A page of what was done or changed; ``GET /statement/lines``."""
        page = await self._provider.read(
            "/statement/lines",
            gives=_Statement,
            since=None if since is None else since.isoformat(),
            reference=reference,
            after=cursor,
        )
        return StatementPage(lines=tuple(line.meant() for line in page.lines), next_cursor=page.next)


class _Amount(Wire):
    amount_minor: Minor
    currency: Currency

    def money(self) -> Money:
        return Money(minor=self.amount_minor, currency=self.currency)


class _Authorisation(_Amount):
    approved: bool
    authorisation_id: Id
    expires_at: AwareDatetime | None
    decline_code: str | None
    final: bool

    def meant(self) -> Authorisation:
        return Authorisation(
            approved=self.approved,
            authorisation_id=self.authorisation_id if self.approved else None,
            amount=self.money(),
            expires_at=self.expires_at,
            decline_code=self.decline_code,
            decline_is_final=self.final,
        )


class _Declined(_Authorisation):
    approved: Literal[False]


class _Voided(Wire):
    amount_minor: Minor
    currency: Currency | None

    def meant(self) -> Voided:
        if self.currency is None:
            return Voided()
        return Voided(amount=Money(minor=self.amount_minor, currency=self.currency))


class _Captured(_Amount):
    capture_id: Id

    def meant(self) -> Captured:
        return Captured(capture_id=self.capture_id, amount=self.money())


class _HoldExpired(Wire):
    code: Literal["hold_expired"]


class _Refunded(_Amount):
    refund_id: Id

    def meant(self) -> Refunded:
        return Refunded(refund_id=self.refund_id, amount=self.money())


# Their words for kinds and states, in ours.
_KINDS: Mapping[str, PaymentKind] = MappingProxyType(
    {
        "authorisation": PaymentKind.AUTHORISE,
        "capture": PaymentKind.CAPTURE,
        "refund": PaymentKind.REFUND,
        "void": PaymentKind.VOID,
    }
)
_STATES: Mapping[str, LineState] = MappingProxyType(
    {"declined": LineState.DECLINED, "voided": LineState.UNDONE, "expired": LineState.UNDONE}
)


class _Line(Wire):
    line_id: Id
    kind: str
    state: str
    key: str | None = None
    reference: str
    parent_id: str | None = None
    amount_minor: Minor | None
    currency: Currency | None
    held_minor: Minor | None = None
    at: AwareDatetime
    changed_at: AwareDatetime

    def meant(self) -> StatementLine:
        kind = _KINDS.get(self.kind, self.kind)
        # Of a void it is the hold that is undone; the void itself was done.
        undone = kind == PaymentKind.AUTHORISE or self.state == "declined"
        return StatementLine(
            line_id=self.line_id,
            kind=kind,
            key=self.key,
            reference=self.reference,
            parent_id=self.parent_id,
            state=_STATES.get(self.state, LineState.DONE) if undone else LineState.DONE,
            amount=_money(self.amount_minor, self.currency),
            held=_money(self.held_minor, self.currency),
            at=self.at,
            changed_at=self.changed_at,
        )


class _Statement(Wire):
    lines: tuple[_Line, ...]
    next: Annotated[str, Field(min_length=1)] | None


def _money(minor: int | None, currency: str | None) -> Money | None:
    return None if minor is None or currency is None else Money(minor=minor, currency=currency)


def _segment(provider_id: str) -> str:
    # The provider chose it, so it may hold anything.
    return quote(provider_id, safe="")


def _amount(amount: Money) -> dict[str, object]:
    return {"amount_minor": amount.minor, "currency": amount.currency}
