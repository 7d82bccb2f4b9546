"""Every row of the table in activities/adapters/http.py, against a real socket."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest

from activities.adapters import http
from activities.adapters.carrier import HttpCarrier
from activities.adapters.http import HttpNeighbour, Wire, open_client, retry_after
from activities.adapters.payment import HttpPaymentProvider
from activities.adapters.warehouse import HttpWarehouse
from models.errors import NeighbourRefused, NeighbourUnavailable, OrderwrightError, OutcomeUnknown
from models.money import Money
from tests.apps.simulators.running import (
    Behaviour,
    ListeningPost,
    answer,
    break_off,
    free_port,
    hang_up,
    listening,
    reset,
    say_nothing,
    speak_nonsense,
)

TEN_POUNDS = Money(minor=1000, currency="GBP")


class Done(Wire):
    """What was agreed."""

    done: bool


class Not(Done):
    """What was agreed for a refusal."""


@pytest.fixture
async def post() -> AsyncIterator[ListeningPost]:
    async with listening() as one:
        yield one


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with open_client() as one:
        yield one


async def acting(client: httpx.AsyncClient, url: str, key: str = "k") -> Done:
    neighbour = HttpNeighbour("neighbour", url, client)
    return await neighbour.act("/things", key=key, body={"a": 1}, gives=Done, also_answers={409: Not})


async def looking_up(client: httpx.AsyncClient, url: str) -> Done | None:
    return await HttpNeighbour("neighbour", url, client).look_up("/things", key="a b&c", gives=Done)


@pytest.mark.parametrize(
    ("told", "expected_of_action", "expected_of_look_up"),
    [
        (answer(200, b"not json"), OutcomeUnknown, NeighbourUnavailable),
        (answer(200, b'{"done": "yes"}'), OutcomeUnknown, NeighbourUnavailable),
        (answer(204), OutcomeUnknown, NeighbourUnavailable),
        (answer(302, Location="/elsewhere"), NeighbourRefused, NeighbourRefused),
        (answer(307, Location="/elsewhere"), NeighbourRefused, NeighbourRefused),
        (answer(400), NeighbourRefused, NeighbourRefused),
        (answer(401), NeighbourRefused, NeighbourRefused),
        (answer(403), NeighbourRefused, NeighbourRefused),
        (answer(405), NeighbourRefused, NeighbourRefused),
        (answer(408), NeighbourUnavailable, NeighbourUnavailable),
        (answer(409), NeighbourRefused, NeighbourRefused),
        (answer(410), NeighbourRefused, NeighbourRefused),
        (answer(413), NeighbourRefused, NeighbourRefused),
        (answer(422), NeighbourRefused, NeighbourRefused),
        (answer(425), NeighbourUnavailable, NeighbourUnavailable),
        (answer(429), NeighbourUnavailable, NeighbourUnavailable),
        (answer(500), OutcomeUnknown, NeighbourUnavailable),
        (answer(501), NeighbourRefused, NeighbourRefused),
        (answer(502), OutcomeUnknown, NeighbourUnavailable),
        (answer(503), NeighbourUnavailable, NeighbourUnavailable),
        (answer(504), OutcomeUnknown, NeighbourUnavailable),
        (answer(505), NeighbourRefused, NeighbourRefused),
        (answer(520), OutcomeUnknown, NeighbourUnavailable),
        (hang_up, OutcomeUnknown, NeighbourUnavailable),
        (reset, OutcomeUnknown, NeighbourUnavailable),
        (break_off, OutcomeUnknown, NeighbourUnavailable),
        (speak_nonsense, OutcomeUnknown, NeighbourUnavailable),
    ],
)
async def test_each_failure_means_what_the_table_says(
    post: ListeningPost,
    client: httpx.AsyncClient,
    told: Behaviour,
    expected_of_action: type[OrderwrightError],
    expected_of_look_up: type[OrderwrightError],
) -> None:
    post.behaviour = told

    with pytest.raises(expected_of_action) as acted:
        await acting(client, post.url)
    with pytest.raises(expected_of_look_up):
        await looking_up(client, post.url)

    assert acted.type is expected_of_action
    assert acted.value.message.startswith("neighbour: POST /things ")
    # We never repeat anything by ourselves: that is decided by the step that asked.
    assert [request.method for request in post.received] == ["POST", "GET"]


async def test_a_well_formed_answer_is_returned_and_the_key_was_sent(
    post: ListeningPost, client: httpx.AsyncClient
) -> None:
    post.behaviour = answer(201, b'{"done": true, "new_field": 1}')

    assert (await acting(client, post.url, key="order:web:1:authorise:1")).done
    assert (await looking_up(client, post.url)) == Done(done=True)

    assert post.received[0].headers["idempotency-key"] == "order:web:1:authorise:1"
    assert json.loads(post.received[0].body) == {"a": 1}
    assert post.received[1].target == "/things?key=a+b%26c"


async def test_a_status_that_carries_a_business_answer_is_an_answer(
    post: ListeningPost, client: httpx.AsyncClient
) -> None:
    post.behaviour = answer(409, b'{"done": false}')

    assert await acting(client, post.url) == Not(done=False)


async def test_a_look_up_of_an_unknown_key_is_none_and_an_action_at_an_unknown_place_is_refused(
    post: ListeningPost, client: httpx.AsyncClient
) -> None:
    post.behaviour = answer(404)

    assert await looking_up(client, post.url) is None
    with pytest.raises(NeighbourRefused):
        await acting(client, post.url)


async def test_nobody_listening_means_that_nothing_happened(client: httpx.AsyncClient) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"

    with pytest.raises(NeighbourUnavailable):
        await acting(client, nobody)
    with pytest.raises(NeighbourUnavailable):
        await looking_up(client, nobody)


async def test_a_full_pool_means_that_nothing_happened(post: ListeningPost) -> None:
    timeout = httpx.Timeout(5, pool=0.05)
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=1), timeout=timeout) as narrow:
        post.behaviour = answer(200, b"an answer that is not read to its end")
        async with narrow.stream("GET", post.url):
            with pytest.raises(NeighbourUnavailable, match="PoolTimeout"):
                await acting(narrow, post.url)

    assert [request.method for request in post.received] == ["GET"]


async def test_no_answer_in_time_after_the_request_was_read_leaves_the_outcome_unknown(
    post: ListeningPost,
) -> None:
    post.behaviour = say_nothing
    async with httpx.AsyncClient(timeout=httpx.Timeout(5, read=0.1)) as hasty:
        with pytest.raises(OutcomeUnknown, match="ReadTimeout"):
            await acting(hasty, post.url)
        with pytest.raises(NeighbourUnavailable, match="ReadTimeout"):
            await looking_up(hasty, post.url)

    assert len(post.received) == 2


async def test_an_answer_that_drips_in_for_ever_is_given_up(
    post: ListeningPost, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "WHOLE_EXCHANGE_SECONDS", 0.2)
    post.behaviour = say_nothing

    with pytest.raises(OutcomeUnknown, match="TimeoutError"):
        await acting(client, post.url)


@pytest.mark.parametrize("key", ["line\nbreak", "schlüssel"])
async def test_a_key_that_is_no_header_is_refused_before_anything_is_sent(
    post: ListeningPost, client: httpx.AsyncClient, key: str
) -> None:
    with pytest.raises(NeighbourRefused):
        await acting(client, post.url, key=key)

    assert post.received == []


async def test_an_address_that_is_no_url_is_refused(client: httpx.AsyncClient) -> None:
    with pytest.raises(NeighbourRefused):
        await acting(client, "localhost:8080")


async def test_the_neighbours_own_words_are_told_but_a_foreign_body_is_not(
    post: ListeningPost, client: httpx.AsyncClient
) -> None:
    post.behaviour = answer(422, b'{"code": "above_hold", "message": "5 asked, 3 held"}')
    with pytest.raises(NeighbourRefused, match=r"answered 422 \(above_hold: 5 asked, 3 held\)"):
        await acting(client, post.url)

    post.behaviour = answer(422, b'{"debug": "card 4111 1111 1111 1111"}')
    with pytest.raises(NeighbourRefused) as refused:
        await acting(client, post.url)
    assert "4111" not in refused.value.message


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_handed_on(post: ListeningPost, client: httpx.AsyncClient, status: int) -> None:
    post.behaviour = answer(status, Retry_After="17")

    with pytest.raises(NeighbourUnavailable) as busy:
        await acting(client, post.url)

    assert busy.value.retry_after_seconds == 17


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        ("99999999999999999999", 3600.0),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("Fri, 02 Jan 2026 00:00:00 GMT", 3600.0),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, datetime(2026, 1, 1, tzinfo=UTC)) == seconds


async def test_a_decline_that_says_approved_is_not_believed(
    post: ListeningPost, client: httpx.AsyncClient
) -> None:
    approved = {
        **{"authorisation_id": "a", "approved": True, "amount_minor": 1000, "currency": "GBP"},
        **{"expires_at": None, "decline_code": None, "final": False},
    }
    post.behaviour = answer(402, json.dumps(approved).encode())

    with pytest.raises(NeighbourRefused):
        await HttpPaymentProvider(post.url, client).authorise(
            key="k", reference="web:1", token="tok", amount=TEN_POUNDS
        )


@pytest.mark.parametrize(
    "captured",
    [
        {"capture_id": "c", "amount_minor": 10.0, "currency": "GBP"},
        {"capture_id": "c", "amount_minor": "1000", "currency": "GBP"},
        {"capture_id": "c", "amount_minor": -1000, "currency": "GBP"},
        {"capture_id": "c", "amount_minor": 1000, "currency": "QQQ"},
        {"capture_id": "", "amount_minor": 1000, "currency": "GBP"},
        {"capture_id": "c", "amount_minor": 1000},
    ],
)
async def test_a_capture_that_is_not_told_exactly_is_an_unknown_outcome(
    post: ListeningPost, client: httpx.AsyncClient, captured: dict[str, object]
) -> None:
    post.behaviour = answer(201, json.dumps(captured).encode())

    with pytest.raises(OutcomeUnknown):
        await HttpPaymentProvider(post.url, client).capture(key="k", authorisation_id="a", amount=TEN_POUNDS)


async def test_an_acceptance_without_its_id_is_an_unknown_outcome(
    post: ListeningPost, client: httpx.AsyncClient
) -> None:
    post.behaviour = answer(200, b'{"accepted": true, "pick_id": null, "reason": ""}')
    with pytest.raises(NeighbourUnavailable):
        await HttpWarehouse(post.url, client).find_pick(key="k")

    post.behaviour = answer(
        200,
        b'{"accepted": true, "label_id": "l", "tracking": null, "cost_minor": 1, "currency": "GBP", "reason": ""}',
    )
    with pytest.raises(NeighbourUnavailable):
        await HttpCarrier(post.url, client).find_label(key="k")


async def test_an_id_chosen_by_the_provider_cannot_change_the_address(
    post: ListeningPost, client: httpx.AsyncClient
) -> None:
    post.behaviour = answer(201, b'{"capture_id": "c", "amount_minor": 1000, "currency": "GBP"}')

    await HttpPaymentProvider(post.url, client).capture(
        key="k", authorisation_id="a/../b?c", amount=TEN_POUNDS
    )

    assert post.received[0].target == "/authorisations/a%2F..%2Fb%3Fc/captures"
