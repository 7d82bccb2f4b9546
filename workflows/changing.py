"""How an order is planned anew while it is under way: an amendment, or stock that is not there after all.

Shipments that are not packed yet are called off, those that are go on as they are, and the rest is planned again.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    import workflows.steps as steps  # noqa: PLR0402 - as in order.py
    from models import effects as e
    from models.errors import Problem
    from models.identifiers import shipment_id
    from models.journal import SYSTEM
    from models.memory import StartedShipment
    from models.messages import (
        SUBSTITUTION_REQUEST,
        AmendAnswer,
        AmendOrder,
        AmendOutcome,
        Avoided,
        CancelShipment,
        PlanAgain,
        Refusal,
        RefusedShipment,
        ShipmentProgress,
        StockArrived,
        StockLost,
    )
    from models.money import Money
    from models.plan import ShipmentRef
    from models.states import ORDER_TERMINAL, OrderState, ShipmentState
    from workflows.case import CalledOff, refuse, require, sentence
    from workflows.order_case import Leaving, RestDropped
    from workflows.paying import Paying

_TELL_WITHIN = timedelta(seconds=3)
_ASK_AGAIN_AFTER = timedelta(minutes=10)
_REMEMBERED_ANSWERS = 50
# How long an order is planned without a node or service that refused it, unless that will never do.
_AVOIDED_FOR = timedelta(days=1)
_ELSEWHERE = "nothing of it is planned with that"
_NOTHING_YET = "nothing is planned yet"
_OF_CARRIERS = frozenset({Refusal.OUTAGE, Refusal.NOT_SERVED})
_WILL_NOT_DO = frozenset({Refusal.CANNOT_HANDLE, Refusal.NOT_SERVED})


class Changing(Paying):
    """The part of the order that turns back to planning."""

    async def _change(self) -> None:
        """Where another plan is asked for: stop what can be stopped, apply the amendment, forget the plan."""
        memory = self.memory
        if not self._turned_back():
            return
        all_planned = memory.released or memory.rest_dropped
        if self._only_replaces_the_rest():
            called_off = False
        elif self._anything_out():
            if not await self._stop_what_is_not_packed():
                await self._give_up_amendment("called_off", "the order was called off meanwhile")
                memory.stock_lost.clear()
                memory.again.clear()
                return
            called_off = self._keep_what_goes_on()
        else:
            called_off = bool(memory.stock_lost)
        again, lost = tuple(memory.again), tuple(memory.stock_lost)
        applied = memory.amendment is not None and await self._apply(memory.amendment)
        later = [number for number in memory.stock_lost if number not in lost]
        # What was lost while the money for the amendment was held is planned for next.
        memory.stock_lost = later if later and workflow.patched("lost-while-applying") else []
        if again:
            memory.again = [wish for wish in memory.again if wish not in again]
            # One that waits for goods looks at once.
            memory.stock_arrived = memory.stock_arrived or memory.state is OrderState.BACKORDERED
            # Another plan is another one to approve, unless a person has set it.
            memory.passed_gates = [gate for gate in memory.passed_gates if gate != "gate_b"]
        if not applied and (memory.earlier or again):
            memory.rest_dropped = bool(memory.earlier) and all_planned and not called_off
        if again and memory.rest_dropped and memory.set_plan is not None:
            memory.set_plan = None
            self.note("plan.stays", "the plan that was set is not made", why="everything is packed already")
        if memory.rest_dropped:
            await self._forget_plan()
        elif applied or called_off or again:
            self._set_plan_aside()

    def _only_replaces_the_rest(self) -> bool:
        """Whether all that is asked for are substitutes for what no parcel of the order has: they go on."""
        memory = self.memory
        return (
            memory.amendment is not None
            and _is_our_own(memory.amendment)
            and self._anything_out()
            and not memory.released
            and not memory.stock_lost
            and not memory.again
            and workflow.patched("only-the-rest-is-replaced")
        )

    # --- stopping ---
    async def _stop_what_is_not_packed(self) -> bool:
        """Ask the shipments to stop and wait until each is called off or says that it goes on.

        False when the order was called off meanwhile.
        """
        memory = self.memory
        while True:
            asked = self._stop_request()
            for ref in self._started_shipments():
                if self._may_be_stopped(ref.number) and ref.number not in memory.stopping:
                    await self._ask_to_stop(ref.number)
            answered = await self.until(
                partial(self._is_answered, asked),
                deadline=workflow.now() + _ASK_AGAIN_AFTER,
                summary="until warehouses have answered what can still be changed",
            )
            memory.stopping.clear()
            # Something else than what was asked about came meanwhile: they are asked about that, too.
            if answered and (self._stop_request() == asked or memory.cancel is not None):
                return memory.cancel is None

    def _is_answered(self, asked: str) -> bool:
        """Whether all have answered the request to stop ``asked``, or something else is to be asked."""
        memory = self.memory
        return (
            self._stop_request() != asked
            or not any(self._may_be_stopped(number) for number in memory.stopping)
            or memory.cancel is not None
        )

    def _may_be_stopped(self, number: int) -> bool:
        progress = self.memory.shipments.get(number)
        if self._is_over(number) or self._has_left(number) or number in self.memory.deaf:
            return False
        return progress is None or progress.goes_on != self._stop_request()

    def _stop_request(self) -> str:
        memory = self.memory
        if memory.again:
            # Whatever else comes is another request: who has answered this one has not answered that.
            amended = memory.amendment.request_id if memory.amendment is not None else ""
            lost = self._attempt("stock-lost") if memory.stock_lost else 0
            return f"plan-again-{self._attempt('plan-again')}-{lost}-{amended}"[:128]
        if memory.amendment is not None:
            return memory.amendment.request_id
        return f"stock-lost-{self._attempt('stock-lost')}"

    async def _ask_to_stop(self, number: int) -> None:
        memory = self.memory
        asked_by = memory.amendment or (memory.again[0] if memory.again else None)
        request = CancelShipment(
            request_id=self._stop_request(),
            actor=asked_by.actor if asked_by else SYSTEM,
            reason=asked_by.reason if asked_by else "the warehouse does not hold its goods",
            unless_picked=True,
            unpack=number in memory.stock_lost or any(number in one.shipments for one in memory.again),
        )
        memory.stopping.append(number)
        memory.called_back.append(number)
        try:
            await self._shipment_run(number).signal("cancel_shipment", request)
        except ApplicationError as error:
            # Its run was ended from outside. It keeps what it has until somebody looks after it.
            memory.deaf.append(number)
            self.note("amend.unheard", f"shipment {number} could not be asked to stop", why=str(error))

    def _keep_what_goes_on(self) -> bool:
        """Put the shipments of the present plan with those of earlier plans; whether any of them is called off."""
        memory, started = self.memory, self._started()
        releases = self._releases_of_stopped()
        if memory.released and memory.plan is not None:
            memory.last_number = max(ref.ref.number for ref in started)
            # From here on each shipment's part is seen to by itself: some go on with theirs.
            memory.undo = [undo for undo in memory.undo if not _releases(undo, memory.reservation_key)]
            memory.plan, memory.reservation_key = None, None
            memory.released = memory.reserved = False
        memory.earlier = [
            one for one in started if self._shipment_state(one.ref.number) is not ShipmentState.CANCELLED
        ]
        memory.undo += releases
        memory.deaf.clear()
        return len(memory.earlier) < len(started)

    def _started(self) -> list[StartedShipment]:
        memory = self.memory
        if not memory.released or memory.plan is None:
            return list(memory.earlier)
        plan_id, key = memory.plan.plan_id, memory.reservation_key or ""
        return memory.earlier + [
            StartedShipment(plan_id=plan_id, ref=ref, reservation_key=key) for ref in memory.plan.shipments
        ]

    def _releases_of_stopped(self) -> list[e.ReleaseReservation]:
        """Shipments that stopped for the order left their units reserved: giving them back is the order's."""
        return [
            e.ReleaseReservation(
                order_id=self.order_id,
                reservation_key=one.reservation_key,
                shipment_id=shipment_id(self.order_id, one.ref.number),
                key=self._key("release-stopped", one.ref.number),
            )
            for one in self._started()
            if one.ref.number in self.memory.called_back
            and self._shipment_state(one.ref.number) is ShipmentState.CANCELLED
        ]

    async def _free_what_stopped(self) -> None:
        """The order is called off after all, and plans with nothing any more."""
        for release in self._releases_of_stopped():
            await self.do(steps.RELEASE_RESERVATION, release)

    # --- the amendment ---
    async def _apply(self, amendment: AmendOrder) -> bool:
        """Make the amendment the order's document if its money can be held; False when it is refused."""
        memory, kept = self.memory, self._kept_amount()
        refusal: Problem | None = None
        if memory.authorisation is not None and not self._covered(due := amendment.total - kept):
            self._enter(OrderState.AUTHORISING)
            held = await self._hold(due, beside=self._drawn())
            if not held.approved:
                refusal = _problem(
                    "payment_declined", f"holding {due} for it was declined ({held.decline_code})"
                )
        answer = await self._decide_amendment(amendment, refusal)
        if answer.facts is None:
            return False
        dearer = answer.facts.total.minor > self._facts().total.minor
        memory.facts, memory.rest_dropped = answer.facts, answer.units_left == 0
        if not memory.earlier and (dearer or not _is_our_own(amendment)):
            memory.assessment = None
            memory.passed_gates.clear()
        memory.fruitless_plans = memory.shortages = 0
        self._answer_amendment(
            amendment,
            AmendOutcome.APPLIED,
            f"the order is {answer.facts.total} now, {answer.facts.unit_count} units",
        )
        facts = {"total": str(answer.facts.total)}
        if amendment.told:
            facts["why"] = amendment.told
        self.tell(e.Template.ORDER_AMENDED, e.Audience.CUSTOMER, **facts)
        return True

    def _substitute(self, amendment: AmendOrder) -> bool:
        """Go on by a substitution, unless somebody wants something else of the order first; whether that is so.

        Each counts, whatever becomes of it: one that is refused again and again must not keep the order from waiting.
        """
        memory = self.memory
        memory.substitutions += 1
        if self._why_not_amend(amendment) is not None or amendment.request_id in memory.amend_answers:
            return False
        self._take_amendment(amendment)
        return True

    async def _decide_amendment(self, amendment: AmendOrder, refusal: Problem | None) -> e.AmendmentApplied:
        """Write down that the amendment is applied, or why not; the store may refuse it as well."""
        answer = await self.do(steps.APPLY_AMENDMENT, self._application(amendment, refusal))
        if answer.facts is None:
            refused = answer.refusal or refusal or _problem("refused", "it cannot be applied")
            self._answer_amendment(amendment, AmendOutcome.REFUSED, refused.message, code=refused.code)
        return answer

    def _refuse_in_background(self) -> None:
        if self.memory.refusals:
            self._run_beside("refusals", self._write_refusals)

    def _application(self, amendment: AmendOrder, refusal: Problem | None) -> e.ApplyAmendment:
        kept = (started.ref.amount for started in self.memory.earlier)
        return e.ApplyAmendment(
            order_id=self.order_id,
            amendment_id=amendment.amendment_id,
            kept=self._kept_shipments(),
            kept_amount=Money.total(kept, amendment.total.currency),
            refused=refusal,
        )

    async def _write_refusals(self) -> None:
        """Have the store know of amendments that were refused as they came: nobody was there to be told."""
        waiting = self.memory.refusals
        while waiting and not self._stopping:
            try:
                await self._perform(steps.APPLY_AMENDMENT, waiting[0], interruptible=False)
            except asyncio.CancelledError:
                return
            except ActivityError as error:
                if is_cancelled_exception(error):
                    return
                self.note("amend.unwritten", "a refused amendment could not be written down", why=str(error))
            waiting.pop(0)

    async def _give_up_amendment(self, code: str, why: str) -> None:
        """An amendment that waits is not applied any more."""
        if self.memory.amendment is not None:
            await self._decide_amendment(self.memory.amendment, _problem(code, why))

    def _kept_shipments(self) -> tuple[e.KeptShipment, ...]:
        return tuple(e.KeptShipment(plan_id=s.plan_id, number=s.ref.number) for s in self.memory.earlier)

    def _answer_amendment(
        self, amendment: AmendOrder, outcome: AmendOutcome, message: str, *, code: str | None = None
    ) -> None:
        memory = self.memory
        memory.amendment = None
        memory.amend_answers[amendment.request_id] = AmendAnswer(outcome=outcome, message=message, code=code)
        while len(memory.amend_answers) > _REMEMBERED_ANSWERS:
            memory.amend_answers.pop(next(iter(memory.amend_answers)))
        self._changed()
        self.note(
            f"amend.{outcome}",
            f"amendment {amendment.number} is {outcome}",
            why=message,
            actor=amendment.actor,
            request_id=amendment.request_id,
        )

    def _set_plan_aside(self) -> None:
        """Plan anew. What was reserved stays the order's until the next plan has reserved, or the order ends."""
        memory = self.memory
        memory.plan, memory.reservation_key, memory.reserved = None, None, False
        memory.deadlines.pop("backorder", None)

    async def _forget_plan(self) -> None:
        """Nothing is planned anew: give back whatever is reserved for what is not on its way."""
        await self._free_what_is_reserved()
        self._set_plan_aside()

    async def _free_what_is_reserved(self) -> None:
        memory = self.memory
        for undo in [u for u in memory.undo if isinstance(u, e.ReleaseReservation)]:
            await self.do(steps.RELEASE_RESERVATION, undo)
            memory.undo = [other for other in memory.undo if other is not undo]

    async def _drop_the_rest(self, because: Leaving | CalledOff | RestDropped) -> None:
        """Go on with the shipments of earlier plans alone: what else was ordered will not be shipped."""
        memory = self.memory
        memory.rest_dropped = True
        why = str(because) or "it was called off"
        self.note("order.rest_dropped", "what is not on its way yet will not be shipped", why=why)
        if isinstance(because, Leaving) and "rest" not in memory.told:
            memory.told.append("rest")
            self.tell(e.Template.SHIPMENT_CANCELLED, shipment="rest", reason=because.told)
        await self._forget_plan()

    # --- messages ---
    @workflow.update(name="amend_order")
    async def amend(self, request: AmendOrder) -> AmendAnswer:
        """Go on by a stored amendment. The answer says whether it is applied, as far as it is known after a moment."""
        self._take_amendment(request)
        answers = self.memory.amend_answers
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: request.request_id in answers,
                timeout=_TELL_WITHIN,
                timeout_summary="until the amendment is applied",
            )
        return answers.get(request.request_id) or AmendAnswer(
            outcome=AmendOutcome.APPLYING,
            message="it is under way: warehouses, the payment provider or a person are asked first",
        )

    @amend.validator
    def _may_amend(self, request: AmendOrder) -> None:
        require(AmendOrder, request)
        if (why_not := self._why_not_amend(request)) is not None:
            refuse(why_not)

    @workflow.signal(name="amend_order")
    async def amended(self, payload: Any = None, *_surplus: Any) -> None:
        """The durable twin of the update; see ``AmendOrder`` for the JSON."""
        try:
            request = AmendOrder.model_validate(payload)
        except ValidationError as error:
            self.note("signal.refused", "the signal 'amend_order' was not acted on", why=sentence(error))
            return
        if (why_not := self._why_not_amend(request)) is not None:
            self.note("amend.refused", "the order was not amended", why=why_not, actor=request.actor)
            refusal = self._application(request, _problem("refused", why_not))
            self.memory.refusals.append(refusal.model_copy(update={"kept": ()}))
            self._refuse_in_background()
            return
        self._take_amendment(request)

    @workflow.signal(name="stock_lost")
    async def lose_stock(self, payload: Any = None, *_surplus: Any) -> None:
        """The warehouse does not hold what was reserved for some shipments; see ``StockLost`` for the JSON."""
        memory = self.memory
        try:
            loss = StockLost.model_validate(payload)
        except ValidationError as error:
            self.note("signal.refused", "the signal 'stock_lost' was not acted on", why=sentence(error))
            return
        if not self._first_time("stock_lost", loss.event_id):
            return
        planned = {ref.number for ref in self._started_shipments()}
        if memory.plan is not None and memory.reserved:
            planned |= {ref.number for ref in memory.plan.shipments}
        lost = [n for n in loss.shipments if n in planned and not self._is_over(n) and not self._has_left(n)]
        self.note(
            "stock.lost",
            f"shipments {', '.join(map(str, loss.shipments))}: the warehouse does not hold their goods",
            why=loss.reason,
            actor=loss.actor,
        )
        if lost and memory.state not in ORDER_TERMINAL:
            self._attempt("stock-lost", count=True)
            memory.stock_lost = sorted({*memory.stock_lost, *lost})

    @workflow.signal(name="plan_again")
    async def replan(self, payload: Any = None, *_surplus: Any) -> None:
        """What is not packed is to be planned anew; see ``PlanAgain`` for the JSON."""
        try:
            wish = PlanAgain.model_validate(payload)
        except ValidationError as error:
            self.note("signal.refused", "the signal 'plan_again' was not acted on", why=sentence(error))
            return
        if self._first_time("plan_again", wish.event_id):
            self._plan_again(wish)

    def _plan_again(self, wish: PlanAgain) -> bool:
        """Turn back to planning for ``wish``, if there is anything left to plan; whether that is so."""
        memory = self.memory
        memory.avoided += wish.avoid
        if wish.about is not None:
            # As it is planned by now: since it was looked for, others may have been started, or made without it.
            wish = wish.model_copy(update={"shipments": self._shipments_of(wish.about)})
        why_not = self._why_not_again(wish)
        if why_not in (None, _NOTHING_YET):
            memory.set_plan = wish.set_plan or memory.set_plan
        if why_not is not None:
            self.note("plan.stays", "the order is not planned anew", why=why_not, actor=wish.actor)
            return False
        self._attempt("plan-again", count=True)
        memory.again.append(wish)
        self.note("plan.again", "what is not packed is planned anew", why=wish.reason, actor=wish.actor)
        return True

    def _why_not_again(self, wish: PlanAgain) -> str | None:
        return next(self._reasons_to_stay(wish), None)

    def _reasons_to_stay(self, wish: PlanAgain) -> Iterator[str]:
        memory = self.memory
        elsewhere = wish.about is not None and not wish.shipments
        if OrderState.BACKORDERED in (memory.state, memory.paused_in):
            if memory.cancel is not None:
                yield "the order is called off"
            if elsewhere:
                yield _ELSEWHERE
            return
        if wish.waiting:
            yield "it does not wait for goods"
        if memory.state in ORDER_TERMINAL or memory.leaving_to is not None or memory.cancel is not None:
            yield f"the order is {memory.state}"
        planning = OrderState.ROUTING in (memory.state, memory.paused_in)
        if elsewhere and not planning and not self._is_planned_with(wish.about):
            yield _ELSEWHERE
        if memory.plan is None and not memory.earlier and not planning:
            yield _NOTHING_YET
        if (memory.released or memory.rest_dropped) and all(
            self._is_over(ref.number) or self._has_left(ref.number) for ref in self._started_shipments()
        ):
            yield "everything has left"

    def _is_planned_with(self, about: Avoided | None) -> bool:
        plan = self.memory.plan
        return plan is None or about is None or any(_is_of(ref, about) for ref in plan.shipments)

    def _shipments_of(self, about: Avoided) -> tuple[int, ...]:
        return tuple(
            ref.number
            for ref in self._started_shipments()
            if _is_of(ref, about) and not self._is_over(ref.number) and not self._has_left(ref.number)
        )

    def _hear_refusal(self, progress: ShipmentProgress) -> None:
        """A neighbour does not take a shipment on: plan it anew without it, as often as the policy allows."""
        memory, refused = self.memory, progress.refused
        ref = next((one for one in self._started_shipments() if one.number == progress.number), None)
        if (
            refused is None
            or ref is None
            or not self._first_time("refused", f"{progress.number}/{refused.count}")
        ):
            return
        avoided = self._avoided(ref, refused)
        # Several that are refused at once are planned anew together.
        under_way = any(one.actor == SYSTEM for one in memory.again)
        if memory.reroutes >= memory.may_reroute and not under_way:
            memory.avoided.append(avoided)
            self.note(
                "plan.stays",
                "the order is not planned anew",
                why=f"it was {memory.reroutes} times already: a person decides",
            )
            return
        wish = PlanAgain(
            event_id=f"refused-{progress.number}-{refused.count}",
            actor=SYSTEM,
            reason=f"shipment {progress.number}: {refused.why or refused.refusal}",
            shipments=(progress.number,),
            avoid=(avoided,),
        )
        if self._plan_again(wish) and not under_way:
            memory.reroutes += 1

    def _avoided(self, ref: ShipmentRef, refused: RefusedShipment) -> Avoided:
        for_ever = refused.refusal in _WILL_NOT_DO
        until = None if for_ever else self.business_now() + _AVOIDED_FOR
        if refused.refusal in _OF_CARRIERS:
            return Avoided(carrier=ref.carrier, service=ref.service, until=until, why=refused.refusal)
        return Avoided(node=ref.node, until=until, why=refused.refusal)

    @workflow.signal(name="stock_arrived")
    async def find_stock(self, payload: Any = None, *_surplus: Any) -> None:
        """There is more of what the order waits for; see ``StockArrived`` for the JSON."""
        memory = self.memory
        try:
            arrival = StockArrived.model_validate(payload)
        except ValidationError as error:
            self.note("signal.refused", "the signal 'stock_arrived' was not acted on", why=sentence(error))
            return
        if memory.state is OrderState.BACKORDERED and self._first_time("stock_arrived", arrival.event_id):
            memory.stock_arrived = True
            self.note(
                "stock.arrived",
                "there is more of what the order waits for",
                why=arrival.reason,
                actor=arrival.actor,
            )

    def _why_not_amend(self, request: AmendOrder) -> str | None:
        memory = self.memory
        pending = memory.amendment
        if request.request_id in memory.amend_answers or (
            pending is not None and pending.request_id == request.request_id
        ):
            return None
        if memory.state in ORDER_TERMINAL or memory.leaving_to is not None or memory.cancel is not None:
            return f"the order is {memory.state}: it cannot be changed any more"
        if pending is not None:
            return f"amendment {pending.number} is being applied: try again when it is"
        if (memory.released or memory.rest_dropped) and all(
            self._is_over(ref.number) or self._has_left(ref.number) for ref in self._started_shipments()
        ):
            return "it is past the cut-off: everything has left; call it off or arrange a return instead"
        return None

    def _take_amendment(self, request: AmendOrder) -> None:
        memory = self.memory
        # Two updates may pass the validator before either handler runs.
        if (why_not := self._why_not_amend(request)) is not None:
            refuse(why_not)
        if request.request_id in memory.amend_answers or memory.amendment is not None:
            return
        memory.amendment = request
        self.note(
            "amend.requested",
            f"amendment {request.number} is to be applied: {request.total}",
            why=request.reason,
            actor=request.actor,
            request_id=request.request_id,
        )


def _is_of(ref: ShipmentRef, about: Avoided) -> bool:
    """Whether a shipment is from the node, or by the service, that something is about."""
    if about.node is not None:
        return ref.node == about.node
    return ref.carrier == about.carrier and about.service in (None, ref.service)


def _releases(undo: object, key: str | None) -> bool:
    return isinstance(undo, e.ReleaseReservation) and undo.reservation_key == key


def _is_our_own(amendment: AmendOrder) -> bool:
    """Whether the router asked for it, of an order that was approved: any client may send one that says so."""
    return (
        bool(amendment.told)
        and amendment.actor == SYSTEM
        and amendment.request_id.startswith(SUBSTITUTION_REQUEST)
    )


def _problem(code: str, message: str) -> Problem:
    return Problem(path="", code=code, message=message)
