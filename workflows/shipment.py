"""A shipment, from the pick request to the customer's door. A child of its order that outlives the order's runs."""

from datetime import datetime, timedelta
from typing import Any, NoReturn, TypeVar

from temporalio import workflow
from temporalio.common import RawValue, SearchAttributePair
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    import workflows.steps as steps  # noqa: PLR0402 - the other way it is loaded anew for each run
    from models import effects as e
    from models import search
    from models.base import Contract
    from models.identifiers import idempotency_key, order_workflow_id, shipment_workflow_id
    from models.journal import ShipmentProjection
    from models.memory import ShipmentMemory, Undo
    from models.messages import (
        CancelOrder,
        CancelShipment,
        CarrierEvent,
        CarrierEventKind,
        DrawOn,
        Recall,
        Refusal,
        RefusedShipment,
        ShipmentProgress,
        WmsEvent,
        WmsEventKind,
    )
    from models.review import Flag, ReviewKind, Verdict
    from models.runs import ShipmentResult, ShipmentRun
    from models.states import SHIPMENT_HANDED_OVER, SHIPMENT_TERMINAL, ShipmentState, shipment_may
    from workflows.case import NO_INPUT, CalledOff, Case, Question, sentence
    from workflows.pages import shipment_page

_PICK_WITHIN = timedelta(days=2)
_COLLECT_WITHIN = timedelta(days=2)
_LOST_AFTER_PROMISE = timedelta(days=10)
_BACK_WITHIN = timedelta(days=14)
_LOOK_EVERY = timedelta(days=1)
_REPORT_AGAIN_AFTER, _REPORT_AT_LEAST_EVERY = timedelta(seconds=10), timedelta(days=1)
_REPORT_FOR = timedelta(days=60)
_ASK_FOR_MONEY_EVERY = timedelta(hours=6)
_PLANNED_ANEW_WITHIN = timedelta(minutes=10)


_Message = TypeVar("_Message", bound=Contract)


class TooLate(Exception):
    """Calling off met a parcel that is with the carrier already: go on forward."""


@workflow.defn
class ShipmentWorkflow(Case[ShipmentMemory]):
    """Carries one shipment to delivery, or back to nothing.

    Its input is a ``ShipmentRun`` and comes from its order alone; a start by anybody else fails at once and moves
    nothing.
    """

    @workflow.init
    def __init__(self, start: RawValue = NO_INPUT) -> None:
        self._run_input = run = _understood(start)
        memory = run.memory or ShipmentMemory(clock=run.clock)
        self._open_case(memory, run.order_id, run.shipment_id)

    @workflow.run
    async def run(self, _start: RawValue = NO_INPUT) -> ShipmentResult:
        """The whole life of the shipment. See ``_go_forward`` for its steps."""
        run = self._run_input
        if not await self._run_shielded(self._live):
            workflow.continue_as_new(run.model_copy(update={"memory": self.memory}))
        memory = self.memory
        return ShipmentResult(
            shipment_id=run.shipment_id,
            state=memory.state,
            captured=memory.capture.amount if memory.capture else None,
            refunded=memory.refunded,
        )

    async def _live(self) -> None:
        self._ask_in_background()
        while self.memory.state not in SHIPMENT_TERMINAL:
            try:
                await self.finish_open_review()
                if self.memory.state is ShipmentState.CANCELLING:
                    raise CalledOff
                await self._go_forward()
            except CalledOff:
                try:
                    await self._call_back()
                except TooLate:
                    continue
        await self._carrier_answered()
        # Written before it is reported: the order closes its books on these rows as soon as it hears of the end.
        await self.written()
        await self._report_until_heard()
        await self.wind_up()

    async def _go_forward(self) -> None:
        await self._pick()
        await self._buy_label()
        await self._hand_over()
        await self._capture()
        await self._follow_to_delivery()

    # --- the steps, in order ---
    async def _pick(self) -> None:
        memory, run = self.memory, self._run_input
        # The event may even overtake the answer to the request; the request is made all the same.
        while memory.pick is None or not self._is_picked():
            if memory.refused is not None:
                await self._wait_for_another_plan()
            if memory.pick_again:
                await self._call_pick_off()
                continue
            if memory.pick is None:
                await self._wait_until_it_is_wanted()
                await self._request_pick()
                continue
            overdue = not await self.until(
                lambda: self._is_picked() or memory.pick_problem is not None or self._wants_off(),
                deadline=self.deadline("pick", self.wall(self.business_now() + _PICK_WITHIN)),
                summary=f"waiting for {run.node} to pick",
            )
            if self._is_picked():
                break
            if self._wants_off():
                raise CalledOff
            if overdue:
                await self._look_at_pick()
                if self._is_picked():
                    break
            problem, memory.pick_problem = memory.pick_problem, None
            if problem is not None:
                said = problem.detail or f"the warehouse reports {problem.kind}"
                await self._leave_to_order(_refusal_in(problem), said)
                await self._ask_about_pick(_PICK_FLAGS[problem.kind], said)
            elif overdue:
                memory.deadlines.pop("pick")
                said = "the warehouse has not said that it picked"
                await self._leave_to_order(Refusal.OVERDUE, said)
                if not self._is_picked():
                    await self._ask_about_pick("pick_overdue", said, wait=True)
        if memory.state is ShipmentState.PICK_REQUESTED:
            self._enter(ShipmentState.PICKED)

    async def _wait_until_it_is_wanted(self) -> None:
        """Nothing is picked before its day: it would arrive before the customer wants it."""
        held_until = self._run_input.held_until
        if held_until is None or self.memory.pick_key is not None or self.business_now() >= held_until:
            return
        self._hold_on_to_its_units()
        if "held" not in self.memory.deadlines:
            self.note(
                "shipment.held", f"nothing is picked before {held_until:%Y-%m-%d}: it would come too early"
            )
        await self.until(
            self._wants_off,
            deadline=self.deadline("held", self.wall(held_until)),
            summary=f"held until {held_until:%Y-%m-%d}: it is wanted later",
        )
        if self._wants_off():
            raise CalledOff
        self.memory.deadlines.pop("held")

    def _hold_on_to_its_units(self) -> None:
        """Called off, it gives them back."""
        memory, run = self.memory, self._run_input
        if not memory.undo:
            memory.undo.append(
                e.ReleaseReservation(
                    order_id=run.order_id,
                    reservation_key=run.reservation_key,
                    shipment_id=run.shipment_id,
                    key=self._key("release"),
                )
            )

    async def _request_pick(self) -> None:
        memory, run = self.memory, self._run_input
        if memory.pick_key is None:
            attempt = self._attempt("pick", count=True)
            memory.pick_key = self._key("pick", attempt)
            self._hold_on_to_its_units()
            memory.undo.append(
                e.CancelPick(
                    order_id=run.order_id,
                    shipment_id=run.shipment_id,
                    pick_key=memory.pick_key,
                    key=self._key("cancel-pick", attempt),
                )
            )
        self._enter(ShipmentState.PICK_REQUESTED)
        answer = await self.do(
            steps.REQUEST_PICK,
            e.RequestPick(
                order_id=run.order_id,
                shipment_id=run.shipment_id,
                plan_id=run.plan_id,
                number=run.number,
                business_now=self._on_the_parcels_clock(),
                key=memory.pick_key,
            ),
        )
        if answer.accepted:
            memory.pick = answer
            memory.deadlines.pop("pick", None)
        else:
            memory.pick_key = None
            memory.undo.pop()
            said = answer.reason or "the warehouse refused the pick"
            await self._leave_to_order(answer.refusal, said)
            await self._ask_about_pick("pick_refused", said)

    async def _leave_to_order(self, refusal: Refusal | None, why: str) -> None:
        """Let the order plan it anew, where that is the answer and it may without a person.

        Raises ``CalledOff`` when it does. When this returns, a person is to be asked.
        """
        memory = self.memory
        if refusal is None or not self._run_input.plan_again or self._committed():
            return
        memory.refusals += 1
        memory.refused = RefusedShipment(count=memory.refusals, refusal=refusal, why=why)
        self._changed()
        self.note("shipment.refused", f"the order is to plan it anew: {refusal.replace('_', ' ')}", why=why)
        if await self._report(again=True):
            await self._wait_for_another_plan()
        memory.refused = None

    async def _wait_for_another_plan(self) -> None:
        memory, was_picked = self.memory, self._is_picked()
        await self.until(
            lambda: self._wants_off() or self._is_picked() is not was_picked,
            deadline=self.deadline("planned-anew", workflow.now() + _PLANNED_ANEW_WITHIN),
            summary="until its order plans it anew",
        )
        memory.deadlines.pop("planned-anew")
        memory.refused = None
        if self._wants_off():
            raise CalledOff

    async def _look_at_pick(self) -> None:
        """Before a silent warehouse is called overdue it is asked: its message may have been lost."""
        memory, run = self.memory, self._run_input
        if memory.pick_key is None:
            return
        found = await self.look(
            steps.CHECK_PICK,
            e.CheckPick(order_id=run.order_id, shipment_id=run.shipment_id, pick_key=memory.pick_key),
        )
        for event in found.events if found else ():
            self._hear_warehouse(event)

    async def _look_at_parcel(self) -> None:
        """Before a silent carrier is called overdue it is asked: its message may have been lost."""
        memory, run = self.memory, self._run_input
        if memory.label_key is None:
            return
        found = await self.look(
            steps.TRACK_PARCEL,
            e.TrackParcel(order_id=run.order_id, shipment_id=run.shipment_id, label_key=memory.label_key),
        )
        for event in found.events if found else ():
            self._hear_carrier(event)

    async def _ask_about_pick(self, code: str, why: str, *, wait: bool = False) -> None:
        """A pick went wrong: a person says whether to ask again (or to wait on), or to call the shipment off."""
        run = self._run_input
        await self.ask(
            "pick_overdue" if wait else "pick",
            Question(
                kind=ReviewKind.SHIPMENT_EXCEPTION,
                what_happened=f"{run.node} was asked to pick {run.units} units. Nothing has left.",
                why_flagged=(Flag(code=code, reason=why),),
                recommended=Verdict.APPROVE,
                recommendation="Speak to the warehouse; approve once it can pick, else reject.",
                options={Verdict.APPROVE: "wait on" if wait else "ask the warehouse again"}
                | ({} if self._committed() else {Verdict.REJECT: _CALL_OFF}),
            ),
        )

    async def _call_pick_off(self) -> None:
        """Before a pick is asked for again the old one must be off, or the goods might be picked twice."""
        memory = self.memory
        await self._let_a_person_undo()
        request = memory.undo[-1]
        if memory.pick is not None and isinstance(request, e.CancelPick):
            answer = await self.do(steps.CANCEL_PICK, request)
            if answer.undone:
                memory.undo.pop()
                memory.old_picks.append(memory.pick.pick_id or "")
                # Also a "picked" that came meanwhile: what it speaks of goes back to its place.
                memory.pick = memory.pick_key = memory.pick_problem = memory.picked = None
            else:
                self.note("pick.goes_on", "the old pick could not be called off", why=answer.reason)
                self._renew_undo_key()
        memory.pick_again = False

    async def _buy_label(self) -> None:
        memory, run = self.memory, self._run_input
        while memory.label is None:
            if memory.refused is not None:
                await self._wait_for_another_plan()
            if memory.label_key is None:
                attempt = self._attempt("label", count=True)
                memory.label_key = self._key("label", attempt)
                memory.undo.append(
                    e.VoidLabel(
                        order_id=run.order_id,
                        shipment_id=run.shipment_id,
                        label_key=memory.label_key,
                        key=self._key("void-label", attempt),
                    )
                )
            answer = await self.do(
                steps.BUY_LABEL,
                e.BuyLabel(
                    order_id=run.order_id,
                    shipment_id=run.shipment_id,
                    plan_id=run.plan_id,
                    number=run.number,
                    business_now=self._on_the_parcels_clock(),
                    key=memory.label_key,
                ),
            )
            if answer.accepted:
                memory.label = answer
                if shipment_may(memory.state, ShipmentState.LABELLED):
                    self._enter(ShipmentState.LABELLED, why=f"costs {answer.cost}", tracking=answer.tracking)
                else:
                    # Its own answer was lost, and calling it off met a parcel that had left already.
                    self._changed()
                    self.note("label.found", f"the label costs {answer.cost}", tracking=answer.tracking)
                return
            memory.label_key = None
            memory.undo.pop()
            await self._leave_to_order(answer.refusal, answer.reason or "no reason given")
            await self.ask(
                "label",
                Question(
                    kind=ReviewKind.SHIPMENT_EXCEPTION,
                    what_happened=f"{run.carrier} refused a label by {run.service}. The goods are picked.",
                    why_flagged=(Flag(code="label_refused", reason=answer.reason or "no reason given"),),
                    recommended=Verdict.APPROVE,
                    recommendation="Clear it with the carrier, then approve; reject if it will not carry this parcel.",
                    options={Verdict.APPROVE: "ask the carrier again"}
                    | ({} if self._committed() else {Verdict.REJECT: _CALL_OFF}),
                ),
            )

    async def _hand_over(self) -> None:
        memory, run = self.memory, self._run_input
        while not self._is_collected():
            if self._is_asked_back():
                # Its label could not be given back any more: it is with the carrier, only the scan is not here yet.
                await self._carrier_answered()
                continue
            await self.until(
                lambda: self._is_collected() or self._wants_off() or self._is_asked_back(),
                deadline=self.deadline("collect", self.wall(self.business_now() + _COLLECT_WITHIN)),
                summary=f"waiting for {run.carrier} to collect",
            )
            if self._is_collected():
                break
            if self._wants_off():
                raise CalledOff
            if self._is_asked_back():
                continue
            await self._look_at_parcel()
            if self._is_collected():
                break
            memory.deadlines.pop("collect")
            await self.ask(
                "collect",
                Question(
                    kind=ReviewKind.SHIPMENT_EXCEPTION,
                    what_happened=f"The parcel is packed and labelled, {run.carrier} has not collected it.",
                    why_flagged=(
                        Flag(code="collection_overdue", reason=f"no scan within {_COLLECT_WITHIN.days} days"),
                    ),
                    recommended=Verdict.APPROVE,
                    recommendation="Ask the carrier; approve to wait on.",
                    # A label that could not be given back is in use: the parcel left, only its scan is missing.
                    options={
                        Verdict.APPROVE: "wait on",
                        Verdict.REJECT: _WITHOUT_A_SCAN if self._committed() else _CALL_OFF,
                    },
                ),
            )
        # From here on nothing is undone: the goods are with the carrier.
        memory.undo.clear()
        first = _SCANNED[memory.collected.kind] if memory.collected else ShipmentState.HANDED_OVER
        # An end is entered once the money is taken, even if it is the first scan that ever came.
        if memory.state is ShipmentState.LABELLED:
            still_moving = first in _MOVING and shipment_may(memory.state, first)
            self._enter(first if still_moving else ShipmentState.HANDED_OVER)
        if memory.furthest is not None and shipment_may(memory.state, memory.furthest):
            self._enter(memory.furthest)
        memory.furthest = None

    async def _capture(self) -> None:
        """Take the money for what was handed over, never earlier."""
        memory, run = self.memory, self._run_input
        if memory.capture is not None:
            return
        while memory.capture is None:
            if memory.hold_expired is not None and not await self._drawn_anew():
                continue
            authorisation = self._authorisation_id()
            # Also for a parcel of free goods: the capture is what takes its units out of the stock.
            answer = await self.do(
                steps.CAPTURE_PAYMENT,
                e.CapturePayment(
                    order_id=run.order_id,
                    shipment_id=run.shipment_id,
                    authorisation_id=authorisation,
                    amount=run.amount,
                    key=self._key("capture", self._attempt("capture")),
                ),
            )
            if answer.expired:
                memory.attempts["capture"] = self._attempt("capture") + 1
                memory.hold_expired = authorisation
                self._changed()
                self.note("payment.expired", "what was held for it has expired: the order is to hold it anew")
            else:
                memory.capture = answer
        self.note("payment.captured", f"{run.amount} taken for what was handed over")
        await self._report()

    async def _drawn_anew(self) -> bool:
        """Ask the order for another authorisation; False when none has come yet, and it has to be asked again."""
        memory = self.memory
        await self._report(again=True)
        memory.roll_calls += 1
        drawn = await self.until(
            lambda: self._authorisation_id() != memory.hold_expired,
            deadline=workflow.now() + _ASK_FOR_MONEY_EVERY,
            summary="until the order holds the money for it anew",
        )
        if drawn:
            memory.hold_expired = None
            self._changed()
        return drawn

    def _authorisation_id(self) -> str:
        return self.memory.authorisation_id or self._run_input.authorisation_id

    async def _follow_to_delivery(self) -> None:
        memory, run = self.memory, self._run_input
        to_promise = run.promised_at - self._on_the_parcels_clock()
        now = workflow.now()
        self.deadline("late", now + self.clock.wall_delay(to_promise))
        self.deadline("lost", now + self.clock.wall_delay(to_promise + _LOST_AFTER_PROMISE))
        while True:
            await self._carrier_answered()
            if await self._at_an_end():
                return
            lost = self.deadline("lost", workflow.now() + self.clock.wall_delay(_LOST_AFTER_PROMISE))
            # One that was called off is not awaited by anybody at a promised time.
            waits_for_loss = memory.late or memory.recall is not None
            due = min(self._next_look() if waits_for_loss else memory.deadlines["late"], lost)
            heard = await self.until(
                self._news_of_the_parcel,
                deadline=due,
                summary="until it is looked for, or counts as lost" if waits_for_loss else "until it is late",
            )
            if not heard:
                memory.deadlines.pop("look", None)
                await self._look_at_parcel()
            if self._arrived_somewhere() or self._is_asked_back():
                continue
            if not heard and not waits_for_loss:
                await self._be_late()
                continue
            if not heard and due < lost:
                continue
            trouble, memory.trouble = memory.trouble, None
            if trouble is None:
                memory.deadlines.pop("lost")
            await self._ask_about_loss(trouble)

    def _next_look(self) -> datetime:
        """When the carrier is asked about a parcel that is awaited: what it said may have been lost on the way."""
        return self.deadline("look", workflow.now() + self.clock.wall_delay(_LOOK_EVERY))

    def _news_of_the_parcel(self) -> bool:
        memory = self.memory
        return self._arrived_somewhere() or memory.trouble is not None or self._is_asked_back()

    def _arrived_somewhere(self) -> bool:
        return self._is_delivered() or self._is_returned()

    async def _at_an_end(self) -> bool:
        """See the parcel off that was given up, came back or arrived; False while it is on its way."""
        memory = self.memory
        if self._is_returned():
            await self._pay_back("returned")
            self._enter(ShipmentState.RETURNED)
            return True
        if memory.refund_cause is None and not memory.damaged and self._is_delivered():
            return await self._be_delivered()
        if memory.given_up:
            if memory.refund_cause is None and not memory.damaged:
                await self._look_at_parcel()
                if self._arrived_somewhere():
                    return False
            # Money that was asked back is on its way, even if the parcel turns up; goods in pieces are no delivery.
            await self._pay_back("lost_parcel")
            self._enter(ShipmentState.LOST)
            return True
        return False

    async def _be_delivered(self) -> bool:
        """End as delivered; False when a person had to be asked first whether that is all."""
        memory = self.memory
        if memory.trouble is not None and memory.trouble.kind is CarrierEventKind.DAMAGED:
            trouble, memory.trouble = memory.trouble, None
            await self._ask_about_loss(trouble)
            return False
        if memory.recall is not None and not memory.kept:
            await self._ask_about_return()
            return False
        if memory.given_up:
            self.note("shipment.turned_up", "given up for lost, but it was delivered: nothing is paid back")
        if memory.delivered is not None:
            # The carrier's own time of delivery is the truth, whatever a timer thought of it.
            memory.late = memory.delivered.occurred_at > self._run_input.promised_at
        self._enter(ShipmentState.DELIVERED)
        return True

    async def _intercept(self) -> None:
        """The order was called off and the parcel is with the carrier: ask for it back, else from the customer."""
        memory, run = self.memory, self._run_input
        answer = None
        if self._is_returned():
            memory.recall = Recall.INTERCEPTED
            self._changed()
            self.note("parcel.came_back", "it had come back before anybody was asked for it")
            await self._report()
            return
        if memory.label_key is not None and not self._arrived_somewhere():
            answer = await self.look(
                steps.INTERCEPT_PARCEL,
                e.InterceptParcel(
                    order_id=run.order_id,
                    shipment_id=run.shipment_id,
                    label_key=memory.label_key,
                    business_now=self._on_the_parcels_clock(),
                    key=self._key("intercept"),
                ),
            )
        if answer is None and self._stopping:
            return  # the next run asks again, under the same key
        intercepted = answer is not None and answer.accepted
        memory.recall = Recall.INTERCEPTED if intercepted else Recall.RETURN
        self._changed()
        if intercepted:
            memory.deadlines["lost"] = workflow.now() + self.clock.wall_delay(_BACK_WITHIN)
            self.note("parcel.intercepted", f"{run.carrier} brings the parcel back")
            self.tell(e.Template.PARCEL_RECALLED, tracking=self._tracking())
        else:
            why = answer.reason if answer else "the carrier gave no answer in time"
            self.note("parcel.not_intercepted", "the customer is asked to refuse or return it", why=why)
            self.tell(e.Template.RETURN_REQUESTED, tracking=self._tracking())
        self._show()
        await self._report()

    def _ask_in_background(self) -> None:
        """Whatever else is waited for, a person or the money: the parcel goes on travelling meanwhile."""
        if self._is_asked_back():
            self._run_beside("recall", self._intercept)

    async def _carrier_answered(self) -> None:
        """Wait for what the carrier says to bringing the parcel back, if it was asked."""
        await self.until(lambda: not self._is_asked_back(), summary="until the carrier answers the recall")

    def _tracking(self) -> str:
        label = self.memory.label
        return (label.tracking if label else None) or ""

    async def _ask_about_return(self) -> None:
        """It was called off and delivered all the same: whether the goods came back, only a person knows."""
        run = self._run_input
        await self.ask(
            "return",
            Question(
                kind=ReviewKind.RETURN,
                what_happened=f"It was called off, and {run.units} units worth {run.amount} were delivered all "
                "the same. The customer was asked to return them.",
                why_flagged=(
                    Flag(code="return_awaited", reason="called off after the carrier had the parcel"),
                ),
                recommended=Verdict.APPROVE,
                recommendation=f"Wait until the goods are back at {run.node} and looked at, then approve.",
                options={
                    Verdict.APPROVE: "the goods are back: pay their amount back",
                    Verdict.REJECT: "the customer keeps the goods: nothing is paid back",
                },
            ),
        )

    async def _be_late(self) -> None:
        self.memory.late = True
        self._changed()
        self.note("shipment.late", f"not delivered by {self._run_input.promised_at:%Y-%m-%d}")
        self._show()
        self.tell(e.Template.LATE)
        await self._report()

    async def _ask_about_loss(self, trouble: CarrierEvent | None) -> None:
        """Ask a person about a parcel in trouble: give it up and pay its money back, or wait on."""
        memory, run = self.memory, self._run_input
        lost = trouble is None or trouble.kind is CarrierEventKind.LOST
        gone = lost or (trouble is not None and trouble.kind is CarrierEventKind.DAMAGED)
        why = (
            f"{run.carrier} reports {trouble.kind}: {trouble.detail}"
            if trouble
            else f"no delivery {_LOST_AFTER_PROMISE.days} days after the promised date"
        )
        await self.ask(
            "unheard" if trouble is None else "damaged" if gone and not lost else "lost",
            Question(
                kind=ReviewKind.SHIPMENT_LOST if lost else ReviewKind.SHIPMENT_EXCEPTION,
                what_happened=f"{run.units} units worth {run.amount} were handed to {run.carrier} "
                f"({memory.label.tracking if memory.label else 'no tracking'}) and have not arrived whole.",
                why_flagged=(
                    Flag(code="lost" if lost else "damaged" if gone else "carrier_exception", reason=why),
                ),
                recommended=Verdict.APPROVE if gone else Verdict.REJECT,
                recommendation="Pay the customer back and claim from the carrier."
                if gone
                else "Wait: the carrier still has the parcel.",
                options={
                    Verdict.APPROVE: "give the parcel up and pay its amount back",
                    Verdict.REJECT: "wait on for the carrier",
                },
            ),
        )

    async def _pay_back(self, cause: str) -> None:
        memory, run = self.memory, self._run_input
        if memory.refunded is not None or memory.capture is None or not memory.capture.capture_id:
            return
        # The cause that was named first stays: a parcel is paid back once, whatever else becomes of it.
        memory.refund_cause = cause = memory.refund_cause or cause
        answer = await self.do(
            steps.REFUND_PAYMENT,
            e.RefundPayment(
                order_id=run.order_id,
                shipment_id=run.shipment_id,
                capture_id=memory.capture.capture_id,
                amount=memory.capture.amount,
                cause=cause,
                key=self._key("refund"),
            ),
        )
        memory.refunded = answer.amount
        self.note("payment.refunded", f"{answer.amount} paid back", why=cause.replace("_", " "))

    def _act_on(self, purpose: str, verdict: Verdict, question: Question) -> None:
        memory = self.memory
        if purpose == "pick" and verdict is Verdict.APPROVE:
            memory.pick_again = True
        elif purpose in _ABOUT_LOSS and verdict is Verdict.APPROVE:
            memory.given_up = True
            memory.damaged = purpose == "damaged"
            self._changed()
        elif purpose == "return" and verdict is Verdict.APPROVE:
            memory.returned = CarrierEvent(
                event_id="returned",
                kind=CarrierEventKind.RETURNED,
                occurred_at=self.business_now(),
                tracking=self._tracking(),
                detail="a person says that the goods are back",
            )
            memory.refund_cause = "returned"
        elif purpose == "return":
            memory.kept = True
        elif purpose in _ABOUT_LOSS:
            memory.deadlines["lost"] = workflow.now() + self.clock.wall_delay(_LOST_AFTER_PROMISE)
        elif purpose == "collect" and question.options.get(verdict) == _WITHOUT_A_SCAN:
            memory.collected = memory.collected or CarrierEvent(
                event_id="assumed",
                kind=CarrierEventKind.COLLECTED,
                occurred_at=self.business_now(),
                tracking=memory.label.tracking or "" if memory.label else "",
                detail="a person says that it is with the carrier",
            )
        elif purpose in _ABOUT_GOODS_HERE and verdict is Verdict.REJECT and self._is_collected():
            # It left while the person was deciding to call it off.
            self.note(
                "cancel.too_late", "the shipment could not be called off", why="the carrier has the parcel"
            )
            self._ask_for_it_back()
        elif purpose in _ABOUT_GOODS_HERE and verdict is Verdict.REJECT:
            raise CalledOff
        else:
            super()._act_on(purpose, verdict, question)

    def _on_the_parcels_clock(self) -> datetime:
        """The business time at which this parcel is asked to move on.

        On a scaled clock a second of this machine is a day: there the parcel's own last event counts, so that a slow
        machine does not make parcels late.
        """
        memory = self.memory
        if not self.clock.scaled:
            return self.business_now()
        events = (memory.collected, memory.picked)
        return next((event.occurred_at for event in events if event is not None), self._run_input.planned_at)

    # --- the way back ---
    async def _call_back(self) -> None:
        """Undo in reverse. Raises ``TooLate`` when the carrier already has the parcel."""
        memory = self.memory
        cancel = memory.cancel
        self._enter(ShipmentState.CANCELLING, why=cancel.reason if cancel else "given up by a person")
        self._publish()
        await self.undo_everything()
        self._before_undoing()
        self._enter(ShipmentState.CANCELLED)

    def _before_undoing(self) -> None:
        if self._is_collected():
            # The label was given back, and the parcel travels all the same: what left is delivered and paid.
            self._is_too_late("the carrier has the parcel")

    def _left_to_another(self, request: Undo) -> bool:
        return self.memory.units_left_to_order and isinstance(request, e.ReleaseReservation)

    def _undone(self, request: Undo, answer: Contract) -> str | None:
        why_not = super()._undone(request, answer)
        if why_not is not None and isinstance(request, e.VoidLabel):
            self._is_too_late(why_not)
        return why_not

    def _is_too_late(self, why: str) -> NoReturn:
        self.memory.too_late_to_cancel = True
        self.note("cancel.too_late", "the shipment could not be called off", why=why)
        self._ask_for_it_back()
        self._enter(ShipmentState.HANDED_OVER)
        raise TooLate

    def _moot(self, purpose: str) -> bool:
        happened = {
            "pick": self._is_picked,
            "pick_overdue": self._is_picked,
            "collect": self._is_collected,
            "lost": self._arrived_somewhere,
            "unheard": lambda: self._arrived_somewhere() or self._is_asked_back(),
            "return": self._is_returned,
        }
        answered_itself = happened.get(purpose)
        return answered_itself is not None and answered_itself()

    def _is_picked(self) -> bool:
        return self.memory.picked is not None

    def _is_collected(self) -> bool:
        return self.memory.collected is not None

    def _is_asked_back(self) -> bool:
        return self.memory.recall is Recall.ASKED

    def _is_returned(self) -> bool:
        return self.memory.returned is not None

    def _is_delivered(self) -> bool:
        return self.memory.delivered is not None

    def _wants_off(self) -> bool:
        return self.memory.cancel is not None and not self._committed()

    def _committed(self) -> bool:
        memory = self.memory
        return (
            memory.too_late_to_cancel
            or memory.collected is not None
            or memory.state is ShipmentState.CANCELLING
        )

    # --- messages ---
    @workflow.signal
    async def wms_event(self, payload: Any = None, *_surplus: Any) -> None:
        """The warehouse reports on its pick; see ``WmsEvent`` for the JSON."""
        event = self._understood(WmsEvent, payload, "wms_event")
        if event is not None:
            self._hear_warehouse(event)

    def _hear_warehouse(self, event: WmsEvent) -> None:
        memory = self.memory
        if not self._first_time("wms_event", event.event_id):
            return
        another = memory.pick is not None and event.pick_id != memory.pick.pick_id
        if another or event.pick_id in memory.old_picks:
            self.note("wms.stale", f"{event.kind} for another pick", pick_id=event.pick_id)
        elif memory.picked is not None or memory.state in SHIPMENT_TERMINAL:
            self.note("wms.unexpected", f"{event.kind} came when the shipment was {memory.state}")
        elif event.kind is WmsEventKind.PICKED:
            memory.picked = event
        elif event.kind is WmsEventKind.CANCELLED and memory.state is ShipmentState.CANCELLING:
            self.note("wms.cancelled", "the warehouse has called the pick off")
        else:
            memory.pick_problem = event
            self.note(f"wms.{event.kind}", f"the warehouse reports {event.kind}", why=event.detail or None)

    @workflow.signal
    async def carrier_event(self, payload: Any = None, *_surplus: Any) -> None:
        """The carrier scanned the parcel; see ``CarrierEvent`` for the JSON. An odd scan is noted, it never crashes."""
        event = self._understood(CarrierEvent, payload, "carrier_event")
        if event is not None:
            self._hear_carrier(event)

    def _hear_carrier(self, event: CarrierEvent) -> None:
        memory = self.memory
        if not self._first_time("carrier_event", event.event_id):
            return
        state = _SCANNED.get(event.kind)
        if memory.label_key is None:
            self.note("carrier.unexpected", f"{event.kind} came before any label was asked for")
            return
        if memory.label is not None and event.tracking != memory.label.tracking:
            self.note("carrier.stale", f"{event.kind} for another parcel", tracking=event.tracking)
            return
        if state is None:
            if memory.trouble is None or event.kind is not CarrierEventKind.EXCEPTION:
                memory.trouble = event
            self.note(f"carrier.{event.kind}", f"the carrier reports {event.kind}", why=event.detail or None)
            return
        if memory.state in SHIPMENT_TERMINAL:
            self.note("carrier.unexpected", f"{event.kind} came when the shipment was {memory.state}")
            return
        if memory.state is ShipmentState.CANCELLING:
            self.note("carrier.unexpected", f"{event.kind} came while the shipment was being called off")
        self._take_scan(event, state)

    @workflow.signal
    async def cancel_shipment(self, payload: Any = None, *_surplus: Any) -> None:
        """The order asks to stop; see ``CancelShipment`` for the JSON."""
        request = self._understood(CancelShipment, payload, "cancel_shipment")
        if request is None:
            return
        wish = CancelOrder(request_id=request.request_id, actor=request.actor, reason=request.reason)
        refusal = self._why_not_cancel(wish)
        if not request.unless_picked:
            # An order that is called off after all has nothing to plan with them any more.
            self.memory.units_left_to_order = False
            self.memory.unpacking = None
        if request.unless_picked and self._goes_on(unpack=request.unpack):
            self.memory.goes_on = request.request_id
            self._changed()
            self.note("cancel.too_late", "asked to stop", why="it is packed already", actor=request.actor)
            await self._report(again=True)
        elif refusal is None:
            self.memory.units_left_to_order = request.unless_picked
            if request.unpack and self.memory.cancel is None:
                self.memory.unpacking = request.request_id
            self._call_off(wish)
        elif self.memory.given_up or self.memory.state in {ShipmentState.CANCELLING, *SHIPMENT_TERMINAL}:
            self.note("cancel.too_late", "asked to stop", why=refusal, actor=request.actor)
            await self._report(again=True)
        else:
            self.note("cancel.requested", "asked to bring it back", why=request.reason, actor=request.actor)
            self._ask_for_it_back()

    @workflow.signal
    async def draw_on(self, payload: Any = None, *_surplus: Any) -> None:
        """The order holds the money anew; see ``DrawOn`` for the JSON."""
        drawn = self._understood(DrawOn, payload, "draw_on")
        if drawn is not None and self.memory.capture is None:
            self.memory.authorisation_id = drawn.authorisation_id

    @workflow.signal
    async def report(self, *_surplus: Any) -> None:
        """The order calls the roll."""
        self.memory.roll_calls += 1
        await self._report(again=True)

    @workflow.query
    def snapshot(self) -> ShipmentMemory:
        """Everything the run remembers."""
        return self.memory

    def _take_scan(self, event: CarrierEvent, state: ShipmentState) -> None:
        memory = self.memory
        if event.kind is CarrierEventKind.DELIVERED and memory.delivered is None:
            memory.delivered = event
        if event.kind is CarrierEventKind.RETURNED and memory.returned is None:
            memory.returned = event
        if memory.collected is None:
            # Any scan proves the hand-over, even if the collection scan itself never comes.
            memory.collected = event
            if memory.cancel is not None and memory.state is not ShipmentState.CANCELLING:
                # It left before the forward path came to see that it is called off.
                self._ask_for_it_back()
        elif state in (ShipmentState.DELIVERED, ShipmentState.RETURNED):
            return
        elif memory.state is ShipmentState.LABELLED:
            # The run has not caught up with the hand-over yet.
            memory.furthest = state
        elif memory.state in _MOVING and shipment_may(memory.state, state):
            self._enter(state)
        elif memory.paused_in in _MOVING and shipment_may(memory.paused_in, state):
            memory.paused_in = state
        else:
            self.note(
                "carrier.scan", f"the carrier reports {event.kind}, out of order", tracking=event.tracking
            )

    def _goes_on(self, *, unpack: bool = False) -> bool:
        """Whether it is too late for a change of the order: it is packed, or nobody can stop it any more."""
        memory = self.memory
        if memory.cancel is not None or memory.state in {ShipmentState.CANCELLING, *SHIPMENT_TERMINAL}:
            return False
        return self._committed() or (self._is_picked() and not unpack)

    def _ask_for_it_back(self) -> None:
        memory = self.memory
        if memory.unpacking is not None:
            # It was not to be called off, only to be packed anew, and left before: what is in it is on its way.
            memory.goes_on, memory.unpacking, memory.cancel = memory.unpacking, None, None
            memory.units_left_to_order = False
            self._changed()
            return
        if self.memory.recall is None:
            self.memory.recall = Recall.ASKED
            self._changed()
            self._ask_in_background()

    def _why_not_cancel(self, request: CancelOrder) -> str | None:
        return f"the shipment is {self.memory.state} already" if self._committed() else None

    def _understood(self, contract: type[_Message], payload: Any, signal: str) -> _Message | None:
        try:
            return contract.model_validate(payload)
        except ValidationError as error:
            self.note("signal.refused", f"the signal {signal!r} was not understood", why=sentence(error))
            return None

    # --- reports to the order ---
    async def _report_until_heard(self) -> None:
        """Tell the order of this end. Its run may be away, ended from outside: who brings it back must hear of it."""
        pause = _REPORT_AGAIN_AFTER
        given_up_at = self.deadline("unheard", workflow.now() + _REPORT_FOR)
        while not await self._report() and workflow.now() < given_up_at:
            deadline = min(workflow.now() + pause, given_up_at)
            heard = await self.until(
                self._is_heard, deadline=deadline, summary="until the order can hear of the end"
            )
            if heard:
                return
            pause = min(2 * pause, _REPORT_AT_LEAST_EVERY)

    def _is_heard(self) -> bool:
        return self.memory.reported == self.memory.version

    async def _report(self, *, again: bool = False) -> bool:
        """Tell the order where this shipment stands; ``again`` also if it was told before. False: nobody heard it."""
        memory, run = self.memory, self._run_input
        if self._is_heard() and not again:
            return True
        before, memory.reported = memory.reported, memory.version
        handle = workflow.get_external_workflow_handle(order_workflow_id(run.order_id))
        try:
            await handle.signal(
                "shipment_progress",
                ShipmentProgress(
                    event_id=f"{run.shipment_id}/{memory.version}"
                    + (f"/{memory.roll_calls}" if again else ""),
                    shipment_id=run.shipment_id,
                    number=run.number,
                    state=memory.paused_in or memory.state,
                    version=memory.version,
                    needs_review=memory.open_review is not None,
                    tracking=memory.label.tracking if memory.label else None,
                    captured=memory.capture.amount if memory.capture else None,
                    refunded=memory.refunded,
                    late=memory.late,
                    recall=memory.recall,
                    given_up=memory.given_up,
                    goes_on=memory.goes_on,
                    hold_expired=memory.hold_expired,
                    refused=memory.refused,
                    occurred_at=workflow.now(),
                ),
            )
        except ApplicationError as error:
            memory.reported = before
            self.note("order.unheard", "the order's run could not be told", why=str(error))
            return False
        return True

    # --- what the base class asks ---
    def _shipment(self) -> str | None:
        return self._run_input.shipment_id

    def _carried_projection(self) -> dict[str, Any]:
        memory, run = self.memory, self._run_input
        return {
            "shipment": ShipmentProjection(
                shipment_id=run.shipment_id,
                order_id=run.order_id,
                number=run.number,
                version=memory.version,
                state=memory.state,
                node=run.node,
                carrier=run.carrier,
                service=run.service,
                units=run.units,
                amount=run.amount,
                promised_at=run.promised_at,
                tracking=memory.label.tracking if memory.label else None,
                handed_over_at=memory.collected.occurred_at if memory.collected else None,
                delivered_at=memory.delivered.occurred_at if memory.delivered else None,
                late=memory.late,
            )
        }

    async def _pause(self, question: Question) -> None:
        mend = question.kind in (ReviewKind.STEP_FAILED, ReviewKind.COMPENSATION_FAILED)
        self.memory.paused_in = self.memory.state
        self._enter(ShipmentState.NEEDS_OPERATOR if mend else ShipmentState.IN_REVIEW)
        self._publish()
        await self._report()

    async def _resume(self) -> None:
        interrupted, self.memory.paused_in = self.memory.paused_in, None
        if interrupted is not None:
            self._enter(interrupted)
        self._publish()
        await self._report()

    def _enter(self, state: ShipmentState, *, why: str | None = None, tracking: str | None = None) -> None:
        memory = self.memory
        if state is memory.state:
            return
        if not shipment_may(memory.state, state):
            raise RuntimeError(f"a shipment cannot go from {memory.state} to {state}")
        memory.state = state
        self._changed()
        self.note(
            f"shipment.{state}", f"shipment {self._run_input.number} {state}", why=why, tracking=tracking
        )
        self._show()

    def _attributes(self) -> list[SearchAttributePair[Any]]:
        memory = self.memory
        # How far a parcel is on its way is in the store: each scan is not worth an event of its own.
        state = ShipmentState.HANDED_OVER if memory.state in _MOVING else memory.state
        return [
            SearchAttributePair(search.STATE, state),
            SearchAttributePair(search.NEEDS_REVIEW, memory.open_review is not None),
        ]

    def _show(self) -> None:
        workflow.set_current_details(shipment_page(self._run_input, self.memory))

    def _key(self, step: str, attempt: int = 1) -> str:
        return idempotency_key(workflow.info().workflow_id, step, attempt)


def _refusal_in(event: WmsEvent) -> Refusal | None:
    """What another plan is the answer to. Units that are missing are out of stock, whatever else was said."""
    if event.refusal is not None:
        return event.refusal
    return Refusal.OUT_OF_STOCK if event.missing else None


def _understood(start: RawValue) -> ShipmentRun:
    parent, own_id = workflow.info().parent, workflow.info().workflow_id
    if parent is None:
        raise ApplicationError(
            "a shipment is started by its order, which has its money and its stock: start the order instead",
            type="refused",
            non_retryable=True,
        )
    run: ShipmentRun = workflow.payload_converter().from_payload(start.payload, ShipmentRun)
    if parent.workflow_id != order_workflow_id(run.order_id) or own_id != shipment_workflow_id(
        run.shipment_id
    ):
        raise ApplicationError(
            f"{own_id} started by {parent.workflow_id} cannot be shipment {run.shipment_id} of {run.order_id}",
            type="refused",
            non_retryable=True,
        )
    return run


_WITHOUT_A_SCAN = "it is with the carrier: take the money and go on without the scan"
_CALL_OFF = "call this shipment off, free its units and its money"
_ABOUT_GOODS_HERE = ("pick", "pick_overdue", "label", "collect")
_ABOUT_LOSS = ("unheard", "lost", "damaged")
_PICK_FLAGS = {
    WmsEventKind.SHORT: "short_pick",
    WmsEventKind.REFUSED: "pick_refused",
    WmsEventKind.CANCELLED: "pick_cancelled",
}
_SCANNED = {
    CarrierEventKind.COLLECTED: ShipmentState.HANDED_OVER,
    CarrierEventKind.IN_TRANSIT: ShipmentState.IN_TRANSIT,
    CarrierEventKind.OUT_FOR_DELIVERY: ShipmentState.OUT_FOR_DELIVERY,
    CarrierEventKind.DELIVERED: ShipmentState.DELIVERED,
    CarrierEventKind.RETURNING: ShipmentState.RETURNING,
    CarrierEventKind.RETURNED: ShipmentState.RETURNED,
}
_MOVING = SHIPMENT_HANDED_OVER - SHIPMENT_TERMINAL
