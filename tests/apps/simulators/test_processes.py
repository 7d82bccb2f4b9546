"""The simulators as processes: what they keep over a kill, and their command line."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from apps.simulators.__main__ import main
from models.messages import CarrierEvent, CarrierEventKind
from tests.apps.simulators.requests import a_label, a_message, an_authorisation
from tests.apps.simulators.running import Simulator, ask, eventually, free_port, inside, listening, running


async def test_a_killed_carrier_remembers_its_labels_and_goes_on_delivering(tmp_path: Path) -> None:
    async with listening() as post:
        # The parcel is collected two to eight business hours after its label was bought: five seconds or more.
        carrier = Simulator("carrier", tmp_path, speed=1440.0, webhook_url=f"{post.url}/v1/webhooks/carrier")
        with running(carrier):
            before = ask(carrier, "POST", "/labels", key="l1", body=a_label())
            carrier.end(signal.SIGKILL)
            carrier.start()
            after = ask(carrier, "POST", "/labels", key="l1", body=a_label())
            await eventually(lambda: len(post.received) >= 1, "the collection")

    assert before.status == after.status == 201
    assert before.body == after.body
    assert post.received[0].target == "/v1/webhooks/carrier"
    event = post.webhooks()[0].event
    assert isinstance(event, CarrierEvent)
    assert event.kind is CarrierEventKind.COLLECTED


def test_nothing_that_was_answered_is_lost_by_a_kill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    payment = Simulator("payment", tmp_path)
    with running(payment):
        for n in range(20):
            answered = ask(payment, "POST", "/authorisations", key=f"a{n}", body=an_authorisation())
            assert answered.status == 201
        payment.end(signal.SIGKILL)

        held = {"count": 20, "amounts": {"GBP": 20_000}}
        assert statements(tmp_path, capsys)["payment"]["totals"]["authorisations_open"] == held

        payment.start()
        again = ask(payment, "POST", "/authorisations", key="a7", body=an_authorisation())
        found = ask(payment, "GET", "/authorisations?key=a7")
        assert again.body == found.body
        assert ask(payment, "GET", "/statement").body == statements(tmp_path, capsys)["payment"]
        # What a terminal's Ctrl-C or a supervisor sends ends it in order.
        assert payment.end(signal.SIGTERM) in (0, -signal.SIGTERM)


async def test_a_second_simulator_on_the_same_state_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with inside("messages", tmp_path) as first:
        assert main(["messages", "--port", str(free_port()), "--data-dir", str(tmp_path)]) == 3
        sent = await first.post("/messages", json=a_message(), headers={"Idempotency-Key": "m1"})

    assert "another simulator is using" in capsys.readouterr().err
    assert sent.status_code == 201


def test_the_statement_of_simulators_that_never_ran_is_empty_and_makes_no_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [one["effects"] for one in statements(tmp_path, capsys).values()] == [[], [], [], []]
    assert list(tmp_path.iterdir()) == []


async def test_the_statement_names_totals_and_effects_but_no_addresses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with inside("messages", tmp_path) as messages:
        await messages.post("/messages", json=a_message(), headers={"Idempotency-Key": "m1"})
    async with inside("carrier", tmp_path) as carrier:
        await carrier.post("/labels", json=a_label(), headers={"Idempotency-Key": "l1"})

    assert main(["statement", "--data-dir", str(tmp_path)]) == 0

    printed = capsys.readouterr().out
    assert "395 GBP  web:1:1  key=l1" in printed
    assert "key=m1" in printed
    assert "someone@example.org" not in printed
    assert "A. Customer" not in printed


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["postman", "--port", "1"],
        ["payment"],
        ["payment", "--port", "1", "--data-dir", "x", "--speed", "0"],
        ["payment", "--port", "1", "--data-dir", "x", "--speed", "fast"],
        ["payment", "--port", "1", "--data-dir", "x", "--notify"],
        ["carrier", "--port", "1", "--data-dir", "x", "--webhook-url", "localhost:8080"],
        ["carrier", "--port", "1", "--data-dir", "x"],
    ],
)
def test_bad_arguments_are_told_and_answered_with_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORDERWRIGHT_WEBHOOK_SECRET", raising=False)

    try:
        code: object = main(arguments)
    except SystemExit as ended:
        code = ended.code

    assert code == 2
    assert capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def statements(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What ``statement --json`` prints, by simulator."""
    capsys.readouterr()
    assert main(["statement", "--data-dir", str(data_dir), "--json"]) == 0
    return {one["simulator"]: one for one in json.loads(capsys.readouterr().out)}
