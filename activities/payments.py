"""Queue ``oms-payments``: hold, take and return money, and settle an order at its end."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from activities.exactly_once import Effect, Meaning, carry_out
from activities.failures import speaks_temporal
from activities.implements import implements
from activities.ports import PaymentProvider
from activities.settlement import imbalances, left, unpaid
from activities.store import ledger, operations, reads
from activities.store.departing import leave
from activities.store.intake import stored_draft
from activities.store.operations import PaymentOperation, Standing
from activities.store.outcomes import keep_order_outcome
from activities.store.plans import split_of
from activities.store.record import record
from activities.store.short_parcels import short_parcels
from activities.store.stock import release_all
from activities.store.store import Store
from activities.store.tenders import may_be_in_parts, paying
from activities.store.views import PaymentView, ShipmentView
from activities.tender_parts import TenderParts, capture_reference, is_in_parts, is_part
from models.effects import (
    Authorisation,
    AuthorisePayment,
    Captured,
    CapturePayment,
    Refunded,
    RefundPayment,
    Settlement,
    SettleOrder,
    ShortParcel,
    VoidAuthorisation,
    Voided,
)
from models.errors import NotFound, OrderwrightError, Refused
from models.journal import Carried
from models.money import Money
from models.operations import OperationState, PaymentKind
from models.order import TenderKind
from models.states import SHIPMENT_TERMINAL, OrderState
from policies.tenders import in_parts, part_key
from workflows import steps


class PaymentActivities:
    """Every movement of money: intended in our books, done at the provider, confirmed in our books."""

    def __init__(self, store: Store, payments: PaymentProvider) -> None:
        self._store = store
        self._payments = payments
        self._parts = TenderParts(store, payments)

    @implements(steps.AUTHORISE_PAYMENT)
    @speaks_temporal
    async def authorise_payment(self, effect: AuthorisePayment) -> Authorisation:
        """Hold the amount on the tender that is named. A decline is an answer and stays one under this key."""
        _require_same_amount(effect)
        async with self._store.transaction() as session:
            parts = await paying(session, effect.order_id, effect.tender)
        if in_parts(parts):
            answer = await self._parts.authorise(effect, parts)
            if not answer.approved:
                await self._give_parts_back(
                    effect.order_id, effect.key, f"{effect.key}:undo", unpaid_or_not=True
                )
            return answer
        (card,) = parts
        if effect.by_hand is None and (other := await self._parts.refuse_another_amount(effect, card)):
            return other

        return await carry_out(
            self._store,
            Effect(
                operation=_authorisation(effect.key, effect.order_id, effect.amount),
                carried=effect.carried,
                gives=Authorisation,
                ask=lambda: self._payments.authorise(
                    key=effect.key,
                    reference=effect.order_id,
                    token=card.token,
                    amount=effect.amount,
                ),
                look_up=lambda: self._payments.find_authorisation(key=effect.key),
                means=approved,
                by_hand=effect.by_hand,
            ),
        )

    @implements(steps.VOID_AUTHORISATION)
    @speaks_temporal
    async def void_authorisation(self, effect: VoidAuthorisation) -> Voided:
        """Give back what is held under the authorisation's key; one that arrives later is refused, by us and there.

        Raises ``Refused`` while a shipment that left has to be captured out of it.
        """
        return await self._give_back(
            effect.order_id, effect.authorisation_key, effect.key, effect.carried, by_hand=effect.by_hand
        )

    @implements(steps.CAPTURE_PAYMENT)
    @speaks_temporal
    async def capture_payment(self, effect: CapturePayment) -> Captured:
        """Take the amount, and consume what was reserved for the shipment: the goods were handed over.

        A hold that has expired is an answer: nothing was taken, nothing is held by it any more, and the units stay
        reserved for the capture that follows out of another one.
        """
        _require_same_amount(effect)
        if is_in_parts(effect.authorisation_id) and effect.amount.minor > 0:
            return await self._parts.capture(effect)

        async def ask() -> Captured:
            if effect.amount.minor == 0:
                # A parcel of free samples moves no money, and providers refuse a capture of nothing.
                return Captured(capture_id=f"nothing:{effect.key}", amount=effect.amount)
            captured = await self._payments.capture(
                key=effect.key, authorisation_id=effect.authorisation_id, amount=effect.amount
            )
            # An earlier try, whose answer was lost, may have been in time.
            found = await self._payments.find_capture(key=effect.key) if captured.expired else None
            return found or captured

        async def follows(session: AsyncSession, captured: Captured) -> None:
            if captured.expired:
                await operations.hold_expired(session, effect.order_id, effect.authorisation_id)
            else:
                await leave(session, effect.shipment_id)

        async with self._store.transaction() as session:
            split = await split_of(session, effect.order_id, effect.shipment_id, effect.amount)
        return await carry_out(
            self._store,
            Effect(
                operation=PaymentOperation(
                    key=effect.key,
                    order_id=effect.order_id,
                    shipment_id=effect.shipment_id,
                    kind=PaymentKind.CAPTURE,
                    parent=effect.authorisation_id,
                    amount=effect.amount,
                    split=split,
                ),
                carried=effect.carried,
                gives=Captured,
                ask=ask,
                look_up=lambda: self._payments.find_capture(key=effect.key),
                means=_taken,
                follows=follows,
                by_hand=effect.by_hand,
            ),
        )

    @implements(steps.REFUND_PAYMENT)
    @speaks_temporal
    async def refund_payment(self, effect: RefundPayment) -> Refunded:
        """Pay captured money back, for a named cause, never more than was captured."""
        _require_same_amount(effect)
        if is_in_parts(effect.capture_id) and effect.amount.minor > 0:
            return await self._parts.refund(effect)

        async def ask() -> Refunded:
            if effect.amount.minor == 0:
                return Refunded(refund_id=f"nothing:{effect.key}", amount=effect.amount)
            return await self._payments.refund(
                key=effect.key, capture_id=effect.capture_id, amount=effect.amount, cause=effect.cause
            )

        return await carry_out(
            self._store,
            Effect(
                operation=PaymentOperation(
                    key=effect.key,
                    order_id=effect.order_id,
                    shipment_id=effect.shipment_id,
                    kind=PaymentKind.REFUND,
                    parent=effect.capture_id,
                    amount=effect.amount,
                    cause=effect.cause,
                ),
                carried=effect.carried,
                gives=Refunded,
                ask=ask,
                look_up=lambda: self._payments.find_refund(key=effect.key),
                means=lambda refunded: Meaning(provider_ref=refunded.refund_id),
                by_hand=effect.by_hand,
            ),
        )

    @implements(steps.SETTLE_ORDER)
    @speaks_temporal
    async def settle_order(self, effect: SettleOrder) -> Settlement:
        """Release what is left of the hold, check the money against the shipments, close the books on the order.

        When the money does not balance nothing is closed and the explanation says what is wrong, unless a person has
        accepted it as it is: then nothing is asked of the provider any more, and the order is closed. Raises
        ``ShipmentStillReporting`` to be tried again a moment later.
        """
        async with self._store.transaction() as session:
            await record(session, effect.order_id, effect.carried)
            money = await reads.money(session, effect.order_id, effect.total.currency)
            holds = _holds(effect, await reads.payments(session, effect.order_id))
            moved = await ledger.moved_by_shipment(session, effect.order_id)
            shipments = await reads.shipments(session, effect.order_id)
        open_money = money.held.minor or money.unclear
        kept_for = _left_behind(effect, shipments) or unpaid(moved, shipments)
        if open_money and not effect.accepted and not kept_for:
            for number, authorisation_key in enumerate(holds):
                key = effect.key if number == 0 else f"{effect.key}:{number}"
                await self._give_back(effect.order_id, authorisation_key, key, Carried())
        short: tuple[ShortParcel, ...] = ()
        async with self._store.transaction() as session:
            await operations.lock_order(session, effect.order_id)
            money = await reads.money(session, effect.order_id, effect.total.currency)
            moved = await ledger.moved_by_shipment(session, effect.order_id)
            shipments = await reads.shipments(session, effect.order_id)
            _wait_for_last_words(effect, shipments)
            wrong = (
                _left_behind(effect, shipments)
                or (unpaid(moved, shipments) if money.held.minor or money.unclear else [])
                or imbalances(effect.total, money, moved, shipments)
            )
            if not wrong and not effect.accepted:
                short, unclear = await short_parcels(
                    session, effect.order_id, effect.total.currency, capture_reference
                )
                wrong += unclear + [
                    f"shipment {parcel.shipment_id} left without {parcel.units} units: {parcel.amount} to be paid back"
                    for parcel in short
                ]
            if not wrong or effect.accepted:
                # Also when it closes: a shipment that was called off, or an earlier plan, may have left something.
                await release_all(session, effect.order_id)
                await record(session, effect.order_id, effect.closing)
                await keep_order_outcome(session, effect.order_id)
        return Settlement(
            balanced=not wrong or effect.accepted,
            captured=money.captured,
            refunded=money.refunded,
            voided=money.voided,
            explanation="; ".join(wrong),
            short=short,
        )

    async def _give_back(
        self, order_id: str, authorisation_key: str, key: str, carried: Carried, *, by_hand: bool = False
    ) -> Voided:
        """Void what the authorisation under ``authorisation_key`` holds, in one or in parts."""
        whole = await self._give_one_back(order_id, authorisation_key, key, carried, by_hand=by_hand)
        if is_part(authorisation_key):
            return whole
        parts = await self._give_parts_back(order_id, authorisation_key, key, by_hand=by_hand)
        if whole.amount is None or parts.amount is None:
            return whole if parts.amount is None else parts
        return Voided(amount=whole.amount + parts.amount)

    async def _give_parts_back(
        self,
        order_id: str,
        authorisation_key: str,
        key: str,
        *,
        by_hand: bool = False,
        unpaid_or_not: bool = False,
    ) -> Voided:
        """Void every part of an authorisation, also one that was not asked for yet."""
        async with self._store.transaction() as session:
            try:
                draft = (await stored_draft(session, order_id)).draft
            except NotFound:
                return Voided()
            if not await may_be_in_parts(session, order_id):
                return Voided()
        total = Money.zero(draft.currency)
        for number, _ in enumerate(draft.tenders, start=1):
            voided = await self._give_one_back(
                order_id,
                part_key(authorisation_key, number),
                part_key(key, number),
                Carried(),
                by_hand=by_hand,
                unpaid_or_not=unpaid_or_not,
            )
            total += voided.amount or Money.zero(draft.currency)
        return Voided(amount=total)

    async def _give_one_back(
        self,
        order_id: str,
        authorisation_key: str,
        key: str,
        carried: Carried,
        *,
        by_hand: bool = False,
        unpaid_or_not: bool = False,
    ) -> Voided:
        """Void what the authorisation under ``authorisation_key`` holds, whatever became of asking for it."""
        voided_by_hand: Voided | None = None
        async with self._store.transaction() as session:
            await record(session, order_id, carried)
            currency = await reads.currency(session, order_id)
            held = await operations.payment(session, order_id, authorisation_key)
            if currency is not None and held is None:
                # Nothing was asked under the key, and from now on nothing will be.
                await operations.call_off(
                    session, _authorisation(authorisation_key, order_id, Money.zero(currency))
                )
            elif currency is not None and by_hand:
                held_now = await ledger.held_under(session, order_id, authorisation_key, currency)
                voided_by_hand = Voided(amount=Money(minor=held_now, currency=currency))
            elif held is not None and held.state is not OperationState.CALLED_OFF and not unpaid_or_not:
                await refuse_while_unpaid(session, order_id)
        if held is None or held.amount is None or not _may_hold(held):
            return Voided()
        authorisation = _authorisation(authorisation_key, order_id, held.amount)
        if held.tender is not TenderKind.CARD:
            return await self._parts.let_go(authorisation, held, key)
        return await self.void(authorisation, held, key, voided_by_hand)

    async def void(
        self,
        authorisation: PaymentOperation,
        held: Standing,
        key: str,
        by_hand: Voided | None = None,
    ) -> Voided:
        """Give back what ``authorisation``, which stands as ``held``, holds at the provider; noted under ``key``."""
        reference = held.provider_ref

        async def ask() -> Voided:
            """By the authorisation's key: the one way that also stops a request that is still on its way."""
            nonlocal reference
            voided = await self._payments.void_by_key(key=key, authorisation_key=authorisation.key)
            if reference is None and voided.amount is not None:
                # Its answer never reached us. From here on nothing about it changes any more.
                found = await self._payments.find_authorisation(key=authorisation.key)
                reference = None if found is None else found.authorisation_id
            return voided

        return await carry_out(
            self._store,
            Effect(
                operation=PaymentOperation(
                    key=key,
                    order_id=authorisation.order_id,
                    kind=PaymentKind.VOID,
                    parent=reference,
                    amount=Money.zero(authorisation.amount.currency),
                ),
                carried=Carried(),
                gives=Voided,
                # Asking again under the same key is safe, so a lost answer needs no look-up.
                ask=ask,
                means=lambda answer: Meaning(
                    amount_minor=0 if answer.amount is None else answer.amount.minor
                ),
                follows=lambda session, _: operations.call_off(
                    session, authorisation, provider_ref=reference
                ),
                by_hand=None if by_hand is None else by_hand.model_dump(mode="json"),
            ),
        )


class ShipmentStillReporting(OrderwrightError):
    """A shipment has told its order that it ended, and its own last record is not written yet."""

    code = "shipment_still_reporting"
    http_status = 409
    retryable = True


async def refuse_while_unpaid(session: AsyncSession, order_id: str) -> None:
    """Raise ``Refused`` while goods that have left are to be paid for out of what is held."""
    due = unpaid(await ledger.moved_by_shipment(session, order_id), await reads.shipments(session, order_id))
    if due:
        raise Refused("; ".join(due))


def _closes(effect: SettleOrder) -> bool:
    return effect.closing.order is not None and effect.closing.order.state is OrderState.CLOSED


def _holds(effect: SettleOrder, movements: Sequence[PaymentView]) -> list[str]:
    """The keys of what may hold money: the run's own, and what it asked for before it was reset to an earlier step."""
    forgotten = [
        movement.key
        for movement in movements
        if movement.kind is PaymentKind.AUTHORISE
        and movement.state in (OperationState.INTENDED, OperationState.CONFIRMED)
        and movement.key != effect.authorisation_key
        and not movement.key.startswith(f"{effect.authorisation_key}/")
    ]
    return ([] if effect.authorisation_key is None else [effect.authorisation_key]) + forgotten


def _left_behind(effect: SettleOrder, shipments: Sequence[ShipmentView]) -> list[str]:
    """Shipments that an order being given up does not know of: its run was reset to before they began."""
    if _closes(effect):
        return []
    return [
        f"shipment {shipment.shipment_id} is still {shipment.state}: send its run the signal cancel_shipment first"
        for shipment in shipments
        # What is with the carrier cannot be stopped any more; ``unpaid`` sees to its money.
        if shipment.state not in SHIPMENT_TERMINAL and not left(shipment)
    ]


def _wait_for_last_words(effect: SettleOrder, shipments: Sequence[ShipmentView]) -> None:
    # Both are under way at once. Closing now would append an outcome without the day of delivery, for ever.
    if not _closes(effect):
        return
    for shipment in shipments:
        if shipment.state not in SHIPMENT_TERMINAL:
            raise ShipmentStillReporting(
                f"shipment {shipment.shipment_id} is still {shipment.state} in the books"
            )


def _require_same_amount(effect: AuthorisePayment | CapturePayment | RefundPayment) -> None:
    """What a person did by hand counts as this movement only if it moved this amount."""
    if effect.by_hand is None:
        return
    moved = Money.model_validate(effect.by_hand.get("amount"))
    if moved != effect.amount:
        raise Refused(f"{moved} were moved by hand, {effect.amount} are due: move the rest, or say the sum")


def _may_hold(authorisation: Standing) -> bool:
    """Whether the provider may hold something for it, or may come to.

    Also after a refusal: an earlier try, whose answer was lost, may have been the one that was taken.
    """
    if authorisation.state is OperationState.CALLED_OFF:
        return authorisation.provider_ref is not None
    return authorisation.state is not OperationState.DECLINED


def _authorisation(key: str, order_id: str, amount: Money) -> PaymentOperation:
    return PaymentOperation(key=key, order_id=order_id, kind=PaymentKind.AUTHORISE, amount=amount)


def _taken(captured: Captured) -> Meaning:
    if captured.expired:
        return Meaning(OperationState.DECLINED)
    return Meaning(provider_ref=captured.capture_id)


def approved(answer: Authorisation) -> Meaning:
    """What the provider's answer to an authorisation means for it."""
    if not answer.approved:
        return Meaning(OperationState.DECLINED)
    return Meaning(OperationState.CONFIRMED, answer.authorisation_id)
