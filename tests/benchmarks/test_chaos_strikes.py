"""The parts that break things and listen meanwhile."""

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from activities.channels.online_retail import ImportedInvoice, read_invoices
from activities.store.store import Store
from apps.cli.demo import EXAMPLE
from apps.simulators.faults import HARSH
from benchmarks.chaos import __main__ as chaos
from benchmarks.chaos.checks import Invariant, Result, Violation
from benchmarks.chaos.evidence import statements
from benchmarks.chaos.mending import not_completed
from benchmarks.chaos.plan import Action, FaultPlan, Kind, Strike, plan_for
from benchmarks.chaos.report import Report, kills_by_kind, looked, timeline_of
from benchmarks.chaos.strikes import Gate, Struck
from benchmarks.chaos.subscriber import SECRET, Subscriber
from models.outbox import OutboxEnvelope, OutboxEvent
from models.webhooks import SIGNATURE_HEADER, TIMESTAMP_HEADER, sign
from tests.benchmarks.chaos_world import ORDER, a_sound_world, an_event
from workers.client import connect
from workers.embedded.temporal import EmbeddedTemporal


# --- the gate ---
def a_plan(*rested: int) -> FaultPlan:
    strikes = tuple(
        Strike(number=n, action=Action.KILL, kind=Kind.API, target="api", rested=at, then_seconds=0)
        for n, at in enumerate(rested, start=1)
    )
    return FaultPlan(seed=0, orders=100, kills=len(rested), strikes=strikes)


class Behind:
    """Takes orders through a gate in a thread of its own, as the submitter does."""

    def __init__(self, gate: Gate) -> None:
        self.taken = 0
        self._orders = (one for one in read_invoices(EXAMPLE) if one.draft is not None)
        self._thread = threading.Thread(target=self._take, args=(gate.through(self._orders),), daemon=True)
        self._thread.start()

    def _take(self, orders: Iterator[ImportedInvoice]) -> None:
        for _ in range(30):
            next(orders)
            self.taken += 1

    def reaches(self, count: int) -> bool:
        deadline = time.monotonic() + 20
        while self.taken < count and time.monotonic() < deadline:
            time.sleep(0.01)
        # Whoever is not held back would have gone on by now.
        self._thread.join(0.2)
        return self.taken == count


def test_orders_wait_for_the_strikes_that_belong_before_them() -> None:
    gate = Gate(a_plan(5, 5, 12), ahead=4)
    behind = Behind(gate)
    assert behind.reaches(8), "the ninth is four ahead of the fifth"
    gate.carried_out()
    assert behind.reaches(8), "of two strikes at one moment both count"
    gate.carried_out()
    assert behind.reaches(15)
    gate.carried_out()
    assert behind.reaches(30)


def test_a_strike_that_finds_no_order_lets_another_one_through() -> None:
    gate = Gate(a_plan(5), ahead=4)
    behind = Behind(gate)
    assert behind.reaches(8)
    gate.one_more()
    assert behind.reaches(9)
    gate.open()
    assert behind.reaches(30)


# --- the subscriber ---
def an_envelope(*events: OutboxEvent) -> bytes:
    return OutboxEnvelope(subscriber_id="chaos", key=ORDER, events=events).model_dump_json().encode()


@asynccontextmanager
async def telling(subscriber: Subscriber) -> AsyncIterator[httpx.AsyncClient]:
    async with subscriber.listening() as url, httpx.AsyncClient(trust_env=False) as client:
        client.base_url = url.removesuffix("/events")
        yield client


async def tell(client: httpx.AsyncClient, body: bytes, secret: str = SECRET) -> int:
    now = int(time.time())
    headers = {TIMESTAMP_HEADER: str(now), SIGNATURE_HEADER: sign(secret, now, body)}
    return (await client.post("/events", content=body, headers=headers)).status_code


async def test_the_subscriber_takes_some_turns_some_away_and_fails_to_say_so_of_some() -> None:
    subscriber = Subscriber(seed=1)
    async with telling(subscriber) as client:
        answers = {
            position: await tell(client, an_envelope(an_event(position, "pick.confirmed")))
            for position in range(1, 120)
        }
    assert set(answers.values()) == {204, 500, 503}
    taken = {f"event-{position}" for position, answer in answers.items() if answer != 503}
    assert set(subscriber.heard().applied) == taken
    assert subscriber.heard().wrong == ()


async def test_what_is_turned_away_is_taken_when_it_comes_often_enough() -> None:
    subscriber = Subscriber(seed=1)
    async with telling(subscriber) as client:
        for position in range(1, 60):
            while await tell(client, an_envelope(an_event(position, "pick.confirmed"))) != 204:
                pass
    assert len(subscriber.heard().applied) == 59


async def test_an_event_that_nobody_signed_is_not_applied_and_is_found() -> None:
    subscriber = Subscriber(seed=1)
    async with telling(subscriber) as client:
        assert await tell(client, an_envelope(an_event(1, "pick.confirmed")), secret="another") == 400
    assert subscriber.heard().applied == {}
    assert subscriber.heard().wrong == (("", "an unusable request: Unauthorised"),)


# --- owners ---
async def test_an_ended_order_whose_run_did_not_end_by_itself_is_found(tmp_path: Path) -> None:
    async with EmbeddedTemporal(tmp_path, in_memory=True) as server:
        client = await connect(server.address, "default", from_environment=False)
        for order_id in ("web:1", "web:2"):
            await client.start_workflow("OrderWorkflow", id=f"order:{order_id}", task_queue="nobody-serves")
        await client.get_workflow_handle("order:web:2").terminate()
        found = await not_completed(client, ["web:1", "web:2", "web:3"])
    assert [(one.order_id, one.what.rpartition(" ")[2]) for one in found] == [
        ("web:1", "running"),
        ("web:2", "terminated"),
        ("web:3", "missing"),
    ]


# --- the report ---
def struck(strike: Strike, **more: object) -> Struck:
    return Struck.model_validate({"strike": strike, "at": 1.0, "rested": 3, "pid": 7} | more)


def test_only_what_was_really_killed_is_counted_as_killed() -> None:
    plan = plan_for(1, orders=100, kills=12)
    kills = [strike for strike in plan.strikes if strike.action is Action.KILL]
    others = [strike for strike in plan.strikes if strike.action is not Action.KILL]
    done = [struck(strike) for strike in (*kills[1:], *others)] + [struck(kills[0], pid=None)]
    counts = kills_by_kind(done)
    assert sum(counts.values()) == 11
    assert set(counts) == set(Kind)


def test_results_of_one_invariant_add_up() -> None:
    violation = Violation(invariant=Invariant.NEVER_OVERSOLD, order_id=None, what="too much")
    results = [
        Result(invariant=Invariant.NEVER_OVERSOLD, checked=3),
        Result(invariant=Invariant.NEVER_OVERSOLD, checked=4, violations=(violation,)),
        Result(invariant=Invariant.TOLD_ONCE, checked=1),
    ]
    figures = looked(results)
    assert {name: (one.checked, one.violations) for name, one in figures.items()} == {
        Invariant.NEVER_OVERSOLD: (7, 1),
        Invariant.TOLD_ONCE: (1, 0),
    }


@pytest.mark.parametrize(("violations", "gave_up", "code"), [(0, "", 0), (1, "", 1), (0, "nothing moved", 1)])
def test_the_exit_code_says_whether_all_held_and_the_figures_are_written(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    violations: int,
    gave_up: str,
    code: int,
) -> None:
    found = tuple(
        Violation(invariant=Invariant.TOLD_ONCE, order_id=ORDER, what="was told twice")
        for _ in range(violations)
    )
    report = a_report(found, gave_up)

    async def run(*_: object) -> Report:
        return report

    monkeypatch.setattr(chaos, "run", run)
    monkeypatch.setattr(chaos, "configure_logging", lambda _: None)  # the other tests keep theirs
    figures = tmp_path / "out.json"
    assert chaos.main(["--orders", "10", "--kills", "6", "--json", str(figures)]) == code
    assert Report.model_validate_json(figures.read_text()) == report
    assert ("was told twice" in capsys.readouterr().out) == bool(violations)


def a_report(found: tuple[Violation, ...], gave_up: str = "") -> Report:
    plan = plan_for(7, orders=10, kills=6)
    done = tuple(struck(strike) for strike in plan.strikes)
    return Report(
        seed=7,
        orders=10,
        kills=6,
        violations=len(found),
        invariants=looked([Result(invariant=Invariant.TOLD_ONCE, checked=5, violations=found)]),
        found=found,
        kills_by_kind=kills_by_kind(done),
        struck=done,
        not_carried_out=0,
        orders_by_state={"closed": 10},
        lost_answers=1,
        ambiguous_messages=2,
        answered=3,
        events_repeated=4,
        alarms=0,
        gave_up=gave_up,
        seconds=12.0,
        plan=plan,
    )


async def test_the_timeline_of_an_order_has_both_sides_and_what_was_struck_meanwhile(
    fresh_store: Store, tmp_path: Path
) -> None:
    world = await a_sound_world(fresh_store, tmp_path)
    strike = plan_for(1, orders=10, kills=6).strikes[0]
    began = datetime(2026, 3, 2, 9, 29, tzinfo=UTC)
    lines = await timeline_of(
        ORDER,
        world.store,
        statements(tmp_path, HARSH),
        [struck(strike, at=60.0, subject=None), struck(strike, at=6_000.0, subject="web:9")],
        began=began,
    )
    told = "\n".join(lines)
    for part in (
        "intake started",
        "intended capture",
        "reserved: ",
        "payment says: capture",
        "carrier says: label",
    ):
        assert part in told, told
    assert told.count("***") == 1
    assert lines == sorted(lines, key=lambda line: line[:15])


pytestmark = pytest.mark.timeout(300)
