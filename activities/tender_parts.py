"""An order that is paid by several tenders, or by one that we keep ourselves: gift card, store credit, account.

The workflow asks for one hold, one capture, one refund, under one key each. Here each is done in parts, one per tender,
numbered in the order in which they are drawn on (``policies.tenders``), under the keys ``{key}/1``, ``{key}/2``, ….
How a capture or refund is shared is decided once, in the transaction that intends all its parts, so that whoever goes
on after a crash finds the same shares. Parts on cards are carried out at the provider like any other; ours are in our
own books alone.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from activities.exactly_once import Effect, Meaning, carry_out
from activities.ports import PaymentProvider
from activities.store import accounts, operations, reads
from activities.store.departing import leave
from activities.store.operations import PaymentOperation, Standing
from activities.store.plans import split_of
from activities.store.record import record
from activities.store.store import Store
from activities.store.tenders import may_ask
from models.effects import (
    Authorisation,
    AuthorisePayment,
    Captured,
    CapturePayment,
    Refunded,
    RefundPayment,
    Voided,
)
from models.errors import RefundAboveCaptured, Refused
from models.journal import Carried
from models.money import Money
from models.operations import OperationState, PaymentKind
from models.order import MAX_TENDERS, TenderKind
from policies.money import Parts, split
from policies.tenders import Part, draw, holds, part_key, part_of, rank

Out = TypeVar("Out")

_REFERENCE = "parts:"
_ANOTHER_AMOUNT = "amount_changed"
PARTS = range(1, MAX_TENDERS + 1)


def is_in_parts(reference: str) -> bool:
    """Whether an authorisation's or a capture's reference stands for parts."""
    return reference.startswith(_REFERENCE)


def capture_reference(key: str, provider_ref: str) -> str:
    """By which reference what was captured under ``key`` is paid back: in parts if it was taken in parts."""
    return f"{_REFERENCE}{key.partition('/')[0]}" if is_part(key) else provider_ref


def is_part(key: str) -> bool:
    """Whether what is done under ``key`` is one part of something."""
    return "/" in key


class _Asked(NamedTuple):
    """A part, and the hold that is asked for it.

    ``drawn``: minor units of earlier holds, by the key they were asked for under, that shipments which go on are to be
    paid from.
    """

    part: Part
    operation: PaymentOperation
    drawn: Mapping[str, int] = {}


class TenderParts:
    """Holds, takes and gives back in parts."""

    def __init__(self, store: Store, payments: PaymentProvider) -> None:
        self._store = store
        self._payments = payments

    async def authorise(self, effect: AuthorisePayment, parts: Sequence[Part]) -> Authorisation:
        """Hold each part on its tender. The first decline is the answer; what was held is the caller's to undo.

        The answer to a decline has the amount of the part that was declined. Cards are asked once it is known that ours
        suffice, and ours are held last, all at once: a card that is declined has moved nothing of them. What an earlier
        hold of the order has on a tender of ours makes room for this one, which takes its place.

        Raises ``Refused`` when it was called off, or is said to be done by hand.
        """
        if effect.by_hand is not None:
            raise Refused(
                "an order with several tenders, or with one of ours, cannot be authorised by hand: try again, or cancel"
            )
        asked = await self._intend(effect, parts)
        if isinstance(asked, Authorisation):
            return asked
        expiries = []
        for one in asked:
            if one.part.kind is not TenderKind.CARD:
                continue
            answer = await self._hold_card(effect, one)
            if not answer.approved:
                return _declined(one.operation, answer.decline_code, final=answer.decline_is_final)
            if answer.expires_at is not None:
                expiries.append(answer.expires_at)
        if (declined := await self._hold_ours(asked)) is not None:
            return declined
        return Authorisation(
            approved=True,
            authorisation_id=f"{_REFERENCE}{effect.key}",
            amount=effect.amount,
            expires_at=min(expiries, default=None),
        )

    async def _intend(self, effect: AuthorisePayment, parts: Sequence[Part]) -> list[_Asked] | Authorisation:
        """Decide once what each part is to hold; or the decline, where that is known already."""
        async with self._store.transaction() as session:
            await record(session, effect.order_id, effect.carried)
            whole = await operations.payment(session, effect.order_id, effect.key)
            if whole is not None and whole.state is OperationState.CALLED_OFF:
                raise Refused(f"operation {effect.key} was called off")
            known = await self._known(session, effect.order_id, effect.key)
            for standing in known.values():
                if standing.state is OperationState.DECLINED:
                    return Authorisation.model_validate(standing.answer)
            if known:
                return [
                    self._one(effect, part, _minor(known[part.number]))
                    for part in parts
                    if part.number in known
                ]
            asked = await self._asked(session, effect, parts)
            if (declined := await self._declined_at_once(session, asked)) is not None:
                return declined
            for one in asked:
                await operations.intend(session, one.operation)
            return asked

    async def refuse_another_amount(self, effect: AuthorisePayment, card: Part) -> Authorisation | None:
        """A decline where a lone card was offered for another amount than is to be held on it now, else None."""
        if not card.offered:
            return None
        async with self._store.transaction() as session:
            await operations.lock_order(session, effect.order_id)
            one = _Asked(
                card,
                PaymentOperation(
                    key=effect.key,
                    order_id=effect.order_id,
                    kind=PaymentKind.AUTHORISE,
                    amount=effect.amount,
                ),
            )
            if await _may_ask(session, one, effect.key):
                return None
            await record(session, effect.order_id, effect.carried)
            return await _write_decline(session, one.operation, _ANOTHER_AMOUNT)

    async def capture(self, effect: CapturePayment) -> Captured:
        """Take the amount out of the parts of the hold, in the order in which they are drawn on.

        Cards are taken from first, for only they can expire. Then nothing is taken from ours, and the answer says that
        the hold has expired: the capture that follows takes the rest out of another one. It says so as well where what
        was held is not there any more, because a later hold took its place.
        """
        held_under = effect.authorisation_id.removeprefix(_REFERENCE)
        async with self._store.transaction() as session:
            await record(session, effect.order_id, effect.carried)
            await operations.lock_order(session, effect.order_id)
            held = await self._known(session, effect.order_id, held_under)
            known = await self._known(session, effect.order_id, effect.key)
            if not known:
                taken = await self._taken(session, effect.order_id, effect.shipment_id)
                rest = effect.amount.minor - sum(_minor(one) for one in taken)
                available = {
                    number: await operations.left_of_hold(session, effect.order_id, held[number])
                    for number in sorted(held, key=lambda number: (rank(held[number].tender), number))
                    if held[number].state is OperationState.CONFIRMED
                }
                shares = _shares(rest, available)
                if sum(shares.values()) < rest:
                    if not held or effect.by_hand is not None:
                        there = Money(minor=sum(available.values()), currency=effect.amount.currency)
                        raise Refused(f"a capture of {effect.amount} is beyond bounds: {there} are held")
                    return _expired(effect)
                make_up = await split_of(session, effect.order_id, effect.shipment_id, effect.amount)
                splits = _splits(make_up, taken, shares, effect.amount)
                for number, minor in shares.items():
                    operation = self._capture(effect, number, held[number], minor)
                    await operations.intend(session, operation.model_copy(update={"split": splits[number]}))
                known = await self._known(session, effect.order_id, effect.key)
        for number in (
            order := sorted(known, key=lambda number: (held[number].tender is not TenderKind.CARD, number))
        ):
            taken_now = await self._take(
                effect, number, held[number], _minor(known[number]), last=number == order[-1]
            )
            if taken_now.expired:
                await self._leave_the_rest(effect, held, known)
                return _expired(effect)
        return Captured(capture_id=f"{_REFERENCE}{effect.key}", amount=effect.amount)

    async def refund(self, effect: RefundPayment) -> Refunded:
        """Give back out of the parts of the capture: those drawn on last first, each at most what it paid."""
        async with self._store.transaction() as session:
            await record(session, effect.order_id, effect.carried)
            await operations.lock_order(session, effect.order_id)
            found = await self._taken(session, effect.order_id, effect.shipment_id)
            drawn = sorted(found, key=lambda one: (rank(one.tender), part_of(one.key), one.key), reverse=True)
            taken = dict(enumerate(drawn, start=1))
            known = await self._known(session, effect.order_id, effect.key, taken)
            if not known:
                available = {
                    number: await operations.left_of_capture(session, effect.order_id, one)
                    for number, one in taken.items()
                }
                shares = _shares(effect.amount.minor, available)
                if sum(shares.values()) < effect.amount.minor:
                    left = Money(minor=sum(available.values()), currency=effect.amount.currency)
                    raise RefundAboveCaptured(
                        f"a refund of {effect.amount} is beyond bounds: {left} of what was captured are left. "
                        "Pay back no more than that, and give the rest as store credit"
                    )
                for number, minor in shares.items():
                    await operations.intend(session, self._refund(effect, number, taken[number], minor))
                known = await self._known(session, effect.order_id, effect.key, taken)
        for number, standing in sorted(known.items()):
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

    async def _known(
        self, session: AsyncSession, order_id: str, key: str, numbers: Iterable[int] = PARTS
    ) -> dict[int, Standing]:
        found = {
            number: await operations.payment(session, order_id, part_key(key, number)) for number in numbers
        }
        return {number: standing for number, standing in found.items() if standing is not None}

    async def _taken(self, session: AsyncSession, order_id: str, shipment_id: str) -> list[Standing]:
        """What was taken for a shipment: by one capture, or by several where a card's part had expired meanwhile."""
        return [
            one
            for one in await operations.captures(session, order_id)
            if one.shipment_id == shipment_id and one.state is OperationState.CONFIRMED
        ]

    async def _asked(
        self, session: AsyncSession, effect: AuthorisePayment, parts: Sequence[Part]
    ) -> list[_Asked]:
        """What each part is to hold of the amount: what it still has to pay of the order."""
        taken: dict[int, int] = {}
        by_shipment: dict[str | None, int] = {}
        whole = {one.shipment_id: one.amount.minor for one in await reads.shipments(session, effect.order_id)}
        for one in await operations.captures(session, effect.order_id):
            # What is about to be taken of a card may turn out to have expired.
            if one.state is OperationState.CONFIRMED or one.tender is not TenderKind.CARD:
                taken[part_of(one.key)] = taken.get(part_of(one.key), 0) + _minor(one)
                by_shipment[one.shipment_id] = by_shipment.get(one.shipment_id, 0) + _minor(one)
        # Of a shipment that is paid in part only the rest is to be held; one that is paid is not in the amount.
        paid_in_part = sum(
            minor for shipment, minor in by_shipment.items() if minor < whole.get(str(shipment), 0)
        )
        shares = holds(parts, max(0, effect.amount.minor - paid_in_part), taken)
        drawn = {key.removeprefix(_REFERENCE): amount.minor for key, amount in effect.drawn.items()}
        return [
            self._one(effect, part, shares[part.number])._replace(
                # Of several parts each pays its own amount in the end, less what it holds now and was taken of it.
                drawn=drawn
                if len(parts) == 1
                else dict.fromkeys(
                    drawn, max(0, part.amount_minor - taken.get(part.number, 0) - shares[part.number])
                )
            )
            for part in parts
            if shares[part.number]
        ]

    def _one(self, effect: AuthorisePayment, part: Part, minor: int) -> _Asked:
        ours = part.kind is not TenderKind.CARD
        return _Asked(
            part,
            PaymentOperation(
                key=part_key(effect.key, part.number),
                order_id=effect.order_id,
                kind=PaymentKind.AUTHORISE,
                amount=Money(minor=minor, currency=effect.amount.currency),
                tender=part.kind,
                instrument=accounts.instrument_of(part.kind, part.token) if ours else None,
            ),
        )

    async def _declined_at_once(self, session: AsyncSession, asked: Sequence[_Asked]) -> Authorisation | None:
        """What is known to be declined before anybody is asked: another amount than was shown, too little of ours."""
        for one in asked:
            if not await _may_ask(session, one, one.operation.key.partition("/")[0]):
                return await _write_decline(session, one.operation, _ANOTHER_AMOUNT)
        return await self._ours_declined(session, asked)

    async def _ours_declined(self, session: AsyncSession, asked: Sequence[_Asked]) -> Authorisation | None:
        ours = [one for one in asked if one.part.kind is not TenderKind.CARD]
        await accounts.lock(session, [(one.part.kind, one.part.token) for one in ours])
        so_far: dict[str | None, Money] = {}
        for one in ours:
            instrument, amount = one.operation.instrument, one.operation.amount
            so_far[instrument] = so_far.get(instrument, Money.zero(amount.currency)) + amount
            earlier = await self._superseded(session, one)
            why_not = await accounts.why_not(
                session,
                one.part.kind,
                one.part.token,
                so_far[instrument],
                superseded=sum(left for _, left in earlier),
            )
            if why_not is not None:
                return await _write_decline(session, one.operation, why_not)
        return None

    async def _superseded(self, session: AsyncSession, one: _Asked) -> list[tuple[Standing, int]]:
        """What earlier holds of the order have on the same tender of ours, and no shipment is to be paid from."""
        under = f"{one.operation.key.partition('/')[0]}/"
        earlier = await operations.holds_on(session, one.operation.order_id, str(one.operation.instrument))
        room = []
        for hold in earlier:
            if not hold.key.startswith(under):
                left = await operations.left_of_hold(session, one.operation.order_id, hold)
                room.append((hold, max(0, left - one.drawn.get(hold.key.partition("/")[0], 0))))
        return room

    async def _hold_card(self, effect: AuthorisePayment, one: _Asked) -> Authorisation:
        operation = one.operation
        return await carry_out(
            self._store,
            Effect(
                operation=operation,
                carried=Carried(),
                gives=Authorisation,
                ask=lambda: self._payments.authorise(
                    key=operation.key,
                    reference=effect.order_id,
                    token=one.part.token,
                    amount=operation.amount,
                ),
                look_up=lambda: self._payments.find_authorisation(key=operation.key),
                means=lambda answer: (
                    Meaning(OperationState.CONFIRMED, answer.authorisation_id)
                    if answer.approved
                    else Meaning(OperationState.DECLINED)
                ),
            ),
        )

    async def _hold_ours(self, asked: Sequence[_Asked]) -> Authorisation | None:
        """Hold what is ours, all or nothing; the decline, if there is one."""
        ours = [one for one in asked if one.part.kind is not TenderKind.CARD]
        if not ours:
            return None
        async with self._store.transaction() as session:
            standings = [(await operations.intend(session, one.operation))[0] for one in ours]
            for standing in standings:
                if standing.state is OperationState.CALLED_OFF:
                    raise Refused(f"operation {standing.key} was called off")
            if all(standing.state is OperationState.CONFIRMED for standing in standings):
                return None
            if (declined := await self._ours_declined(session, ours)) is not None:
                return declined
            for one in ours:
                await self._make_room(session, one)
                answer = Authorisation(
                    approved=True, authorisation_id=one.operation.key, amount=one.operation.amount
                )
                await operations.answer(
                    session,
                    one.operation,
                    state=OperationState.CONFIRMED,
                    content=answer.model_dump(mode="json"),
                    provider_ref=one.operation.key,
                )
        return None

    async def _make_room(self, session: AsyncSession, one: _Asked) -> None:
        """Give back of the order's earlier holds what this one needs of them, and no more: shipments draw on them yet.

        Both in one transaction under the tender's lock, so that nobody else gets it in between, and it is held once.
        """
        operation = one.operation
        short = await accounts.beyond(session, one.part.kind, one.part.token, operation.amount)
        for hold, left in await self._superseded(session, one):
            if (given := min(short, left)) <= 0:
                continue
            short -= given
            void = PaymentOperation(
                key=f"{operation.key}/of/{hold.key}",
                order_id=operation.order_id,
                kind=PaymentKind.VOID,
                parent=hold.provider_ref,
                amount=Money.zero(operation.amount.currency),
                tender=hold.tender,
            )
            await operations.intend(session, void)
            await operations.answer(
                session,
                void,
                state=OperationState.CONFIRMED,
                content=Voided(amount=Money(minor=given, currency=operation.amount.currency)).model_dump(
                    mode="json"
                ),
                amount_minor=given,
            )

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

    async def _take(
        self, effect: CapturePayment, number: int, hold: Standing, minor: int, *, last: bool
    ) -> Captured:
        operation = self._capture(effect, number, hold, minor)

        async def ask() -> Captured:
            if hold.tender is not TenderKind.CARD:
                return Captured(capture_id=operation.key, amount=operation.amount)
            captured = await self._payments.capture(
                key=operation.key, authorisation_id=str(hold.provider_ref), amount=operation.amount
            )
            # An earlier try, whose answer was lost, may have been in time.
            found = await self._payments.find_capture(key=operation.key) if captured.expired else None
            return found or captured

        async def follows(session: AsyncSession, captured: Captured) -> None:
            if captured.expired:
                await operations.hold_expired(session, effect.order_id, str(hold.provider_ref))
            elif last:
                await leave(session, effect.shipment_id)

        return await carry_out(
            self._store,
            Effect(
                operation=operation,
                carried=Carried(),
                gives=Captured,
                ask=ask,
                look_up=_at_provider(hold, lambda: self._payments.find_capture(key=operation.key)),
                means=lambda captured: (
                    Meaning(OperationState.DECLINED)
                    if captured.expired
                    else Meaning(provider_ref=captured.capture_id)
                ),
                follows=follows,
                by_hand=_of_part(effect.by_hand, hold, operation),
            ),
        )

    async def _leave_the_rest(
        self, effect: CapturePayment, held: Mapping[int, Standing], known: Mapping[int, Standing]
    ) -> None:
        """Take nothing more under this key: what other parts hold is free again for the capture that follows."""
        async with self._store.transaction() as session:
            for number, standing in known.items():
                await operations.answer(
                    session,
                    self._capture(effect, number, held[number], _minor(standing)),
                    state=OperationState.DECLINED,
                    content=_expired(effect).model_dump(mode="json"),
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


async def _may_ask(session: AsyncSession, one: _Asked, key: str) -> bool:
    if not one.part.offered:
        return True
    operation = one.operation
    return await may_ask(session, operation.order_id, one.part.offered, key=key, minor=operation.amount.minor)


async def _write_decline(session: AsyncSession, operation: PaymentOperation, code: str) -> Authorisation:
    """Decline it ourselves, for now; what stands under the key already stays."""
    standing, _ = await operations.intend(session, operation)
    if standing.state is OperationState.CALLED_OFF:
        raise Refused(f"operation {operation.key} was called off")
    if standing.state in operations.ANSWERED:
        return Authorisation.model_validate(standing.answer)
    answer = _declined(operation, code)
    await operations.answer(
        session, operation, state=OperationState.DECLINED, content=answer.model_dump(mode="json")
    )
    return answer


def _declined(operation: PaymentOperation, code: str | None, *, final: bool = False) -> Authorisation:
    return Authorisation(approved=False, amount=operation.amount, decline_code=code, decline_is_final=final)


def _expired(effect: CapturePayment) -> Captured:
    return Captured(capture_id="", amount=Money.zero(effect.amount.currency), expired=True)


def _shares(minor: int, available: Mapping[int, int]) -> dict[int, int]:
    """``minor`` out of the numbered parts, in their order; those that give nothing are left out."""
    shares = zip(available, draw(minor, tuple(available.values())), strict=True)
    return {number: share for number, share in shares if share > 0}


def _splits(
    make_up: Mapping[str, int] | None, taken: Sequence[Standing], shares: Mapping[int, int], amount: Money
) -> dict[int, dict[str, int] | None]:
    """What each share is for: together what is left of ``make_up`` after what was taken before."""
    before = [one.split for one in taken]
    if make_up is None or None in before or not shares:
        return dict.fromkeys(shares, None)
    rest = Parts(**make_up)
    for one in before:
        rest -= Parts(**(one or {}))
    parts = split(rest, tuple(shares.values()), amount.currency)
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
