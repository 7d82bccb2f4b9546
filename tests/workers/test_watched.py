"""API and worker as a team runs them, on a Temporal server and a PostgreSQL that are not ours, watched from outside."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from workers.client import connect
from workers.embedded.children import Child, end, start_and_wait
from workers.embedded.ports import LOOPBACK, answers_ok, any_port
from workers.embedded.postgres import EmbeddedPostgres
from workers.embedded.temporal import EmbeddedTemporal
from workers.settings import REPOSITORY
from workflows.order import OrderWorkflow
from workflows.shipment import ShipmentWorkflow
from workflows.steps import QUEUES

NAMESPACE = "orderwright-team"
NOBODY = ("WAREHOUSE", "CARRIER", "MESSAGE")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ORDER = json.loads((REPOSITORY / "examples" / "orders" / "simple.json").read_text())


@dataclass(frozen=True)
class Seen:
    """One finished span as a collector gets it."""

    service: str
    name: str
    trace: str
    span: str
    parent: str
    text: str


@dataclass
class Collector:
    """An OpenTelemetry collector that keeps what it gets."""

    url: str = ""
    spans: dict[str, Seen] = field(default_factory=dict)

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(
                a.value.string_value for a in resource.resource.attributes if a.key == "service.name"
            )
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                seen = Seen(
                    service,
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    str(span),
                )
                self.spans[seen.span] = seen

    def way_to(self, name: str) -> list[Seen]:
        """The spans from the root to one called ``name``, or nothing yet."""
        way: list[Seen] = []
        found = next((span for span in self.spans.values() if span.name == name), None)
        while found is not None:
            way.insert(0, found)
            found = self.spans.get(found.parent)
        return way


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    collector.url = f"http://{LOOPBACK}:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    yield collector
    server.shutdown()
    server.server_close()


@dataclass
class Team:
    """What runs, and where."""

    api: httpx.Client
    temporal: str
    health: str
    metrics: str
    logs: dict[str, Path]
    collector: Collector

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.logs[name].read_text().splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def team(database_server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    payment, api, health, metrics = (any_port() for _ in range(4))
    with ExitStack() as stack:
        temporal = stack.enter_context(EmbeddedTemporal(folder, in_memory=True))
        collector = stack.enter_context(collecting())
        own = ("ORDERWRIGHT_", "TEMPORAL_", "DATABASE_URL", "OTEL_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(own)} | {
            "DATABASE_URL": database_server.url("ow_team"),
            "TEMPORAL_ADDRESS": temporal.address,
            "TEMPORAL_NAMESPACE": NAMESPACE,
            "ORDERWRIGHT_API_PORT": str(api),
            "ORDERWRIGHT_API_TOKEN": "a-token-of-the-tests",
            "ORDERWRIGHT_WEBHOOK_SECRET": "a-secret-of-the-tests",
            "ORDERWRIGHT_PAYMENT_URL": f"http://{LOOPBACK}:{payment}",
            # Nobody is there: what is asked of the warehouse fails, and is tried again.
            **{f"ORDERWRIGHT_{name}_URL": f"http://{LOOPBACK}:{any_port()}" for name in NOBODY},
            "ORDERWRIGHT_HEALTH_PORT": str(health),
            "ORDERWRIGHT_METRICS_PORT": str(metrics),
            "ORDERWRIGHT_LOG_JSON": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }

        def run(name: str, *arguments: str, ready: Callable[[], bool] | None = None) -> Path:
            log = folder / f"{name}.log"
            child = Child(
                name, (sys.executable, "-m", *arguments), log, environment, cwd=REPOSITORY, ready=ready
            )
            process = start_and_wait(child)
            stack.callback(end, process, signal.SIGKILL, 5.0)  # nobody needs these data again
            if ready is None:
                assert process.wait() == 0, log.read_text()
            return log

        def simulator() -> bool:
            return answers_ok(f"http://{LOOPBACK}:{payment}/healthz")

        queues = ",".join(QUEUES)
        logs = {
            "prepare": run("prepare", "apps.cli", "prepare"),
            "payment": run(
                "payment", "apps.simulators", "payment", "--port", str(payment), "--data-dir", str(folder),
                ready=simulator,
            ),
            "worker": run(
                "worker", "apps.cli", "worker", "run", "--queues", queues,
                ready=lambda: answers_ok(f"http://{LOOPBACK}:{health}/readyz"),
            ),
            "api": run(
                "api", "apps.cli", "api",
                ready=lambda: answers_ok(f"http://{LOOPBACK}:{api}/readyz", saying=b'"status":"ok"'),
            ),
        }  # fmt: skip
        client = stack.enter_context(
            httpx.Client(
                base_url=f"http://{LOOPBACK}:{api}",
                headers={"Authorization": "Bearer a-token-of-the-tests"},
                timeout=30,
            )
        )
        assert client.post("/v1/orders", json=ORDER).status_code == 202
        yield Team(
            client,
            temporal.address,
            f"http://{LOOPBACK}:{health}",
            f"http://{LOOPBACK}:{metrics}/metrics",
            logs,
            collector,
        )


def until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, f"waited 60 s for {what}"
        time.sleep(0.1)


def test_one_trace_leads_from_the_request_through_the_workflow_to_the_call_of_a_neighbour(team: Team) -> None:
    until(lambda: len(team.collector.way_to("POST payment provider")) > 1, "the call of the provider")
    until(lambda: team.collector.way_to("POST payment provider")[0].name.startswith("POST /v1"), "the root")
    way = team.collector.way_to("POST payment provider")
    # FastAPI and the SDK may add spans of their own in between.
    assert [(span.service, span.name) for span in way if span.name != "fastapi.endpoint"] == [
        ("orderwright-api", "POST /v1/orders"),
        ("orderwright-api", "StartWorkflow:OrderWorkflow"),
        ("orderwright-worker", "StartActivity:authorise_payment"),
        ("orderwright-worker", "RunActivity:authorise_payment"),
        ("orderwright-worker", "POST payment provider"),
    ]
    assert len({span.trace for span in way}) == 1
    until(lambda: team.collector.way_to("RunWorkflow:ShipmentWorkflow"), "the shipment")
    for name in ("RunWorkflow:OrderWorkflow", "RunWorkflow:ShipmentWorkflow"):
        assert team.collector.way_to(name)[0] == way[0], f"{name} is part of the same trace"


async def test_a_run_that_was_traced_replays_without_traces(team: Team) -> None:
    client = await connect(team.temporal, NAMESPACE, from_environment=False)
    run = client.get_workflow_handle(f"order:{ORDER['channel']}:{ORDER['external_id']}")
    history = await run.fetch_history()
    started = history.events[0].workflow_execution_started_event_attributes
    assert started.header.fields, "this run was started within a trace"
    replayer = Replayer(workflows=[OrderWorkflow, ShipmentWorkflow], data_converter=pydantic_data_converter)
    await replayer.replay_workflow(history)


def test_a_worker_says_whether_it_can_work_and_what_it_counts(team: Team) -> None:
    ready = httpx.get(f"{team.health}/readyz")
    assert (ready.status_code, ready.json()["parts"]) == (
        200,
        {"database": "ok", "routing": "ok", "temporal": "ok", "workers": "ok"},
    )
    assert httpx.get(f"{team.health}/healthz").status_code == 200
    assert httpx.get(f"{team.health}/guess").status_code == 404

    failed = re.compile(
        r"^orderwright_step_attempts_failed_total\{(?=.*code=\"neighbour_unavailable\").*request_pick", re.M
    )
    until(lambda: failed.search(httpx.get(team.metrics).text), "a failed attempt to be counted")
    shown = httpx.get(team.metrics).text
    # The step that fails is shown with none done, so that the first one that is done will be seen to be.
    assert re.search(r"^orderwright_step_attempts_done_total\{.*request_pick.* 0$", shown, re.M)
    assert re.search(r"^orderwright_step_attempts_done_total\{.*authorise_payment.* [1-9]\d*$", shown, re.M)
    assert re.search(r"^orderwright_routing_processes_lost_total\{.*how=\"ended\".* 0$", shown, re.M)
    assert re.search(r"^orderwright_routed_by_simple_rule_total\{.*why=\"hung\".* 0$", shown, re.M)
    assert "temporal_activity_execution_latency_seconds_bucket" in httpx.get(team.metrics).text


def test_log_lines_say_which_order_they_are_about(team: Team) -> None:
    def failures() -> list[dict[str, Any]]:
        return [line for line in team.lines("worker") if line.get("step") == "request_pick"]

    until(failures, "the failure to be logged")
    order_id = f"{ORDER['channel']}:{ORDER['external_id']}"
    assert (
        failures()[0].items()
        >= {
            "order_id": order_id,
            "workflow_id": f"shipment:{order_id}:1",
            "actor": "orderwright",
            "attempt": 1,
        }.items()
    )
    (request,) = [
        line for line in team.lines("api") if line["event"] == "request" and line["method"] == "POST"
    ]
    assert request.items() >= {"order_id": order_id, "workflow_id": f"order:{order_id}"}.items()
    assert request["trace_id"] == failures()[0]["trace_id"], "a log line leads to its trace"


def test_neither_logs_nor_traces_hold_personal_data(team: Team) -> None:
    until(lambda: team.collector.way_to("RunActivity:request_pick"), "the failed step")
    told = "".join(path.read_text() for path in team.logs.values())
    told += "".join(span.text for span in team.collector.spans.values())
    person = [*ORDER["customer"].values(), *ORDER["ship_to"].values()]
    names = {value for value in person if isinstance(value, str) and len(value) > 3}
    assert len(names) >= 3
    assert [name for name in names if name in told] == []
