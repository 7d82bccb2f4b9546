"""An order that is paid by several tenders, or by one that we keep ourselves: gift card, store credit, account.

The workflow asks for one hold, one capture, one refund, under one key each. Here each is done in parts, one per tender,
numbered in the order in which they are drawn on (``policies.tenders``), under the keys ``{key}/1``, ``{key}/2``, ….
How a capture or refund is shared is decided once, in the transaction that intends all its parts, so that whoever goes
on after a crash finds the same shares. Parts on cards are carried out at the provider like any other; ours are in our
own books alone.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from activities.exactly_once import Effect, Meaning, carry_out
from activities.ports import PaymentProvider
from activities.store import accounts, operations
from activities.store.operations import PaymentOperation, Standing
from activities.store.plans import split_of
from activities.store.record import record
from activities.store.stock import consume
from activities.store.store import Store
from models.effects import (
    Authorisation,
    AuthorisePayment,
    Captured,
    CapturePayment,
    Refunded,
    RefundPayment,
    Voided,
)
from models.errors import NeighbourRefused, RefundAboveCaptured, Refused
from models.journal import Carried
from models.money import Money
from models.operations import OperationState, PaymentKind
from models.order import MAX_TENDERS, OrderDraft, Tender, TenderKind
from policies.money import Parts, split
from policies.tenders import draw, drawn, holds

Out = TypeVar("Out")

_REFERENCE = "parts:"
PARTS = range(1, MAX_TENDERS + 1)


def is_in_parts(reference: str) -> bool:
    """Whether an authorisation's or a capture's reference stands for parts."""
    return reference.startswith(_REFERENCE)


def part_key(key: str, number: int) -> str:
    """The key of one part of what is done under ``key``."""
    return f"{key}/{number}"


class TenderParts:
    """Holds, takes and gives back in parts."""

    def __init__(self, store: Store, payments: PaymentProvider) -> None:
        self._store = store
        self._payments = payments

    async def authorise(self, effect: AuthorisePayment, draft: OrderDraft) -> Authorisation:
        """Hold each tender's share. The first decline is the answer; what was held before it is the caller's to undo.

        Raises ``Refused`` when it was called off, or is said to be done by hand.
        """
        if effect.by_hand is not None:
            raise Refused(
                "an order with several tenders, or with one of ours, cannot be authorised by hand: try again, or cancel"
            )
        async with self._store.transaction() as session:
            await record(session, effect.order_id, effect.carried)
            whole = await operations.payment(session, effect.order_id, effect.key)
            known = await self._known(session, effect.order_id, effect.key)
        if whole is not None and whole.state is OperationState.CALLED_OFF:
            raise Refused(f"operation {effect.key} was called off")
        for standing in known.values():
            if standing.state is OperationState.DECLINED:
                return _declined(effect, Authorisation.model_validate(standing.answer))
        expiries = []
        shares = zip(drawn(draft), holds(draft, effect.amount.minor), strict=True)
        for number, (tender, minor) in enumerate(shares, start=1):
            if minor == 0:
                continue
            answer = await self._hold(
                effect, number, tender, Money(minor=minor, currency=effect.amount.currency)
            )
            if not answer.approved:
                return _declined(effect, answer)
            if answer.expires_at is not None:
                expiries.append(answer.expires_at)
        return Authorisation(
            approved=True,
            authorisation_id=f"{_REFERENCE}{effect.key}",
            amount=effect.amount,
            expires_at=min(expiries, default=None),
        )

    async def capture(self, effect: CapturePayment) -> Captured:
        """Take the amount out of the parts of the hold, in the order in which they are drawn on."""
        held_under = effect.authorisation_id.removeprefix(_REFERENCE)
        async with self._store.transaction() as session:
            await record(session, effect.order_id, effect.carried)
            await operations.lock_order(session, effect.order_id)
            held = await self._known(session, effect.order_id, held_under)
            known = await self._known(session, effect.order_id, effect.key)
            if not known:
                available = {
                    number: await operations.left_of_hold(session, effect.order_id, standing)
                    for number, standing in held.items()
                    if standing.state is OperationState.CONFIRMED
                }
                shares = _shares(effect.amount, available)
                if sum(shares.values()) < effect.amount.minor:
                    raise Refused(
                        f"a capture of {effect.amount} is beyond bounds: {sum(available.values())} minor units are held"
                    )
                make_up = await split_of(session, effect.order_id, effect.shipment_id, effect.amount)
                parts = (
                    dict.fromkeys(shares, None) if make_up is None else _split(make_up, shares, effect.amount)
                )
                for number, minor in shares.items():
                    operation = self._capture(effect, number, held[number], minor)
                    await operations.intend(session, operation.model_copy(update={"split": parts[number]}))
                known = await self._known(session, effect.order_id, effect.key)
        for number, standing in known.items():
            await self._take(effect, number, held[number], _minor(standing))
        return Captured(capture_id=f"{_REFERENCE}{effect.key}", amount=effect.amount)

    async def refund(self, effect: RefundPayment) -> Refunded:
        """Give back out of the parts of the capture: those drawn on last first, each at most what it paid."""
        taken_under = effect.capture_id.removeprefix(_REFERENCE)
        async with self._store.transaction() as session:
            await record(session, effect.order_id, effect.carried)
            await operations.lock_order(session, effect.order_id)
            taken = await self._known(session, effect.order_id, taken_under)
            known = await self._known(session, effect.order_id, effect.key)
            if not known:
                available = {
                    number: await operations.left_of_capture(session, effect.order_id, taken[number])
                    for number in sorted(taken, reverse=True)
                    if taken[number].state is OperationState.CONFIRMED
                }
                shares = _shares(effect.amount, available)
                if sum(shares.values()) < effect.amount.minor:
                    left = Money(minor=sum(available.values()), currency=effect.amount.currency)
                    raise RefundAboveCaptured(
                        f"a refund of {effect.amount} is beyond bounds: {left} of what was captured are left. "
                        "Pay back no more than that, and give the rest as store credit"
                    )
                for number, minor in shares.items():
                    await operations.intend(session, self._refund(effect, number, taken[number], minor))
                known = await self._known(session, effect.order_id, effect.key)
        for number, standing in sorted(known.items(), reverse=True):
            await self._pay_back(effect, number, taken[number], _minor(standing))
        return Refunded(refund_id=f"{_REFERENCE}{effect.key}", amount=effect.amount)

    async def let_go(self, authorisation: PaymentOperation, hold: Standing, key: str) -> Voided:
        """Give back what a tender of ours holds and no capture is about to take, in one transaction."""
        async with self._store.transaction() as session:
            void = PaymentOperation(
                key=key,
                order_id=authorisation.order_id,
                kind=PaymentKind.VOID,
                parent=authorisation.key,
                amount=Money.zero(authorisation.amount.currency),
                tender=hold.tender,
            )
            standing, _ = await operations.intend(session, void)
            if standing.state in operations.ANSWERED:
                return Voided.model_validate(standing.answer)
            rest = await operations.left_of_hold(session, authorisation.order_id, hold)
            answer = Voided(amount=Money(minor=rest, currency=authorisation.amount.currency))
            await operations.answer(
                session,
                void,
                state=OperationState.CONFIRMED,
                content=answer.model_dump(mode="json"),
                amount_minor=rest,
            )
            await operations.call_off(session, authorisation)
        return answer

    async def _known(self, session: AsyncSession, order_id: str, key: str) -> dict[int, Standing]:
        found = {
            number: await operations.payment(session, order_id, part_key(key, number)) for number in PARTS
        }
        return {number: standing for number, standing in found.items() if standing is not None}

    async def _hold(
        self, effect: AuthorisePayment, number: int, tender: Tender, amount: Money
    ) -> Authorisation:
        operation = PaymentOperation(
            key=part_key(effect.key, number),
            order_id=effect.order_id,
            kind=PaymentKind.AUTHORISE,
            amount=amount,
            tender=tender.kind,
        )
        if tender.kind is not TenderKind.CARD:
            instrument = accounts.instrument_of(tender.kind, tender.token)
            return await self._hold_ours(operation.model_copy(update={"instrument": instrument}), tender)
        return await carry_out(
            self._store,
            Effect(
                operation=operation,
                carried=Carried(),
                gives=Authorisation,
                ask=lambda: self._payments.authorise(
                    key=operation.key, reference=effect.order_id, token=tender.token, amount=amount
                ),
                look_up=lambda: self._payments.find_authorisation(key=operation.key),
                means=lambda answer: (
                    Meaning(OperationState.CONFIRMED, answer.authorisation_id)
                    if answer.approved
                    else Meaning(OperationState.DECLINED)
                ),
            ),
        )

    async def _hold_ours(self, operation: PaymentOperation, tender: Tender) -> Authorisation:
        async with self._store.transaction() as session:
            standing, _ = await operations.intend(session, operation)
            if standing.state is OperationState.CALLED_OFF:
                raise Refused(f"operation {operation.key} was called off")
            if standing.state in operations.ANSWERED:
                return Authorisation.model_validate(standing.answer)
            why_not = await accounts.why_not(session, tender.kind, tender.token, operation.amount)
            answer = Authorisation(
                approved=why_not is None,
                authorisation_id=None if why_not else operation.key,
                amount=operation.amount,
                decline_code=why_not,
            )
            await operations.answer(
                session,
                operation,
                state=OperationState.DECLINED if why_not else OperationState.CONFIRMED,
                content=answer.model_dump(mode="json"),
                provider_ref=answer.authorisation_id,
            )
        return answer

    def _capture(self, effect: CapturePayment, number: int, hold: Standing, minor: int) -> PaymentOperation:
        return PaymentOperation(
            key=part_key(effect.key, number),
            order_id=effect.order_id,
            shipment_id=effect.shipment_id,
            kind=PaymentKind.CAPTURE,
            parent=hold.provider_ref,
            amount=Money(minor=minor, currency=effect.amount.currency),
            tender=hold.tender,
        )

    async def _take(self, effect: CapturePayment, number: int, hold: Standing, minor: int) -> None:
        operation = self._capture(effect, number, hold, minor)

        async def ask() -> Captured:
            if hold.tender is not TenderKind.CARD:
                return Captured(capture_id=operation.key, amount=operation.amount)
            captured = await self._payments.capture(
                key=operation.key, authorisation_id=str(hold.provider_ref), amount=operation.amount
            )
            if getattr(captured, "expired", False):
                raise NeighbourRefused(
                    f"the card's part of the hold, {operation.amount}, has expired: ask the customer, or finish by hand"
                )
            return captured

        await carry_out(
            self._store,
            Effect(
                operation=operation,
                carried=Carried(),
                gives=Captured,
                ask=ask,
                look_up=_at_provider(hold, lambda: self._payments.find_capture(key=operation.key)),
                means=lambda captured: Meaning(provider_ref=captured.capture_id),
                follows=lambda session, *_: consume(session, effect.shipment_id),
                by_hand=_of_part(effect.by_hand, hold, operation),
            ),
        )

    def _refund(self, effect: RefundPayment, number: int, taken: Standing, minor: int) -> PaymentOperation:
        return PaymentOperation(
            key=part_key(effect.key, number),
            order_id=effect.order_id,
            shipment_id=effect.shipment_id,
            kind=PaymentKind.REFUND,
            parent=taken.provider_ref,
            amount=Money(minor=minor, currency=effect.amount.currency),
            cause=effect.cause,
            tender=taken.tender,
        )

    async def _pay_back(self, effect: RefundPayment, number: int, taken: Standing, minor: int) -> None:
        operation = self._refund(effect, number, taken, minor)

        async def ask() -> Refunded:
            if taken.tender is not TenderKind.CARD:
                return Refunded(refund_id=operation.key, amount=operation.amount)
            return await self._payments.refund(
                key=operation.key,
                capture_id=str(taken.provider_ref),
                amount=operation.amount,
                cause=effect.cause,
            )

        await carry_out(
            self._store,
            Effect(
                operation=operation,
                carried=Carried(),
                gives=Refunded,
                ask=ask,
                look_up=_at_provider(taken, lambda: self._payments.find_refund(key=operation.key)),
                means=lambda refunded: Meaning(provider_ref=refunded.refund_id),
                by_hand=_of_part(effect.by_hand, taken, operation),
            ),
        )


def _at_provider(of: Standing, look_up: Callable[[], Awaitable[Out]]) -> Callable[[], Awaitable[Out]] | None:
    """Only what is done at the provider can be looked up there; what is ours is known."""
    return look_up if of.tender is TenderKind.CARD else None


def _declined(effect: AuthorisePayment, answer: Authorisation) -> Authorisation:
    return answer.model_copy(update={"amount": effect.amount, "authorisation_id": None})


def _shares(amount: Money, available: Mapping[int, int]) -> dict[int, int]:
    """``amount`` out of the numbered parts, in their order; those that give nothing are left out."""
    shares = zip(available, draw(amount.minor, tuple(available.values())), strict=True)
    return {number: minor for number, minor in shares if minor > 0}


def _split(
    make_up: Mapping[str, int], shares: Mapping[int, int], amount: Money
) -> dict[int, dict[str, int] | None]:
    parts = split(Parts(**make_up), tuple(shares.values()), amount.currency)
    return {number: part.model_dump() for number, part in zip(shares, parts, strict=True)}


def _minor(standing: Standing) -> int:
    return 0 if standing.amount is None else standing.amount.minor


def _of_part(
    by_hand: dict[str, object] | None, of: Standing, operation: PaymentOperation
) -> dict[str, object] | None:
    """What a person did by hand was done with the card; our own books do their part."""
    if by_hand is None or of.tender is not TenderKind.CARD:
        return None
    return by_hand | {"amount": operation.amount.model_dump()}
