"""What a caller may do at most, through a real socket where the server itself has a part in it."""

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from apps.api import serving as protocol
from apps.api.application import create_app
from apps.api.bodies import MAX_MESSAGE_BYTES
from apps.api.forwarded import Proxies
from apps.api.gate import MAX_TARGET_BYTES, SECURITY_HEADERS
from apps.api.limits import MAX_CALLERS, Budget, caller_of
from apps.api.problems import MAX_PROBLEMS
from apps.api.webhooks import SHORT_BYTES
from models.order import MAX_DOCUMENT_BYTES
from models.webhooks import SIGNATURE_HEADER, TIMESTAMP_HEADER
from policies.strict_json import MAX_VALUES
from tests.apps.api.builders import a_draft
from tests.apps.api.conftest import TOKEN, serving
from tests.apps.api.serving import behind_a_socket
from tests.apps.api.test_webhooks import a_scan, post
from workers.settings import Settings

CANCEL = "/v1/orders/web:nobody/cancel"
AUTHORISED = f"Authorization: Bearer {TOKEN}\r\n"


@asynccontextmanager
async def served(settings: Settings, client: Client, **limits: Any) -> AsyncIterator[int]:
    limited = settings.model_copy(update=limits)
    async with behind_a_socket(create_app(limited, client=client), limited) as port:
        yield port


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def said(port: int, sent: str | bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Everything that is answered to ``sent`` until the server hangs up: status, headers, body."""
    async with connected(port) as (reader, writer):
        writer.write(sent if isinstance(sent, bytes) else sent.encode())
        return understood(await asyncio.wait_for(reader.read(), 30))


def understood(raw: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in rest)
    return int(first.split()[1]), headers, json.loads(body)


def is_problem(answer: httpx.Response, status: int, code: str) -> bool:
    return (
        (answer.status_code, answer.headers["content-type"], answer.json()["code"])
        == (status, "application/problem+json", code)
    )  # fmt: skip


# --- Sizes ---
async def test_header_over_the_limit_is_refused(settings: Settings, client: Client) -> None:
    async with served(settings, client, api_max_header_bytes=2048) as port:
        # In one piece, which the server has parsed before it could mind; and one that does not end.
        whole = f"GET /v1/orders HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-A: {'a' * 3000}\r\n\r\n"
        for sent in (whole, f"GET /v1/orders HTTP/1.1\r\nHost: a\r\nX-A: {'a' * 3000}"):
            status, headers, problem = await said(port, sent)
            assert (status, problem["code"]) == (431, "header_too_large")
            assert headers["content-type"] == "application/problem+json"


async def test_address_over_the_limit_is_refused(api: httpx.AsyncClient) -> None:
    answer = await api.get("/v1/orders", params={"channel": "a" * MAX_TARGET_BYTES})
    assert is_problem(answer, 414, "uri_too_long")


async def test_chunked_body_over_the_limit_is_refused_and_its_answer_arrives(
    settings: Settings, client: Client
) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    head = f"POST /v1/orders HTTP/1.1\r\nHost: a\r\n{AUTHORISED}Transfer-Encoding: chunked\r\n\r\n"
    async with served(settings, client) as port, connected(port) as (reader, writer):
        writer.write(head.encode())
        for _ in range(MAX_DOCUMENT_BYTES // 65536 + 1):
            writer.write(chunk)
            await writer.drain()
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_small_message_over_its_limit_is_refused(api: httpx.AsyncClient) -> None:
    answer = await api.post(CANCEL, content=b" " * (MAX_MESSAGE_BYTES + 1))
    assert is_problem(answer, 413, "document_too_large")


@pytest.mark.parametrize("path", ["/v1/orders", CANCEL])
@pytest.mark.parametrize(
    "body",
    [
        b'{"actor": "a", "actor": "b", "reason": "r"}',
        b'{"actor": "a", "reason": "r", "more": NaN}',
        b'{"actor": "a", "reason": "r", "more": -Infinity}',
        b'{"actor": "a", "reason": "r", "more": 1e999}',
        b'{"actor": "a", "reason": "r", "more": ' + b"9" * 101 + b"}",
        b'{"actor": "a", "reason": "r", "more": ' + b"[" * 40 + b"]" * 40 + b"}",
        b"[" * 30_000,
        b'{"actor": "\xff"}',
        b"",
    ],
)
async def test_json_that_readers_disagree_about_is_refused(
    api: httpx.AsyncClient, path: str, body: bytes
) -> None:
    answer = await api.post(path, content=body)
    assert answer.status_code == 422
    assert [problem["code"] for problem in answer.json()["problems"]] == ["not_json"]


async def test_document_with_too_many_values_is_refused_before_they_are_checked(
    api: httpx.AsyncClient,
) -> None:
    answer = await api.post("/v1/orders", json=a_draft() | {"more": [0] * MAX_VALUES})
    assert [problem["code"] for problem in answer.json()["problems"]] == ["not_json"]


async def test_document_made_of_mistakes_is_not_answered_with_a_larger_one(api: httpx.AsyncClient) -> None:
    document = a_draft() | {f"mistake{number}": 0 for number in range(5_000)}
    answer = await api.post("/v1/orders", json=document)
    problem = answer.json()
    assert len(problem["problems"]) == MAX_PROBLEMS
    assert "5000 problems" in problem["detail"]
    assert len(answer.content) < 20_000


# --- Kinds of body, methods, parameters ---
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
async def test_body_that_is_said_to_be_no_json_is_not_looked_into(
    api: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    answer = await api.post("/v1/orders", content=json.dumps(a_draft()), headers=headers)
    assert is_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("kind", [None, "application/json", "application/json; charset=UTF-8"])
async def test_json_is_taken_also_when_nobody_says_so(api: httpx.AsyncClient, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = await api.post("/v1/orders", content=json.dumps(a_draft()), headers=headers)
    assert answer.status_code == 202


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/orders?stat=closed", "unknown_parameter"),
        ("/v1/orders?limit=1&limit=2", "repeated_parameter"),
        ("/v1/reviews/web:1:r1?full=1", "unknown_parameter"),
    ],
)
async def test_parameter_that_does_not_exist_is_named(api: httpx.AsyncClient, path: str, code: str) -> None:
    answer = await api.get(path)
    assert is_problem(answer, 422, "invalid_request")
    assert [problem["code"] for problem in answer.json()["problems"]] == [code]


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/v1/orders", "GET, HEAD, OPTIONS, POST"), (CANCEL, "OPTIONS, POST"), ("/docs", "GET, HEAD, OPTIONS")],
)
async def test_options_and_wrong_methods_say_which_methods_there_are(
    api: httpx.AsyncClient, path: str, methods: str
) -> None:
    asked = await api.options(path)
    wrong = await api.delete(path)
    assert (asked.status_code, asked.headers["Allow"], asked.content) == (204, methods, b"")
    assert is_problem(wrong, 405, "method_not_allowed")
    assert wrong.headers["Allow"] == methods
    assert (await api.options("/nowhere")).status_code == 404


async def test_head_is_get_without_the_body(settings: Settings, client: Client) -> None:
    async with (
        served(settings, client) as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {TOKEN}"}
        ) as caller,
    ):
        for path in ("/v1/orders?limit=1", "/v1/orders/web:nobody", "/healthz"):
            got, headed = await caller.get(path), await caller.head(path)
            assert (headed.status_code, headed.content) == (got.status_code, b"")
            assert headed.headers["content-type"] == got.headers["content-type"]
        assert (await caller.head(CANCEL)).status_code == 405


async def test_document_is_not_sent_to_who_has_it(api: httpx.AsyncClient) -> None:
    for path in ("/openapi.json", "/docs"):
        first = await api.get(path)
        again = await api.get(path, headers={"If-None-Match": f'"other", W/{first.headers["ETag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
        assert (await api.get(path, headers={"If-None-Match": '"other"'})).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/orders", "/nowhere", "/healthz", "/v1/webhooks/carrier", "/openapi.json"]
)
async def test_every_answer_has_the_security_headers(api: httpx.AsyncClient, path: str) -> None:
    answer = await api.get(path)
    for name in SECURITY_HEADERS:
        assert answer.headers[name]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "server" not in answer.headers


# --- How often ---
async def test_caller_over_the_rate_is_told_when_to_come_back(settings: Settings, client: Client) -> None:
    app = create_app(settings.model_copy(update={"api_rate": 0.01, "api_burst": 2}), client=client)
    async with serving(app) as caller:
        left = [(await caller.get("/v1/orders")).headers["RateLimit"] for _ in range(2)]
        refused = await caller.get("/v1/orders")
        assert is_problem(refused, 429, "rate_limited")
        assert 0 < int(refused.headers["Retry-After"]) <= 100
        assert refused.headers["RateLimit"].startswith('"requests";r=0;t=')
        assert refused.headers["RateLimit-Policy"] == '"requests";q=2;w=200'
        assert [field.split(";")[1] for field in left] == ["r=1", "r=0"]
        # Neighbours and those who watch over us are not held up by it.
        assert (await caller.get("/healthz")).status_code == 200
        answer = await post(caller, "carrier", a_scan("web:nobody:1", "scan-not-held-up"))
        assert answer.status_code == 202
        assert answer.headers["RateLimit-Policy"].startswith('"webhooks"')


async def test_guessing_the_token_is_slowed_down_without_holding_up_its_owner(
    settings: Settings, client: Client
) -> None:
    app = create_app(settings.model_copy(update={"stranger_rate": 0.01, "stranger_burst": 3}), client=client)
    async with serving(app) as caller:
        guesses = [
            (await caller.get("/v1/orders", headers={"Authorization": f"Bearer {number}"})).status_code
            for number in range(5)
        ]
        assert guesses == [401, 401, 401, 429, 429]
        assert (await caller.get("/v1/orders")).status_code == 200


async def test_one_neighbour_does_not_use_up_what_is_anothers(settings: Settings, client: Client) -> None:
    app = create_app(settings.model_copy(update={"webhook_rate": 0.01, "webhook_burst": 1}), client=client)
    async with serving(app) as caller:
        first = await post(caller, "carrier", a_scan("web:nobody:1", "scan-first"))
        second = await post(caller, "carrier", a_scan("web:nobody:1", "scan-second"))
        other = await post(caller, "warehouse", b"{}")
    assert (first.status_code, second.status_code, other.status_code) == (202, 429, 422)


async def test_strangers_at_its_address_use_up_nothing_of_a_neighbours(
    settings: Settings, client: Client
) -> None:
    tight = {"stranger_rate": 0.01, "stranger_burst": 2, "webhook_rate": 0.01, "webhook_burst": 1}
    async with serving(create_app(settings.model_copy(update=tight), client=client)) as caller:
        forged = [await post(caller, "payment", b"{}", secret="guess") for _ in range(2)]
        unsigned = [await caller.post("/v1/webhooks/payment", content=b"{}") for _ in range(2)]
        true = await post(caller, "payment", b"{}")
        over = await post(caller, "payment", b"{}")
    assert [answer.status_code for answer in (*forged, *unsigned)] == [401, 401, 429, 429]
    assert {answer.headers["RateLimit-Policy"] for answer in forged} == {'"strangers";q=2;w=200'}
    # It is let in and heard (an empty object is no event); what is over its own budget is not.
    assert (true.status_code, true.headers["RateLimit-Policy"]) == (422, '"webhooks";q=1;w=100')
    assert is_problem(over, 429, "rate_limited")


@pytest.mark.parametrize(
    "headers",
    [{"Content-Length": str(SHORT_BYTES + 1)}, {"Content-Length": "2", "Transfer-Encoding": "chunked"}],
)
async def test_long_bodies_that_nobody_vouches_for_are_read_so_often_and_no_more(
    settings: Settings, client: Client, headers: dict[str, str]
) -> None:
    signed = {TIMESTAMP_HEADER: "1", SIGNATURE_HEADER: "v1=guess"}
    head = "".join(f"{name}: {value}\r\n" for name, value in (signed | headers).items())
    request = f"POST /v1/webhooks/payment HTTP/1.1\r\nHost: a\r\n{head}\r\n"
    tight = {"webhook_rate": 0.01, "webhook_burst": 1, "api_body_seconds": 0.2}
    async with served(settings, client, **tight) as port:
        read, unread = [await said(port, request) for _ in range(2)]
        # As before, a short one is looked at: looking costs less than refusing.
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as neighbour:
            short = await post(neighbour, "payment", b"{}")
            long = await post(neighbour, "payment", b" " * (SHORT_BYTES + 1))
    assert (read[0], read[2]["code"]) == (408, "too_slow")
    assert (unread[0], unread[2]["code"]) == (429, "rate_limited")
    assert unread[1]["ratelimit-policy"].startswith('"unverified"')
    assert (short.status_code, long.status_code) == (422, 429)


async def test_what_carries_no_signature_is_refused_before_its_body_has_come(
    settings: Settings, client: Client
) -> None:
    async with served(settings, client) as port, connected(port) as (reader, writer):
        writer.write(b"POST /v1/webhooks/payment HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_budget_fills_up_again_by_itself() -> None:
    now = 0.0
    budget = Budget("b", rate=2, burst=3, clock=lambda: now)
    assert [budget.take("a").remaining for _ in range(3)] == [2, 1, 0]
    assert budget.take("a").wait == pytest.approx(0.5)
    assert budget.take("another").wait == 0
    now = 0.5
    assert budget.take("a").wait == 0
    assert budget.take("a").wait == pytest.approx(0.5)
    now = 100
    assert budget.take("a").remaining == 2


def test_budget_remembers_a_bounded_number_of_callers() -> None:
    budget = Budget("b", rate=1, burst=1)
    for number in range(MAX_CALLERS + 10):
        budget.take(str(number))
    assert len(budget._clear_at) == MAX_CALLERS


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1:aaaa::1", "2001:db8:0:1::"),
        ("2001:db8:0:1:bbbb::2", "2001:db8:0:1::"),
        ("a socket", "a socket"),
    ],
)
def test_caller_is_known_by_address(address: str, caller: str) -> None:
    assert caller_of((address, 1)) == caller
    assert caller_of(None) == "local"


# --- How slow, how many ---
async def test_body_that_does_not_arrive_is_given_up(settings: Settings, client: Client) -> None:
    head = f"POST /v1/orders HTTP/1.1\r\nHost: a\r\n{AUTHORISED}Content-Length: 100\r\n\r\n{{"
    async with served(settings, client, api_body_seconds=0.2) as port:
        status, headers, problem = await said(port, head)
    assert (status, problem["code"], headers["connection"]) == (408, "too_slow", "close")


async def test_header_that_does_not_arrive_is_given_up(settings: Settings, client: Client) -> None:
    async with served(settings, client, api_header_seconds=0.2) as port:
        status, _, problem = await said(port, "GET /v1/orders HTTP/1.1\r\nHost:")
        assert (status, problem["code"]) == (408, "too_slow")
        async with connected(port) as (reader, _):
            # Who says nothing at all is owed no answer.
            assert await asyncio.wait_for(reader.read(), 30) == b""


async def test_header_of_a_later_request_is_given_up_as_well(settings: Settings, client: Client) -> None:
    async with served(settings, client, api_header_seconds=0.2) as port, connected(port) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readuntil(b'{"status":"ok"}')).startswith(b"HTTP/1.1 200 ")
        writer.write(b"GET /healthz HT")
        status, _, _ = understood(await asyncio.wait_for(reader.read(), 30))
    assert status == 408


async def test_body_that_nobody_asked_for_is_not_read_for_ever(settings: Settings, client: Client) -> None:
    head = "POST /nowhere HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with served(settings, client, api_header_seconds=0.3) as port, connected(port) as (reader, writer):
        writer.write(head.encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401 ")

        async def keep_sending() -> None:
            while not reader.at_eof():
                writer.write(b"1\r\n \r\n")
                await writer.drain()
                await asyncio.sleep(0.05)

        try:
            async with asyncio.timeout(30):
                await asyncio.gather(keep_sending(), reader.read())
        except ConnectionError:
            return
        assert reader.at_eof()


@pytest.mark.parametrize("pipelined", [1, 60])
async def test_who_does_not_read_its_answers_loses_its_place(
    settings: Settings, client: Client, pipelined: int
) -> None:
    # One answer fits into the buffers of the system and is done for us; of many, most wait for the caller.
    tight = {"api_max_connections": 1, "api_connection_share": 1, "api_body_seconds": 0.3}
    page = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
    async with served(settings, client, **tight) as port:
        with socket.create_connection(("127.0.0.1", port)) as deaf:
            deaf.sendall(page * pipelined)
            until = time.monotonic() + 30
            last = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            while (status := (await said(port, last))[0]) == 503:
                assert time.monotonic() < until, "its place is never free again"
                await asyncio.sleep(0.05)
            assert status == 200
            answers = await asyncio.to_thread(read_to_the_end, deaf)
    assert answers == 1 if pipelined == 1 else answers < pipelined


def read_to_the_end(connection: socket.socket) -> int:
    """How many answers have begun, until the connection ends in whichever way."""
    connection.settimeout(30)
    read = bytearray()
    with suppress(ConnectionError):
        while part := connection.recv(1 << 20):
            read += part
    return read.count(b"HTTP/1.1 200 ")


async def test_who_reads_slowly_gets_the_whole_answer(settings: Settings, client: Client) -> None:
    page = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
    async with served(settings, client, api_body_seconds=2) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(page * 20)
        for _ in range(20):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.findall(rb"content-length: (\d+)", head)
            assert json.loads(await reader.readexactly(int(length[0])))["openapi"]
            await asyncio.sleep(0.05)
        writer.close()


async def test_what_is_no_http_is_a_problem_too(settings: Settings, client: Client) -> None:
    async with served(settings, client) as port:
        status, headers, problem = await said(port, b"\x16\x03\x01\x02\x00\x01\r\n\r\n")
    assert (status, problem["code"]) == (400, "bad_request")
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-content-type-options"] == "nosniff"


REQUEST = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


@asynccontextmanager
async def answered(
    port: int, address: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection from an address of this machine, over which a request was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    writer.write(REQUEST)
    await reader.readuntil(b"}")
    try:
        yield reader, writer
    finally:
        writer.close()


@asynccontextmanager
async def being_served(
    port: int, address: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Such a connection that has asked again, and whose answer waits for the body."""
    async with answered(port, address) as (reader, writer):
        writer.write(
            b"POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
            b"Expect: 100-continue\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        yield reader, writer


@pytest.fixture
def nobody_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_SPARED_SECONDS", 0.0)


async def test_callers_beyond_the_limit_are_asked_to_come_back(settings: Settings, client: Client) -> None:
    async with served(settings, client, api_max_connections=2, api_connection_share=1) as port:
        async with being_served(port) as (first, write), being_served(port):
            status, headers, problem = await said(port, REQUEST)
            assert (status, problem["code"]) == (503, "busy")
            assert int(headers["retry-after"]) > 0
            # Who is in is served on.
            write.write(b"[]")
            assert (await first.readuntil(b"}")).startswith(b"HTTP/1.1 422 ")
        until = time.monotonic() + 30
        while (await asyncio.to_thread(httpx.get, f"http://127.0.0.1:{port}/healthz")).status_code == 503:
            assert time.monotonic() < until


async def test_one_address_has_a_share_of_the_connections_and_leaves_the_others_theirs(
    settings: Settings, client: Client
) -> None:
    async with (
        served(settings, client, api_max_connections=4, api_connection_share=0.5) as port,
        being_served(port),
        being_served(port),
    ):
        for _ in range(6):
            # Those that wait for being told are no more either.
            status, _, problem = await said(port, REQUEST)
            assert (status, problem["code"]) == (503, "busy")
        async with being_served(port, "127.0.0.2"), being_served(port, "127.0.0.2"):
            pass


async def test_a_proxy_that_is_named_may_have_all_the_connections(settings: Settings, client: Client) -> None:
    named = {"forwarded_allow_ips": "10.0.0.0/8, 127.0.0.1"}
    async with (
        served(settings, client, api_max_connections=4, api_connection_share=0.5, **named) as port,
        being_served(port),
        being_served(port),
        being_served(port),
    ):
        pass


@pytest.mark.parametrize("share", [1, 0.5])
@pytest.mark.usefixtures("nobody_is_spared")
async def test_sockets_that_say_nothing_give_way_the_oldest_first(
    settings: Settings, client: Client, share: float
) -> None:
    most = int(2 / share)
    async with (
        served(settings, client, api_max_connections=most, api_connection_share=share) as port,
        connected(port) as (silent, _),
        connected(port) as (half, write_half),
    ):
        write_half.write(b"GET /healthz HTTP/1.1\r\nHost:")
        async with being_served(port):
            assert await asyncio.wait_for(silent.read(), 30) == b""
            async with being_served(port):
                status, _, problem = understood(await asyncio.wait_for(half.read(), 30))
                assert (status, problem["code"]) == (503, "busy")
                assert (await said(port, REQUEST))[0] == 503


@pytest.mark.parametrize("share", [1, 0.5])
@pytest.mark.usefixtures("nobody_is_spared")
async def test_connections_that_rest_give_way_after_those_that_say_nothing(
    settings: Settings, client: Client, share: float
) -> None:
    most = int(3 / share)
    async with (
        served(settings, client, api_max_connections=most, api_connection_share=share) as port,
        answered(port) as (first, write_first),
        answered(port) as (second, _),
        connected(port) as (silent, _),
    ):
        write_first.write(REQUEST)
        await first.readuntil(b"}")
        async with answered(port) as (newest, _):
            assert await asyncio.wait_for(silent.read(), 30) == b""
            async with being_served(port):
                # The one that has rested longest since its last answer.
                assert await asyncio.wait_for(second.read(), 30) == b""
                async with being_served(port):
                    assert await asyncio.wait_for(first.read(), 30) == b""
                    async with being_served(port):
                        assert await asyncio.wait_for(newest.read(), 30) == b""
                        assert (await said(port, REQUEST))[0] == 503


A_GUESS = f"{TIMESTAMP_HEADER}: 1\r\n{SIGNATURE_HEADER}: v1=guess\r\n"


@asynccontextmanager
async def owing_a_body(
    port: int, head: str, address: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection over which a stranger has sent a whole header, and is read from for the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    writer.write(f"POST {head}\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n".encode())
    writer.write(f"{A_GUESS}\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    try:
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize("believed", ["", "127.0.0.1"])
@pytest.mark.usefixtures("nobody_is_spared")
async def test_bodies_that_nobody_vouches_for_yet_give_way_before_connections_that_rest(
    settings: Settings, client: Client, believed: str
) -> None:
    tight = {"api_max_connections": 3, "api_connection_share": 1, "forwarded_allow_ips": believed}
    payment = "/v1/webhooks/payment HTTP/1.1"
    async with (
        served(settings, client, **tight) as port,
        answered(port) as (resting, write_resting),
        owing_a_body(port, payment) as (first, _),
        owing_a_body(port, payment) as (second, write_second),
    ):
        # A byte now and then makes it no younger.
        write_second.write(b"{")
        async with being_served(port):
            status, headers, problem = understood(await asyncio.wait_for(first.read(), 30))
            assert (status, problem["code"], headers["connection"]) == (503, "busy", "close")
            async with being_served(port):
                assert understood(await asyncio.wait_for(second.read(), 30))[0] == 503
                write_resting.write(REQUEST)
                assert (await resting.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")


async def test_a_body_that_is_on_its_way_since_just_now_is_waited_for(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_SPARED_SECONDS", 3600.0)
    async with (
        served(settings, client, api_max_connections=1, api_connection_share=1) as port,
        owing_a_body(port, "/v1/webhooks/payment HTTP/1.1") as (reader, writer),
    ):
        assert (await said(port, REQUEST))[0] == 503
        writer.write(b"{}        ")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("path", ["/v1/orders", "/v1/webhooks/payment", "/docs"])
async def test_a_stranger_whose_body_is_not_read_is_soon_hung_up_on(
    settings: Settings, client: Client, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_LAST_SECONDS", 0.1)
    method = "GET" if path == "/docs" else "POST"
    async with served(settings, client, api_header_seconds=600) as port, connected(port) as (reader, writer):
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 30)
    assert answer.startswith(b"HTTP/1.1 200 " if path == "/docs" else b"HTTP/1.1 401 ")


async def test_a_stranger_whose_body_comes_after_its_answer_may_ask_again(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_LAST_SECONDS", 1.0)
    async with served(settings, client) as port, connected(port) as (reader, writer):
        writer.write(b"POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 401 ")
        writer.write(b"{}")
        # It is there for longer than who goes on sending is listened to.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 1.5)
        writer.write(REQUEST)
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")


async def test_a_request_that_was_sent_with_the_one_before_has_the_same_time_for_its_body(
    settings: Settings, client: Client
) -> None:
    late = f"POST /v1/orders HTTP/1.1\r\nHost: a\r\n{AUTHORISED}Content-Length: 100\r\n\r\n{{"
    async with (
        served(settings, client, api_header_seconds=0.1, api_body_seconds=1) as port,
        connected(port) as (reader, writer),
    ):
        writer.write(REQUEST + late.encode())
        answers = await asyncio.wait_for(reader.read(), 30)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"408"]


async def test_who_came_just_now_is_not_sent_away_for_a_header_that_is_on_its_way(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_SPARED_SECONDS", 3600.0)
    async with (
        served(settings, client, api_max_connections=1, api_connection_share=1) as port,
        connected(port) as (reader, writer),
    ):
        assert (await said(port, REQUEST))[0] == 503
        writer.write(REQUEST)
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.usefixtures("nobody_is_spared")
async def test_many_silent_sockets_of_one_address_shut_nobody_out(settings: Settings, client: Client) -> None:
    async with served(settings, client, api_max_connections=8) as port:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
        for address in ("127.0.0.1", "127.0.0.2"):
            async with being_served(port, address):
                pass
        for _, writer in opened:
            writer.close()


async def test_a_connection_is_kept_for_the_next_request_as_long_as_is_set(
    settings: Settings, client: Client
) -> None:
    # Longer than the 60 s that proxies keep an idle connection at most: else a request crosses our hanging up.
    usual = protocol.uvicorn_config(None, settings, stop_within_seconds=1)
    assert usual.timeout_keep_alive == 75
    async with served(settings, client, api_keep_alive_seconds=1) as port, answered(port) as (reader, _):
        assert await asyncio.wait_for(reader.read(1), 30) == b""


# --- Who calls ---
@pytest.mark.parametrize(
    ("believed", "callers"), [("", 1), ("192.0.2.1", 1), ("127.0.0.1", 2), ("127.0.0.0/8", 2), ("*", 2)]
)
async def test_who_calls_is_what_a_proxy_says_that_is_named_and_nobody_elses_word(
    settings: Settings, client: Client, believed: str, callers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # uvicorn's own variable is not asked.
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    tight = {"stranger_rate": 0.01, "stranger_burst": 1, "forwarded_allow_ips": believed}
    async with (
        served(settings, client, **tight) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as caller,
    ):
        answers = [
            await caller.get("/docs", headers={"X-Forwarded-For": f"198.51.100.{number}"})
            for number in (1, 2)
        ]
    assert [answer.status_code for answer in answers].count(200) == callers


@pytest.mark.parametrize("believed", ["*", "0.0.0.0/0, ::/0"])
async def test_where_everybody_is_believed_no_caller_can_choose_who_it_is(
    settings: Settings, client: Client, believed: str
) -> None:
    tight = {"stranger_rate": 0.01, "stranger_burst": 1, "forwarded_allow_ips": believed}
    async with (
        served(settings, client, **tight) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as caller,
    ):
        # What the caller sends stands left of what the nearest proxy appends.
        answers = [
            await caller.get("/docs", headers={"X-Forwarded-For": f"198.51.100.{number}, 203.0.113.5"})
            for number in (1, 2)
        ]
    assert [answer.status_code for answer in answers] == [200, 429]


@pytest.mark.parametrize(
    ("named", "forwarded_for", "caller"),
    [
        ("*", "198.51.100.1, 203.0.113.5", "203.0.113.5"),
        ("*", "203.0.113.5:4711", "203.0.113.5"),
        ("*", "[2001:db8::1]:4711", "2001:db8::1"),
        ("*", "::ffff:203.0.113.5", "203.0.113.5"),
        # What is no address is nobody: the connection's own counts.
        ("*", "198.51.100.1, unknown", None),
        ("*", "198.51.100.1,", None),
        ("*", "", None),
        ("10.0.0.0/8", "198.51.100.1, 203.0.113.5", "203.0.113.5"),
        ("10.0.0.0/8", "198.51.100.1, 203.0.113.5, 10.0.0.7", "203.0.113.5"),
        # Up to where the proxies' own word reaches.
        ("10.0.0.0/8", "198.51.100.1, unknown, 10.0.0.7", "10.0.0.7"),
        ("10.0.0.0/8", "10.0.0.9, 10.0.0.7", "10.0.0.9"),
        ("10.0.0.0/8", "unknown", None),
    ],
)
def test_caller_is_what_the_nearest_proxy_appended(
    named: str, forwarded_for: str, caller: str | None
) -> None:
    found = Proxies(Settings(forwarded_allow_ips=named)).caller(forwarded_for)
    assert (found and found[0]) == caller


async def test_scheme_is_what_a_proxy_says_that_is_believed(settings: Settings, client: Client) -> None:
    secure = {}
    for believed in ("", "127.0.0.1", "*"):
        async with (
            served(settings, client, forwarded_allow_ips=believed) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as caller,
        ):
            answer = await caller.get("/healthz", headers={"X-Forwarded-Proto": "https"})
            secure[believed] = "Strict-Transport-Security" in answer.headers
    assert secure == {"": False, "127.0.0.1": True, "*": True}


def test_proxies_that_cannot_be_read_are_refused() -> None:
    for unreadable in ("proxy.internal", "10.0.0.1/8", "10.0.0.1 10.0.0.2"):
        with pytest.raises(ValueError, match="forwarded_allow_ips"):
            Settings(forwarded_allow_ips=unreadable)
    assert Settings(forwarded_allow_ips=" 10.0.0.1,, ::1 ").proxies == ("10.0.0.1", "::1")
