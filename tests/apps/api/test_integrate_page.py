"""What ``docs/integrate.md`` tells others to do is done here, as it stands there."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

from activities.adapters.payment import HttpPaymentProvider
from apps.api.contracts import AmendRequest
from models.messages import CancelOutcome
from models.money import Money
from models.outbox import OutboxEnvelope, Topic
from models.webhooks import SIGNATURE_HEADER, TIMESTAMP_HEADER, sign, verify
from policies.amendment import NOT_NOW
from tests.apps.api.test_orders import heard
from workers.embedded.temporal import EmbeddedTemporal
from workers.settings import REPOSITORY
from workflows.order import OrderWorkflow
from workflows.shipment import ShipmentWorkflow

PAGE = (REPOSITORY / "docs" / "integrate.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", PAGE))))
def test_every_link_leads_somewhere(target: str) -> None:
    assert (REPOSITORY / "docs" / target).exists()


def test_python_signature_is_one_that_we_accept() -> None:
    names: dict[str, Any] = {}
    exec(blocks("python")[0], names)
    headers = names["headers"]("secret", b'{"a": 1}')
    verify(("secret",), headers[SIGNATURE_HEADER], headers[TIMESTAMP_HEADER], b'{"a": 1}', time.time())


def test_python_check_of_what_we_post_takes_ours_and_refuses_every_other() -> None:
    names: dict[str, Any] = {}
    exec(blocks("python")[1], names)
    (shown,) = (block for block in blocks("json") if "events" in json.loads(block))
    envelope = OutboxEnvelope.model_validate_json(shown)
    body, now = envelope.model_dump_json().encode(), int(time.time())

    def told(sent: bytes, at: int, secret: str = "secret") -> list[dict[str, Any]]:
        headers = {TIMESTAMP_HEADER: str(at), SIGNATURE_HEADER: sign(secret, at, body)}
        found: list[dict[str, Any]] = names["events"]("secret", headers, sent)
        return found

    events = told(body, now)
    assert [event["event_id"] for event in events] == [event.event_id for event in envelope.events]
    for sent, at, secret in ((body + b" ", now, "secret"), (body, now - 301, "secret"), (body, now, "other")):
        with pytest.raises(PermissionError):
            told(sent, at, secret)
    known, applied = set[str](), list[Any]()
    for _ in range(2):
        names["apply_once"](known, events, applied.append)
    assert applied == events


def test_every_topic_is_told_of_and_no_other() -> None:
    table = PAGE.split("| topic | for |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(Topic)


def test_every_message_named_is_one_that_the_workflows_take() -> None:
    taken = {"order": _messages(OrderWorkflow), "shipment": _messages(ShipmentWorkflow)}
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (\w+) \| (both|order|shipment) \|", PAGE, re.MULTILINE)
    assert len(rows) == 15
    for names, kind, receiver in rows:
        for name in re.findall(r"`(\w+)`", names):
            for case in ("order", "shipment") if receiver == "both" else (receiver,):
                assert (kind, name) in taken[case]


def test_every_outcome_of_a_cancellation_is_explained() -> None:
    table = PAGE.split("| `outcome` | what happens |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(CancelOutcome)


def test_the_amendment_that_is_shown_is_one_that_we_take() -> None:
    (body,) = re.findall(r"^  '(\{.*\})'$", PAGE, re.MULTILINE)
    assert AmendRequest.model_validate_json(body).lines[0].quantity == 4


def test_every_code_of_a_cut_off_says_what_to_do() -> None:
    table = PAGE.split("| `problems[].code` of a `409` | do |")[1].split("\n\n")[0]
    explained = {code for row in table.splitlines() for code in re.findall(r"`(\w+)`", row.split(" | ")[0])}
    assert explained >= NOT_NOW | {"preview_outdated"}


async def test_temporal_commands_start_an_order_and_approve_it(
    client: Client, temporal: EmbeddedTemporal, worker: Worker
) -> None:
    start, approve = (block for block in blocks("sh") if block.startswith("temporal"))
    for command in (start, approve):
        ran = await _shell(command, temporal.address)
        assert ran.returncode == 0, ran.stderr
    told = await heard(client, "order:web:1001")
    assert told.run["draft"]["channel"]
    assert [name for name, _ in told.messages] == ["approve"]
    # As the page says: the same start again is the same run.
    run_id = (await client.get_workflow_handle("order:web:1001").describe()).run_id
    await _shell(start, temporal.address)
    assert (await client.get_workflow_handle("order:web:1001").describe()).run_id == run_id


def test_example_problem_is_one_that_we_answer() -> None:
    (shown,) = (told for block in blocks("json") if "status" in (told := json.loads(block)))
    assert set(shown) == {"type", "title", "status", "detail", "code", "problems"}


def _messages(run: type[Any]) -> set[tuple[str, str]]:
    definition = workflow._Definition.must_from_class(run)
    return (
        {("signal", str(name)) for name in definition.signals}
        | {("update", str(name)) for name in definition.updates}
        | {("query", str(name)) for name in definition.queries}
    )


async def _shell(command: str, address: str) -> "subprocess.CompletedProcess[str]":
    beside = str(Path(sys.executable).parent)
    return await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", command],
        cwd=REPOSITORY,
        env=os.environ | {"TEMPORAL_ADDRESS": address, "PATH": f"{beside}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_the_example_of_a_statement_is_one_that_our_adapter_reads() -> None:
    (shown,) = (block for block in blocks("json") if "lines" in json.loads(block))
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=shown))
    async with httpx.AsyncClient(transport=transport) as client:
        page = await HttpPaymentProvider("http://provider", client).statement()
    (line,) = page.lines
    assert (line.kind, line.held) == ("authorise", Money(minor=1925, currency="GBP"))
