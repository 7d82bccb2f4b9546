"""An order, from its document to closed books: one long-running workflow each, id ``order:{channel}:{external_id}``."""

from typing import Any

from temporalio import workflow
from temporalio.common import RawValue, SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    import workflows.steps as steps  # noqa: PLR0402 - the other way it is loaded anew for each run
    from models import effects as e
    from models import search
    from models.clock import BusinessClock
    from models.identifiers import shipment_id, shipment_workflow_id
    from models.journal import Carried, OrderProjection
    from models.memory import OrderMemory
    from models.messages import (
        Avoided,
        CancelAnswer,
        CancelOrder,
        CancelOutcome,
        CancelShipment,
        PaymentEvent,
        Recall,
        ShipmentProgress,
    )
    from models.plan import PlanSummary, ShipmentRef
    from models.review import Flag, ReviewKind, Verdict
    from models.runs import OrderResult, OrderRun, ShipmentRun
    from models.states import (
        ORDER_TERMINAL,
        SHIPMENT_HANDED_OVER,
        SHIPMENT_TERMINAL,
        OrderState,
        ShipmentState,
    )
    from policies.approval import gate_b
    from workflows.case import NO_INPUT, CalledOff, Question, require, sentence
    from workflows.changing import Changing
    from workflows.order_case import Changed, Leaving, RestDropped

from contextlib import suppress
from datetime import datetime, timedelta

_RESERVATION_LASTS = timedelta(days=7)
_BACKORDER_RETRY = timedelta(days=1)
_BACKORDER_RETRY_FLOOR = timedelta(seconds=5)
_BACKORDER_TRIES = 3
_ROLL_CALL_EVERY = timedelta(days=7)
_ROLL_CALL_FLOOR = timedelta(minutes=10)
_SHORTAGE_TRIES = 3
_SUBSTITUTION_TRIES = 3
_CANCEL_AGAIN_AFTER, _CANCEL_AT_LEAST_EVERY = timedelta(seconds=10), timedelta(hours=1)
# A caller who waits for the answer gives up after five seconds.
_TELL_WITHIN = timedelta(seconds=3)


@workflow.defn
class OrderWorkflow(Changing):
    """Carries one order to its end. Whatever happens, it ends closed, rejected, cancelled or with a person.

    Its input is an ``OrderRun``, taken as it comes: a stranger's mistake must end as a rejection that says what is
    wrong, and not as a run that cannot read its input and is tried again for ever.
    """

    @workflow.init
    def __init__(self, start: RawValue = NO_INPUT) -> None:
        order = workflow.info().workflow_id.removeprefix("order:")
        self._run_input = run = _understood(start)
        self._closing_version = self._closed_at_version = 0
        memory = run.memory or OrderMemory(order_id=order)
        memory.order_id = order
        self._open_case(memory, order, order)
        if memory.clock is None:
            now = workflow.info().workflow_start_time
            memory.clock = BusinessClock(
                speed=run.clock.speed, wall_start=now, business_start=run.clock.business_start or now
            )

    @workflow.run
    async def run(self, _start: RawValue = NO_INPUT) -> OrderResult:
        """The whole life of the order. See ``_go_forward`` for its steps."""
        if not await self._run_shielded(self._live):
            workflow.continue_as_new(
                self._run_input.model_copy(
                    update={
                        # Once it was read the document is in the store.
                        "draft": self._run_input.draft if self.memory.facts is None else None,
                        "memory": self.memory,
                    }
                )
            )
        memory = self.memory
        return OrderResult(
            order_id=self.order_id,
            state=memory.state,
            captured=memory.captured,
            refunded=memory.refunded,
            shipments=len(memory.shipments),
        )

    async def _live(self) -> None:
        self._refuse_in_background()
        try:
            await self._finish_what_was_asked()
            if self.memory.leaving_to is None and self.memory.state not in ORDER_TERMINAL:
                await self._go_forward()
        except CalledOff:
            cancel = self.memory.cancel
            self._leave_for(
                OrderState.CANCELLED,
                cancel.reason if cancel else "given up by a person",
                told="the order was called off",
            )
        except Leaving as leaving:
            self._leave_for(leaving.to, leaving.because, told=leaving.told)
        if self.memory.leaving_to is not None:
            await self._leave()
        await self.until(
            lambda: not self.memory.refusals, summary="until refused amendments are written down"
        )
        await self.wind_up()

    async def _go_forward(self) -> None:
        await self._validate()
        while True:
            try:
                await self._change()
                if not self.memory.released and not self.memory.rest_dropped:
                    await self._plan_and_release()
                    if self._let_part_go_ahead():
                        continue
            except Changed:
                continue
            except (Leaving, CalledOff, RestDropped) as why:
                # What is on its way goes on; only what is not is given up.
                if not self.memory.earlier:
                    raise
                await self._drop_the_rest(why)
            if await self._see_shipments_through():
                break
        await self._settle(OrderState.CLOSED)

    async def _plan_and_release(self) -> None:
        await self._assess()
        await self._gate_a()
        await self._authorise()
        await self._route_and_reserve()
        await self._gate_b()
        await self._release()

    async def _finish_what_was_asked(self) -> None:
        try:
            await self.finish_open_review()
        except (Leaving, CalledOff) as why:
            if not self.memory.earlier:
                raise
            await self._drop_the_rest(why)

    # --- the steps, in order ---
    async def _validate(self) -> None:
        if self.memory.facts is not None:
            return
        self._enter(OrderState.VALIDATING)
        problems = self._learn(await self.do(steps.VALIDATE_ORDER, self._document()))
        if self.memory.facts is None:
            raise Leaving(
                OrderState.REJECTED,
                f"the document is not acceptable: {problems}",
                told="the order could not be read",
            )

    async def _read_at_last(self) -> None:
        """The order was called off before it was read: whoever sent it has to be told, and its row to be closed.

        If it cannot be read, which may be why somebody gave up, there is nobody to tell.
        """
        answer = await self.look(steps.VALIDATE_ORDER, self._document())
        if answer is not None:
            self._learn(answer)

    def _document(self) -> e.ValidateOrder:
        return e.ValidateOrder(
            order_id=self.order_id,
            workflow_id=workflow.info().workflow_id,
            first_run_id=workflow.info().first_execution_run_id,
            draft=self._run_input.draft,
            problems=self._run_input.problems,
        )

    def _learn(self, answer: e.Validation) -> str:
        """Keep the facts, or say what is wrong with the document."""
        self.memory.facts = facts = answer.facts
        if facts is None:
            return "; ".join(f"{p.path or 'document'}: {p.message}" for p in answer.problems)[:2000]
        self.note(
            "order.validated",
            f"{facts.line_count} lines, {facts.unit_count} units, {facts.total} ({facts.customer_type})",
            document_hash=facts.document_hash,
        )
        return ""

    async def _assess(self) -> None:
        memory = self.memory
        if memory.assessment is not None:
            return
        self._enter(OrderState.ASSESSING)
        memory.assessment = found = await self.do(steps.ASSESS_ORDER, e.AssessOrder(order_id=self.order_id))
        self.note(
            "order.assessed",
            f"risk rules say {found.decision}",
            why="; ".join(flag.reason for flag in found.flags) or None,
            policy=found.policy_version,
            model=found.model_version,
            score=found.score,
        )

    async def _gate_a(self) -> None:
        """Fraud, value, credit: nothing is held yet, so saying no costs nobody anything."""
        memory, facts = self.memory, self._facts()
        found = memory.assessment
        if found is None or "gate_a" in memory.passed_gates:
            return
        if found.decision is e.RiskDecision.REJECT:
            raise Leaving(
                OrderState.REJECTED, "; ".join(flag.reason for flag in found.flags), told=_NOT_ACCEPTED
            )
        if found.decision is e.RiskDecision.PASS:
            return
        await self.ask(
            "gate_a",
            Question(
                kind=ReviewKind.RISK,
                what_happened=f"{facts.customer_type.upper()} order on {facts.channel}: {facts.line_count} lines, "
                f"{facts.unit_count:,} units, {facts.total}, to {facts.ship_country}. Nothing is held yet.",
                why_flagged=found.flags,
                recommended=found.recommended or Verdict.APPROVE,
                recommendation=found.recommendation
                or "Check with the customer that the order is meant as it stands, then approve.",
                options={
                    Verdict.APPROVE: "hold the money and go on",
                    Verdict.REJECT: "reject the order and tell the customer",
                },
            ),
        )
        self._turn_back()

    async def _route_and_reserve(self) -> None:
        """Plan and reserve, again with a fresh plan when the stock went meanwhile; back-order when there is no plan."""
        memory = self.memory
        if memory.state is OrderState.BACKORDERED:
            await self._wait_for_stock()
        while not memory.reserved:
            self._turn_back()
            if memory.plan is None and (unfillable := await self._make_plan()) is not None:
                await self._backorder(unfillable)
            elif memory.plan is not None and not await self._reserve(memory.plan):
                memory.plan = None
                memory.shortages += 1
                if memory.shortages >= _SHORTAGE_TRIES:
                    await self._backorder(("the stock was taken by other orders meanwhile",))

    async def _make_plan(self) -> tuple[str, ...] | None:
        """Ask for a plan. None when there is one, else why there is none."""
        memory = self.memory
        self._enter(OrderState.ROUTING)
        memory.planned_at = planned_at = self.business_now()
        asked = memory.set_plan
        answer = await self.do(
            steps.ROUTE_ORDER,
            e.RouteOrder(
                order_id=self.order_id,
                attempt=self._attempt("route", count=True),
                business_now=planned_at,
                kept=self._kept_shipments(),
                first_number=memory.last_number + 1,
                outstanding=self._outstanding() if memory.earlier else None,
                substitute=memory.substitutions < _SUBSTITUTION_TRIES,
                avoid=self._still_avoided(),
                set_plan=asked,
            ),
        )
        memory.plan = plan = answer.plan
        if memory.set_plan == asked and (plan is None or plan.set_by is None):
            memory.set_plan = None  # it cannot be made, as the router's plan says
        if plan is None:
            if answer.substitution is not None and self._substitute(answer.substitution):
                self._turn_back()
            return answer.unfillable
        memory.may_reroute = plan.reroutes
        self.note(
            "order.routed",
            f"{len(plan.shipments)} shipments, cost {plan.cost}, promised {plan.promised_at:%Y-%m-%d}",
            policy=plan.router,
            plan_id=plan.plan_id,
        )
        return None

    def _still_avoided(self) -> tuple[Avoided, ...]:
        now = self.business_now()
        self.memory.avoided = [one for one in self.memory.avoided if one.until is None or one.until > now]
        return tuple(self.memory.avoided)

    async def _reserve(self, plan: PlanSummary) -> bool:
        memory, attempt = self.memory, self._attempt("route")
        self._enter(OrderState.RESERVING)
        key = self._key("reserve", attempt)
        if memory.reservation_key != key:
            memory.reservation_key = key
            memory.undo.append(
                e.ReleaseReservation(
                    order_id=self.order_id, reservation_key=key, key=self._key("release", attempt)
                )
            )
        answer = await self.do(
            steps.RESERVE_STOCK,
            e.ReserveStock(
                order_id=self.order_id,
                plan_id=plan.plan_id,
                key=key,
                expires_at=workflow.now() + _RESERVATION_LASTS,
            ),
        )
        memory.reserved = answer.reserved
        if memory.reserved:
            # With it went what the order still held of plans before.
            memory.undo = [
                undo
                for undo in memory.undo
                if not isinstance(undo, e.ReleaseReservation) or undo.reservation_key == key
            ]
            self.note("stock.reserved", "every unit is reserved", plan_id=plan.plan_id)
            return True
        memory.undo.pop()
        short = ", ".join(f"{s.sku} at {s.node}: {s.available} of {s.requested}" for s in answer.shortages)
        self.note("stock.short", "the stock went meanwhile: nothing was reserved", why=short[:1000])
        return False

    async def _backorder(self, reasons: tuple[str, ...]) -> None:
        memory = self.memory
        why = "; ".join(reasons)[:1000]
        self._enter(OrderState.BACKORDERED, why=why)
        memory.shortages, memory.fruitless_plans = 0, memory.fruitless_plans + 1
        if memory.fruitless_plans % _BACKORDER_TRIES == 0:
            await self.ask(
                "backorder",
                Question(
                    kind=ReviewKind.BACKORDER,
                    what_happened="No plan can fill the order; "
                    f"tried {memory.fruitless_plans} times, a business day apart.",
                    why_flagged=(Flag(code="unfillable", reason=why),),
                    recommended=Verdict.REJECT,
                    recommendation="Cancel unless goods are known to be coming in.",
                    options={
                        Verdict.APPROVE: f"keep trying for {_BACKORDER_TRIES} more business days",
                        Verdict.REJECT: "cancel the order, give the money back and tell the customer",
                    },
                ),
            )
        await self._wait_for_stock()

    async def _wait_for_stock(self) -> None:
        memory = self.memory
        again = self.clock.wall_delay(_BACKORDER_RETRY, floor=_BACKORDER_RETRY_FLOOR)
        looked_at = self.deadline("backorder", workflow.now() + again)
        while True:
            await self.until(
                lambda: (
                    memory.cancel is not None
                    or memory.stock_arrived
                    or self._turned_back()
                    or self._hold_is_due()
                ),
                deadline=min(looked_at, self._hold_due_at() or looked_at),
                summary="back-ordered: until stock is looked at again",
            )
            self._turn_back()
            if not self._hold_is_due():
                break
            # A part went ahead, and has to be paid for whatever the rest is waiting for.
            await self._renew_hold()
            looked_at = memory.deadlines["backorder"]
        del memory.deadlines["backorder"]
        if memory.stock_arrived:
            # Looked at again before its time: that is not one of the days that it waits in vain.
            memory.stock_arrived = False
            memory.fruitless_plans = max(memory.fruitless_plans - 1, 0)

    async def _gate_b(self) -> None:
        """Plan, margin, promise: everything is held, nothing has moved."""
        memory, facts = self.memory, self._facts()
        if memory.released or memory.plan is None or "gate_b" in memory.passed_gates:
            return
        if memory.plan.set_by is not None:
            return  # a person has seen it already
        flags = gate_b(facts, memory.plan, self.approval)
        if not flags:
            return
        await self.ask(
            "gate_b",
            Question(
                kind=ReviewKind.PLAN,
                what_happened=f"The plan for {facts.total} ships from "
                f"{', '.join(s.node for s in memory.plan.shipments)} for {memory.plan.cost}, "
                f"promised {memory.plan.promised_at:%Y-%m-%d}. Money and stock are held.",
                why_flagged=flags,
                recommended=Verdict.APPROVE,
                recommendation="Approve if the customer is worth the cost; the plan is the cheapest that is feasible.",
                options={
                    Verdict.APPROVE: "release the plan as it is",
                    Verdict.REJECT: "cancel the order, free money and stock, tell the customer",
                },
                policy=None if memory.plan.limits is None else memory.plan.limits.policy,
            ),
        )
        self._turn_back()

    def _moot(self, purpose: str) -> bool:
        if purpose in _BEFORE_RELEASE:
            return self._turned_back() or (self.memory.cancel is not None and bool(self.memory.earlier))
        if purpose == "renewal":
            return not self._hold_is_due()
        return purpose == "silence" and (not self.memory.silent or self._cancel_unsent())

    def _by_hand(self, step: steps.Step[Any, Any]) -> dict[Verdict, str]:
        return {Verdict.FINISH: _AS_THEY_ARE} if step is steps.SETTLE_ORDER else super()._by_hand(step)

    def _act_on(self, purpose: str, verdict: Verdict, question: Question) -> None:
        if verdict is Verdict.FINISH and question.options[verdict] == _AS_THEY_ARE:
            self.memory.books_accepted = True
        why = "; ".join(flag.reason for flag in question.why_flagged)
        if purpose in _GATES and verdict is Verdict.APPROVE:
            self.memory.passed_gates.append(purpose)
        elif purpose == "gate_a":
            raise Leaving(OrderState.REJECTED, f"not approved at gate A: {why}", told=_NOT_ACCEPTED)
        elif purpose == "gate_b":
            raise Leaving(OrderState.CANCELLED, f"not approved at gate B: {why}", told=_NOT_SUPPLIED)
        elif purpose == "backorder" and verdict is Verdict.REJECT:
            raise Leaving(OrderState.CANCELLED, f"could not be filled: {why}", told=_NOT_SUPPLIED)
        else:
            super()._act_on(purpose, verdict, question)

    async def _release(self) -> None:
        memory = self.memory
        if memory.released:
            return
        self._turn_back()
        # Reviews and back-orders take days: what is held must last until the goods leave.
        await self._authorise()
        self._turn_back()
        if memory.plan is None:
            raise RuntimeError("nothing to release without a plan")
        for ref in memory.plan.shipments:
            await self._start_shipment(ref)
        memory.released = True
        if not any(wish.set_plan for wish in memory.again):
            memory.set_plan = None  # whoever set it meant it once
        for progress in tuple(memory.shipments.values()):
            # A neighbour may have refused one while the others were started.
            self._hear_refusal(progress)
        self._enter(OrderState.RELEASED)
        self._changed()
        self._follow_shipments()
        promised = f"{memory.plan.promised_at:%Y-%m-%d}"
        if f"confirmed:{promised}" not in memory.told:
            memory.told.append(f"confirmed:{promised}")
            facts = {"promised": promised}
            if memory.plan.left_out:
                facts["follows"] = str(memory.plan.left_out)
            self.tell(e.Template.ORDER_CONFIRMED, e.Audience.CUSTOMER, **facts)

    def _let_part_go_ahead(self) -> bool:
        """Where the plan that was released is for a part, its shipments go on and the rest waits for its goods."""
        memory = self.memory
        if memory.plan is None or not memory.released or not memory.plan.left_out:
            return False
        left_out = memory.plan.left_out
        self._keep_what_goes_on()
        self._enter(OrderState.BACKORDERED, why=f"a part goes ahead; {left_out} units wait for goods")
        return True

    async def _start_shipment(self, ref: ShipmentRef) -> None:
        memory = self.memory
        shipment = shipment_id(self.order_id, ref.number)
        if (
            memory.plan is None
            or memory.authorisation is None
            or memory.authorisation.authorisation_id is None
        ):
            raise RuntimeError("a shipment needs a plan and an authorisation")
        memory.draws_on[ref.number] = memory.authorisation.authorisation_id
        try:
            await workflow.start_child_workflow(
                "ShipmentWorkflow",
                ShipmentRun(
                    shipment_id=shipment,
                    order_id=self.order_id,
                    number=ref.number,
                    plan_id=memory.plan.plan_id,
                    node=ref.node,
                    carrier=ref.carrier,
                    service=ref.service,
                    units=ref.units,
                    amount=ref.amount,
                    authorisation_id=memory.authorisation.authorisation_id,
                    reservation_key=memory.reservation_key or "",
                    planned_at=memory.planned_at or self.business_now(),
                    promised_at=ref.promised_at,
                    held_until=ref.held_until,
                    clock=self.clock,
                    plan_again=memory.reroutes < memory.may_reroute,
                ),
                id=shipment_workflow_id(shipment),
                task_queue=steps.WORKFLOWS,
                # It outlives the order's run: the order may continue as new while the parcel travels.
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                # Its id may have been used up by a start by hand, which fails at once; see ShipmentWorkflow.
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                static_summary=f"{ref.units} units from {ref.node} by {ref.carrier}/{ref.service}",
                search_attributes=TypedSearchAttributes(
                    [
                        SearchAttributePair(search.STATE, ShipmentState.PLANNED),
                        SearchAttributePair(search.CHANNEL, self._facts().channel),
                        SearchAttributePair(search.CUSTOMER_TYPE, self._facts().customer_type),
                        SearchAttributePair(search.NODE, ref.node),
                        SearchAttributePair(search.CARRIER, f"{ref.carrier}/{ref.service}"),
                        SearchAttributePair(search.PROMISE_TIME, ref.promised_at),
                        SearchAttributePair(search.TOTAL_MINOR, ref.amount.minor),
                    ]
                ),
            )
        except WorkflowAlreadyStartedError:
            self.note("shipment.already_started", f"shipment {ref.number} was running already")

    async def _see_shipments_through(self) -> bool:
        """Wait for the shipments to come to their ends; False when another plan is asked for before."""
        memory = self.memory
        if memory.state in _PLANNING:
            self._enter(OrderState.RELEASED)
            self._follow_shipments()
        while not self._all_arrived():
            if self._turned_back() and memory.cancel is None:
                return False
            due = [self.deadline("shipments", self._next_roll_call()), memory.deadlines.get("cancel")]
            await self.until(
                lambda: (
                    self._all_arrived()
                    or self._cancel_unsent()
                    or self._hold_is_due()
                    or (self._turned_back() and memory.cancel is None)
                ),
                deadline=min(moment for moment in (*due, self._hold_due_at()) if moment is not None),
                summary="waiting for the shipments",
            )
            if memory.cancel is not None and (self._cancel_unsent() or self._cancel_is_due()):
                await self._call_shipments_off(memory.cancel)
            elif self._hold_is_due():
                await self._renew_hold()
            elif workflow.now() >= memory.deadlines["shipments"]:
                await self._call_the_roll()
        await self._give_up_amendment("past_cutoff", "everything has come to its end meanwhile")
        memory.stock_lost.clear()
        memory.again.clear()
        states = {self._shipment_state(ref.number) for ref in self._planned_shipments()}
        if ShipmentState.DELIVERED in states:
            self._enter(OrderState.DELIVERED)
            return True
        if ShipmentState.LOST in states:
            lost = "the goods were lost or damaged on the way and the money was paid back"
            raise Leaving(OrderState.COMPENSATED, lost, told=lost)
        if ShipmentState.RETURNED in states:
            back = "the goods came back and the money was paid back"
            raise Leaving(OrderState.COMPENSATED, back, told=back)
        raise Leaving(
            OrderState.CANCELLED,
            memory.cancel.reason if memory.cancel else "every shipment was called off",
            told="the order was called off" if memory.cancel else _NOT_SUPPLIED,
        )

    def _next_roll_call(self) -> datetime:
        return workflow.now() + self.clock.wall_delay(_ROLL_CALL_EVERY, floor=_ROLL_CALL_FLOOR)

    async def _call_the_roll(self) -> None:
        """Ask the shipments to report: one whose run was ended from outside, or hangs, would be waited for for ever."""
        memory = self.memory
        missing = [n for n in memory.silent if self._shipment_state(n) not in SHIPMENT_TERMINAL]
        memory.silent = []
        for ref in self._planned_shipments():
            if self._shipment_state(ref.number) in SHIPMENT_TERMINAL:
                continue
            memory.silent.append(ref.number)
            try:
                await self._shipment_run(ref.number).signal("report")
            except ApplicationError:
                missing.append(ref.number)
        memory.deadlines.pop("shipments")
        if missing:
            await self._ask_about_silence(sorted(set(missing)))

    async def _ask_about_silence(self, numbers: list[int]) -> None:
        runs = ", ".join(shipment_workflow_id(shipment_id(self.order_id, n)) for n in numbers)
        await self.ask(
            "silence",
            Question(
                kind=ReviewKind.STEP_FAILED,
                what_happened=f"No word comes from {runs}: the run was ended from outside, or it hangs.",
                why_flagged=(Flag(code="shipment_silent", reason="the run does not answer"),),
                recommended=Verdict.APPROVE,
                recommendation="Look at the run in Temporal Web: reset it, or mend what it hangs on. Then approve.",
                options={Verdict.APPROVE: "it was looked after: wait on"},
            ),
        )

    def _all_arrived(self) -> bool:
        return all(self._shipment_state(ref.number) in SHIPMENT_TERMINAL for ref in self._planned_shipments())

    def _tell_of(self, progress: ShipmentProgress) -> None:
        """Tell the customer, once each, that a parcel left, and that one of several will not come."""
        memory, number = self.memory, str(progress.number)
        several = len(self._planned_shipments()) > 1
        news: e.Template | None = None
        if progress.state is ShipmentState.LOST:
            news = e.Template.SHIPMENT_LOST if several else None
        elif progress.state is ShipmentState.RETURNED:
            news = e.Template.SHIPMENT_RETURNED if several else None
        elif progress.state in SHIPMENT_HANDED_OVER:
            news = e.Template.SHIPPED
        elif (
            progress.state is ShipmentState.CANCELLED
            and memory.cancel is None
            and progress.number not in memory.called_back
        ):
            news = e.Template.SHIPMENT_CANCELLED if several else None
        if news is not None and f"{news}:{number}" not in memory.told:
            memory.told.append(f"{news}:{number}")
            self.tell(news, tracking=progress.tracking or "", shipment=number)

    def _cancel_unsent(self) -> bool:
        return self.memory.cancel is not None and not self.memory.cancel_sent

    def _cancel_is_due(self) -> bool:
        again = self.memory.deadlines.get("cancel")
        return again is not None and workflow.now() >= again

    async def _call_shipments_off(self, cancel: CancelOrder) -> None:
        """Ask every shipment to stop; each answers by its progress, cancelled or already with the carrier.

        One whose run is away, ended from outside, is asked again until it hears: it may be brought back any time.
        """
        memory = self.memory
        unheard = (
            memory.cancel_unheard if memory.cancel_sent else [ref.number for ref in self._planned_shipments()]
        )
        first_time, memory.cancel_sent = not memory.cancel_sent, True
        if first_time:
            self._enter(OrderState.CANCELLING, why=cancel.reason)
            await self._free_what_stopped()
        memory.cancel_unheard = []
        for number in unheard:
            if self._shipment_state(number) in SHIPMENT_TERMINAL:
                continue
            try:
                await self._shipment_run(number).signal(
                    "cancel_shipment",
                    CancelShipment(request_id=cancel.request_id, actor=cancel.actor, reason=cancel.reason),
                )
            except ApplicationError as error:
                memory.cancel_unheard.append(number)
                if first_time:
                    self.note(
                        "cancel.unheard", f"shipment {number} could not be told to stop", why=str(error)
                    )
        memory.deadlines.pop("cancel", None)
        if memory.cancel_unheard:
            tries = self._attempt("cancel-unheard", count=True)
            pause = min(_CANCEL_AGAIN_AFTER * 2 ** min(tries - 1, 20), _CANCEL_AT_LEAST_EVERY)
            memory.deadlines["cancel"] = workflow.now() + pause

    async def _settle(self, final: OrderState) -> None:
        """Give back what is still held and check the books. The final state is written only if they balance."""
        memory = self.memory
        if memory.facts is None:
            self._enter(final, why=memory.leaving_because)
            return
        while memory.state not in ORDER_TERMINAL:
            answer = await self._perform_settlement(final)
            memory.captured, memory.refunded = answer.captured, answer.refunded
            if answer.balanced:
                self._close(final)
                return
            if answer.short:
                await self._pay_back_what_was_missing(answer.short)
                continue
            await self.ask(
                "settlement",
                Question(
                    kind=ReviewKind.SETTLEMENT,
                    what_happened=f"The order's money does not add up: {answer.explanation}",
                    why_flagged=(Flag(code="unbalanced", reason=answer.explanation),),
                    recommended=Verdict.APPROVE,
                    recommendation="Compare with the provider's statement, mend it, then approve to check again.",
                    options={Verdict.APPROVE: "check again", Verdict.FINISH: _AS_THEY_ARE},
                ),
            )

    async def _pay_back_what_was_missing(self, short: tuple[e.ShortParcel, ...]) -> None:
        """The customer paid for units that a picker did not find, and that were not in the parcel."""
        for parcel in short:
            answer = await self.do(
                steps.REFUND_PAYMENT,
                e.RefundPayment(
                    order_id=self.order_id,
                    shipment_id=parcel.shipment_id,
                    capture_id=parcel.capture_id,
                    amount=parcel.amount,
                    cause="short_parcel",
                    key=self._key("refund-short", parcel.number),
                ),
            )
            self.note(
                "payment.refunded",
                f"{answer.amount} paid back",
                why=f"shipment {parcel.number} left without {parcel.units} units",
            )
            self.tell(
                e.Template.REFUNDED,
                shipment=str(parcel.number),
                reason=f"{parcel.units} units were not in the parcel: {answer.amount}",
            )

    async def _perform_settlement(self, final: OrderState) -> e.Settlement:
        # Each look at the books is a new attempt: what the last one gave back is not given back by this one.
        key = self._key("settle", self._attempt("settle", count=True))
        return await self.do(steps.SETTLE_ORDER, lambda: self._settlement(final, key))

    def _settlement(self, final: OrderState, key: str) -> e.SettleOrder:
        memory = self.memory
        because = memory.leaving_because or None
        self._closed_at_version, self._closing_version = memory.version, self._following(memory.version)
        # The closing entry takes its number now, so that a note that comes in meanwhile takes another one.
        closing = Carried(
            entries=(self._entry(f"order.{final}", f"order {final}", why=because),),
            order=self._projection().model_copy(
                update={
                    "version": self._closing_version,
                    "state": final,
                    "needs_review": False,
                    "closed_at": workflow.now(),
                    "exit_reason": because,
                }
            ),
        )
        return e.SettleOrder(
            order_id=self.order_id,
            total=self._facts().total,
            authorisation_key=memory.authorisation_key,
            key=key,
            closing=closing,
            accepted=memory.books_accepted,
        )

    def _close(self, final: OrderState) -> None:
        memory = self.memory
        memory.state = final
        # Something moved while the books were being closed: the closing row was not the newest, so write this one.
        memory.projection_pending = memory.version != self._closed_at_version
        memory.version = max(memory.version + 1, self._closing_version)

    # --- the exits ---
    def _leave_for(self, to: OrderState, because: str, *, told: str) -> None:
        memory = self.memory
        memory.leaving_to, memory.leaving_because, memory.leaving_told = to, because, told

    async def _leave(self) -> None:
        """Undo whatever was done, last in first out, check the books, tell the customer."""
        memory = self.memory
        final = memory.leaving_to or OrderState.CANCELLED
        if memory.state not in ORDER_TERMINAL:
            await self._give_up_amendment("called_off", f"the order will be {final}")
            if memory.undo or final is not OrderState.REJECTED:
                on_the_way = (
                    OrderState.CANCELLING if final is OrderState.CANCELLED else OrderState.COMPENSATING
                )
                self._enter(on_the_way, why=memory.leaving_because)
                self._publish()
            if memory.facts is None and final is not OrderState.REJECTED:
                await self._read_at_last()
            await self.undo_everything()
            await self._settle(final)
        if memory.facts is not None and "left" not in memory.told:
            memory.told.append("left")
            template = {
                OrderState.REJECTED: e.Template.ORDER_REJECTED,
                OrderState.COMPENSATED: e.Template.REFUNDED,
            }.get(final, e.Template.ORDER_CANCELLED)
            self.tell(template, reason=memory.leaving_told)

    # --- messages ---
    @workflow.update
    async def cancel(self, request: CancelOrder) -> CancelAnswer:
        """Call the order off. The answer says what happens to goods and money.

        Warehouse and carriers are given a moment to answer; what they have not by then is said to be under way.
        """
        answer = self._cancel(request)
        if answer.outcome is CancelOutcome.ALREADY or not self._anything_out():
            return answer
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: not self._still_asked(),
                timeout=_TELL_WITHIN,
                timeout_summary="until every shipment has answered the cancellation",
            )
        self.memory.cancel_answer = self._what_cancelling_does()
        return self.memory.cancel_answer

    @cancel.validator
    def _may_cancel(self, request: CancelOrder) -> None:
        require(CancelOrder, request)
        refusal = self._why_not_cancel(request)
        if refusal is not None:
            raise ApplicationError(refusal, type="refused", non_retryable=True)

    @workflow.signal
    async def cancel_order(self, payload: Any = None, *_surplus: Any) -> None:
        """The durable twin of the update ``cancel``, from any Temporal client; see ``CancelOrder`` for the JSON."""
        try:
            request = CancelOrder.model_validate(payload)
        except ValidationError as error:
            self.note("signal.refused", "the signal 'cancel_order' was not acted on", why=sentence(error))
            return
        refusal = self._why_not_cancel(request)
        if refusal is None:
            self._cancel(request)
        else:
            self.note("cancel.refused", "the order was not called off", why=refusal, actor=request.actor)

    @workflow.signal
    async def shipment_progress(self, payload: Any = None, *_surplus: Any) -> None:
        """A shipment of ours tells where it stands; see ``ShipmentProgress``."""
        memory = self.memory
        try:
            progress = ShipmentProgress.model_validate(payload)
        except ValidationError as error:
            self.note(
                "signal.refused", "the signal 'shipment_progress' was not understood", why=sentence(error)
            )
            return
        known = memory.shipments.get(progress.number)
        memory.silent = [number for number in memory.silent if number != progress.number]
        if not self._first_time("shipment_progress", progress.event_id) or (
            known is not None and known.version >= progress.version
        ):
            return
        needed_review = self._needs_review()
        memory.shipments[progress.number] = progress
        self._changed()
        if progress.late and not (known and known.late):
            self.note("order.late", f"shipment {progress.number} is later than promised")
        self._follow_shipments()
        self._tell_of(progress)
        self._hear_refusal(progress)
        if self._needs_review() is not needed_review:
            self._flush_soon()
        self._publish()

    @workflow.signal
    async def payment_event(self, payload: Any = None, *_surplus: Any) -> None:
        """The payment provider's own notice. Facts are noted; money is only ever moved by our own steps."""
        try:
            event = PaymentEvent.model_validate(payload)
        except ValidationError as error:
            self.note("signal.refused", "the signal 'payment_event' was not understood", why=sentence(error))
            return
        if self._first_time("payment_event", event.event_id):
            self.note(
                f"payment.notice.{event.kind}",
                f"the provider reports {event.amount}",
                ref=event.provider_ref,
                flush=False,
            )

    @workflow.query
    def snapshot(self) -> OrderMemory:
        """Everything the run remembers."""
        return self.memory

    def _why_not_cancel(self, request: CancelOrder) -> str | None:
        memory = self.memory
        if memory.cancel is not None and memory.cancel.request_id == request.request_id:
            return None
        if memory.state in ORDER_TERMINAL:
            return f"the order is {memory.state} already"
        if memory.leaving_to is not None or memory.cancel is not None:
            return None
        nothing_to_come = self._anything_out() and (memory.released or memory.rest_dropped)
        if nothing_to_come and all(self._is_over(ref.number) for ref in self._planned_shipments()):
            return f"it is too late to cancel: {self._said_of_each()}"
        return None

    def _cancel(self, request: CancelOrder) -> CancelAnswer:
        memory = self.memory
        if memory.cancel is not None and memory.cancel.request_id == request.request_id:
            if memory.cancel_answer is not None:
                return memory.cancel_answer
        elif memory.cancel is not None:
            return CancelAnswer(
                outcome=CancelOutcome.ALREADY,
                message=f"the order was called off before, and is {memory.state}: "
                f"{self._what_cancelling_does().message}",
            )
        elif memory.leaving_to is not None:
            return CancelAnswer(
                outcome=CancelOutcome.ALREADY,
                message=f"the order will be {memory.leaving_to} anyhow: {memory.leaving_because}",
            )
        self._call_off(request)
        memory.cancel_answer = self._what_cancelling_does()
        return memory.cancel_answer

    def _what_cancelling_does(self) -> CancelAnswer:
        if not self._anything_out():
            return CancelAnswer(
                outcome=CancelOutcome.CANCELLING,
                message="nothing has left: whatever is held is given back and the customer is told",
            )
        outcomes = {self._what_becomes_of(ref.number)[0] for ref in self._planned_shipments()}
        return CancelAnswer(
            outcome=outcomes.pop() if len(outcomes) == 1 else CancelOutcome.PARTLY,
            message=self._said_of_each(),
        )

    def _said_of_each(self) -> str:
        """What becomes of the shipments as a sentence, each by its number where it is not the same for all."""
        said = {ref.number: self._what_becomes_of(ref.number)[1] for ref in self._planned_shipments()}
        if len(set(said.values())) == 1:
            return next(iter(said.values()))
        return "; ".join(f"shipment {number}: {what}" for number, what in sorted(said.items()))

    def _what_becomes_of(self, number: int) -> tuple[CancelOutcome, str]:
        """What calling off does to one shipment, and how that is said."""
        progress = self.memory.shipments.get(number)
        if progress is None or progress.state not in SHIPMENT_HANDED_OVER:
            off = progress is not None and progress.state is ShipmentState.CANCELLED
            return CancelOutcome.CANCELLING, _OFF if off else _BECOMES[CancelOutcome.CANCELLING]
        if progress.recall is None and progress.state in _HAD_ENDED:
            return CancelOutcome.ENDED, _HAD_ENDED[progress.state]
        if progress.recall is None and progress.given_up:
            return CancelOutcome.ENDED, "it is given up, and its amount is being paid back"
        coming_back = progress.state in (ShipmentState.RETURNING, ShipmentState.RETURNED)
        outcome = (
            CancelOutcome.INTERCEPTED
            if coming_back
            else _ANSWERED.get(progress.recall, CancelOutcome.INTERCEPTING)
        )
        return outcome, _BECOMES[outcome]

    def _still_asked(self) -> bool:
        """Whether a shipment has yet to say what becomes of it now that the order is called off."""
        for ref in self._planned_shipments():
            outcome, _ = self._what_becomes_of(ref.number)
            state = self._shipment_state(ref.number)
            if outcome is CancelOutcome.INTERCEPTING or (
                outcome is CancelOutcome.CANCELLING and state not in SHIPMENT_TERMINAL
            ):
                return True
        return False

    # --- what the base class asks ---
    def _committed(self) -> bool:
        # Once shipments exist they are called off one by one; the order's own steps are never torn down any more.
        return self._anything_out() or self.memory.leaving_to is not None

    def _carried_projection(self) -> dict[str, Any]:
        run = self._run_input
        if self.memory.facts is None and run.order_id is None:
            # A stranger's start speaks for nobody yet: the same id may be another, accepted order.
            return {}
        return {"order": self._projection()}

    async def _pause(self, question: Question) -> None:
        mend = question.kind in (
            ReviewKind.STEP_FAILED,
            ReviewKind.COMPENSATION_FAILED,
            ReviewKind.SETTLEMENT,
        )
        self.memory.paused_in = self.memory.state
        self._enter(OrderState.NEEDS_OPERATOR if mend else OrderState.IN_REVIEW)
        self._publish()

    async def _resume(self) -> None:
        interrupted, self.memory.paused_in = self.memory.paused_in, None
        if interrupted is not None:
            self._enter(interrupted)
        self._publish()

    def _projection(self) -> OrderProjection:
        memory = self.memory
        facts, plan = memory.facts, memory.plan
        return OrderProjection(
            version=memory.version,
            state=memory.state,
            needs_review=self._needs_review(),
            promised_at=max((ref.promised_at for ref in self._planned_shipments()), default=None),
            customer_type=facts.customer_type if facts else None,
            # Where nothing is left to plan, the order goes by the plan that its parcels were packed by.
            plan_id=plan.plan_id if plan else memory.earlier[-1].plan_id if memory.earlier else None,
            closed_at=workflow.now() if memory.state in ORDER_TERMINAL else None,
            exit_reason=memory.leaving_because or None,
            first_run_id=workflow.info().first_execution_run_id,
        )

    def _needs_review(self) -> bool:
        memory = self.memory
        return memory.open_review is not None or any(
            p.needs_review and p.state not in SHIPMENT_TERMINAL for p in memory.shipments.values()
        )

    def _attributes(self) -> list[SearchAttributePair[Any]]:
        memory = self.memory
        needs_review = memory.state not in ORDER_TERMINAL and self._needs_review()
        found: list[SearchAttributePair[Any]] = [
            SearchAttributePair(search.STATE, memory.state),
            SearchAttributePair(search.NEEDS_REVIEW, needs_review),
        ]
        if memory.facts is not None:
            found += [
                SearchAttributePair(search.CHANNEL, memory.facts.channel),
                SearchAttributePair(search.CUSTOMER_TYPE, memory.facts.customer_type),
                SearchAttributePair(search.TOTAL_MINOR, memory.facts.total.minor),
            ]
        if memory.released and memory.plan is not None:
            found.append(SearchAttributePair(search.PROMISE_TIME, memory.plan.promised_at))
        return found

    def _follow_shipments(self) -> None:
        """The order's state after a shipment moved: it follows the slowest parcel that is still meant to arrive."""
        memory = self.memory
        if self._turned_back():
            return  # some of them are being called off, and the rest is planned anew
        going = [
            state
            for ref in self._planned_shipments()
            if (state := self._shipment_state(ref.number)) is not ShipmentState.CANCELLED
            and not self._comes_back(ref.number)
        ]
        handed_over = sum(state in SHIPMENT_HANDED_OVER for state in going)
        if handed_over and memory.state in _FOLLOWS:
            self._enter(OrderState.SHIPPED if handed_over == len(going) else OrderState.PARTIALLY_SHIPPED)

    def _comes_back(self, number: int) -> bool:
        progress = self.memory.shipments.get(number)
        return progress is not None and (
            progress.recall in (Recall.ASKED, Recall.INTERCEPTED)
            or progress.state in (ShipmentState.RETURNING, ShipmentState.RETURNED)
        )


_BECOMES = {
    CancelOutcome.CANCELLING: "warehouse and carrier are asked to stop; what has left already is asked back",
    CancelOutcome.INTERCEPTING: "it is with the carrier, which is asked to bring it back",
    CancelOutcome.INTERCEPTED: "the carrier brings it back; its amount is paid back when it is back",
    CancelOutcome.RETURN: "the carrier cannot bring it back; the customer is asked to refuse or return it, and its "
    "amount is paid back when it is back",
}
_ANSWERED: dict[Recall | None, CancelOutcome] = {
    Recall.INTERCEPTED: CancelOutcome.INTERCEPTED,
    Recall.RETURN: CancelOutcome.RETURN,
}
_OFF = "it is called off; its units are free again, and its money is given back"
_HAD_ENDED = {
    ShipmentState.DELIVERED: "it has arrived; arrange a return",
    ShipmentState.RETURNED: "it has come back, and its amount is paid back",
    ShipmentState.LOST: "it was given up, and its amount is paid back",
}
_AS_THEY_ARE = "close the books as they are: I answer for the difference"
_GATES = ("gate_a", "gate_b")
_BEFORE_RELEASE = (*_GATES, "backorder")
_PLANNING = frozenset(
    {
        OrderState.AUTHORISING,
        OrderState.AWAITING_CUSTOMER,
        OrderState.ROUTING,
        OrderState.BACKORDERED,
        OrderState.RESERVING,
    }
)
_NOT_ACCEPTED = "the order could not be accepted"
_NOT_SUPPLIED = "the goods could not be supplied"
_FOLLOWS = frozenset({OrderState.RELEASED, OrderState.PARTIALLY_SHIPPED, OrderState.CANCELLING})


def _understood(start: RawValue) -> OrderRun:
    try:
        payload = workflow.payload_converter().from_payload(start.payload)
    except Exception:
        payload = "unreadable"
    info = workflow.info()
    # A start by hand that repeats by schedule or on failure continues a run as well, and its input is a stranger's.
    ours = info.cron_schedule is None and info.retry_policy is None
    return OrderRun.understood(payload, continued=ours and info.continued_run_id is not None)
