import asyncio
import re
from typing import Any

import httpx
import pytest
import yaml
from sqlalchemy import create_engine
from temporalio.client import Client

from activities.store.measures import Measures
from activities.store.store import Store
from apps.api import health
from apps.api.application import create_app
from apps.api.metrics import Metrics
from apps.api.readiness import FRESH_SECONDS, PartsHealth
from models.errors import NotReachable
from models.states import OrderState
from tests.apps.api.builders import a_draft, write_down
from tests.apps.api.conftest import serving
from tests.apps.api.test_orders import submitted
from tests.apps.api.test_webhooks import a_payment, a_scan, post
from workers.embedded.ports import any_port
from workers.settings import REPOSITORY, Settings


async def test_ready_when_database_and_temporal_answer(api: httpx.AsyncClient) -> None:
    answer = await api.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "status": "ok", "parts": {"database": "ok", "temporal": "ok"}}


async def test_without_temporal_orders_are_accepted_and_everything_else_says_try_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{any_port()}")
    async with serving(create_app(settings)) as api:
        ready = await api.get("/readyz")
        # Whoever sends requests to where it is ready goes on sending orders here.
        assert ready.status_code == 200
        assert (ready.json()["ready"], ready.json()["status"]) == (True, "degraded")
        assert ready.json()["parts"]["database"] == "ok"
        assert "Temporal" in ready.json()["parts"]["temporal"]

        order_id = await submitted(api)
        assert (await api.get(f"/v1/orders/{order_id}")).json()["state"] == "received"
        assert (await post(api, "payment", a_payment(order_id))).json()["status"] == "delivered"

        cancelled = await api.post(f"/v1/orders/{order_id}/cancel", json={"actor": "a", "reason": "r"})
        event = await post(api, "carrier", a_scan(f"{order_id}:1"))
        for answer in (cancelled, event):
            assert answer.status_code == 503
            assert answer.json()["code"] == "not_reachable"
            assert int(answer.headers["Retry-After"]) > 0


async def test_without_the_database_nothing_is_accepted_and_all_say_try_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{any_port()}")
    nowhere = f"postgresql+psycopg://postgres@127.0.0.1:{any_port()}/none"
    async with serving(create_app(settings.model_copy(update={"database_url": nowhere}))) as api:
        ready = await api.get("/readyz")
        assert ready.status_code == 503
        assert (ready.json()["ready"], ready.json()["status"]) == (False, "down")
        assert "PostgreSQL" in ready.json()["parts"]["database"]
        answers = [
            await api.post("/v1/orders", json=a_draft()),
            await api.get("/v1/orders"),
            await api.get("/v1/orders/web:1"),
            await api.get("/v1/reviews"),
        ]
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.json()["code"] for answer in answers} == {"not_reachable"}
        assert (await api.get("/healthz")).status_code == 200


async def test_metrics_without_the_database_say_so_and_leave_out_what_it_counts(
    settings: Settings, client: Client
) -> None:
    nowhere = f"postgresql+psycopg://postgres@127.0.0.1:{any_port()}/none"
    app = create_app(settings.model_copy(update={"database_url": nowhere}), client=client)
    async with serving(app) as api:
        refused = await api.get("/v1/orders")
        without = await api.get("/metrics")
    assert (refused.status_code, without.status_code) == (503, 200)
    shown = metrics_in(without.text)
    assert shown["orderwright_database_up"] == 0
    assert shown['orderwright_http_requests_total{method="GET",route="/v1/orders",status="503"}'] == 1
    assert not any(name.startswith(("orderwright_orders{", "orderwright_reviews")) for name in shown)


async def test_a_database_that_answers_and_takes_nothing_more_is_counted_and_all_say_try_again(
    fresh_database: str, settings: Settings, client: Client
) -> None:
    # What a managed database does when its disk is full.
    engine = create_engine(fresh_database)
    with engine.begin() as connection:
        name = connection.engine.url.database
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    engine.dispose()
    full = settings.model_copy(update={"database_url": fresh_database})
    async with serving(create_app(full, client=client)) as api:
        before = metrics_in((await api.get("/metrics")).text)
        refused = await api.post("/v1/orders", json=a_draft())
        after = metrics_in((await api.get("/metrics")).text)
    assert (refused.status_code, refused.json()["code"]) == (503, "not_reachable")
    assert before["orderwright_database_full_total"] < after["orderwright_database_full_total"]
    assert after["orderwright_database_up"] == 1


async def test_metrics_say_that_the_database_is_there_and_do_not_wait_for_one_that_hangs(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert metrics_in((await api.get("/metrics")).text)["orderwright_database_up"] == 1

    async def hang(_: object) -> Measures:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    with monkeypatch.context() as hanging:
        hanging.setattr(health, "measures", hang)
        hanging.setattr(health, "DATABASE_SECONDS", 0.05)
        shown = metrics_in((await api.get("/metrics")).text)
    assert shown["orderwright_database_up"] == 0
    assert 'orderwright_orders{state="released"}' not in shown
    assert metrics_in((await api.get("/metrics")).text)["orderwright_database_up"] == 1


def metrics_in(text: str) -> dict[str, float]:
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    }


def test_the_alarm_about_the_database_asks_what_is_shown_without_it() -> None:
    (rule,) = (
        rule
        for rule in yaml.safe_load((REPOSITORY / "docs" / "alerts.yml").read_text())["groups"][0]["rules"]
        if rule["alert"] == "OrderwrightDatabaseDown"
    )
    asked = set(re.findall(r"orderwright_\w+", rule["expr"]))
    # An answer of 503 may be because of Temporal, or a probe's.
    assert asked == {"orderwright_database_up", "orderwright_database_full_total"}
    assert {name for name in asked if name.encode() not in Metrics().render(None)} == set()


async def test_a_thousand_who_ask_whether_we_are_ready_cost_one_check() -> None:
    now, asked, may_answer = 100.0, [0, 0], asyncio.Event()

    class Parts:
        def __init__(self, number: int) -> None:
            self.number = number

        async def ping(self) -> None:
            asked[self.number] += 1
            await may_answer.wait()
            if self.number:
                raise NotReachable("Temporal is away")

        check = ping

    database: Any = Parts(0)
    temporal: Any = Parts(1)
    ready = PartsHealth(database, temporal, clock=lambda: now)
    gone = asyncio.create_task(ready.now())
    waiting = [asyncio.create_task(ready.now()) for _ in range(1_000)]
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    may_answer.set()
    answers = await asyncio.gather(*waiting)
    assert answers[0] == answers[-1] == {"database": "ok", "temporal": "Temporal is away"}
    now += FRESH_SECONDS / 2
    await ready.now()
    assert asked == [1, 1]
    now += FRESH_SECONDS
    await ready.now()
    assert asked == [2, 2]


async def test_metrics_count_requests_intake_results_and_orders_by_state(
    api: httpx.AsyncClient, store: Store
) -> None:
    async def value(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", (await api.get("/metrics")).text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    accepted = 'orderwright_intake_total{result="accepted"}'
    released = 'orderwright_orders{state="released"}'
    posted = 'orderwright_http_requests_total{method="POST",route="/v1/orders",status="202"}'
    before = [await value(name) for name in (accepted, released, posted)]
    order_id = await submitted(api)
    await write_down(store, order_id, state=OrderState.RELEASED)
    after = [await value(name) for name in (accepted, released, posted)]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1, 1]

    # A time series per order, or per guessed path, would drown the server that scrapes this.
    await api.get(f"/v1/orders/{order_id}")
    await api.get("/v1/guess")
    text = (await api.get("/metrics")).text
    assert order_id not in text
    assert "guess" not in text
