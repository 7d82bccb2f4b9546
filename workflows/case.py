"""What every long-running case, order or shipment, does alike.

It keeps a journal that its activities carry to the store, runs steps of the table, asks people and waits for them,
undoes what it did, and hands its memory on when its history grows long. The business lives in the subclasses.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, NoReturn, TypeVar

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue, SearchAttributePair
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from models.base import Contract
    from models.clock import BusinessClock
    from models.effects import (
        Audience,
        CancelPick,
        Notify,
        Patience,
        RecordProgress,
        ReleaseReservation,
        Template,
        Undone,
        VoidAuthorisation,
        VoidLabel,
    )
    from models.identifiers import idempotency_key, review_task_id
    from models.journal import SYSTEM, Carried, TimelineEntry
    from models.memory import CaseMemory, Undo
    from models.messages import (
        CancelOrder,
        DecideReview,
        DecisionAnswer,
        FailureResolution,
        ResolveFailure,
        SignalledDecision,
    )
    from models.review import Flag, ReviewKind, ReviewTask, Verdict
    from models.states import ReviewState
    from policies.approval import ApprovalPolicy, as_patient_as
    from workflows import steps
    from workflows.steps import STEP_BY_NAME, Step

In = TypeVar("In", bound=Contract)
Out = TypeVar("Out", bound=Contract)
Memory = TypeVar("Memory", bound=CaseMemory)

# Something that was noted is in the store after this long at the latest, even if no step comes to carry it.
_FLUSH_AFTER = timedelta(seconds=5)
_FLUSH_AGAIN_AFTER = timedelta(minutes=1)
# Entries of the timeline wait for a step to carry them, but not more than so many; and a step carries at most so many,
# so that no payload comes near the engine's limit however much is said to a run at once.
_MANY_ENTRIES, _MOST_ENTRIES = 50, 200
_REMEMBERED_EVENTS = 500
_REMEMBERED_ANSWERS = 50
# A run that somebody started without any input still has to end in a way that says so.
NO_INPUT = RawValue(Payload(metadata={"encoding": b"binary/null"}))


class CalledOff(Exception):
    """The case was called off (or a person gave it up): leave the forward path and undo."""


class Renew(Exception):
    """The history is long: continue as new with the memory."""


@dataclass(frozen=True)
class Question:
    """What a person is asked. ``options`` says what each verdict does; a verdict without one is refused.

    ``policy``: by whose limits it is asked, where those are not built in.
    """

    kind: ReviewKind
    what_happened: str
    why_flagged: tuple[Flag, ...]
    recommended: Verdict
    recommendation: str
    options: dict[Verdict, str]
    policy: str | None = None


class Case(Generic[Memory]):
    """Base of OrderWorkflow and ShipmentWorkflow."""

    memory: Memory
    approval = ApprovalPolicy()

    def _open_case(self, memory: Memory, order_id: str, subject: str) -> None:
        self.memory = memory
        self.order_id = order_id
        self.subject = subject
        self._step: workflow.ActivityHandle[Any] | None = None
        self._beside: dict[str, asyncio.Task[None]] = {}
        self._renew = False
        self._stopping = False
        self._flush_version = 0
        self._flush_due: datetime | None = None
        self._published: dict[str, Any] = {}
        if self._unwritten():
            self._flush_soon()

    # --- what subclasses answer ---
    def _carried_projection(self) -> dict[str, Any]:
        """The keyword of ``Carried`` for this case's current row."""
        raise NotImplementedError

    def _show(self) -> None:
        """Refresh the page of the run in Temporal Web."""
        raise NotImplementedError

    def _attributes(self) -> list[SearchAttributePair[Any]]:
        """What the run can be searched by in Temporal now."""
        raise NotImplementedError

    async def _pause(self, question: Question) -> None:
        """Enter the state in which a person decides."""
        raise NotImplementedError

    async def _resume(self) -> None:
        """Return to the state that was interrupted."""
        raise NotImplementedError

    def _moot(self, purpose: str) -> bool:
        """Whether what was asked about has answered itself, e.g. the overdue parcel was collected after all."""
        return False

    def _act_on(self, purpose: str, verdict: Verdict, question: Question) -> None:
        """Do what a verdict means, in memory alone; may raise to leave the forward path.

        Called wherever the answer is heard, be it a run later than the one that asked. The forward path then finds
        its memory as the verdict left it, and need not know who decided.
        """
        if purpose == "mend" and verdict is Verdict.REJECT:
            raise CalledOff
        if purpose == "undo" and verdict is not Verdict.APPROVE:
            request = self.memory.undo[-1]
            if verdict is Verdict.REJECT or isinstance(request, ReleaseReservation):
                self.memory.undo.pop()
                self.note("undo.skipped", f"{_UNDO_STEP[type(request)].name} was left undone")
            else:
                # Our books have to learn of it, or they would count as held what was given back.
                self.memory.undo[-1] = request.model_copy(update={"by_hand": True})

    def _why_not_cancel(self, request: CancelOrder) -> str | None:
        """Why the case cannot be called off (any more), as a sentence; None when it can."""
        raise NotImplementedError

    def _shipment(self) -> str | None:
        """The shipment this case is about, if any."""
        return None

    # --- the run ---
    async def _run_shielded(self, go: Callable[[], Awaitable[None]]) -> bool:
        """Run ``go`` to its end, out of reach of Temporal's own cancellation, which is taken as a wish to call off.

        True when it ended, False when the run should continue as new. Activities therefore are never torn down in the
        middle of a step: calling off always takes the same, compensated way.
        """
        self._show()
        self._send_in_background()
        whole = asyncio.ensure_future(self._to_the_end(go))
        while not whole.done():
            try:
                await asyncio.shield(whole)
            except asyncio.CancelledError:
                self._cancelled_in_temporal()
        return whole.result()

    def _cancelled_in_temporal(self) -> None:
        request = CancelOrder(
            request_id="temporal-cancel", actor="temporal", reason="the run was cancelled in Temporal"
        )
        refusal = self._why_not_cancel(request)
        if refusal is None:
            self._call_off(request)
        else:
            self.note("cancel.refused", "the case was not called off", why=refusal, actor=request.actor)

    async def _to_the_end(self, go: Callable[[], Awaitable[None]]) -> bool:
        try:
            await go()
            ended = True
        except Renew:
            ended = False
            await self._stop_what_runs_beside()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return ended

    def _publish(self) -> None:
        """Refresh what Temporal Web shows and searches by. One event however much is new, none when nothing is.

        It is dear: the server writes its record of the run anew, which costs it more than many a step. So this is done
        where a case comes to rest (``until``), ends, or is on its way back, and not for what it passes in a moment.
        """
        news = [pair for pair in self._attributes() if self._published.get(pair.key.name) != pair.value]
        if news:
            workflow.upsert_search_attributes([pair.key.value_set(pair.value) for pair in news])
            self._published |= {pair.key.name: pair.value for pair in news}
        self._show()

    # --- journal ---
    def note(
        self,
        kind: str,
        what: str,
        *,
        why: str | None = None,
        actor: str = SYSTEM,
        policy: str | None = None,
        model: str | None = None,
        flush: bool = True,
        **details: str | int | float | bool | None,
    ) -> None:
        """Add a timeline entry; the next activity carries it to the store.

        ``flush`` False: no activity is worth running for it alone, it may wait for the next one whenever that is.
        """
        self.memory.pending.append(
            self._entry(kind, what, why=why, actor=actor, policy=policy, model=model, details=details)
        )
        if flush or len(self.memory.pending) >= _MANY_ENTRIES:
            self._flush_soon()

    def _flush_soon(self) -> None:
        self._flush_version = self.memory.version
        if self._flush_due is None:
            self._flush_due = workflow.now() + _FLUSH_AFTER

    def _entry(
        self,
        kind: str,
        what: str,
        *,
        why: str | None,
        actor: str = SYSTEM,
        policy: str | None = None,
        model: str | None = None,
        details: dict[str, str | int | float | bool | None] | None = None,
    ) -> TimelineEntry:
        now = workflow.now()
        self.memory.entry_count = self._following(self.memory.entry_count)
        return TimelineEntry(
            entry_id=f"{workflow.info().workflow_id}/{self.memory.entry_count}",
            order_id=self.order_id,
            shipment_id=self._shipment(),
            at=now,
            business_at=self.clock.at(now),
            actor=actor,
            kind=kind,
            what=what,
            why=why,
            policy_version=policy,
            model_version=model,
            details=details or {},
        )

    def _changed(self) -> None:
        """The current row changed: give it a new version and let it be carried."""
        self.memory.version = self._following(self.memory.version)
        self.memory.projection_pending = True

    def _following(self, number: int) -> int:
        """The next of a growing number, greater than any that this run used before it was reset in Temporal.

        A run that was reset goes the same way again, or another; only the time never goes back. Without it the store
        would take what it writes from then on for late and repeated writes.
        """
        return max(number + 1, int(workflow.now().timestamp() * 1000))

    def _carry(self) -> Carried:
        memory = self.memory
        return Carried(
            entries=tuple(memory.pending[:_MOST_ENTRIES]),
            reviews=tuple(memory.pending_reviews),
            **(self._carried_projection() if memory.projection_pending else {}),
        )

    def _carried(self, carried: Carried, version: int) -> None:
        """What ``carried`` held is in the store now."""
        memory = self.memory
        # By name, not by number: a message on its way may have carried some of them meanwhile.
        written = {entry.entry_id for entry in carried.entries}
        memory.pending = [entry for entry in memory.pending if entry.entry_id not in written]
        memory.pending_reviews = [task for task in memory.pending_reviews if task not in carried.reviews]
        if memory.version == version:
            memory.projection_pending = False
        due = memory.pending or self._flush_version > version
        self._flush_due = workflow.now() + _FLUSH_AFTER if due else None

    def _unwritten(self) -> bool:
        memory = self.memory
        return bool(memory.pending or memory.pending_reviews or memory.projection_pending)

    @property
    def clock(self) -> BusinessClock:
        """The case's business clock."""
        if self.memory.clock is None:
            raise RuntimeError("the case has no clock yet")
        return self.memory.clock

    def business_now(self) -> datetime:
        """The business time now."""
        return self.clock.at(workflow.now())

    def wall(self, business: datetime) -> datetime:
        """The wall-clock time at which a business deadline is acted on."""
        return workflow.now() + self.clock.wall_delay(business - self.business_now())

    # --- steps ---
    async def do(self, step: Step[In, Out], request: In | Callable[[], In]) -> Out:
        """Run a step on the way forward. Without an answer a person is asked whether to try again or to give up.

        A ``request`` that depends on where the case stands is a function, asked anew for every try.
        Raises ``CalledOff``. Calling off interrupts the retries of a step, never an attempt that is under way.
        """
        memory = self.memory
        while True:
            done_by_hand = memory.by_hand is not None and memory.failed_step == step.name
            # What somebody did by hand is written down first, so that calling off knows of it.
            interruptible = not self._committed() and not done_by_hand
            if memory.cancel is not None and interruptible:
                raise CalledOff
            try:
                asked = request() if callable(request) else request
                if done_by_hand:
                    asked = asked.model_copy(update={"by_hand": memory.by_hand})
                answer = await self._perform(step, asked, interruptible=interruptible)
                if done_by_hand:
                    memory.hand_made.append(_key_of(asked))
                memory.failed_step = memory.by_hand = None
                return answer
            except asyncio.CancelledError:
                raise CalledOff from None
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise CalledOff from None
                failure = _reason_of(error)
            self.note("step.failed", f"{step.name} ended without an answer", why=failure, step=step.name)
            self.memory.failed_step, self.memory.by_hand = step.name, None
            await self.ask(
                "mend",
                Question(
                    kind=ReviewKind.STEP_FAILED,
                    what_happened=f"The step {step.name!r} ({step.summary}) ended without an answer.",
                    why_flagged=(Flag(code="step_failed", reason=failure),),
                    recommended=Verdict.APPROVE,
                    recommendation="Mend the cause, then approve: the step is tried again under the same key.",
                    options={Verdict.APPROVE: "try the step again"}
                    | ({} if self._committed() else {Verdict.REJECT: "give up: undo and cancel"})
                    | self._by_hand(step),
                ),
            )

    def _by_hand(self, step: Step[Any, Any]) -> dict[Verdict, str]:
        """How a person can do it instead, if that is possible."""
        if step.by_hand is None:
            return {}
        return {
            Verdict.FINISH: f"I have done it by hand, and answer in the neighbour's place: {step.by_hand}"
        }

    async def look(self, step: Step[In, Out], request: In) -> Out | None:
        """Ask a neighbour where something stands. None, and a note, when it gives no answer: nothing depends on it."""
        try:
            return await self._perform(step, request, interruptible=not self._committed())
        except asyncio.CancelledError:
            return None
        except ActivityError as error:
            if is_cancelled_exception(error):
                return None
            self.note("look.failed", f"{step.name} ended without an answer", why=_reason_of(error))
            return None

    async def undo_everything(self) -> None:
        """Run the compensations, last in first out. One that fails for good is put before a person, never dropped."""
        while self.memory.undo:
            await self._let_a_person_undo()
            if not self.memory.undo:
                return  # the last one was left as it is
            request = self.memory.undo[-1]
            if self._left_to_another(request):
                self.memory.undo.pop()
                continue
            step = _UNDO_STEP[type(request)]
            self._before_undoing()
            try:
                failure = self._undone(request, await self._perform(step, request, interruptible=False))
                if failure is not None:
                    self._renew_undo_key()
            except ActivityError as error:
                failure = _reason_of(error)
            if failure is not None:
                self.note("undo.failed", f"{step.name} failed", why=failure, step=step.name)
                await self.ask(
                    "undo",
                    Question(
                        kind=ReviewKind.COMPENSATION_FAILED,
                        what_happened=f"Undoing failed at {step.name!r} ({step.summary}).",
                        why_flagged=(Flag(code="compensation_failed", reason=failure),),
                        recommended=Verdict.APPROVE,
                        recommendation="Mend the cause, then approve: it is tried again, and still done only once.",
                        options={Verdict.APPROVE: "try again", Verdict.REJECT: _NOT_UNDONE}
                        # Our own stock is released by us or by nobody.
                        | (
                            {}
                            if isinstance(request, ReleaseReservation)
                            else {Verdict.FINISH: _UNDONE_BY_HAND}
                        ),
                    ),
                )
            else:
                self.memory.undo.pop()

    async def _let_a_person_undo(self) -> None:
        """What was done by hand no key of ours can undo: the neighbour never saw it, and would say "done".

        A person may also leave it as it is, and then it is none of the compensations any more.
        """
        while self.memory.undo:
            request = self.memory.undo[-1]
            if isinstance(request, ReleaseReservation) or request.by_hand:
                return
            if _undoes(request) not in self.memory.hand_made:
                return
            step = _UNDO_STEP[type(request)]
            await self.ask(
                "undo",
                Question(
                    kind=ReviewKind.COMPENSATION_FAILED,
                    what_happened=f"What has to be undone now ({step.summary}) had been done by hand.",
                    why_flagged=(
                        Flag(code="done_by_hand", reason="our own key cannot undo what was done without it"),
                    ),
                    recommended=Verdict.APPROVE,
                    recommendation="Undo it by hand where it was done, then finish, which says that it is undone.",
                    options={
                        Verdict.APPROVE: "not yet: ask me again",
                        Verdict.FINISH: _UNDONE_BY_HAND,
                        Verdict.REJECT: _NOT_UNDONE,
                    },
                ),
            )

    def _renew_undo_key(self) -> None:
        """The answer "no" stands under its key for ever: another try at the last compensation is another request."""
        request = self.memory.undo[-1]
        first = request.key.partition(":again:")[0]
        again = idempotency_key(first, "again", self._attempt("undo-again", count=True))
        self.memory.undo[-1] = request.model_copy(update={"key": again})

    def _left_to_another(self, request: Undo) -> bool:
        """Whether it is another case's by now to undo this."""
        return False

    def _before_undoing(self) -> None:
        """A compensation is about to run; may raise when there is nothing to be undone any more."""

    def _undone(self, request: Undo, answer: Contract) -> str | None:
        """A compensation answered: None when it is done, else why not. May raise to leave the way back."""
        return answer.reason if isinstance(answer, Undone) and not answer.undone else None

    def _committed(self) -> bool:
        """Whether calling off can no longer undo everything (goods are with the carrier)."""
        return False

    # --- messages to people outside ---
    def tell(self, template: Template, audience: Audience = Audience.CUSTOMER, **facts: str) -> None:
        """Send a message once, in the background: a gateway that is away holds up neither goods, money nor answers.

        Messages go out in order. One that cannot be sent is noted. The run ends only when all are sent or noted.
        """
        key = idempotency_key(
            workflow.info().workflow_id, f"notify-{template}", self._attempt(template, count=True)
        )
        self.memory.unsent.append(
            Notify(order_id=self.order_id, audience=audience, template=template, facts=facts, key=key)
        )
        self._send_in_background()

    def _send_in_background(self) -> None:
        if self.memory.unsent:
            self._run_beside("messages", self._send)

    def _run_beside(self, what: str, go: Callable[[], Awaitable[None]]) -> None:
        """Run ``go`` beside the forward path, unless it does already. It ends by itself once ``_stopping`` is set."""
        running = self._beside.get(what)
        if running is None or running.done():
            self._beside[what] = asyncio.ensure_future(go())

    async def _send(self) -> None:
        unsent = self.memory.unsent
        while unsent and not self._stopping:
            message = unsent[0]
            try:
                await self._perform(steps.NOTIFY, message, interruptible=False)
            except asyncio.CancelledError:
                return
            except ActivityError as error:
                if is_cancelled_exception(error):
                    return
                self.note(
                    "notify.failed",
                    f"the message {message.template!r} to {message.audience} was not sent",
                    why=_reason_of(error),
                )
            unsent.pop(0)

    async def _stop_what_runs_beside(self) -> None:
        """Leave what is unfinished to the next run; its keys make sure that nothing is done twice."""
        self._stopping = True
        running = [task for task in self._beside.values() if not task.done()]
        for task in running:
            task.cancel()
        if running:
            await workflow.wait(running)

    # --- the store ---
    async def record(self) -> bool:
        """Write what is unwritten; False when the store refused, and it has to be tried again later.

        While the store is away the activity goes on trying: this step has no end of patience.
        """
        if not self._unwritten():
            return True
        try:
            recorded = await self._perform(
                steps.RECORD_PROGRESS,
                RecordProgress(order_id=self.order_id, carried=Carried()),
                interruptible=False,
            )
        except ActivityError as error:
            workflow.logger.error("the timeline could not be written: %s", _reason_of(error))
            self._flush_due = workflow.now() + _FLUSH_AGAIN_AFTER
            return False
        if recorded.patience is not None:
            self._wait_as_long_as(recorded.patience)
        return True

    def _wait_as_long_as(self, patience: Patience) -> None:
        """As the policy had it when the question was written down; the store has it so already."""
        task = self.memory.open_review
        if task is not None and task.task_id == patience.task_id:
            self.memory.open_review = as_patient_as(task, patience)

    async def written(self) -> None:
        """Leave nothing unwritten."""
        while not await self.record():
            if workflow.info().is_continue_as_new_suggested():
                raise Renew
            await workflow.sleep(_FLUSH_AGAIN_AFTER)

    async def wind_up(self) -> None:
        """Leave nothing unsaid and nothing unwritten."""
        self._publish()
        while self.memory.unsent or self._unwritten():
            await workflow.wait_condition(lambda: not self.memory.unsent)
            await self.written()

    async def _perform(self, step: Step[In, Out], request: In, *, interruptible: bool) -> Out:
        carried, version = self._carry(), self.memory.version
        handle = workflow.start_activity(
            step.name,
            request.model_copy(update={"carried": carried}),
            task_queue=step.queue,
            result_type=step.gives,
            start_to_close_timeout=step.start_to_close,
            schedule_to_close_timeout=step.schedule_to_close,
            heartbeat_timeout=step.heartbeat,
            retry_policy=step.retry,
            priority=step.priority,
            summary=step.summary,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        if interruptible:
            self._step = handle
        try:
            answer: Out = await handle
        finally:
            if interruptible:
                self._step = None
        self._carried(carried, version)
        return answer

    def _attempt(self, name: str, *, count: bool = False) -> int:
        """The number of the business attempt at ``name``, from 1; ``count`` starts the next one."""
        if count:
            self.memory.attempts[name] = self.memory.attempts.get(name, 0) + 1
        return self.memory.attempts.get(name, 1)

    # --- waiting ---
    async def until(
        self, ready: Callable[[], bool], *, deadline: datetime | None = None, summary: str
    ) -> bool:
        """Wait for ``ready``; False when ``deadline`` (wall clock) came first. Raises ``Renew`` when history is long.

        Notes that nothing else carries are flushed meanwhile, so that a waiting case is never out of date in the store.
        """
        while not ready():
            if self._must_renew():
                # What was heard in a storm of messages is written first: the next run is not handed a heap of it.
                while len(self.memory.pending) > _MANY_ENTRIES and await self.record():
                    pass
                raise Renew
            now = workflow.now()
            if deadline is not None and now >= deadline:
                return False
            if self._flush_due is not None and now >= self._flush_due:
                if self._unwritten():
                    await self.record()
                else:
                    # Something else has carried it: a message was sent before that, and was answered after it.
                    self._flush_due = None
                continue
            ends = [moment for moment in (deadline, self._flush_due) if moment is not None]
            nothing_to_flush = self._flush_due is None
            self._publish()
            try:
                await workflow.wait_condition(
                    lambda nothing_to_flush=nothing_to_flush: (  # type: ignore[misc]
                        ready() or (nothing_to_flush and self._flush_due is not None) or self._must_renew()
                    ),
                    timeout=min(ends) - now if ends else None,
                    timeout_summary=summary,
                )
            except TimeoutError:
                continue
        return True

    def _must_renew(self) -> bool:
        return self._renew or workflow.info().is_continue_as_new_suggested()

    def deadline(self, name: str, wall: datetime) -> datetime:
        """The deadline called ``name``, set to ``wall`` where it is not set yet.

        Kept in memory, so that it is the same after a continue-as-new; a review pushes it back by what people took.
        """
        return self.memory.deadlines.setdefault(name, wall)

    # --- people ---
    async def ask(self, purpose: str, question: Question) -> None:
        """Put a question before a person and wait: remind, escalate, and at the deadline do what policy says.

        Whatever is decided, ``_act_on`` does. The business clock stands still meanwhile. Raises ``CalledOff`` when
        the case is called off first.
        """
        await self._open_review(purpose, question)
        await self._hear(purpose, question)

    async def finish_open_review(self) -> None:
        """Go on waiting for the person who was being asked when the run continued as new."""
        task, purpose = self.memory.open_review, self.memory.open_purpose
        if task is None or purpose is None:
            return
        question = Question(
            kind=task.kind,
            what_happened=task.what_happened,
            why_flagged=task.why_flagged,
            recommended=task.recommended,
            recommendation=task.recommendation,
            options=task.options,
            policy=task.policy_version,
        )
        await self._hear(purpose, question)

    async def _hear(self, purpose: str, question: Question) -> None:
        memory = self.memory
        while memory.decision is None:
            task = self._open_task()
            ahead = (task.remind_at, None if task.escalated else task.escalate_at, task.deadline_at)
            moments = [moment for moment in ahead if moment is not None]
            answered = await self.until(
                lambda: self._answered() or self._withdrawn(question) or self._moot(purpose),
                deadline=min(moments),
                summary=f"waiting for a person: {question.kind}",
            )
            if self._withdrawn(question):
                await self._close_review(ReviewState.WITHDRAWN, question, None)
                raise CalledOff
            if self._moot(purpose) and not self._answered():
                await self._close_review(ReviewState.WITHDRAWN, question, None)
                return
            if not answered and (expired := await self._nudge(question)) is not None:
                self._act_on(purpose, expired, question)
                return
        decision = memory.decision
        done_by_hand = decision.verdict is Verdict.FINISH and question.kind is ReviewKind.STEP_FAILED
        memory.by_hand = decision.answer if done_by_hand else None
        await self._close_review(ReviewState.DECIDED, question, decision)
        self._act_on(purpose, decision.verdict, question)

    def _answered(self) -> bool:
        return self.memory.decision is not None

    def _withdrawn(self, question: Question) -> bool:
        """Whether the question fell away because the case was called off before anybody answered."""
        memory = self.memory
        answerable = memory.decision is None and question.kind not in _CALLING_OFF_CANNOT_ANSWER
        return memory.cancel is not None and answerable and not self._committed()

    def _open_task(self) -> ReviewTask:
        task = self.memory.open_review
        if task is None:
            raise RuntimeError("no review is open")
        return task

    async def _open_review(self, purpose: str, question: Question) -> None:
        memory = self.memory
        terms = self.approval.terms(question.kind)
        memory.review_count += 1
        now = workflow.now()
        task = ReviewTask(
            task_id=review_task_id(self.subject, memory.review_count),
            order_id=self.order_id,
            workflow_id=workflow.info().workflow_id,
            kind=question.kind,
            what_happened=question.what_happened,
            why_flagged=question.why_flagged,
            recommended=question.recommended,
            recommendation=question.recommendation,
            options=question.options,
            opened_at=now,
            remind_at=now + terms.remind_after,
            escalate_at=now + terms.escalate_after,
            deadline_at=now + terms.deadline,
            on_deadline=terms.on_deadline or question.recommended,
            policy_version=question.policy or self.approval.version,
        )
        memory.open_review, memory.open_purpose, memory.decision = task, purpose, None
        memory.pending_reviews.append(task)
        self.note(
            "review.opened",
            f"a person is asked ({question.kind}): {question.recommendation}",
            why="; ".join(flag.reason for flag in question.why_flagged),
            policy=task.policy_version,
            task_id=task.task_id,
        )
        await self._pause(question)
        await self.record()

    async def _nudge(self, question: Question) -> Verdict | None:
        """Remind, escalate, or decide by policy, whichever is due; the verdict when the deadline decided."""
        task, now, terms = self._open_task(), workflow.now(), self.approval.terms(question.kind)
        if task.deadline_at is not None and now >= task.deadline_at and task.on_deadline is not None:
            await self._close_review(ReviewState.EXPIRED, question, None)
            return task.on_deadline
        if not task.escalated and task.escalate_at is not None and now >= task.escalate_at:
            task = task.model_copy(update={"escalated": True})
            template = Template.REVIEW_ESCALATED
        else:
            task = task.model_copy(
                update={
                    "reminders": task.reminders + 1,
                    "remind_at": now + (task.remind_every or terms.remind_after),
                }
            )
            template = Template.REVIEW_REMINDER
        self.memory.open_review = task
        self.memory.pending_reviews.append(task)
        self.note(
            f"review.{'escalated' if template is Template.REVIEW_ESCALATED else 'reminded'}", task.task_id
        )
        self.tell(template, Audience.REVIEWERS, task_id=task.task_id, kind=question.kind)
        return None

    async def _close_review(
        self, state: ReviewState, question: Question, decision: DecideReview | None
    ) -> None:
        memory, task, now = self.memory, self._open_task(), workflow.now()
        by_policy = task.on_deadline if state is ReviewState.EXPIRED else None
        closed = task.model_copy(
            update={
                "state": state,
                "decided_at": now,
                "decided_by": decision.actor if decision else SYSTEM,
                "verdict": decision.verdict if decision else by_policy,
                "reason": decision.reason if decision else _CLOSED_BECAUSE[state],
            }
        )
        memory.pending_reviews.append(closed)
        memory.open_review = memory.open_purpose = memory.decision = None
        self._stand_still(now - task.opened_at)
        meaning = question.options.get(closed.verdict, "") if closed.verdict else ""
        self.note(
            f"review.{state}",
            f"{closed.verdict}: {meaning}" if closed.verdict else f"review {state}",
            why=closed.reason,
            actor=closed.decided_by or SYSTEM,
            policy=task.policy_version,
            task_id=task.task_id,
        )
        await self._resume()

    def _stand_still(self, pause: timedelta) -> None:
        """The business clock stood still for ``pause``, and deadlines are as far away as before it."""
        memory = self.memory
        memory.clock = self.clock.after_pause(pause)
        memory.deadlines = {
            name: wall if name in _NOBODYS_TIME else wall + pause for name, wall in memory.deadlines.items()
        }

    # --- messages ---
    @workflow.update
    async def decide_review(self, decision: DecideReview) -> DecisionAnswer:
        """A person's answer to the open review task. A repeat of the same request gets the same answer."""
        return self._decide(decision)

    @decide_review.validator
    def _may_decide(self, decision: DecideReview) -> None:
        require(DecideReview, decision)
        self._refuse_stale(decision)

    @workflow.update
    async def resolve_failure(self, request: ResolveFailure) -> DecisionAnswer:
        """An operator's answer to a step that failed: try again, give up, go on without, or what was done by hand."""
        return self._decide(self._as_decision(request))

    @resolve_failure.validator
    def _may_resolve(self, request: ResolveFailure) -> None:
        require(ResolveFailure, request)
        self._refuse_stale(self._as_decision(request))
        task = self.memory.open_review
        if task is not None and task.kind not in _FAILURES:
            refuse(f"{task.task_id} is not about a failure ({task.kind}): use decide_review")

    @workflow.signal
    async def approve(self, payload: Any = None, *_surplus: Any) -> None:
        """Approve the open review from any Temporal client; see ``SignalledDecision`` for the JSON."""
        self._signalled(Verdict.APPROVE, payload)

    @workflow.signal
    async def reject(self, payload: Any = None, *_surplus: Any) -> None:
        """Reject the open review from any Temporal client; see ``SignalledDecision`` for the JSON."""
        self._signalled(Verdict.REJECT, payload)

    @workflow.signal
    async def finish(self, payload: Any = None, *_surplus: Any) -> None:
        """Say what was done by hand, from any Temporal client; see ``SignalledDecision`` for the JSON."""
        self._signalled(Verdict.FINISH, payload)

    @workflow.signal
    async def renew(self, *_surplus: Any) -> None:
        """Continue as new at the next wait, e.g. to bring a long-running case onto newly deployed code."""
        self._renew = True

    @workflow.signal(dynamic=True)
    async def _unknown_signal(self, name: str, _payload: Sequence[RawValue]) -> None:
        self.note("signal.unknown", f"the signal {name[:100]!r} means nothing here")

    @workflow.query
    def pending_review(self) -> ReviewTask | None:
        """The review task that is open now."""
        return self.memory.open_review

    @workflow.query
    def timeline(self) -> list[TimelineEntry]:
        """Entries that are not in the store yet; the whole timeline is read from there."""
        return list(self.memory.pending)

    def _signalled(self, verdict: Verdict, payload: Any) -> None:
        task = self.memory.open_review
        try:
            signalled = SignalledDecision.model_validate(payload)
            if not signalled.task_id and self.memory.review_count > 1:
                refuse(
                    "it names no task_id, and this case has asked more than once: look which review is open"
                )
            decision = DecideReview(
                request_id=signalled.request_id or f"signal:{verdict}:{task.task_id if task else ''}",
                actor=signalled.actor,
                task_id=signalled.task_id or (task.task_id if task else ""),
                verdict=verdict,
                reason=signalled.reason,
                answer=signalled.answer,
            )
            self._refuse_stale(decision)
        except (ValidationError, ApplicationError) as error:
            self.note("signal.refused", f"the signal {verdict!r} was not acted on", why=sentence(error))
            return
        self._decide(decision)

    def _refuse_stale(self, decision: DecideReview) -> None:
        memory, task = self.memory, self.memory.open_review
        if (known := memory.answers.get(decision.request_id)) is not None:
            if (known.task_id, known.verdict) != (decision.task_id, decision.verdict):
                refuse(
                    f"the request {decision.request_id!r} was another decision: send this one under its own id"
                )
            return
        if task is None:
            refuse("no review is open here: it was decided, expired or withdrawn")
        if decision.task_id != task.task_id:
            refuse(
                f"{decision.task_id!r} is not the open review ({task.task_id!r}): look again before deciding"
            )
        if memory.decision is not None:
            refuse(f"{task.task_id} was just decided by {memory.decision.actor}: {memory.decision.verdict}")
        if decision.verdict not in task.options:
            refuse(f"{decision.verdict} is no option here; possible: " + ", ".join(sorted(task.options)))
        if decision.verdict is Verdict.FINISH:
            self._refuse_unfit(decision)

    def _refuse_unfit(self, decision: DecideReview) -> None:
        step = STEP_BY_NAME.get(self.memory.failed_step or "")
        if step is None or step.by_hand is None or self._open_task().kind is not ReviewKind.STEP_FAILED:
            return
        try:
            step.gives.model_validate(decision.answer)
        except ValidationError as error:
            refuse(f"the answer does not fit ({sentence(error)}); such as {step.by_hand}")
        # What the example names is what the case goes on with: an id left out would be missed days later.
        answer = decision.answer or {}
        if missing := [name for name in json.loads(step.by_hand) if not answer.get(name)]:
            refuse(f"the answer lacks {', '.join(missing)}; such as {step.by_hand}")

    def _as_decision(self, request: ResolveFailure) -> DecideReview:
        task = self.memory.open_review
        kind = task.kind if task is not None else None
        if request.resolution is FailureResolution.SKIP and kind is ReviewKind.STEP_FAILED:
            refuse("the case cannot go on without this step's answer: retry it, finish it by hand, or cancel")
        verdict = _VERDICT[request.resolution]
        if request.resolution is FailureResolution.SKIP and kind is ReviewKind.SETTLEMENT:
            # Without balanced books one goes on by closing them as they are.
            verdict = Verdict.FINISH
        return DecideReview(
            request_id=request.request_id,
            actor=request.actor,
            task_id=request.task_id,
            verdict=verdict,
            reason=request.reason,
            answer=request.answer,
        )

    def _decide(self, decision: DecideReview) -> DecisionAnswer:
        memory = self.memory
        # Two updates may pass the validator before either handler runs.
        self._refuse_stale(decision)
        if decision.request_id in memory.answers:
            return memory.answers[decision.request_id]
        answer = DecisionAnswer(
            task_id=decision.task_id,
            verdict=decision.verdict,
            message=self._open_task().options[decision.verdict],
        )
        memory.decision = decision
        memory.answers[decision.request_id] = answer
        while len(memory.answers) > _REMEMBERED_ANSWERS:
            memory.answers.pop(next(iter(memory.answers)))
        return answer

    def _call_off(self, request: CancelOrder) -> None:
        """Take the wish to call off; the forward path sees it at its next turn, or its waiting step is interrupted."""
        if self.memory.cancel is not None:
            return
        self.memory.cancel = request
        self.note(
            "cancel.requested",
            "asked to call off",
            why=request.reason,
            actor=request.actor,
            request_id=request.request_id,
        )
        if self._step is not None and not self._committed():
            self._step.cancel()

    def _first_time(self, kind: str, event_id: str) -> bool:
        """Whether an event of ``kind`` is new; remembers it. Neighbours number their events each for itself."""
        seen, event = self.memory.events_seen, f"{kind} {event_id}"
        # Without a kind: remembered by a run from before they were told apart.
        if event in seen or event_id in seen:
            return False
        seen.append(event)
        del seen[:-_REMEMBERED_EVENTS]
        return True


# When a message to another run that did not get through is sent again has nothing to do with what a person takes.
_NOBODYS_TIME = frozenset({"cancel", "unheard"})
_CALLING_OFF_CANNOT_ANSWER = frozenset({ReviewKind.COMPENSATION_FAILED, ReviewKind.SETTLEMENT})

_CLOSED_BECAUSE = {
    ReviewState.EXPIRED: "nobody decided before the deadline; policy decides",
    ReviewState.WITHDRAWN: "nobody has to decide any more: the case moved on or was called off",
    ReviewState.DECIDED: "",
}

_UNDO_STEP: dict[type[Any], Step[Any, Any]] = {
    step.takes: step
    for step in (steps.VOID_AUTHORISATION, steps.RELEASE_RESERVATION, steps.CANCEL_PICK, steps.VOID_LABEL)
}


def _undoes(request: VoidAuthorisation | CancelPick | VoidLabel) -> str:
    """The key of what ``request`` undoes."""
    if isinstance(request, VoidAuthorisation):
        return request.authorisation_key
    return request.pick_key if isinstance(request, CancelPick) else request.label_key


def _key_of(request: Contract) -> str:
    return str(getattr(request, "key", ""))


_FAILURES = frozenset({ReviewKind.STEP_FAILED, ReviewKind.COMPENSATION_FAILED, ReviewKind.SETTLEMENT})
_VERDICT = {
    FailureResolution.RETRY: Verdict.APPROVE,
    FailureResolution.CANCEL: Verdict.REJECT,
    FailureResolution.SKIP: Verdict.REJECT,
    FailureResolution.FINISH: Verdict.FINISH,
}
_UNDONE_BY_HAND = "I have undone it by hand: go on, and let our books know"
_NOT_UNDONE = "go on without: what it would have undone stays as it is, and our books go on counting it"


def refuse(message: str) -> NoReturn:
    """Refuse a message with a sentence for whoever sent it."""
    raise ApplicationError(message, type="refused", non_retryable=True)


def _reason_of(error: ActivityError) -> str:
    cause = error.cause or error
    return sentence(cause)


def require(contract: type[Contract], request: object) -> None:
    """Refuse an update without content. JSON's null comes as None, whatever the handler's parameter says, and an update
    that was accepted and cannot be handled would keep the run from everything else for good.
    """
    if not isinstance(request, contract):
        refuse(f"the update needs a {contract.__name__} as its one argument, and came with none")


def sentence(error: BaseException) -> str:
    """What an error says, without quoting the input that was wrong."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'payload'}: {e['msg']}" for e in error.errors())[
            :500
        ]
    return (getattr(error, "message", None) or str(error) or type(error).__name__)[:500]
