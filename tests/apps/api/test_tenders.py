"""Another means of payment: by the customer's link and by the shop, stored once, told to the run, never lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs
from temporalio.client import Client
from temporalio.worker import Worker

from activities.store.intake import accept_draft, mark_started
from activities.store.store import Store
from apps.api import runs as reaching
from apps.api.application import create_app
from apps.api.metrics import Metrics
from apps.api.parts import Parts
from apps.api.runs import Runs
from apps.api.sweeper import Sweeper
from models.order import OrderDraft
from models.states import OrderState
from models.tender import PayLink
from tests.apps.api.builders import a_draft, write_down
from tests.apps.api.conftest import PAY_LINK_SECRET, rehearsing, serving
from tests.apps.api.test_orders import heard, submitted
from workers.settings import Settings

NOW = timedelta(0)
STRANGER = {"Authorization": ""}


def until(**later: float) -> datetime:
    return (datetime.now(UTC) + timedelta(**later)).replace(microsecond=0)


FAR = datetime(2199, 1, 1, tzinfo=UTC)


def link_of(order_id: str, version: int = 0, *, ends: datetime | None = None, secret: str = "") -> str:
    token = PayLink(order_id, version, ends or until(days=1)).token(secret or PAY_LINK_SECRET)
    return f"/v1/pay/{token}"


async def awaiting(api: httpx.AsyncClient, store: Store) -> str:
    """An order whose run goes on, and whose books say that it awaits its customer."""
    order_id = await submitted(api)
    await write_down(store, order_id, state=OrderState.AWAITING_CUSTOMER)
    return order_id


async def awaiting_without_a_run(store: Store) -> str:
    async with store.transaction() as session:
        order_id = (await accept_draft(session, OrderDraft.model_validate(a_draft()), source="test")).order_id
        await mark_started(session, order_id)
    await write_down(store, order_id, state=OrderState.AWAITING_CUSTOMER)
    return order_id


async def tenders_in(store: Store, order_id: str) -> list[tuple[Any, ...]]:
    async with store.transaction() as session:
        rows = await session.execute(
            text(
                "SELECT number, token, state, offered_by FROM order_tenders WHERE order_id = :id ORDER BY number"
            ),
            {"id": order_id},
        )
        return [tuple(row) for row in rows]


async def told(client: Client, order_id: str) -> list[tuple[str, dict[str, Any]]]:
    return (await heard(client, f"order:{order_id}")).messages


async def pay(api: httpx.AsyncClient, link: str, token: str = "tok_new") -> httpx.Response:
    return await api.post(link, json={"token": token}, headers=STRANGER)


@asynccontextmanager
async def with_temporal_away(settings: Settings, store: Store) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    app.state.parts = Parts(settings=settings, store=store, runs=Runs(), metrics=Metrics())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as caller:
        yield caller


# --- by link ---
async def test_a_link_tells_what_is_asked_for_and_nothing_about_the_customer(
    api: httpx.AsyncClient, store: Store, worker: Worker
) -> None:
    order_id = await awaiting(api, store)
    ends = until(hours=30)
    answer = await api.get(link_of(order_id, ends=ends), headers=STRANGER)
    assert answer.status_code == 200
    assert answer.json() == {
        "order_number": order_id.partition(":")[2],
        "amount": {"minor": 905, "currency": "GBP"},
        "until": ends.isoformat().replace("+00:00", "Z"),
    }


async def test_a_link_is_exchanged_for_a_tender_that_the_run_hears_of_without_its_token(
    api: httpx.AsyncClient, client: Client, store: Store, worker: Worker
) -> None:
    order_id = await awaiting(api, store)
    answer = await pay(api, link_of(order_id), "tok_secret_of_the_provider")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "status": "taken",
        "request_id": "pay:0:1",
        "tender": 1,
        "message": "it is tried now",
    }
    assert await told(client, order_id) == [
        ("offer_tender", {"request_id": "pay:0:1", "actor": "customer", "tender": 1})
    ]
    assert await tenders_in(store, order_id) == [(1, "tok_secret_of_the_provider", "taken", "customer")]


async def test_a_second_click_is_answered_like_the_first_and_another_card_is_one_too_many(
    api: httpx.AsyncClient, client: Client, store: Store, worker: Worker
) -> None:
    order_id = await awaiting(api, store)
    link = link_of(order_id)
    first, again = await pay(api, link), await pay(api, link)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json()["tender"] == first.json()["tender"]
    other = await pay(api, link, "tok_other")
    assert (other.status_code, other.json()["code"]) == (409, "pay_link_used")
    assert (await api.get(link, headers=STRANGER)).json()["code"] == "pay_link_used"
    assert len(await told(client, order_id)) == 1
    assert (await pay(api, link_of(order_id, version=1), "tok_other")).json()["tender"] == 2


async def test_twenty_clicks_at_once_are_one_tender(
    api: httpx.AsyncClient, client: Client, store: Store, worker: Worker
) -> None:
    order_id = await awaiting(api, store)
    link = link_of(order_id)
    answers = await asyncio.gather(*(pay(api, link) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(await told(client, order_id)) == 1
    assert len(await tenders_in(store, order_id)) == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("link", "status", "code"),
    [
        (link_of("web:4711", ends=datetime(2026, 3, 2, tzinfo=UTC)), 410, "pay_link_expired"),
        (link_of("web:4711", ends=FAR, secret="guessed"), 404, "pay_link_unknown"),
        (link_of("web:4711", ends=FAR)[:-1], 404, "pay_link_unknown"),
        ("/v1/pay/x", 404, "pay_link_unknown"),
        ("/v1/pay/%00%FF.%F0%9F%92%B3", 404, "pay_link_unknown"),
        (link_of("web:4711", ends=FAR), 404, "not_found"),
    ],
)
async def test_a_link_that_is_no_good_says_why(
    api: httpx.AsyncClient, method: str, link: str, status: int, code: str
) -> None:
    body = {"token": "tok_new"} if method == "POST" else None
    answer = await api.request(method, link, headers=STRANGER, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("state", [OrderState.AUTHORISING, OrderState.CLOSED, OrderState.REJECTED])
async def test_an_order_that_does_not_wait_any_more_says_so(
    api: httpx.AsyncClient, store: Store, worker: Worker, state: OrderState
) -> None:
    order_id = await submitted(api)
    await write_down(store, order_id, state=state)
    for answer in (
        await pay(api, link_of(order_id)),
        await api.get(link_of(order_id), headers=STRANGER),
        await api.post(f"/v1/orders/{order_id}/tenders", json={"token": "tok_new", "actor": "dana"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "not_awaited")
        assert state in answer.json()["detail"]
    assert await tenders_in(store, order_id) == []


async def test_without_a_secret_no_link_is_taken(settings: Settings, client: Client) -> None:
    app = create_app(settings.model_copy(update={"pay_link_secret": ""}), client=client)
    async with serving(app) as caller:
        answer = await pay(caller, link_of("web:1"))
    assert (answer.status_code, answer.json()["code"]) == (404, "pay_link_unknown")


async def test_a_link_under_the_secret_before_is_good_while_the_two_are_exchanged(
    settings: Settings, client: Client, api: httpx.AsyncClient, store: Store, worker: Worker
) -> None:
    order_id = await awaiting(api, store)
    exchanged = {"pay_link_secret": "the-new-one", "pay_link_secret_previous": PAY_LINK_SECRET}
    async with serving(create_app(settings.model_copy(update=exchanged), client=client)) as caller:
        assert (await caller.get(link_of(order_id))).status_code == 200
        assert (await caller.get(link_of(order_id, secret="the-new-one"))).status_code == 200
        assert (await caller.get(link_of(order_id, secret="neither"))).status_code == 404


async def test_links_are_tried_on_the_strangers_budget_unless_the_shop_shows_its_token(
    settings: Settings, client: Client
) -> None:
    tight = settings.model_copy(update={"stranger_rate": 0.001, "stranger_burst": 2})
    async with serving(create_app(tight, client=client)) as caller:
        guesses = [await caller.get("/v1/pay/a.b", headers=STRANGER) for _ in range(3)]
        assert [answer.status_code for answer in guesses] == [404, 404, 429]
        assert int(guesses[-1].headers["Retry-After"]) > 0
        by_the_shop = [await caller.get("/v1/pay/a.b") for _ in range(5)]
        assert {answer.status_code for answer in by_the_shop} == {404}


async def test_neither_link_nor_card_is_in_the_log(
    api: httpx.AsyncClient, store: Store, worker: Worker
) -> None:
    order_id = await awaiting(api, store)
    link = link_of(order_id)
    with capture_logs() as lines:
        await api.get(link, headers=STRANGER)
        await pay(api, link, "tok_private")
        await pay(api, link, "tok_private_2")
    assert [line["route"] for line in lines if line["event"] == "request"] == ["/v1/pay/{token}"] * 3
    assert link.rpartition("/")[2] not in repr(lines)
    assert "tok_private" not in repr(lines)


# --- by the shop ---
async def test_a_shop_offers_what_it_collected_itself(
    api: httpx.AsyncClient, client: Client, store: Store, worker: Worker
) -> None:
    order_id = await awaiting(api, store)
    offer = {"token": "tok_new", "actor": "dana", "request_id": "t-1"}
    path = f"/v1/orders/{order_id}/tenders"
    answer, again = await api.post(path, json=offer), await api.post(path, json=offer)
    assert (answer.status_code, answer.json()["tender"]) == (200, 1)
    assert (again.status_code, again.json()["tender"]) == (200, 1)
    assert await told(client, order_id) == [
        ("offer_tender", {"request_id": "t-1", "actor": "dana", "tender": 1})
    ]
    other = await api.post(path, json=offer | {"token": "tok_other"})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")


async def test_a_shop_needs_its_token_for_that(api: httpx.AsyncClient, store: Store, worker: Worker) -> None:
    order_id = await awaiting(api, store)
    offer = {"token": "tok_new", "actor": "dana"}
    answer = await api.post(f"/v1/orders/{order_id}/tenders", json=offer, headers=STRANGER)
    assert answer.status_code == 401
    assert await tenders_in(store, order_id) == []


async def test_an_unknown_order_takes_no_tender(api: httpx.AsyncClient) -> None:
    offer = {"token": "tok_new", "actor": "dana"}
    for order_id in ("web:nobody", "nonsense"):
        answer = await api.post(f"/v1/orders/{order_id}/tenders", json=offer)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("4111111111111111", "value_error"),
        ("4111-1111-1111-1111", "value_error"),
        ("", "string_too_short"),
        ("tok with spaces", "string_pattern_mismatch"),
        ("tok_\u20ac", "string_pattern_mismatch"),
        ("t" * 129, "string_too_long"),
        (4, "string_type"),
    ],
)
async def test_what_is_no_token_is_refused_and_not_repeated_back(
    api: httpx.AsyncClient, store: Store, worker: Worker, token: Any, code: str
) -> None:
    order_id = await awaiting(api, store)
    for path, body in (
        (link_of(order_id), {"token": token}),
        (f"/v1/orders/{order_id}/tenders", {"token": token, "actor": "dana"}),
    ):
        answer = await api.post(path, json=body)
        assert answer.status_code == 422
        (problem,) = answer.json()["problems"]
        assert (problem["path"], problem["code"]) == ("token", code)
        assert "4111" not in answer.text
    assert await tenders_in(store, order_id) == []


async def test_a_number_that_is_no_card_is_a_token_like_any_other(
    api: httpx.AsyncClient, store: Store, worker: Worker
) -> None:
    order_id = await awaiting(api, store)
    assert (await pay(api, link_of(order_id), "4111111111111112")).status_code == 200


@pytest.mark.parametrize("kind", ["on_account", "gift_card", "store_credit"])
async def test_a_shop_may_offer_a_tender_of_ours(
    api: httpx.AsyncClient, client: Client, store: Store, worker: Worker, kind: str
) -> None:
    order_id = await awaiting(api, store)
    offer = {"kind": kind, "token": "ACME-1", "actor": "dana", "request_id": "t-1"}
    path = f"/v1/orders/{order_id}/tenders"
    answer, again = await api.post(path, json=offer), await api.post(path, json=offer)
    assert (answer.status_code, answer.json()["tender"]) == (200, 1), answer.text
    assert again.status_code == 200
    other = await api.post(path, json=offer | {"kind": "card"})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    unknown = await api.post(path, json=offer | {"kind": "cash", "request_id": "t-2"})
    assert unknown.status_code == 422
    assert unknown.json()["problems"][0]["path"] == "kind"


async def test_a_customer_who_was_shown_another_amount_is_not_charged(
    api: httpx.AsyncClient, store: Store, worker: Worker
) -> None:
    order_id = await awaiting(api, store)
    link = link_of(order_id)
    shown = (await api.get(link, headers=STRANGER)).json()["amount"]
    other = {"token": "tok_new", "amount": shown | {"minor": shown["minor"] - 1}}
    refused = await api.post(link, json=other, headers=STRANGER)
    assert (refused.status_code, refused.json()["code"]) == (409, "amount_changed")
    assert "9.05 GBP are asked for by now" in refused.json()["detail"]
    assert await tenders_in(store, order_id) == []
    taken = await api.post(link, json={"token": "tok_new", "amount": shown}, headers=STRANGER)
    assert taken.status_code == 200


# --- what the run says, and when it says nothing ---
async def test_what_the_run_does_not_want_is_refused_in_its_words_and_uses_no_link_up(
    api: httpx.AsyncClient, store: Store, worker: Worker
) -> None:
    order_id = await awaiting(api, store)
    offer = {"token": "tok_new", "actor": "too late", "request_id": "t-1"}
    path = f"/v1/orders/{order_id}/tenders"
    for _ in range(2):
        answer = await api.post(path, json=offer)
        assert (answer.status_code, answer.json()["code"]) == (409, "not_awaited")
    assert await tenders_in(store, order_id) == [(1, "tok_new", "refused", "too late")]
    assert (await pay(api, link_of(order_id))).json()["tender"] == 2


async def test_a_run_that_has_ended_takes_nothing(
    api: httpx.AsyncClient, client: Client, store: Store, worker: Worker
) -> None:
    order_id = await awaiting(api, store)
    await client.get_workflow_handle(f"order:{order_id}").signal("end")
    await client.get_workflow_handle(f"order:{order_id}").result()
    answer = await pay(api, link_of(order_id))
    assert (answer.status_code, answer.json()["code"]) == (409, "not_awaited")
    assert [state for _, _, state, _ in await tenders_in(store, order_id)] == ["refused"]


async def test_with_no_worker_up_the_tender_is_left_for_the_run(
    api: httpx.AsyncClient, client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id = await awaiting(api, store)
    monkeypatch.setattr(reaching, "ANSWER_WITHIN", timedelta(seconds=0.5))
    answer = await pay(api, link_of(order_id))
    assert (answer.status_code, answer.json()) == (202, {"status": "queued", "request_id": "pay:0:1"})
    async with rehearsing(client):
        assert (
            "offer_tender signal",
            {"request_id": "pay:0:1", "actor": "customer", "tender": 1},
        ) in await told(client, order_id)


async def test_with_temporal_away_the_tender_is_kept_and_told_as_soon_as_it_is_back(
    settings: Settings, client: Client, store: Store, api: httpx.AsyncClient, worker: Worker
) -> None:
    order_id = await awaiting(api, store)
    async with with_temporal_away(settings, store) as caller:
        answer = await pay(caller, link_of(order_id))
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert await tenders_in(store, order_id) == [(1, "tok_new", "offered", "customer")]

    parts = Parts(settings=settings, store=store, runs=Runs(client), metrics=Metrics())
    await Sweeper(parts, tell_after=NOW).tell()
    assert await tenders_in(store, order_id) == [(1, "tok_new", "taken", "customer")]
    assert [name for name, _ in await told(client, order_id)] == ["offer_tender"]
    # The customer, who saw no answer, tries again.
    assert (await pay(api, link_of(order_id))).json()["tender"] == 1
    assert len(await told(client, order_id)) == 1


async def test_a_tender_that_no_run_can_take_any_more_does_not_keep_the_next_one_from_being_told(
    settings: Settings, client: Client, store: Store, api: httpx.AsyncClient, worker: Worker
) -> None:
    lost = await awaiting_without_a_run(store)
    waiting = await awaiting(api, store)
    async with with_temporal_away(settings, store) as caller:
        for order_id in (lost, waiting):
            assert (await pay(caller, link_of(order_id))).status_code == 202
    parts = Parts(settings=settings, store=store, runs=Runs(client), metrics=Metrics())
    await Sweeper(parts, tell_after=NOW).tell()
    assert [state for _, _, state, _ in await tenders_in(store, lost)] == ["refused"]
    assert [state for _, _, state, _ in await tenders_in(store, waiting)] == ["taken"]
