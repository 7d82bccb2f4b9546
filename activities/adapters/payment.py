"""The payment provider over HTTP."""

from typing import Annotated, Literal
from urllib.parse import quote

import httpx
from pydantic import AwareDatetime, Field

from activities.adapters.http import HttpNeighbour, Wire
from models.effects import Authorisation, Captured, Refunded, Voided
from models.money import Currency, Money

Id = Annotated[str, Field(min_length=1)]
Minor = Annotated[int, Field(ge=0)]


class HttpPaymentProvider:
    """``activities.ports.PaymentProvider`` over HTTP. A declined authorisation (402) is an answer."""

    def __init__(self, base_url: str, client: httpx.AsyncClient) -> None:
        self._provider = HttpNeighbour("payment provider", base_url, client)

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


def _segment(provider_id: str) -> str:
    # The provider chose it, so it may hold anything.
    return quote(provider_id, safe="")


def _amount(amount: Money) -> dict[str, object]:
    return {"amount_minor": amount.minor, "currency": amount.currency}
