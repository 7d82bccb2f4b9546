"""The invariant job: every accepted document has a run, every open order a timer, an activity or an owned task.

What breaks that is put before a person, once, and taken off the list when it has healed. Runs end themselves in a known
way; so what is found here was done from outside (a run that was terminated, a start by hand, a lost namespace), or is a
fault of our code. It is asked of Temporal and of the store, not of a workflow: a job that needs workers, or the very
engine it judges, would be silent just when it has something to say.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from activities.store import broken, reads
from activities.store.astray import Astray, astray
from activities.store.broken import WAIT_FOR_US, Decided, Subject
from activities.store.intake import is_open, stored_draft
from activities.store.late import late_events_for
from activities.store.record import record
from activities.store.store import Store
from apps.api.broken_runs import ASTRAY, NEEDLESS, Finding, Trouble, gone_astray, is_shipment, task_about
from apps.api.intake import run_start, start_again, start_run
from apps.api.runs import TAKEN_WITHIN, WORKFLOW_QUEUE, Runs, RunStart, RunView, Standing
from models.base import Contract
from models.errors import NotFound, Refused
from models.identifiers import order_of_shipment, order_workflow_id, shipment_workflow_id
from models.journal import Carried
from models.messages import CancelOrder, CancelShipment
from models.review import ReviewTask, Verdict
from models.states import ReviewState
from workers.logging import get_logger

# Between "accepted" and "started" lies the sweeper's round; younger orders are nobody's fault yet.
GRACE = timedelta(seconds=60)
_AT_ONCE = 16
# Orders that are compared with Temporal in one go.
_BATCH = 500
# Between looks that read a great deal.
_SELDOM = timedelta(minutes=15)
_REMEMBERED = 100_000
# A run that waits for so long is not merely behind others on a busy queue.
_PASSED_OVER_AFTER = timedelta(minutes=10)
# Those that are answered by a reset of the run.
_RESET = (Trouble.RUN_ENDED, Trouble.RUN_HANGS, Trouble.PASSED_OVER)
_COMPLETED = "completed"
_ONE_ANSWER = timedelta(seconds=5)
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
# How far back the API looks for what parcels did that our books have given up: a look that fails, or an API that was
# down over a weekend, misses none. What is older is for ``orderwright doctor --orders``, which reads everything.
_ASTRAY_LATELY = timedelta(days=4)
# The sweeper has other things to do than to wait for such a look.
_ASTRAY_WITHIN = timedelta(seconds=20)

_log = get_logger(__name__)


class Report(Contract):
    """What one round found. ``examined`` counts runs; ``opened`` and ``healed`` are tasks of this round, ``withdrawn``
    questions on the list that their runs do not ask (any more).

    ``unserved``: runs whose next step no workflow worker has taken for minutes. One outage makes all of them wait, so
    they are no tasks: start the workers.
    """

    examined: int = 0
    unserved: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    opened: tuple[str, ...] = ()
    healed: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()


class Invariants:
    """The job over one store and one Temporal namespace. Any number of processes may run it at once.

    All methods raise ``NotReachable`` while either does not answer: then nothing is known, and nothing is said.
    """

    def __init__(self, store: Store, runs: Runs, *, grace: timedelta = GRACE) -> None:
        self._store = store
        self._runs = runs
        self._grace = grace
        # Workflow id -> the run and its length when it was last seen to wait for a timer: then it still does.
        self._waiting: OrderedDict[str, tuple[str, int]] = OrderedDict()
        # The same of one that hangs, and what it may hang on.
        self._hanging: OrderedDict[str, tuple[tuple[str, int], tuple[str, ...]]] = OrderedDict()
        # When shipments of ended orders are looked for next: that reads every shipment under way.
        self._travelling_at = 0.0
        # The same for parcels that move although our books have given them up.
        self._astray_at = 0.0
        # A moment since which workers are known to serve, None if they are not, and when that is asked next.
        self._serving_since: datetime | None = None
        self._ask_served_at = 0.0
        self._asking_served = asyncio.Lock()
        # A decision takes connections of its own while it holds the task's.
        self._deciding = asyncio.Semaphore(2)

    async def round(
        self, order_ids: Collection[str] | None = None, *, since: datetime | None = None
    ) -> Report:
        """Examine the runs of ``order_ids`` (None: of every open order), and all that Temporal or a task points at.

        ``since`` bounds what is asked of Temporal's lists to what happened from then on; None takes everything.
        """
        moment = since or _EVER
        async with self._store.transaction() as session:
            open_tasks = await broken.open_tasks(session)
        tasks = {task.workflow_id for task in open_tasks}
        examined, found, withdrawn = 0, dict[str, Finding](), tuple[str, ...]()
        async for batch in self._batches(order_ids, moment, tasks):
            runs, wrong, unasked = await self._broken_among(batch)
            examined, found, withdrawn = examined + runs, found | wrong, withdrawn + unasked
        unserved = {name for name, one in found.items() if one.trouble is Trouble.NOBODY_SERVES}
        found = {name: finding for name, finding in found.items() if name not in unserved}
        found = await self._astray(open_tasks, all_of_them=order_ids is None) | found
        async for page in self._running(moment, tasks):
            found |= await self._strangers(page - found.keys() - unserved)
        # Of one that waits for a worker nothing more is known: what was asked about it stands.
        told = await self._told(examined, found, tasks - unserved)
        return told.model_copy(update={"unserved": tuple(sorted(unserved)), "withdrawn": withdrawn})

    # --- looking ---
    async def _batches(
        self, order_ids: Collection[str] | None, since: datetime, tasks: Collection[str]
    ) -> AsyncIterator[Collection[str]]:
        """The ids of the orders to examine, a batch at a time: however many are open, few are held at once."""
        if order_ids is None:
            batch = await self._unfinished_orders(after="")
            while batch:
                yield batch
                batch = await self._unfinished_orders(after=batch[-1])
            return
        async with self._store.transaction() as session:
            ended = await broken.asked_after_their_end(session)
            if time.monotonic() >= self._travelling_at:
                ended += await broken.travelling_after_their_end(session)
                self._travelling_at = time.monotonic() + _SELDOM.total_seconds()
        wanted = {*order_ids, *_orders_of(tasks), *ended}
        async for page in self._runs.broken_since(since):
            wanted |= _orders_of(page)
        ordered = sorted(wanted)
        for start in range(0, len(ordered), _BATCH):
            yield ordered[start : start + _BATCH]

    async def _unfinished_orders(self, *, after: str) -> list[str]:
        async with self._store.transaction() as session:
            return await broken.unfinished_orders(session, after=after, limit=_BATCH)

    async def _running(self, since: datetime, tasks: Collection[str]) -> AsyncIterator[set[str]]:
        """What may be a stranger's, a page at a time: the workflow ids of no order or shipment that must run."""
        yield await self._unknown(tasks)
        for listing in (self._runs.others_on_our_queue(), self._runs.started_since(since)):
            async for page in listing:
                yield await self._unknown(page)

    async def _unknown(self, workflow_ids: Collection[str]) -> set[str]:
        return set(workflow_ids) - (await self._subjects(_orders_of(workflow_ids))).keys()

    async def _broken_among(
        self, order_ids: Collection[str]
    ) -> tuple[int, dict[str, Finding], tuple[str, ...]]:
        """How many runs of these orders there must be, which of them are broken, and the questions nobody asks."""
        subjects = await self._subjects(order_ids)
        withdrawn = await self._withdraw_unasked(subjects, order_ids)
        if withdrawn:
            # Such a question hides that nobody is asked, or that nothing is under way.
            subjects = await self._subjects(order_ids)
        found = await self._examined(subjects.values())
        # An order can move between the looks: what is said of it must be true of how it stands now.
        if found:
            again = await self._subjects({finding.order_id for finding in found.values()})
            found = await self._examined(run for name, run in again.items() if name in found)
        return len(subjects), found, withdrawn

    async def _subjects(self, order_ids: Collection[str]) -> dict[str, Subject]:
        async with self._store.transaction() as session:
            found = await broken.subjects(session, self._grace, order_ids)
        return {subject.workflow_id: subject for subject in found}

    async def _examined(self, subjects: Iterable[Subject]) -> dict[str, Finding]:
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def look(subject: Subject) -> Finding | None:
            async with at_once:
                wrong = await self._wrong_with(subject)
            if wrong is None:
                return None
            async with at_once:
                forgets = await self._forgets(subject.workflow_id) if wrong[0] is Trouble.RUN_HANGS else ()
            return Finding(
                workflow_id=subject.workflow_id,
                order_id=subject.order_id,
                trouble=wrong[0],
                why=wrong[1],
                forgets=forgets,
            )

        found = await asyncio.gather(*(look(subject) for subject in subjects))
        return {finding.workflow_id: finding for finding in found if finding is not None}

    async def _wrong_with(  # noqa: PLR0911 - one sentence each
        self, subject: Subject
    ) -> tuple[Trouble, str] | None:
        if not subject.started:
            if not subject.overdue:
                return None
            return Trouble.NEVER_STARTED, "the document was accepted, and its run could not be started since"
        run = await self._runs.view(subject.workflow_id)
        if subject.over and (run.standing is not Standing.ENDED or run.status == _COMPLETED):
            return None
        if run.standing is Standing.MISSING:
            return Trouble.RUN_MISSING, f"Temporal knows no run {subject.workflow_id} (any more)"
        if subject.shipment_id is not None and run.parent not in (None, order_workflow_id(subject.order_id)):
            return (
                Trouble.ID_TAKEN,
                f"its id is taken by run {run.run_id} ({run.status}), which its order has not started",
            )
        if run.standing is Standing.ENDED:
            return (
                Trouble.RUN_ENDED,
                f"its run {run.run_id} is {run.status}, and the books say {subject.state}",
            )
        if run.standing is Standing.HANGS:
            return (
                Trouble.RUN_HANGS,
                "its workflow task fails again and again: it does nothing and hears nobody",
            )
        if run.queue != WORKFLOW_QUEUE:
            return (
                Trouble.RUN_HANGS,
                f"it waits on the task queue {run.queue!r}, which no worker of ours serves",
            )
        if run.unserved_since is not None:
            if await self._passed_over(run.unserved_since):
                ready = f"{run.unserved_since:%Y-%m-%d %H:%M} UTC"
                return (
                    Trouble.PASSED_OVER,
                    f"no worker has taken its next step since {ready}, while other runs are served",
                )
            return Trouble.NOBODY_SERVES, "no workflow worker takes its next step"
        if subject.forgotten:
            return Trouble.NOBODY_ASKED, f"it is {subject.state}, and no open review says whom it waits for"
        if run.busy or subject.asked or await self._waits(subject, run):
            return None
        return (
            Trouble.NOTHING_UNDER_WAY,
            "no timer, no activity and no review is open: nothing will ever wake it",
        )

    async def _passed_over(self, since: datetime) -> bool:
        """Whether workers went on serving others and left out one whose task was ready ``since``.

        After an outage they serve first what waited longest, and take a while to come to the rest. So it counts only if
        they have been at it for as long as a run may wait, not if they have just come back.
        """
        if datetime.now(UTC) - since < _PASSED_OVER_AFTER:
            return False
        async with self._asking_served:
            # In an outage all runs ask, and get one answer.
            if time.monotonic() >= self._ask_served_at:
                self._serving_since = await self._served_all_the_while()
                self._ask_served_at = time.monotonic() + _ONE_ANSWER.total_seconds()
        return self._serving_since is not None and self._serving_since > since + TAKEN_WITHIN

    async def _served_all_the_while(self) -> datetime | None:
        """When workers served a run that long ago, if they served one since, too; None when they did not."""
        now = datetime.now(UTC)
        if await self._runs.served_between(now - _PASSED_OVER_AFTER, now) is None:
            return None
        return await self._runs.served_between(_EVER, now - _PASSED_OVER_AFTER)

    async def _forgets(self, workflow_id: str) -> tuple[str, ...]:
        """What a run may hang on of what it was sent. One that hangs takes no step, so that it is looked up once."""
        run = await self._runs.view(workflow_id)
        known = self._hanging.get(workflow_id)
        if known is not None and known[0] == (run.run_id, run.length):
            return known[1]
        forgets = await self._runs.sent_before_it_hung(workflow_id, run.run_id)
        self._hanging[workflow_id] = ((run.run_id, run.length), forgets)
        if len(self._hanging) > _REMEMBERED:
            self._hanging.popitem(last=False)
        return forgets

    async def _waits(self, subject: Subject, run: RunView) -> bool:
        """Whether a timer is under way. A run that has not moved since the last look still waits for the same."""
        here = (run.run_id, run.length)
        if self._waiting.get(subject.workflow_id) == here:
            return True
        if await self._runs.has_timer(subject.workflow_id, run.run_id):
            self._waiting[subject.workflow_id] = here
            if len(self._waiting) > _REMEMBERED:
                self._waiting.popitem(last=False)
            return True
        # It may have been on its way from one wait to the next.
        now = await self._runs.view(subject.workflow_id)
        return (now.run_id, now.length) != here or now.busy

    async def _strangers(self, workflow_ids: Collection[str]) -> dict[str, Finding]:
        """What does nothing more and is no run that an order of ours needs; what goes on will end by itself.

        It hangs on our queue, or is of a type of ours and waits on another, for a worker that does not come.
        """
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def look(workflow_id: str) -> Finding | None:
            async with at_once:
                run = await self._runs.view(workflow_id)
            elsewhere = run.standing is Standing.RUNNING and run.queue != WORKFLOW_QUEUE
            if run.standing is not Standing.HANGS and not (elsewhere and run.unserved_since):
                return None
            order_id = _order_of(workflow_id)
            trouble = Trouble.NOT_OURS
            why = (
                "it was started from outside, of a type or with an input that no worker of ours can carry on"
            )
            if elsewhere:
                why = f"it was started from outside, on the task queue {run.queue!r}, which no worker serves"
            elif order_id is not None and await self._has_ended(order_id):
                trouble = Trouble.AFTER_ITS_END
                why = "its order has ended, and its workflow task fails again and again: it was reset or started since"
            return Finding(
                workflow_id=workflow_id, order_id=order_id or workflow_id[:200], trouble=trouble, why=why
            )

        found = await asyncio.gather(*(look(workflow_id) for workflow_id in sorted(workflow_ids)))
        return {finding.workflow_id: finding for finding in found if finding is not None}

    async def _has_ended(self, order_id: str) -> bool:
        async with self._store.transaction() as session:
            return (
                not await is_open(session, order_id) and await reads.currency(session, order_id) is not None
            )

    async def _astray(self, open_tasks: Iterable[ReviewTask], *, all_of_them: bool) -> dict[str, Finding]:
        """Parcels that move although our books have given them up: those of open tasks, and now and then those of which
        something came lately; ``all_of_them``: all there ever were.
        """
        found = {
            task.workflow_id: Finding(
                workflow_id=task.workflow_id,
                order_id=task.order_id,
                trouble=trouble,
                why=task.why_flagged[0].reason,
            )
            for task in open_tasks
            if (trouble := _trouble(task)) in ASTRAY and trouble is not None
        }
        parcels: list[Astray] = []
        if all_of_them:
            async with self._store.transaction() as session:
                parcels = await astray(session, ASTRAY)
        elif time.monotonic() >= self._astray_at:
            # Also if it fails: else it would be tried, and waited for, in every round.
            self._astray_at = time.monotonic() + _SELDOM.total_seconds()
            try:
                async with (
                    asyncio.timeout(_ASTRAY_WITHIN.total_seconds()),
                    self._store.transaction() as session,
                ):
                    parcels = await astray(session, ASTRAY, since=datetime.now(UTC) - _ASTRAY_LATELY)
            except Exception as fault:
                # What is broken beside that has to be told all the same; the next look goes back as far again.
                _log.error("parcels_not_looked_for", error=type(fault).__name__)
        return found | {finding.workflow_id: finding for finding in map(gone_astray, parcels)}

    # --- questions that nobody asks ---
    async def _withdraw_unasked(
        self, subjects: Mapping[str, Subject], order_ids: Collection[str]
    ) -> tuple[str, ...]:
        """Take off the list what runs asked before they were reset in Temporal, or ended, and do not ask any more."""
        async with self._store.transaction() as session:
            questions = await broken.open_questions(session, self._grace, order_ids)
        asked_by = Counter(task.workflow_id for task in questions)
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def look(task: ReviewTask) -> str | None:
            subject = subjects.get(task.workflow_id)
            if subject is not None and subject.state in WAIT_FOR_US and asked_by[task.workflow_id] == 1:
                # The usual case, for which no run is asked: it waits for somebody, and there is one question.
                return None
            async with at_once:
                return await self._why_unasked(task, subject)

        withdrawn = []
        for task, why in zip(questions, await asyncio.gather(*map(look, questions)), strict=True):
            if why is None:
                continue
            async with self._store.transaction() as session:
                if await broken.withdraw_question(session, task, why):
                    withdrawn.append(task.task_id)
                    _log.warning("question_withdrawn", task_id=task.task_id, workflow_id=task.workflow_id)
        return tuple(withdrawn)

    async def _why_unasked(self, task: ReviewTask, subject: Subject | None) -> str | None:
        """Why nobody hears the answer to ``task``; None when somebody does, or when that cannot be known now.

        A run that was ended from outside while its order goes on may be brought back, and asks it then.
        """
        run = await self._runs.view(task.workflow_id)
        if run.standing is Standing.RUNNING:
            asks = await self._runs.asks(task)
            return "its run does not ask it any more: it was reset to before" if asks is False else None
        if run.standing in (Standing.MISSING, Standing.ENDED) and subject is None:
            return "its run has ended"
        return None

    # --- telling ---
    async def _told(self, examined: int, found: Mapping[str, Finding], looked_at: Collection[str]) -> Report:
        opened, healed, told = [], [], []
        for finding in found.values():
            async with self._store.transaction() as session:
                held = await broken.holdings(session, finding.order_id)
                task = await broken.open_task(session, task_about(finding, held), finding.workflow_id)
                standing = await broken.open_tasks(session, [finding.workflow_id])
            if task is not None:
                opened.append(task.task_id)
                _log.error(
                    "run_broken",
                    order_id=finding.order_id,
                    workflow_id=finding.workflow_id,
                    trouble=finding.trouble,
                )
            told.append(finding.model_copy(update={"task_id": standing[0].task_id if standing else None}))
        async with self._store.transaction() as session:
            for task in await broken.open_tasks(session, [run for run in looked_at if run not in found]):
                if (
                    still := await broken.lock_task(session, task.task_id)
                ) and still.state is ReviewState.OPEN:
                    await self._take_off(session, still)
                    healed.append(task.task_id)
        return Report(
            examined=examined,
            findings=tuple(sorted(told, key=lambda finding: finding.workflow_id)),
            opened=tuple(opened),
            healed=tuple(healed),
        )

    async def _take_off(self, session: AsyncSession, task: ReviewTask) -> None:
        """Nothing is wrong any more: by itself, or because a decision was carried out by somebody who then died."""
        if task.verdict is not None and _trouble(task) is Trouble.RUN_HANGS:
            await self._runs.hand_on(task.workflow_id)
        if task.verdict is Verdict.REJECT and _trouble(task) in _RESET:
            decided = Decided.model_validate(task.model_dump(include=set(Decided.model_fields)))
            await self._call_off(task, decided)
            await broken.close_task(
                session,
                task,
                ReviewState.DECIDED,
                decided.reason,
                actor=decided.decided_by,
                verdict=decided.verdict,
            )
            return
        await broken.close_task(session, task, ReviewState.WITHDRAWN, "it has healed: nothing is wrong now")

    # --- deciding ---
    async def decide(
        self, task_id: str, verdict: Verdict, *, actor: str, reason: str, request_id: str
    ) -> str:
        """Do what ``verdict`` means for the task, and close it; answers with what was done, as a sentence.

        Raises ``Refused`` when it was decided, has healed, or cannot be done like this any more.
        """
        async with self._deciding:
            # Kept first: should we die on the way, whoever finds the run going on knows what else was meant.
            decided = Decided(verdict=verdict, decided_by=actor, reason=reason)
            async with self._store.transaction() as session:
                task = await self._open_for(session, task_id, verdict)
                await broken.begin_decision(session, task, decided)
            # Held until it is done: of two people who decide at once, one is told that the other was first.
            async with self._store.transaction() as session:
                task = await self._open_for(session, task_id, verdict)
                try:
                    await self._carry_out(task, decided, request_id)
                except Refused as error:
                    refused: Refused | None = error
                    await broken.begin_decision(session, task, None)
                else:
                    refused = None
                    await broken.close_task(
                        session, task, ReviewState.DECIDED, reason, actor=actor, verdict=verdict
                    )
        if refused is not None:
            raise refused
        _log.warning("run_mended", task_id=task_id, verdict=verdict, actor=actor)
        return task.options[verdict]

    async def _open_for(self, session: AsyncSession, task_id: str, verdict: Verdict) -> ReviewTask:
        """The task, locked, if it can be decided like this."""
        task = await broken.lock_task(session, task_id)
        if task is None:
            raise NotFound("there is no such review task: the open ones are listed at /v1/reviews")
        if task.state is not ReviewState.OPEN:
            raise Refused(f"review task {task_id} is no longer open: it was {task.state}")
        if verdict not in task.options:
            possible = ", ".join(sorted(task.options))
            raise Refused(f"{verdict} is no option here; possible: {possible}")
        if not await self._still_broken(task):
            raise Refused(f"{task.workflow_id} has healed meanwhile: there is nothing to decide any more")
        return task

    async def _still_broken(self, task: ReviewTask) -> bool:
        if _trouble(task) in ASTRAY:
            return True
        if _trouble(task) in NEEDLESS:
            return bool(await self._strangers([task.workflow_id]))
        subject = (await self._subjects({task.order_id})).get(task.workflow_id)
        return subject is not None and await self._wrong_with(subject) is not None

    async def _carry_out(self, task: ReviewTask, decided: Decided, request_id: str) -> None:
        trouble, run, actor, reason = _trouble(task), task.workflow_id, decided.decided_by, decided.reason
        why = f"{actor}: {reason}"
        if trouble in ASTRAY:
            # It was settled among people; what they say came of it is on the timeline.
            return
        if decided.verdict is Verdict.FINISH:
            await self._close_by_hand(task.order_id, actor=actor, reason=reason)
        elif trouble in NEEDLESS:
            await self._runs.terminate(run, why)
        elif trouble is Trouble.NEVER_STARTED:
            order = await self._run_start(task.order_id)
            await start_run(self._store, self._runs, order)
        elif trouble is Trouble.RUN_MISSING:
            await self._start_over(task.order_id)
        elif trouble is Trouble.NOBODY_ASKED:
            await self._write_the_question_down(run)
        elif trouble is Trouble.ID_TAKEN:
            await self._take_the_id_back(task, request_id, why)
        elif trouble is Trouble.NOTHING_UNDER_WAY:
            await self._runs.tell(run, "renew", Nudge(actor=actor, reason=reason))
        else:
            await self._reset(task, request_id, why)
            if decided.verdict is Verdict.REJECT:
                await self._call_off(task, decided)

    async def _reset(self, task: ReviewTask, request_id: str, why: str) -> None:
        async with self._store.transaction() as session:
            subjects = await broken.subjects(session, self._grace, {task.order_id})
        owner = next((s.first_run_id for s in subjects if s.workflow_id == task.workflow_id), None)
        # With what it may hang on it would only hang again; the task has said what that is.
        hangs = _trouble(task) is Trouble.RUN_HANGS
        if await self._runs.reset(
            task.workflow_id, first_run_id=owner, request_id=request_id, reason=why, forgetting=hangs
        ):
            await self._tell_what_came_meanwhile(task.workflow_id)
            return
        # Ended before its first step: there is nothing that it did, so a new one can do all of it.
        if _order_of(task.workflow_id) == task.order_id and not is_shipment(task.workflow_id):
            # What hangs there, such as a start by hand with two inputs, would be taken for a run of the order.
            await self._runs.terminate(task.workflow_id, why)
            await self._start_over(task.order_id)
            return
        raise Refused(
            f"the history of {task.workflow_id} is gone, so it cannot go on: close the order by hand"
        )

    async def _take_the_id_back(self, task: ReviewTask, request_id: str, why: str) -> None:
        """Put the shipment's own run in place of a stranger's: the one there was, or one that its order starts."""
        shipment, order = task.workflow_id, order_workflow_id(task.order_id)
        if await self._runs.reset(shipment, first_run_id=None, request_id=request_id, reason=why):
            await self._tell_what_came_meanwhile(shipment)
            return
        owner = (await self._subjects({task.order_id})).get(order)
        if owner is None or not await self._runs.start_child_again(
            order, shipment, first_run_id=owner.first_run_id, request_id=request_id, reason=why
        ):
            raise Refused(
                f"the history of {order} does not hold the start of {shipment} (any more), so its order cannot start "
                "it again: close the order by hand"
            )

    async def _call_off(self, task: ReviewTask, decided: Decided) -> None:
        """Call off what goes on again. With the same task it counts once, however often it is sent."""
        message: CancelOrder | CancelShipment = CancelOrder(
            request_id=f"{task.task_id}:call-off"[:100], actor=decided.decided_by, reason=decided.reason
        )
        signal = "cancel_order"
        if is_shipment(task.workflow_id):
            message, signal = CancelShipment(**message.model_dump()), "cancel_shipment"
        await self._runs.tell(task.workflow_id, signal, message)

    async def _tell_what_came_meanwhile(self, workflow_id: str) -> None:
        """Events of neighbours that found no run were kept, and are answered for: nobody sends them again."""
        async with self._store.transaction() as session:
            came = await late_events_for(session, workflow_id)
        for kind, event in came:
            await self._runs.tell(workflow_id, kind.value, event)

    async def _start_over(self, order_id: str) -> None:
        """A new run for an order whose own is gone: it finds what was held by its keys, and holds nothing twice."""
        order = await self._run_start(order_id)
        if await start_again(self._store, self._runs, order):
            return
        async with self._store.transaction() as session:
            held = await broken.holdings(session, order_id)
            if held is not None and (held.shipments or held.undoing):
                raise Refused(
                    f"order {order_id} is too far for a new run: its goods move, or it is being undone"
                )
            begun = await broken.begin_again(session, order_id)
            if begun is None:
                raise Refused(f"order {order_id} has come to its end meanwhile")
            counts = {"first_entry": begun.entries, "reviews": begun.reviews, "plans": begun.plans}
            await self._runs.start(order.model_copy(update=counts), again=True)

    async def _write_the_question_down(self, workflow_id: str) -> None:
        question = await self._runs.question(workflow_id)
        if question is None:
            raise Refused(f"{workflow_id} asks nobody just now: look again, or close the order by hand")
        async with self._store.transaction() as session:
            await record(session, question.order_id, Carried(reviews=(question,)))

    async def _close_by_hand(self, order_id: str, *, actor: str, reason: str) -> None:
        async with self._store.transaction() as session:
            subjects = await broken.subjects(session, self._grace, {order_id})
            # Also those that have arrived: they would go on trying to tell an order that is not there any more.
            shipments = await reads.shipments(session, order_id)
        runs = {subject.workflow_id for subject in subjects}
        for run in sorted(runs | {shipment_workflow_id(shipment.shipment_id) for shipment in shipments}):
            await self._runs.terminate(run, f"closed by hand by {actor}: {reason}")
        async with self._store.transaction() as session:
            await broken.close_order(session, order_id, actor=actor, reason=reason)

    async def _run_start(self, order_id: str) -> RunStart:
        async with self._store.transaction() as session:
            stored = await stored_draft(session, order_id)
            clock = await broken.clock_of(session, order_id)
        return run_start(stored.draft, stored.document_hash, clock, order_id, traceparent=stored.traceparent)


class Nudge(Contract):
    """What goes with a ``renew`` that somebody sent; the run does not read it, its history shows it."""

    actor: str
    reason: str


def _trouble(task: ReviewTask) -> Trouble | None:
    """What a task is about; None for what only another version of ours knows, before or after it was gone back from."""
    try:
        return Trouble(task.why_flagged[0].code)
    except ValueError:
        return None


def _orders_of(workflow_ids: Iterable[str]) -> set[str]:
    return {order for workflow_id in workflow_ids if (order := _order_of(workflow_id)) is not None}


def _order_of(workflow_id: str) -> str | None:
    """The order that a workflow id of ours speaks of."""
    kind, _, subject = workflow_id.partition(":")
    try:
        return order_of_shipment(subject) if kind == "shipment" else subject if kind == "order" else None
    except ValueError:
        return None
