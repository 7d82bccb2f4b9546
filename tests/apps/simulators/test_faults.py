"""Fault scripts: the simulators misbehave as told, no more and no longer, and keep their books right meanwhile."""

import asyncio
import http.client
import json
import signal
import sqlite3
import time
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route

from apps.simulators.faults import (
    ENDPOINTS,
    HARSH,
    OFF,
    PRESETS,
    Fault,
    FaultKind,
    FaultScript,
    in_force,
    put_in_force,
    read_script,
)
from apps.simulators.faults import Simulator as Simulated
from apps.simulators.misbehaving import Misbehaving
from apps.simulators.serving import Settings
from models.errors import InvalidDocument
from models.messages import CarrierEventKind
from tests.apps.simulators.requests import a_label, a_pick, an_amount, an_authorisation
from tests.apps.simulators.running import Simulator, answer, ask, eventually, inside, listening, running


def script(*faults: Fault, seed: int = 0) -> FaultScript:
    return FaultScript(seed=seed, fault=faults)


def authorise(one: Simulator, key: str, *, patience: float = 30.0) -> int:
    """The status of the answer; 0 for a connection that was cut, -1 for no answer within ``patience``."""
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=patience)
    try:
        connection.request(
            "POST", "/authorisations", body=json.dumps(an_authorisation()), headers={"Idempotency-Key": key}
        )
        return connection.getresponse().status
    except TimeoutError:
        return -1
    except (ConnectionError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def held(one: Simulator) -> int:
    return int(ask(one, "GET", "/statement").body["totals"]["authorisations_open"]["count"])


def test_every_way_an_exchange_can_break(tmp_path: Path) -> None:
    payment = Simulator("payment", tmp_path)
    with running(payment):
        # (fault, what the caller sees, whether the money is held all the same)
        for number, (fault, seen, done) in enumerate(
            [
                (Fault(do=FaultKind.STATUS, status=503), 503, False),
                (Fault(do=FaultKind.STATUS, status=429), 429, False),
                (Fault(do=FaultKind.STATUS, status=500), 500, False),
                (Fault(do=FaultKind.RESET_BEFORE), 0, False),
                (Fault(do=FaultKind.RESET_AFTER), 0, True),
                (Fault(do=FaultKind.TIME_OUT_BEFORE), -1, False),
                (Fault(do=FaultKind.TIME_OUT_AFTER), -1, True),
                (Fault(do=FaultKind.TIME_OUT_BEFORE, seconds=0.2), 0, False),
            ]
        ):
            before = held(payment)
            put_in_force(script(fault), tmp_path)
            assert authorise(payment, f"k{number}", patience=1.0 if seen < 0 else 30.0) == seen, fault.do
            assert held(payment) - before == int(done), fault.do
            # Once is what the script says: the same request is well treated now, and there is one hold.
            assert authorise(payment, f"k{number}") == 201
            assert held(payment) - before == 1, fault.do


def test_a_status_says_when_to_come_back(tmp_path: Path) -> None:
    payment = Simulator("payment", tmp_path)
    with running(payment):
        put_in_force(script(Fault(do=FaultKind.STATUS, status=429, seconds=7)), tmp_path)
        answer = httpx.post(
            f"{payment.url}/authorisations", json=an_authorisation(), headers={"Idempotency-Key": "k"}
        )
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")


async def test_latency_holds_an_answer_back_and_changes_nothing(tmp_path: Path) -> None:
    put_in_force(script(Fault(do=FaultKind.LATENCY, seconds=0.3)), tmp_path)
    async with inside("payment", tmp_path) as payment:
        began = time.monotonic()
        answer = await payment.post(
            "/authorisations", json=an_authorisation(), headers={"Idempotency-Key": "k"}
        )
        assert time.monotonic() - began >= 0.3
        assert answer.status_code == 201


def test_how_often_a_fault_struck_survives_a_kill_and_a_new_script_begins_anew(tmp_path: Path) -> None:
    twice = script(Fault(do=FaultKind.STATUS, times=2))
    put_in_force(twice, tmp_path)
    payment = Simulator("payment", tmp_path)
    with running(payment):
        assert authorise(payment, "k") == 503
        payment.end(signal.SIGKILL)
        payment.start()
        assert [authorise(payment, "k"), authorise(payment, "k")] == [503, 201]
        put_in_force(OFF, tmp_path)
        assert authorise(payment, "other") == 201
        put_in_force(script(Fault(do=FaultKind.STATUS, times=1, status=500)), tmp_path)
        assert authorise(payment, "k") == 500
        # People and supervisors are answered whatever happens.
        put_in_force(script(Fault(do=FaultKind.STATUS, times=0)), tmp_path)
        assert [authorise(payment, "k") for _ in range(5)] == [503] * 5
        assert ask(payment, "GET", "/healthz").status == 200


async def test_a_fault_strikes_only_where_and_whom_the_script_names(tmp_path: Path) -> None:
    put_in_force(
        script(
            Fault(do=FaultKind.STATUS, at="payment", endpoint="POST /authorisations/*/captures", times=0),
            Fault(do=FaultKind.STATUS, order="web:7*", status=500, times=0),
            Fault(do=FaultKind.STATUS, at="carrier", status=502, times=0),
        ),
        tmp_path,
    )
    async with inside("payment", tmp_path) as payment:

        async def post(path: str, key: str, body: dict[str, object]) -> httpx.Response:
            return await payment.post(path, json=body, headers={"Idempotency-Key": key})

        made = await post("/authorisations", "order:web:1:authorise:1", an_authorisation())
        assert made.status_code == 201
        captures = f"/authorisations/{made.json()['authorisation_id']}/captures"
        assert (await post(captures, "shipment:web:1:1:capture:1", an_amount(10))).status_code == 503
        assert (
            await post("/authorisations", "order:web:77:authorise:1", an_authorisation())
        ).status_code == 500
        looked_up = await payment.get("/authorisations", params={"key": "order:web:77:authorise:1"})
        assert looked_up.status_code == 500


async def test_a_share_falls_on_the_same_keys_every_time(tmp_path: Path) -> None:
    async def struck(folder: str, seed: int) -> set[int]:
        put_in_force(script(Fault(do=FaultKind.DECLINE_HARD, share=0.3), seed=seed), tmp_path / folder)
        async with inside("payment", tmp_path / folder) as payment:
            answers = [
                await payment.post(
                    "/authorisations", json=an_authorisation(), headers={"Idempotency-Key": f"k{n}"}
                )
                for n in range(100)
            ]
        return {n for n, answer in enumerate(answers) if answer.status_code == 402}

    first = await struck("a", 1)
    assert 15 <= len(first) <= 45
    assert await struck("b", 1) == first
    assert await struck("c", 2) != first


async def test_every_business_answer_can_go_wrong(tmp_path: Path) -> None:
    async def answer(name: str, path: str, body: dict[str, object], kind: FaultKind) -> httpx.Response:
        put_in_force(script(Fault(do=kind)), tmp_path)
        async with inside(name, tmp_path) as simulator:  # type: ignore[arg-type]
            return await simulator.post(path, json=body, headers={"Idempotency-Key": f"key {kind}"})

    soft = await answer("payment", "/authorisations", an_authorisation(), FaultKind.DECLINE_SOFT)
    hard = await answer("payment", "/authorisations", an_authorisation(), FaultKind.DECLINE_HARD)
    assert (soft.status_code, soft.json()["final"], hard.json()["final"]) == (402, False, True)
    refused = await answer("warehouse", "/picks", a_pick(), FaultKind.REFUSE_PICK)
    assert refused.status_code == 409
    assert "not_on_hand" in refused.json()["reason"]
    label = await answer("carrier", "/labels", a_label(), FaultKind.REFUSE_LABEL)
    assert label.status_code == 409


@pytest.mark.parametrize("kind", [FaultKind.DECLINE_SOFT, FaultKind.REFUSE_PICK, FaultKind.REFUSE_LABEL])
async def test_what_was_refused_as_often_as_the_script_says_is_accepted_at_the_next_attempt(
    tmp_path: Path, kind: FaultKind
) -> None:
    simulator, path, body, step = {
        FaultKind.DECLINE_SOFT: ("payment", "/authorisations", an_authorisation(), "order:web:1:authorise"),
        FaultKind.REFUSE_PICK: ("warehouse", "/picks", a_pick(), "shipment:web:1:1:pick"),
        FaultKind.REFUSE_LABEL: ("carrier", "/labels", a_label(), "shipment:web:1:1:label"),
    }[kind]
    async with inside(simulator, tmp_path) as one:  # type: ignore[arg-type]

        async def refused(attempt: str) -> bool:
            answer = await one.post(path, json=body, headers={"Idempotency-Key": attempt})
            assert answer.status_code in (201, 402, 409)
            return answer.status_code != 201

        put_in_force(script(Fault(do=kind, order="web:1", times=2)), tmp_path)
        assert [await refused(f"{step}:{number}") for number in (1, 1, 2, 3, 4)] == [
            True,
            True,
            True,
            False,
            False,
        ]
        # Another thing of the same order, and another order, have counts of their own.
        assert await refused(f"{step}-other:1")
        put_in_force(script(Fault(do=kind, order="web:1", times=0)), tmp_path)
        assert [await refused(f"{step}:{number}") for number in (5, 6, 7)] == [True, True, True]
        put_in_force(script(Fault(do=kind, times=0, share=0.5)), tmp_path)
        assert len({await refused(f"{step}:{number}") for number in range(11, 31)}) == 1, (
            "all attempts or none"
        )


async def test_a_parcel_meets_the_fate_that_the_script_has_for_it(tmp_path: Path) -> None:
    last = {
        FaultKind.LATE_PARCEL: CarrierEventKind.DELIVERED,
        FaultKind.LOST_PARCEL: CarrierEventKind.LOST,
        FaultKind.DAMAGED_PARCEL: CarrierEventKind.DAMAGED,
        FaultKind.FAILED_DELIVERY: CarrierEventKind.DELIVERED,
    }
    async with inside("carrier", tmp_path) as carrier:
        for kind, ends in last.items():
            put_in_force(script(Fault(do=kind)), tmp_path)
            await carrier.post("/labels", json=a_label(), headers={"Idempotency-Key": kind})
            # A day lasts a second here, the longest way a week and a day more.
            seen: list[str] = []
            deadline = time.monotonic() + 60
            while str(ends) not in seen:
                assert time.monotonic() < deadline, (kind, seen)
                await asyncio.sleep(0.05)
                found = await carrier.get("/labels", params={"key": kind})
                seen = [event["kind"] for event in found.json()["events"]]
            assert ("exception" in seen) is (kind is FaultKind.FAILED_DELIVERY)


async def test_webhooks_come_twice_late_or_never_and_the_look_up_knows_them_all(tmp_path: Path) -> None:
    put_in_force(
        script(
            Fault(do=FaultKind.WEBHOOK_TWICE, endpoint="carrier_event collected"),
            Fault(do=FaultKind.WEBHOOK_LATE, endpoint="carrier_event in_transit", seconds=3),
            Fault(do=FaultKind.WEBHOOK_LOST, endpoint="carrier_event out_for_delivery"),
        ),
        tmp_path,
    )
    async with listening() as post, inside("carrier", tmp_path, webhook_url=post.url) as carrier:
        await carrier.post("/labels", json=a_label(), headers={"Idempotency-Key": "l"})
        await eventually(lambda: len(post.received) == 4, "four webhooks")
        found = await carrier.get("/labels", params={"key": "l"})
        counts = {"waiting": 1}
        while counts["waiting"]:  # the receiver has the last one a moment before that is written down
            await asyncio.sleep(0.02)
            counts = (await carrier.get("/healthz")).json()["webhooks"]
    kinds = [str(webhook.event.kind) for webhook in post.webhooks()]
    assert kinds == ["collected", "collected", "delivered", "in_transit"]
    assert [event["kind"] for event in found.json()["events"]] == [
        "collected",
        "in_transit",
        "out_for_delivery",
        "delivered",
    ]
    assert counts == {"waiting": 0, "delivered": 4, "refused": 0, "lost": 1}


def test_a_script_is_read_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "faults.toml"
    file.write_text(
        'seed = 7\n[[fault]]\nat = "payment"\nendpoint = "POST /authorisations"\norder = "web:10*"\n'
        'do = "time_out_after"\nshare = 0.1\ntimes = 2\n'
    )
    read = read_script(file)
    assert read == FaultScript(
        seed=7,
        fault=(
            Fault(
                do=FaultKind.TIME_OUT_AFTER,
                at="payment",
                endpoint="POST /authorisations",
                order="web:10*",
                share=0.1,
                times=2,
            ),
        ),
    )
    put_in_force(read, tmp_path)
    assert in_force(tmp_path) == read


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("fault = 3", "fault"),
        ('[[fault]]\ndo = "explode"', "fault.0.do"),
        ('[[fault]]\ndo = "status"\nshare = 2.0', "fault.0.share"),
        ('[[fault]]\ndo = "status"\nstatus = 200', "fault.0.status"),
        ('[[fault]]\ndo = "short_pick"\nat = "payment"', "fault.0"),
        ('[[fault]]\ndo = "webhook_lost"\nat = "messages"', "fault.0"),
        ('[[fault]]\ndo = "reset_after"\nseconds = 3', "fault.0"),
        ('[[fault]]\ndo = "status"\nendpiont = "x"', "fault.0.endpiont"),
        ('[[fault]]\ndo = "status"\nendpoint = "POST /authorizations"', "fault.0"),
        ('[[fault]]\ndo = "status"\nat = "carrier"\nendpoint = "POST /authorisations"', "fault.0"),
        ('[[fault]]\ndo = "late_parcel"\nendpoint = "carrier_event delivered"', "fault.0"),
        ('[[fault]]\ndo = "webhook_lost"\nendpoint = "POST /labels"', "fault.0"),
        ('[[fault]]\ndo = "webhook_lost"\nat = "payment"\nendpoint = "wms_event *"', "fault.0"),
        ("not toml", "faults.toml"),
    ],
)
def test_a_script_that_cannot_be_used_says_where(tmp_path: Path, content: str, where: str) -> None:
    file = tmp_path / "faults.toml"
    file.write_text(content)
    with pytest.raises(InvalidDocument) as refused:
        read_script(file)
    assert any(problem.path.endswith(where) for problem in refused.value.problems)


def test_an_endpoint_at_which_a_fault_can_never_strike_is_refused_with_those_at_which_it_can(
    tmp_path: Path,
) -> None:
    file = tmp_path / "faults.toml"
    file.write_text('[[fault]]\ndo = "status"\nat = "warehouse"\nendpoint = "POST /pick"')
    with pytest.raises(InvalidDocument) as refused:
        read_script(file)
    (problem,) = refused.value.problems
    assert "'POST /pick'; it can at: POST /picks, GET /picks, POST /picks/cancel" in problem.message


@pytest.mark.parametrize(
    ("kind", "endpoint"),
    [
        (FaultKind.STATUS, "POST *"),
        (FaultKind.STATUS, "POST /authorisations/*/captures"),
        (FaultKind.STATUS, "POST /captures/cap_17/refunds"),
        (FaultKind.STATUS, "POST /captures/cap_*/refunds"),
        (FaultKind.LOST_PARCEL, "POST /labels"),
        (FaultKind.WEBHOOK_LATE, "*_event *"),
        (FaultKind.WEBHOOK_TWICE, "payment_event disputed"),
    ],
)
def test_an_endpoint_at_which_a_fault_can_strike_is_taken(kind: FaultKind, endpoint: str) -> None:
    assert Fault(do=kind, endpoint=endpoint).endpoint == endpoint


@pytest.mark.parametrize("name", ENDPOINTS)
async def test_every_endpoint_of_a_simulator_can_be_named(tmp_path: Path, name: Simulated) -> None:
    async with inside(name, tmp_path) as caller:
        transport = caller._transport
        assert isinstance(transport, httpx.ASGITransport)
        app = transport.app
        assert isinstance(app, Misbehaving)
        routes = [route for route in app.app.routes if isinstance(route, Route)]
    served = {
        f"{method} {route.path}"
        for route in routes
        for method in (route.methods or set()) - {"HEAD"}
        if route.path not in ("/healthz", "/statement")
    }
    assert served == set(ENDPOINTS[name])


def test_the_harsh_preset_knows_every_kind_of_fault() -> None:
    assert {fault.do for fault in HARSH.fault} == set(FaultKind)
    assert PRESETS["off"] == OFF == FaultScript()


# --- the customer whose payment was declined -------------------------------------------------------------------------
async def all_are_settled(gateway: httpx.AsyncClient) -> dict[str, int]:
    """What became of everything that was planned, once nothing of it waits any more."""
    deadline = time.monotonic() + 60
    while True:
        counts: dict[str, int] = (await gateway.get("/healthz")).json()["webhooks"]
        if not counts["waiting"]:
            return counts
        assert time.monotonic() < deadline, counts
        await asyncio.sleep(0.02)


def a_decline(post_url: str, n: int = 0) -> dict[str, object]:
    facts = {"pay_link": f"{post_url}/v1/pay/link-{n}.signature", "until": "2026-03-05T09:30:00+00:00"}
    return {
        "audience": "customer",
        "template": "payment_declined",
        "to": "a@b.example",
        "facts": facts,
    }


async def test_a_share_of_customers_pay_by_the_link_some_hours_later_and_the_same_ones_every_time(
    tmp_path: Path,
) -> None:
    paid: list[set[str]] = []
    for folder in ("first", "again"):
        put_in_force(FaultScript(seed=3, customers_pay=0.5), tmp_path / folder)
        async with listening() as post, inside("messages", tmp_path / folder) as gateway:
            post.behaviour = answer(200, b"{}")
            for n in range(40):
                sent = await gateway.post(
                    "/messages",
                    json=a_decline(post.url, n),
                    headers={"Idempotency-Key": f"order:web:{n}:notify:1"},
                )
                assert sent.status_code == 201
            await all_are_settled(gateway)
            targets = [request.target for request in post.received]
            assert len(targets) == len(set(targets)), "each pays once"
            paid.append(set(targets))
            for request in post.received:
                assert json.loads(request.body)["token"].startswith("tok_another_")
                assert "orderwright-signature" not in {name.lower() for name in request.headers}
    assert paid[0] == paid[1]
    assert 10 < len(paid[0]) < 30


@pytest.mark.parametrize(
    ("share", "changes"),
    [
        (0.0, {}),
        (1.0, {"template": "shipped"}),
        (1.0, {"facts": {}}),
        (1.0, {"facts": {"pay_link": "https://shop.example/pay?token=a.b"}}),
    ],
    ids=["off", "another message", "no link", "a page of the shop's"],
)
async def test_no_customer_pays_unless_a_script_says_so_and_there_is_a_link_of_the_apis(
    tmp_path: Path, share: float, changes: dict[str, object]
) -> None:
    put_in_force(FaultScript(customers_pay=share), tmp_path)
    async with listening() as post, inside("messages", tmp_path) as gateway:
        asked = a_decline(post.url) | changes
        await gateway.post("/messages", json=asked, headers={"Idempotency-Key": "order:web:1:notify:1"})
        counts = (await gateway.get("/healthz")).json()["webhooks"]
    assert counts == {"waiting": 0, "delivered": 0, "refused": 0, "lost": 0}


async def test_a_customer_waits_on_the_business_clock_and_tries_again_when_nobody_answers(
    tmp_path: Path,
) -> None:
    put_in_force(FaultScript(customers_pay=1.0), tmp_path)
    slowly = Settings(seed=0, speed=60.0)
    async with listening() as post:
        async with inside("messages", tmp_path, slowly) as gateway:
            key = {"Idempotency-Key": "order:web:1:notify:1"}
            await gateway.post("/messages", json=a_decline(post.url), headers=key)
            assert (await gateway.get("/healthz")).json()["webhooks"]["waiting"] == 1
        ledger = sqlite3.connect(tmp_path / "messages.sqlite")
        due, asked_at = ledger.execute("select due_at, ? from webhooks", (time.time(),)).fetchone()
        assert 3600 / 60 - 5 <= due - asked_at <= 30 * 3600 / 60
        # What was planned is kept over the end of the process.
        ledger.execute("update webhooks set due_at = 0, next_try_at = 0")
        ledger.commit()
        post.behaviour = answer(503, Retry_After="1")
        async with inside("messages", tmp_path, slowly) as gateway:
            await eventually(lambda: len(post.received) >= 2, "a second try")
            post.behaviour = answer(202)
            assert (await all_are_settled(gateway))["delivered"] == 1


async def test_a_customer_whose_link_is_over_gives_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_in_force(FaultScript(customers_pay=1.0), tmp_path)
    async with listening() as post, inside("messages", tmp_path) as gateway:
        post.behaviour = answer(404, b"{}")
        key = {"Idempotency-Key": "order:web:1:notify:1"}
        await gateway.post("/messages", json=a_decline(post.url), headers=key)
        assert (await all_are_settled(gateway))["refused"] == 1
    said = capsys.readouterr().err
    assert "a pay link refused" in said
    assert "link-0" not in said


async def test_a_file_of_the_version_before_is_taken_over(tmp_path: Path) -> None:
    async with inside("messages", tmp_path):
        pass
    with sqlite3.connect(tmp_path / "messages.sqlite") as file:
        file.execute("alter table webhooks drop column url")
    put_in_force(FaultScript(customers_pay=1.0), tmp_path)
    async with listening() as post, inside("messages", tmp_path) as gateway:
        await gateway.post(
            "/messages", json=a_decline(post.url), headers={"Idempotency-Key": "order:web:1:notify:1"}
        )
        await eventually(lambda: len(post.received) == 1, "the customer's card")


def test_harsh_lets_most_customers_pay_and_is_told_by_the_command(tmp_path: Path) -> None:
    assert HARSH.customers_pay == 0.7
    assert OFF.customers_pay == 0
    file = tmp_path / "script.toml"
    file.write_text("customers_pay = 0.7\n")
    assert read_script(file).customers_pay == 0.7
    file.write_text("customers_pay = 1.5\n")
    with pytest.raises(InvalidDocument, match="customers_pay"):
        read_script(file)
