"""How an order's money is held: enough for what is still to be shipped, on a tender that works, until it is taken."""

from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    import workflows.steps as steps  # noqa: PLR0402 - as in order.py
    from models import effects as e
    from models.journal import SYSTEM
    from models.messages import CancelOrder, DrawOn, OfferAnswer, OfferTender
    from models.money import Money
    from models.review import Flag, ReviewKind, Verdict
    from models.states import OrderState
    from workflows.case import Question, refuse, require, sentence
    from workflows.order_case import Leaving, OrderCase

_RENEW_BEFORE = timedelta(hours=12)
_ANOTHER_TENDER_WITHIN = timedelta(days=3)
_REMIND_AFTER = timedelta(days=1)
_MOST_TENDERS = 5
_MOST_HOLDS = 10
_DECLINED = "the payment was declined"


class Paying(OrderCase):
    """The part of the order that sees to its money before it is captured."""

    async def _authorise(self) -> None:
        """Hold what is to be shipped. A card that is declined for now is answered by asking for another tender."""
        memory, holds = self.memory, 0
        while not self._covered(due := self._outstanding()):
            if memory.declined is None:
                self._enter(OrderState.AUTHORISING)
                answer = await self._hold(due, beside=self._drawn())
                if answer.approved:
                    # After a reset an answer may be from before it, and of another amount; but not for ever.
                    if (holds := holds + 1) < _MOST_HOLDS:
                        continue
                    raise Leaving(
                        OrderState.REJECTED, f"what is held does not suffice for {due}", told=_DECLINED
                    )
                if answer.decline_is_final or memory.tender >= _MOST_TENDERS:
                    raise Leaving(
                        OrderState.REJECTED, f"payment declined ({answer.decline_code})", told=_DECLINED
                    )
                self._ask_for_another_tender(answer)
            await self._wait_for_another_tender()
        await self._give_back_what_nobody_draws_on()

    def _covered(self, due: Money) -> bool:
        """Whether what is held is enough for ``due``, beside what earlier shipments take of it, and lasts."""
        held = self.memory.authorisation
        if held is None or not held.approved:
            return False
        return self._free(held) >= due and not self._runs_out(held)

    def _free(self, held: e.Authorisation) -> Money:
        """What no shipment that was started draws on."""
        draws_on = self.memory.draws_on
        drawn = (
            ref.amount
            for ref in self._started_shipments()
            if draws_on.get(ref.number) == held.authorisation_id
        )
        return held.amount - Money.total(drawn, held.amount.currency)

    def _runs_out(self, held: e.Authorisation) -> bool:
        return held.expires_at is not None and workflow.now() >= held.expires_at - _RENEW_BEFORE

    def _drawn(self) -> dict[str, Money]:
        """What shipments that go on are still to be paid from, by the authorisation that they draw on."""
        drawn: dict[str, Money] = {}
        unpaid = self._unpaid_shipments()
        for ref in self._started_shipments():
            if ref.number in unpaid and (held := self.memory.draws_on.get(ref.number)) is not None:
                drawn[held] = drawn.get(held, Money.zero(ref.amount.currency)) + ref.amount
        return drawn

    async def _hold(self, amount: Money, *, beside: dict[str, Money] | None = None) -> e.Authorisation:
        """Ask the provider to hold ``amount``; what is approved is what the order goes by from then on.

        ``beside``: what earlier authorisations are needed for all the same.
        """
        memory = self.memory
        if memory.asking_hold is None:
            attempt = self._attempt("authorise", count=True)
            memory.asking_hold = key = self._key("authorise", attempt)
            memory.undo.append(
                e.VoidAuthorisation(
                    order_id=self.order_id, authorisation_key=key, key=self._key("void", attempt)
                )
            )
        key = memory.asking_hold
        answer = await self.do(
            steps.AUTHORISE_PAYMENT,
            e.AuthorisePayment(
                order_id=self.order_id, amount=amount, key=key, tender=memory.tender, drawn=beside or {}
            ),
        )
        memory.asking_hold = None
        if not answer.approved:
            memory.undo = [undo for undo in memory.undo if not _voids(undo, key)]
            return answer
        if answer.expires_at is not None and answer.expires_at <= workflow.now():
            # Clocks differ: one that was held just now has not run out, and asking again would get the same.
            answer = answer.model_copy(update={"expires_at": None})
        memory.authorisation, memory.authorisation_key = answer, key
        memory.holds[key] = answer.authorisation_id or ""
        self.note("payment.authorised", f"{answer.amount} is held", authorisation_id=answer.authorisation_id)
        return answer

    async def _give_back_what_nobody_draws_on(self) -> None:
        """An authorisation that another one took the place of, before the customer sees both held for days.

        One that a shipment is to be paid from stays, and what is left of it is given back when the books are closed.
        """
        memory = self.memory
        unpaid = self._unpaid_shipments()
        if any(self._has_left(number) for number in unpaid):
            return  # while goods that left are to be paid nothing is given back at all
        in_use = {memory.draws_on.get(number) for number in unpaid}
        for undo in [u for u in memory.undo if isinstance(u, e.VoidAuthorisation)]:
            key = undo.authorisation_key
            if key == memory.authorisation_key or key in memory.hand_made or memory.holds.get(key) in in_use:
                continue
            await self.do(steps.VOID_AUTHORISATION, undo)
            memory.undo = [other for other in memory.undo if not _voids(other, key)]
            self.note("payment.replaced", "the authorisation before is given back")

    # --- another tender ---
    def _ask_for_another_tender(self, answer: e.Authorisation) -> None:
        memory = self.memory
        memory.declined, memory.declined_at = answer, workflow.now()
        until = self.deadline("tender", workflow.now() + _ANOTHER_TENDER_WITHIN)
        self.deadline("tender-reminder", workflow.now() + _REMIND_AFTER)
        self._enter(OrderState.AWAITING_CUSTOMER, why=f"payment declined ({answer.decline_code})")
        self._tell_of_decline(until)

    async def _wait_for_another_tender(self) -> None:
        """Wait for the customer. The business clock stands still meanwhile, as it does for our own people."""
        memory = self.memory
        asked_at = memory.declined_at or workflow.now()
        until = self.deadline("tender", workflow.now() + _ANOTHER_TENDER_WITHIN)
        while True:
            reminder = memory.deadlines.get("tender-reminder")
            heard = await self.until(
                lambda: memory.offered > memory.tender or memory.cancel is not None or self._turned_back(),
                deadline=min(until, reminder) if reminder is not None else until,
                summary="waiting for the customer to pay in another way",
            )
            if heard or workflow.now() >= until:
                break
            memory.deadlines.pop("tender-reminder")
            self._tell_of_decline(until)
        memory.deadlines.pop("tender", None)
        memory.deadlines.pop("tender-reminder", None)
        declined, memory.declined, memory.declined_at = memory.declined, None, None
        self._stand_still(workflow.now() - asked_at)
        if memory.offered > memory.tender:
            memory.tender = memory.offered
            self.note("payment.another_tender", f"tender {memory.tender} is tried")
        elif memory.cancel is None and not self._turned_back():
            code = declined.decline_code if declined else None
            raise Leaving(
                OrderState.REJECTED, f"payment declined ({code}), and no other tender came", told=_DECLINED
            )
        self._turn_back()

    def _tell_of_decline(self, until: datetime) -> None:
        self.tell(e.Template.PAYMENT_DECLINED, until=f"{until:%Y-%m-%d}")

    @workflow.update(name="offer_tender")
    async def offer(self, request: OfferTender) -> OfferAnswer:
        """The customer offers another means of payment, which is stored under its number."""
        return self._take_tender(request)

    @offer.validator
    def _may_offer(self, request: OfferTender) -> None:
        require(OfferTender, request)
        if (why_not := self._why_no_tender(request)) is not None:
            refuse(why_not)

    @workflow.signal(name="offer_tender")
    async def offered(self, payload: Any = None, *_surplus: Any) -> None:
        """The durable twin of the update; see ``OfferTender`` for the JSON."""
        try:
            request = OfferTender.model_validate(payload)
        except ValidationError as error:
            self.note("signal.refused", "the signal 'offer_tender' was not acted on", why=sentence(error))
            return
        if (why_not := self._why_no_tender(request)) is not None:
            self.note("payment.tender_refused", "the tender is not tried", why=why_not, actor=request.actor)
            return
        self._take_tender(request)

    def _why_no_tender(self, request: OfferTender) -> str | None:
        memory = self.memory
        if request.tender < 1:
            return "tenders are counted from 1"
        waiting = memory.declined is not None or memory.open_purpose == "renewal"
        if request.tender <= memory.offered or waiting:
            return None
        return f"the order is {memory.state}: it does not wait for a payment"

    def _take_tender(self, request: OfferTender) -> OfferAnswer:
        memory = self.memory
        if request.tender > memory.offered:
            memory.offered = request.tender
            self.note(
                "payment.tender_offered",
                f"tender {request.tender} was offered",
                actor=request.actor,
                request_id=request.request_id,
            )
        return OfferAnswer(taken=True, message="it is tried now")

    # --- holds that run out ---
    def _hold_is_due(self) -> bool:
        """Whether shipments that are still to be captured need to hear of another authorisation, or of a new one."""
        held = self.memory.authorisation
        if held is None or not (unpaid := self._unpaid_shipments()):
            return False
        # What is called off is not to be paid, unless it has left all the same.
        runs_out = self._runs_out(held) and self.memory.cancel is None
        return runs_out or any(self._expired_hold(number) for number in unpaid)

    def _hold_due_at(self) -> datetime | None:
        """When what is held has to be held anew, if anything is still to be captured from it."""
        held = self.memory.authorisation
        if held is None or held.expires_at is None or self.memory.cancel is not None:
            return None
        if not self._unpaid_shipments():
            return None
        return held.expires_at - _RENEW_BEFORE

    def _unpaid_shipments(self) -> list[int]:
        """Shipments that are still to be captured, as far as the order knows."""
        found = []
        for ref in self._started_shipments():
            progress = self.memory.shipments.get(ref.number)
            if ref.amount.minor and not self._is_over(ref.number) and not (progress and progress.captured):
                found.append(ref.number)
        return found

    def _expired_hold(self, number: int) -> str | None:
        """The authorisation that a shipment could not be paid from."""
        progress = self.memory.shipments.get(number)
        return progress.hold_expired if progress else None

    async def _renew_hold(self) -> None:
        """Hold anew what shipments are still to be captured from, and tell them to draw on it.

        What they drew on before runs out by itself, or is given back when the books are closed: one of them may just
        be taking its money from it.
        """
        memory = self.memory
        unpaid, held = self._unpaid_shipments(), memory.authorisation
        stale = {held.authorisation_id} if held is not None else set()
        if held is None or self._runs_out(held) or any(self._expired_hold(n) in stale for n in unpaid):
            amounts = (ref.amount for ref in self._started_shipments() if ref.number in unpaid)
            held = await self._hold(Money.total(amounts, self._facts().total.currency))
            if not held.approved:
                await self._ask_about_hold(held)
                return
            self.note("payment.renewed", "what was held would have run out, and is held anew")
        for number in unpaid:
            await self._let_draw_on(held.authorisation_id or "", number)

    async def _let_draw_on(self, authorisation_id: str, number: int) -> None:
        memory = self.memory
        memory.draws_on[number] = authorisation_id
        progress = memory.shipments.get(number)
        if progress is not None:
            memory.shipments[number] = progress.model_copy(update={"hold_expired": None})
        try:
            await self._shipment_run(number).signal("draw_on", DrawOn(authorisation_id=authorisation_id))
        except ApplicationError as error:
            # It tells when it cannot be paid from the old one, and then is told again.
            self.note("payment.unheard", f"shipment {number} could not be told", why=str(error))

    async def _ask_about_hold(self, answer: e.Authorisation) -> None:
        await self.ask(
            "renewal",
            Question(
                kind=ReviewKind.STEP_FAILED,
                what_happened="What is held on the customer's tender runs out before everything has left, and holding "
                f"it anew was declined ({answer.decline_code}).",
                why_flagged=(Flag(code="renewal_declined", reason=f"declined: {answer.decline_code}"),),
                recommended=Verdict.APPROVE,
                recommendation="Ask the customer to clear it with their bank, or for another tender; then approve.",
                options={
                    Verdict.APPROVE: "try to hold the money again, on the newest tender",
                    Verdict.REJECT: "call off what has not left, and go on without",
                },
            ),
        )

    def _act_on(self, purpose: str, verdict: Verdict, question: Question) -> None:
        if purpose != "renewal":
            super()._act_on(purpose, verdict, question)
        elif verdict is Verdict.APPROVE:
            self.memory.tender = self.memory.offered
        else:
            self._call_off(
                CancelOrder(
                    request_id="renewal-declined",
                    actor=SYSTEM,
                    reason="the money for it could not be held any longer",
                )
            )


def _voids(undo: object, key: str) -> bool:
    return isinstance(undo, e.VoidAuthorisation) and undo.authorisation_key == key
