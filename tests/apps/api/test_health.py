import re

import httpx
import pytest

from activities.store.store import Store
from apps.api.application import create_app
from models.states import OrderState
from tests.apps.api.builders import a_draft, write_down
from tests.apps.api.conftest import serving
from tests.apps.api.test_orders import submitted
from tests.apps.api.test_webhooks import a_scan, post
from workers.embedded.ports import any_port
from workers.settings import Settings


async def test_ready_when_database_and_temporal_answer(api: httpx.AsyncClient) -> None:
    answer = await api.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "parts": {"database": "ok", "temporal": "ok"}}


async def test_without_temporal_orders_are_accepted_and_everything_else_says_try_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{any_port()}")
    async with serving(create_app(settings)) as api:
        ready = await api.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["parts"]["database"] == "ok"
        assert "Temporal" in ready.json()["parts"]["temporal"]

        order_id = await submitted(api)
        assert (await api.get(f"/v1/orders/{order_id}")).json()["state"] == "received"

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
        assert "PostgreSQL" in ready.json()["parts"]["database"]
        answers = [
            await api.post("/v1/orders", json=a_draft()),
            await api.get("/v1/orders"),
            await api.get("/v1/orders/web:1"),
            await api.get("/v1/reviews"),
            await api.get("/metrics"),
        ]
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.json()["code"] for answer in answers} == {"not_reachable"}
        assert (await api.get("/healthz")).status_code == 200


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
