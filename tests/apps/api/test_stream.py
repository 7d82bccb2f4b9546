"""``GET /v1/availability/stream`` behind a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from activities.store import outbox
from activities.store.store import Store
from apps.api import stream, streams
from apps.api.application import create_app
from models.outbox import Topic
from tests.apps.api.conftest import TOKEN, WEBHOOK_SECRET
from tests.apps.api.serving import behind_a_socket
from tests.builders import stocked
from workers.settings import Settings

PATH = "/v1/availability/stream"


@pytest.fixture
def own_settings(fresh_database: str) -> Settings:
    return Settings(
        api_token=TOKEN, webhook_secret=WEBHOOK_SECRET, database_url=fresh_database, api_max_streams=3
    )


@pytest.fixture
async def caller(own_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with behind_a_socket(create_app(own_settings), own_settings) as port, calling(port) as client:
        yield client


def calling(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30
    )


class Told:
    """A stream that is open, read event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()
        self.last_id = ""

    async def next(self) -> tuple[str, dict[str, Any]]:
        """The next event and what it says."""
        async with asyncio.timeout(20):
            return await self._next()

    async def _next(self) -> tuple[str, dict[str, Any]]:
        event = ""
        async for line in self._lines:
            field, _, value = line.partition(": ")
            if field == "id":
                self.last_id = value
            elif field == "event":
                event = value
            elif field == "data":
                return event, json.loads(value)
        raise EOFError

    async def available(self) -> tuple[str, str, int]:
        event, said = await self.next()
        assert event == "availability"
        return said["node"], said["sku"], said["available"]

    async def rest(self) -> list[tuple[str, dict[str, Any]]]:
        found = []
        try:
            while True:
                found.append(await self.next())
        except EOFError:
            return found


@asynccontextmanager
async def following(
    caller: httpx.AsyncClient, *, after: str | None = None, **query: Any
) -> AsyncIterator[Told]:
    headers = {} if after is None else {"Last-Event-ID": after}
    async with caller.stream("GET", PATH, params=query, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Told(response)


async def sell(store: Store, sku: str, units: int = 1) -> None:
    async with store.transaction() as session:
        await session.execute(
            text("UPDATE stock SET reserved = reserved + :units WHERE sku = :sku"),
            {"sku": sku, "units": units},
        )


async def test_what_is_there_comes_first_and_then_each_change(
    caller: httpx.AsyncClient, fresh_store: Store
) -> None:
    await stocked(fresh_store, north={"A": 5, "B": 9}, south={"A": 7})
    async with following(caller, sku="A") as told:
        assert (await told.next())[0] == "start"
        assert [await told.available(), await told.available()] == [("north", "A", 5), ("south", "A", 7)]
        await sell(fresh_store, "B")
        await sell(fresh_store, "A")
        changed = sorted([await told.available(), await told.available()])
        assert changed == [("north", "A", 4), ("south", "A", 6)]


async def test_what_comes_first_says_the_same_as_what_comes_then(
    caller: httpx.AsyncClient, fresh_store: Store
) -> None:
    await stocked(fresh_store, north={"A": 5})
    async with fresh_store.transaction() as session:
        await session.execute(text("UPDATE stock SET safety_stock = 3"))
    async with following(caller, sku="A") as told:
        await told.next()
        _, first = await told.next()
        await sell(fresh_store, "A")
        _, then = await told.next()
    assert (first["available"], then["available"]) == (2, 1)
    assert first.keys() == then.keys()


async def test_of_one_node_only_its_own_is_told(caller: httpx.AsyncClient, fresh_store: Store) -> None:
    await stocked(fresh_store, north={"A": 5}, south={"A": 7})
    async with following(caller, sku="A", node="south") as told:
        await told.next()
        assert await told.available() == ("south", "A", 7)
        await sell(fresh_store, "A")
        assert await told.available() == ("south", "A", 6)


async def test_who_was_cut_off_goes_on_behind_the_last_event(
    caller: httpx.AsyncClient, fresh_store: Store
) -> None:
    await stocked(fresh_store, north={"A": 50})
    async with following(caller) as told:
        await told.next()
        await sell(fresh_store, "A")
        assert await told.available() == ("north", "A", 49)
    for _ in range(3):
        await sell(fresh_store, "A")
    async with following(caller, after=told.last_id) as again:
        assert (await again.next())[1] == {"position": int(told.last_id), "resumed": True}
        assert [(await again.available())[2] for _ in range(3)] == [48, 47, 46]
        await sell(fresh_store, "A")
        assert (await again.available())[2] == 45


async def test_who_comes_back_too_late_is_told_so(caller: httpx.AsyncClient, fresh_store: Store) -> None:
    await stocked(fresh_store, north={"A": 50})
    async with following(caller) as told:
        await told.next()
        await sell(fresh_store, "A")
        await told.available()
    async with fresh_store.transaction() as session:
        # Nothing was written for a while.
        await session.execute(text("UPDATE outbox_streams SET wanted_until = now()"))
    await sell(fresh_store, "A")
    async with following(caller, sku="A", after=told.last_id) as again:
        assert (await again.next())[1]["resumed"] is False
        assert await again.available() == ("north", "A", 48)


async def test_a_change_that_began_before_anybody_wanted_to_know_is_part_of_what_is_there(
    caller: httpx.AsyncClient, fresh_store: Store
) -> None:
    await stocked(fresh_store, north={"A": 5})

    async def first() -> tuple[str, str, int]:
        async with following(caller, sku="A") as told:
            await told.next()
            return await told.available()

    async with fresh_store.transaction() as session:
        await session.execute(text("UPDATE stock SET reserved = 1"))
        waiting = asyncio.create_task(first())
        await asyncio.sleep(0.5)
        assert not waiting.done()
    assert await waiting == ("north", "A", 4)


async def test_a_slow_transaction_keeps_a_stream_from_beginning_only_so_long(
    caller: httpx.AsyncClient, fresh_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SETTLE_SECONDS", 0.2)
    await stocked(fresh_store, north={"A": 5})
    async with fresh_store.transaction() as session:
        await session.execute(text("UPDATE stock SET reserved = 1"))
        async with following(caller, sku="A") as told:
            await told.next()
            assert await told.available() == ("north", "A", 5)


async def test_silence_is_broken_by_a_heartbeat(
    caller: httpx.AsyncClient, fresh_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.05)
    async with caller.stream("GET", PATH) as response, asyncio.timeout(20):
        async for line in response.aiter_lines():
            if line.startswith(":"):
                return
    raise AssertionError("the stream ended without one")


async def test_no_more_streams_than_there_is_room_for_and_a_place_that_is_left_is_free_again(
    caller: httpx.AsyncClient, fresh_store: Store
) -> None:
    async with following(caller), following(caller):
        async with following(caller):
            refused = await caller.get(PATH)
            assert (refused.status_code, refused.json()["code"]) == (503, "busy")
            assert refused.headers["retry-after"]
        for _ in range(200):
            answer = await caller.get(PATH, params={"seconds": 0})
            if answer.status_code == 200:
                break
            await asyncio.sleep(0.05)
        assert answer.status_code == 200


async def test_a_server_that_stops_ends_its_streams(own_settings: Settings, fresh_store: Store) -> None:
    await stocked(fresh_store, north={"A": 5})
    async with behind_a_socket(create_app(own_settings), own_settings) as port:
        client = calling(port)
        request = client.build_request("GET", PATH, params={"sku": "A"})
        response = await client.send(request, stream=True)
        told = Told(response)
        await told.next()
        await told.available()
    # Ended as it should be, not broken off: it came with a last chunk.
    assert await told.rest() == []
    await client.aclose()


async def test_a_reader_that_is_too_slow_is_let_go_and_misses_nothing(
    caller: httpx.AsyncClient, fresh_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "QUEUED", 2)
    await stocked(fresh_store, north={f"S{n}": 50 for n in range(20)})
    async with following(caller) as told:
        await told.next()
        async with fresh_store.transaction() as session:
            await session.execute(text("UPDATE stock SET reserved = 1"))
        got = await told.rest()
    assert len(got) < 20
    if not got:
        return
    async with following(caller, after=told.last_id, seconds=1) as again:
        got += (await again.rest())[1:]
    assert {said["sku"] for _, said in got} == {f"S{n}" for n in range(20)}


async def test_a_stream_may_be_asked_to_end_by_itself(caller: httpx.AsyncClient, fresh_store: Store) -> None:
    await stocked(fresh_store, north={"A": 5})
    async with following(caller, sku="A", seconds=0) as told:
        assert [event for event, _ in await told.rest()] == ["start", "availability"]
    head = await caller.head(PATH)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("query", "headers", "path"),
    [
        ({"sku": " "}, {}, "sku"),
        ({"node": "no node"}, {}, "node"),
        ({"seconds": "-1"}, {}, "seconds"),
        ({"skus": "A"}, {}, "skus"),
        ({}, {"Last-Event-ID": "yesterday"}, "last-event-id"),
    ],
)
async def test_what_cannot_be_followed_is_refused(
    caller: httpx.AsyncClient, query: dict[str, str], headers: dict[str, str], path: str
) -> None:
    answer = await caller.get(PATH, params=query, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["problems"][0]["path"] == path


async def test_nobody_follows_without_the_token(caller: httpx.AsyncClient) -> None:
    assert (await caller.get(PATH, headers={"Authorization": ""})).status_code == 401


async def test_streams_are_counted_and_their_length_is_no_latency(
    caller: httpx.AsyncClient, fresh_store: Store
) -> None:
    async with following(caller) as told:
        await told.next()
        assert "orderwright_streams_open 1.0" in (await caller.get("/metrics")).text
    await caller.get(PATH, params={"seconds": 0})
    shown = (await caller.get("/metrics")).text
    assert 'orderwright_http_request_seconds_count{method="GET",route="/v1/availability/stream"}' not in shown
    async with fresh_store.transaction() as session:
        assert not await outbox.want(session, Topic.AVAILABILITY, streams.KEEP)
