"""A run of the harness from the first start to the verdict."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import httpx
from rich.console import Console

from activities.channels.online_retail import ImportedInvoice, read_invoices
from activities.store.store import Store
from apps.cli.demo import EXAMPLE
from apps.cli.replay import Replay, Tally, post_order, standings
from apps.simulators.faults import HARSH, OFF, FaultScript, put_in_force
from benchmarks.chaos import evidence
from benchmarks.chaos.checks import Invariant, Result, Violation, ambiguous_messages, judge
from benchmarks.chaos.deeds import People, otherwise_paid
from benchmarks.chaos.evidence import Evidence, Place, Told
from benchmarks.chaos.mending import Desk, owned
from benchmarks.chaos.plan import Action, FaultPlan
from benchmarks.chaos.report import Report, kills_by_kind, looked, show_timelines
from benchmarks.chaos.strikes import Gate, Striker
from benchmarks.chaos.subscriber import Subscriber
from benchmarks.chaos.victim import StackDown, Victim
from models.errors import NotReachable, OrderwrightError
from models.order import OrderDraft
from workers.embedded.ports import answers_ok
from workers.embedded.published import PublishedStack
from workers.embedded.stack import simulators_dir

_SAID_EVERY = 5.0
_LOOK_EVERY = 1.0
_SERVES_WITHIN = 180.0
_SENT_AGAIN_AT_ONCE = 4
# What is read in our books and at the neighbours a moment apart may differ for that moment; a violation does not go.
_LOOKS = 6
_BETWEEN_LOOKS = 5.0


@dataclass(frozen=True)
class Options:
    """What a run is told.

    Attributes:
        data_dir: its own, empty; short, because of socket paths.
        speed: business seconds per wall second.
        in_flight: orders under way at once.
        patience: seconds without any order moving after which it gives up waiting, and judges what is there.
    """

    data_dir: Path
    plan: FaultPlan
    speed: float = 86_400.0
    in_flight: int = 24
    patience: float = 300.0


@dataclass
class _Scene:
    """Everything that a run works with."""

    options: Options
    told: Console
    victim: Victim
    store: Store
    api: httpx.AsyncClient
    script: FaultScript
    subscriber: Subscriber
    desk: Desk
    began: datetime
    started: float = field(default_factory=time.monotonic)

    def say(self, line: str) -> None:
        """A line of progress."""
        self.told.print(f"{time.monotonic() - self.started:5.0f} s  {line}", highlight=False, soft_wrap=True)


async def run(options: Options, told: Console) -> Report:
    """Start a stack, break it, heal it, and judge; the stack is gone afterwards.

    Raises ``StackDown`` when the stack, or a part of it, does not come back.
    """
    told.print(str(options.plan), highlight=False, soft_wrap=True)
    async with _stage(options, told) as scene:
        stocked = await evidence.stock_now(scene.store)
        put_in_force(scene.script, simulators_dir(options.data_dir))
        looks = _Looks(scene.store)
        watching = asyncio.create_task(looks.watch())
        try:
            tally, striker, people = await _under_fire(scene)
            scene.say("healing: the neighbours behave, everything comes up, and what is open goes on")
            results = await _heal(scene, tally, striker)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        scene.say("judging")
        results += [looks.result()]
        judged, last = await _judge(scene, stocked, frozenset(tally.standings), people.told)
        results += judged
        report = _report(scene, tally, (striker, people), results, last)
        await show_timelines(report, scene.store, last.statements, told, began=scene.began)
    return report


@asynccontextmanager
async def _stage(options: Options, told: Console) -> AsyncIterator[_Scene]:
    api = httpx.AsyncClient(timeout=30, trust_env=False)

    def move_to(stack: PublishedStack) -> None:
        api.base_url = stack.api_url
        api.headers["Authorization"] = f"Bearer {stack.api_token}"

    subscriber = Subscriber(seed=options.plan.seed)
    victim = Victim(options.data_dir, speed=options.speed, on_address=move_to)
    store: Store | None = None
    try:
        told.print("starting a stack of our own ...")
        await victim.start()
        store = Store.at(victim.published.database_url, pool_size=4)
        async with subscriber.listening() as url:
            await subscriber.register(store, url)
            yield _Scene(
                options=options,
                told=told,
                victim=victim,
                store=store,
                api=api,
                # Another seed strikes other orders.
                script=HARSH.model_copy(update={"seed": options.plan.seed}),
                subscriber=subscriber,
                desk=Desk(api, store, patience=options.patience),
                began=datetime.now(UTC),
            )
    finally:
        if store is not None:
            await store.close()
        await api.aclose()
        left = await asyncio.shield(victim.stop())
        if left:
            told.print(f"killed what the supervisor left running: {', '.join(map(str, left))}")


async def _under_fire(scene: _Scene) -> tuple[Tally, Striker, People]:
    """Send the orders and carry out the plan, until all have come to rest or patience ends."""
    options = scene.options
    gate = Gate(options.plan, ahead=options.in_flight)
    striker = Striker(options.plan, scene.victim, scene.store, scene.api, gate)
    people = People(options.plan, scene.store, scene.api, patience=options.patience)
    said = [0.0]

    def progress(tally: Tally) -> None:
        if time.monotonic() - said[0] >= _SAID_EVERY:
            said[0] = time.monotonic()
            scene.say(_line(tally, striker, people, options.plan))

    replay = Replay(
        scene.api,
        scene.store,
        limit=options.plan.orders,
        in_flight=options.in_flight,
        patience=options.patience,
        on_change=progress,
        before=people.buy,
    )
    invoices = gate.through(otherwise_paid(read_invoices(EXAMPLE), options.plan))
    sending = asyncio.create_task(replay.run(invoices))
    striking = asyncio.create_task(striker.run(replay.tally, ended=sending.done))
    meanwhile = asyncio.create_task(people.run(replay.tally, ended=sending.done))
    beside = (
        asyncio.create_task(_behave_once(scene, striking, replay.tally)),
        asyncio.create_task(scene.desk.sit(options.plan.seed)),
    )
    try:
        await asyncio.gather(sending, striking, meanwhile)
    finally:
        gate.open()
        for task in (sending, striking, meanwhile, *beside):
            task.cancel()
        await asyncio.gather(sending, striking, meanwhile, *beside, return_exceptions=True)
    return replay.tally, striker, people


async def _behave_once(scene: _Scene, striking: "asyncio.Task[None]", tally: Tally) -> None:
    """Put the faults off as soon as the plan is through and every order was sent: what is open has to come to rest."""
    await asyncio.wait([striking])
    while tally.submitted < scene.options.plan.orders:  # noqa: ASYNC110 - the tally tells nobody
        await asyncio.sleep(_LOOK_EVERY)
    put_in_force(OFF, simulators_dir(scene.options.data_dir))


async def _heal(scene: _Scene, tally: Tally, striker: Striker) -> list[Result]:
    """Everything up, the runs that were ended mended as a reviewer would, every document sent once more."""
    put_in_force(OFF, simulators_dir(scene.options.data_dir))
    await _serves(scene)
    ended = [one.subject for one in striker.struck if one.strike.action is Action.TERMINATE and one.subject]
    mended = await scene.desk.mend(ended)
    again = await _send_again(scene, tally)
    await _settled(scene, tally)
    return [mended, again]


async def _serves(scene: _Scene) -> None:
    deadline = time.monotonic() + _SERVES_WITHIN
    url = f"{scene.victim.published.api_url}/readyz"
    while not await asyncio.to_thread(answers_ok, url, b'"status":"ok"'):
        if time.monotonic() > deadline:
            raise StackDown(f"the API is not well {_SERVES_WITHIN:.0f} s after the last strike")
        await asyncio.sleep(_LOOK_EVERY)


async def _send_again(scene: _Scene, tally: Tally) -> Result:
    """Every document once more: each must be answered as the order that it is already."""
    wrong: list[Violation] = []
    at_once = asyncio.Semaphore(_SENT_AGAIN_AT_ONCE)
    known = frozenset(tally.standings)

    async def send(draft: OrderDraft) -> None:
        async with at_once:
            try:
                order_id, is_new = await post_order(scene.api, draft)
            except OrderwrightError as error:
                order_id, is_new = f"{draft.channel}:{draft.external_id}", False
                wrong.append(_sent_again(order_id, f"was refused when sent again: {error.message}"))
            if is_new or order_id not in known:
                wrong.append(_sent_again(order_id, "became a new order when sent again"))

    drafts = await asyncio.to_thread(_drafts, len(known), scene.options.plan)
    await asyncio.gather(*map(send, drafts))
    return Result(
        invariant=Invariant.ORDERS_TAKEN_ONCE,
        checked=len(drafts),
        violations=tuple(wrong),
    )


def _sent_again(order_id: str, what: str) -> Violation:
    return Violation(invariant=Invariant.ORDERS_TAKEN_ONCE, order_id=order_id, what=what)


def _drafts(count: int, plan: FaultPlan) -> list[OrderDraft]:
    """The documents that were sent: the first so many of the example that are orders."""
    return list(islice(_orders(otherwise_paid(read_invoices(EXAMPLE), plan)), count))


def _orders(invoices: Iterator[ImportedInvoice]) -> Iterator[OrderDraft]:
    return (invoice.draft for invoice in invoices if invoice.draft is not None)


async def _settled(scene: _Scene, tally: Tally) -> None:
    """Wait until nothing moves any more: what was mended, and what a shipment still does for an order in review."""
    still, seen = time.monotonic(), None
    while time.monotonic() - still < min(scene.options.patience, 60.0):
        with contextlib.suppress(NotReachable):
            now = await standings(scene.store, list(tally.standings))
            if now != seen:
                still, seen = time.monotonic(), now
                tally.standings.update(now)
            if not tally.in_flight and time.monotonic() - still > 2 * _BETWEEN_LOOKS:
                return
        await asyncio.sleep(_LOOK_EVERY)


async def _judge(
    scene: _Scene, stocked: dict[Place, int], acknowledged: frozenset[str], told: Told
) -> tuple[list[Result], Evidence]:
    for look in range(_LOOKS):
        found = await evidence.collect(
            scene.store,
            simulators_dir(scene.options.data_dir),
            scene.script,
            stocked=stocked,
            acknowledged=acknowledged,
            heard=scene.subscriber.heard(),
            told=told,
        )
        results = [*judge(found), await owned(scene.store, scene.victim.published, found)]
        if all(result.holds for result in results) or look == _LOOKS - 1:
            break
        scene.say(f"{sum(len(r.violations) for r in results)} violations as it seems: looking again")
        await asyncio.sleep(_BETWEEN_LOOKS)
    return results, found


@dataclass
class _Looks:
    """Looks all the time, while everything is killed, for a row of which more is promised than is there."""

    store: Store
    count: int = 0
    wrong: dict[str, Violation] = field(default_factory=dict)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            try:
                rows = await evidence.oversold_now(self.store)
            except OrderwrightError:
                rows = None  # the database is being killed
            if rows is not None:
                self.count += 1
                for row in rows:
                    what = (
                        f"{row.sku} at {row.node}: {row.reserved} reserved of {row.on_hand}, seen under way"
                    )
                    self.wrong.setdefault(
                        what, Violation(invariant=Invariant.NEVER_OVERSOLD, order_id=None, what=what)
                    )
            await asyncio.sleep(_LOOK_EVERY)

    def result(self) -> Result:
        """What was seen."""
        return Result(
            invariant=Invariant.NEVER_OVERSOLD, checked=self.count, violations=tuple(self.wrong.values())
        )


def _report(
    scene: _Scene,
    tally: Tally,
    at_work: tuple[Striker, People],
    results: list[Result],
    last: Evidence,
) -> Report:
    striker, people = at_work
    plan = scene.options.plan
    found = tuple(violation for result in results for violation in result.violations)
    return Report(
        seed=plan.seed,
        orders=plan.orders,
        kills=plan.kills,
        violations=len(found),
        invariants=looked(results),
        found=found,
        kills_by_kind=kills_by_kind(striker.struck),
        struck=tuple(striker.struck),
        not_carried_out=len(plan.strikes) - len(striker.struck) + len(plan.deeds) - len(people.done),
        deeds=tuple(sorted(people.done, key=lambda one: one.deed.number)),
        orders_by_state=dict(Counter(str(order.state) for order in last.orders.values())),
        lost_answers=tally.repeated,
        ambiguous_messages=ambiguous_messages(last),
        answered=scene.desk.answered,
        events_repeated=last.heard.repeated,
        alarms=last.alarms,
        gave_up=tally.gave_up,
        seconds=round(time.monotonic() - scene.started, 1),
        plan=plan,
    )


def _line(tally: Tally, striker: Striker, people: People, plan: FaultPlan) -> str:
    last = striker.struck[-1].strike if striker.struck else None
    text = (
        f"{tally.submitted} of {plan.orders} orders sent, {tally.in_flight} under way, {tally.parked} wait for a "
        f"person; {len(striker.struck)} of {len(plan.strikes)} strikes, {len(people.done)} of {len(plan.deeds)} deeds"
    )
    if last is not None:
        text += f", last {last.action} {last.target}"
    return f"{text}  ({tally.trouble})" if tally.trouble else text
