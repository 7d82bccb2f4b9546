"""Subscribers are brought every event, of each key in order, whatever fails on the way: a real receiver is told."""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text

from activities.store import outbox as feed
from activities.store import subscribers
from activities.store.store import Store
from activities.store.subscribers import SubscriberView
from apps.api import courier
from apps.api.courier import Pace
from apps.api.metrics import Metrics
from apps.api.outbox import Outbox
from models.errors import NotFound
from models.outbox import OutboxEnvelope, Topic
from tests.apps.api.conftest import TOKEN, WEBHOOK_SECRET
from tests.apps.api.receiver import SECRET, Receiver, receiving
from tests.builders import stocked
from workers.embedded.ports import any_port
from workers.settings import REPOSITORY

QUICK = Pace(send_seconds=2.0, first_wait=0.05, longest_wait=0.3, attempts=4)
SKUS = 6


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as listening:
        yield listening
        assert listening.wrong == []


async def subscribe(store: Store, url: str, subscriber_id: str = "shop") -> None:
    await stocked(store, north={f"S{n}": 100_000 for n in range(SKUS)})
    async with store.transaction() as session:
        await subscribers.add(
            session,
            subscriber_id=subscriber_id,
            name="Shop",
            url=url,
            topics=[Topic.AVAILABILITY],
            secret=SECRET,
        )


async def sell(store: Store, sku: int, times: int = 1) -> None:
    for _ in range(times):
        async with store.transaction() as session:
            await session.execute(
                text("UPDATE stock SET reserved = reserved + 1 WHERE sku = :sku"), {"sku": f"S{sku}"}
            )


@asynccontextmanager
async def telling(url: str, *, pace: Pace = QUICK) -> AsyncIterator[Outbox]:
    """The outbox at work, as in an API process."""
    working = Outbox(url, Metrics(), pace=pace)
    task = asyncio.create_task(working.run())
    try:
        yield working
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(what: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(0.02)


async def until_of(
    store: Store, what: Callable[[SubscriberView], Any], seconds: float = 30
) -> SubscriberView:
    deadline = time.monotonic() + seconds
    while True:
        shown = await show(store)
        if what(shown):
            return shown
        assert time.monotonic() < deadline, shown
        await asyncio.sleep(0.05)


async def show(store: Store, subscriber_id: str = "shop") -> SubscriberView:
    async with store.transaction() as session:
        return await subscribers.subscriber(session, subscriber_id)


def sold(receiver: Receiver, sku: int) -> list[int]:
    """The states of a SKU in the order in which the receiver applied them."""
    return [event["reserved"] for event in receiver.applied[f"north/S{sku}"]]


def in_order(receiver: Receiver, sku: int, units: int) -> bool:
    return sold(receiver, sku) == list(range(1, units + 1))


async def test_a_change_is_there_within_a_moment_and_signed(
    fresh_database: str, fresh_store: Store, receiver: Receiver
) -> None:
    await subscribe(fresh_store, receiver.url)
    async with telling(fresh_database):
        await sell(fresh_store, 0, times=3)
        await until(lambda: in_order(receiver, 0, 3))
        await until_of(fresh_store, lambda shown: shown.waiting == 0)
    assert receiver.came["north/S0"] == list(dict.fromkeys(receiver.came["north/S0"]))


async def test_a_lost_notification_delays_and_loses_nothing(
    fresh_database: str, fresh_store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "CHANNEL", "nobody_calls_here")
    await subscribe(fresh_store, receiver.url)
    async with telling(fresh_database):
        await until_of(fresh_store, lambda shown: shown.active)
        for _ in range(3):
            await sell(fresh_store, 0)
            await asyncio.sleep(0.1)
        await until(lambda: in_order(receiver, 0, 3))


async def test_of_one_key_nothing_is_sent_before_the_last_request_was_answered(
    fresh_database: str, fresh_store: Store, receiver: Receiver
) -> None:
    def slow(_: OutboxEnvelope) -> int:
        time.sleep(0.03)
        return 200

    receiver.answers = slow
    await subscribe(fresh_store, receiver.url)
    async with telling(fresh_database):
        await asyncio.gather(*(sell(fresh_store, n, times=15) for n in range(SKUS)))
        await until(lambda: receiver.count == 15 * SKUS)
    assert all(in_order(receiver, n, 15) for n in range(SKUS))
    assert receiver.most_of_one_key == 1
    # Keys do not wait for each other, but a subscriber is not flooded.
    assert 1 < receiver.most_at_once <= QUICK.at_once


async def test_a_key_that_fails_holds_up_no_other_and_goes_on_in_order(
    fresh_database: str, fresh_store: Store, receiver: Receiver
) -> None:
    broken = True
    receiver.answers = lambda envelope: 500 if broken and envelope.key == "north/S0" else 204
    await subscribe(fresh_store, receiver.url)
    async with telling(fresh_database):
        await asyncio.gather(*(sell(fresh_store, n, times=5) for n in range(SKUS)))
        await until(lambda: all(in_order(receiver, n, 5) for n in range(1, SKUS)))
        assert sold(receiver, 0) == []
        broken = False
        await until(lambda: in_order(receiver, 0, 5))
        # It is like all the others again.
        await sell(fresh_store, 0)
        await until(lambda: in_order(receiver, 0, 6))
        shown = await until_of(fresh_store, lambda shown: shown.waiting == 0)
    assert (shown.failing_keys, shown.dead_letters) == (0, 0)


async def test_what_is_never_taken_becomes_a_dead_letter_until_somebody_tries_it_again(
    fresh_database: str, fresh_store: Store, receiver: Receiver
) -> None:
    broken = True
    receiver.answers = lambda envelope: 422 if broken and envelope.key == "north/S0" else 204
    await subscribe(fresh_store, receiver.url)
    async with telling(fresh_database):
        await sell(fresh_store, 0, times=3)
        await until_of(fresh_store, lambda shown: shown.dead_letters == 1)
        tries = len(receiver.came["north/S0"])
        async with fresh_store.transaction() as session:
            (letter,) = await subscribers.dead_letters(session, "shop")
        assert (letter.attempts, letter.failure, letter.behind) == (QUICK.attempts, "HTTP 422", 2)
        assert letter.event.data["reserved"] == 1
        await sell(fresh_store, 0)
        await sell(fresh_store, 1)
        await until(lambda: in_order(receiver, 1, 1))
        assert len(receiver.came["north/S0"]) == tries
        broken = False
        async with fresh_store.transaction() as session:
            assert await subscribers.retry(session, "shop") == 1
        await until(lambda: in_order(receiver, 0, 4))
        await until_of(fresh_store, lambda shown: shown.dead_letters + shown.waiting == 0)


async def test_a_dead_letter_that_is_dropped_lets_the_rest_of_its_key_go_on(
    fresh_database: str, fresh_store: Store, receiver: Receiver
) -> None:
    receiver.answers = lambda envelope: 422 if envelope.events[0].data["reserved"] == 2 else 204
    await subscribe(fresh_store, receiver.url)
    async with telling(fresh_database):
        await sell(fresh_store, 0, times=1)
        await until(lambda: in_order(receiver, 0, 1))
        await sell(fresh_store, 0, times=3)
        await until_of(fresh_store, lambda shown: shown.dead_letters == 1)
        async with fresh_store.transaction() as session:
            (letter,) = await subscribers.dead_letters(session, "shop")
        with pytest.raises(NotFound):
            async with fresh_store.transaction() as session:
                await subscribers.drop(session, "shop", letter.position + 1, actor="dana", reason="x")
        async with fresh_store.transaction() as session:
            await subscribers.drop(session, "shop", letter.position, actor="dana", reason="entered by hand")
        await until(lambda: sold(receiver, 0) == [1, 3, 4])
    async with fresh_store.transaction() as session:
        (kept,) = await session.execute(text("SELECT event_id, actor, reason FROM outbox_dropped"))
    assert tuple(kept) == (letter.event.event_id, "dana", "entered by hand")


async def test_a_receiver_that_is_down_for_long_is_told_everything_in_order_afterwards(
    fresh_database: str, fresh_store: Store
) -> None:
    port = any_port()
    await subscribe(fresh_store, f"http://127.0.0.1:{port}/events")
    async with telling(fresh_database):
        await asyncio.gather(*(sell(fresh_store, n, times=4) for n in range(SKUS)))
        shown = await until_of(fresh_store, lambda shown: shown.failing_since is not None)
        assert shown.last_failure == "no answer: ConnectError"
        # Tried more often than an event that is refused: it is nobody's fault, so nothing is given up.
        await asyncio.sleep(QUICK.longest_wait * (QUICK.attempts + 2))
        await asyncio.gather(*(sell(fresh_store, n, times=4) for n in range(SKUS)))
        assert (await show(fresh_store)).dead_letters == 0
        with receiving(port) as receiver:
            await until(lambda: receiver.count == 8 * SKUS)
            assert all(in_order(receiver, n, 8) for n in range(SKUS))
            shown = await until_of(fresh_store, lambda shown: shown.waiting == 0)
            assert shown.failing_since is None
            assert receiver.most_of_one_key == 1


async def test_a_small_shop_whose_receiver_is_down_has_no_dead_letter_either(
    fresh_database: str, fresh_store: Store
) -> None:
    port = any_port()
    await subscribe(fresh_store, f"http://127.0.0.1:{port}/events")
    async with telling(fresh_database):
        await sell(fresh_store, 0)
        await asyncio.sleep(QUICK.longest_wait * (QUICK.attempts + 2))
        assert (await show(fresh_store)).dead_letters == 0
        with receiving(port) as receiver:
            await until(lambda: in_order(receiver, 0, 1))


async def test_a_key_that_alone_gets_no_answer_becomes_a_dead_letter(
    fresh_database: str, fresh_store: Store, receiver: Receiver
) -> None:
    receiver.answers = lambda envelope: 0 if envelope.key == "north/S0" else 204
    await subscribe(fresh_store, receiver.url)
    async with telling(fresh_database):
        await sell(fresh_store, 0)
        await until_of(fresh_store, lambda shown: shown.failing_keys == 1)
        await sell(fresh_store, 1)
        shown = await until_of(fresh_store, lambda shown: shown.dead_letters == 1)
    assert in_order(receiver, 1, 1)
    assert shown.waiting == 1


async def test_an_answer_that_does_not_come_is_given_up_and_the_same_event_sent_again(
    fresh_database: str, fresh_store: Store, receiver: Receiver
) -> None:
    release = threading.Event()

    def hang_once(_: OutboxEnvelope) -> int:
        if receiver.requests == 1:
            release.wait(20)
        return 204

    receiver.answers = hang_once
    await subscribe(fresh_store, receiver.url)
    async with telling(fresh_database, pace=Pace(send_seconds=0.3, first_wait=0.05)):
        await sell(fresh_store, 0)
        await until(lambda: len(receiver.came["north/S0"]) == 2)
        release.set()
        await until(lambda: in_order(receiver, 0, 1))
    assert len(set(receiver.came["north/S0"])) == 1


async def test_a_redirect_is_not_followed(
    fresh_database: str, fresh_store: Store, receiver: Receiver
) -> None:
    with receiving() as elsewhere:
        receiver.answers = lambda _: 307
        receiver.headers = {"Location": elsewhere.url}
        await subscribe(fresh_store, receiver.url)
        async with telling(fresh_database):
            await sell(fresh_store, 0)
            await until_of(fresh_store, lambda shown: shown.dead_letters == 1)
        assert elsewhere.requests == 0


async def test_two_dispatchers_send_no_key_at_the_same_time_and_keep_the_order(
    fresh_database: str, fresh_store: Store, receiver: Receiver
) -> None:
    def slow(_: OutboxEnvelope) -> int:
        time.sleep(0.01)
        return 200

    receiver.answers = slow
    await subscribe(fresh_store, receiver.url)
    async with telling(fresh_database), telling(fresh_database), telling(fresh_database):
        await asyncio.gather(*(sell(fresh_store, n, times=20) for n in range(SKUS)))
        await until(lambda: receiver.count == 20 * SKUS)
    assert all(in_order(receiver, n, 20) for n in range(SKUS))
    assert receiver.most_of_one_key == 1
    assert sum(len(came) for came in receiver.came.values()) == 20 * SKUS


async def test_who_stops_lets_another_take_over_at_once(
    fresh_database: str, fresh_store: Store, receiver: Receiver
) -> None:
    await subscribe(fresh_store, receiver.url)
    async with telling(fresh_database):
        await sell(fresh_store, 0)
        await until(lambda: in_order(receiver, 0, 1))
    began = time.monotonic()
    async with telling(fresh_database):
        await sell(fresh_store, 0)
        await until(lambda: in_order(receiver, 0, 2))
    assert time.monotonic() - began < QUICK.send_seconds
    # What was under way when the first one stopped was waited for.
    assert len(receiver.came["north/S0"]) == 2


async def test_a_replay_sends_the_same_events_under_the_same_ids(
    fresh_database: str, fresh_store: Store, receiver: Receiver
) -> None:
    await subscribe(fresh_store, receiver.url)
    async with telling(fresh_database):
        await sell(fresh_store, 0, times=5)
        await until(lambda: in_order(receiver, 0, 5))
        shown = await until_of(fresh_store, lambda shown: shown.waiting == 0)
        first = list(receiver.came["north/S0"])
        async with fresh_store.transaction() as session:
            await subscribers.replay(session, "shop", shown.position - 2)
        await until(lambda: len(receiver.came["north/S0"]) == 8)
        assert receiver.came["north/S0"] == first + first[2:]
        await sell(fresh_store, 0)
        await until(lambda: in_order(receiver, 0, 6))


async def test_who_is_paused_is_sent_nothing_and_misses_nothing(
    fresh_database: str, fresh_store: Store, receiver: Receiver
) -> None:
    await subscribe(fresh_store, receiver.url)
    async with telling(fresh_database) as working:
        await sell(fresh_store, 0)
        await until(lambda: in_order(receiver, 0, 1))
        # Its answer is written down: one that is paused before that is sent once more.
        await until_of(fresh_store, lambda shown: shown.waiting == 0)
        async with fresh_store.transaction() as session:
            await subscribers.set_active(session, "shop", active=False)
        await until(lambda: not working._served)
        await sell(fresh_store, 0, times=3)
        await until_of(fresh_store, lambda shown: shown.waiting == 3)
        assert receiver.requests == 1
        async with fresh_store.transaction() as session:
            await subscribers.set_active(session, "shop", active=True)
        await until(lambda: in_order(receiver, 0, 4))


async def test_who_is_removed_is_sent_nothing_more(
    fresh_database: str, fresh_store: Store, receiver: Receiver
) -> None:
    await subscribe(fresh_store, receiver.url)
    async with telling(fresh_database) as working:
        await sell(fresh_store, 0)
        await until(lambda: in_order(receiver, 0, 1))
        async with fresh_store.transaction() as session:
            await subscribers.remove(session, "shop")
        await until(lambda: not working._served)
        await sell(fresh_store, 0)
    assert receiver.requests == 1
    with pytest.raises(NotFound):
        await show(fresh_store)


async def test_a_backlog_larger_than_what_is_read_ahead_is_worked_off(
    fresh_database: str, fresh_store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "WINDOW", 7)
    monkeypatch.setattr(courier, "BATCH", 3)

    def refuses_each_fifth_once(envelope: OutboxEnvelope) -> int:
        # By event and not by turn, or chance would refuse one event until it is a dead letter.
        first = [event for event in envelope.events if receiver.came[envelope.key].count(event.event_id) == 1]
        return 500 if any(event.data["reserved"] % 5 == 0 for event in first) else 204

    receiver.answers = refuses_each_fifth_once
    await subscribe(fresh_store, receiver.url)
    await asyncio.gather(*(sell(fresh_store, n, times=25) for n in range(SKUS)))
    async with telling(fresh_database):
        await until(lambda: receiver.count == 25 * SKUS, seconds=60)
        assert all(in_order(receiver, n, 25) for n in range(SKUS))
        await until_of(fresh_store, lambda shown: shown.waiting == 0)
    async with fresh_store.transaction() as session:
        assert await session.scalar(text("SELECT count(*) FROM outbox_held")) == 0


@asynccontextmanager
async def api_process(database_url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A real API process, whose Temporal is away: it serves subscribers all the same."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "apps.api"),
        cwd=REPOSITORY,
        env=os.environ
        | {
            "DATABASE_URL": database_url,
            "TEMPORAL_ADDRESS": "127.0.0.1:9",
            "ORDERWRIGHT_API_TOKEN": TOKEN,
            "ORDERWRIGHT_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "ORDERWRIGHT_API_PORT": str(any_port()),
            "ORDERWRIGHT_OUTBOX_SEND_SECONDS": "1",
        },
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_process_killed_between_sending_and_the_answer_sends_the_same_event_again(
    fresh_database: str, fresh_store: Store, receiver: Receiver
) -> None:
    sent, release = threading.Event(), threading.Event()

    def hang_once(_: OutboxEnvelope) -> int:
        if not sent.is_set():
            sent.set()
            release.wait(30)
        return 204

    receiver.answers = hang_once
    await subscribe(fresh_store, receiver.url)
    await sell(fresh_store, 0, times=2)
    async with api_process(fresh_database) as first:
        await until(sent.is_set, seconds=60)
        first.send_signal(signal.SIGKILL)
        await first.wait()
    release.set()
    async with api_process(fresh_database):
        await until(lambda: len(receiver.came["north/S0"]) >= 4, seconds=60)
        await sell(fresh_store, 0)
        await until(lambda: in_order(receiver, 0, 3))
    # What was taken while nobody was left to hear it came twice, and was applied once.
    came = receiver.came["north/S0"]
    assert came[:2] == came[2:4]
    assert len(set(came)) == 3
