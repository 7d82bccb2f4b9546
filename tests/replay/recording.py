"""Histories of real runs, kept so that changed workflow code can be tried on them before it meets runs in flight.

``make record`` runs the workflow tests and keeps every history they made: a path that is tested is a path that is
replayed. A file is the JSON of one run, compressed, named ``{test}-{order|shipment}-{n}-{run}.json.gz``.
"""

import asyncio
import gzip
import json
import subprocess
import tomllib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowFailureError, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode

from models.identifiers import order_workflow_id, shipment_id, shipment_workflow_id
from workers.settings import REPOSITORY

# One folder a version: what a released version recorded stays, for its runs may still be in flight.
HISTORIES = Path(__file__).parent / "histories"
NEWEST = HISTORIES / tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
FINGERPRINTS = Path(__file__).parent / "fingerprints"
# How the tests of their workflows begin.
RECONCILIATION = "test_reconciling"
STOCK_VALUES = "test_working_values_out"
_MOST_SHIPMENTS = 5
# A test may play what comes before a run of ours; that is nothing to be replayed.
_OURS = ("OrderWorkflow", "ShipmentWorkflow", "ReconciliationWorkflow", "StockValuesWorkflow")


class Released(Exception):
    """The histories of a released version stay as they are."""


@cache
def is_released(version: str, repository: Path) -> bool:
    """Whether git has a tag for ``version``. Where there is no git nobody commits recordings either."""
    try:
        found = subprocess.run(
            ["git", "tag", "--list", f"v{version}"],
            cwd=repository,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return False
    return bool(found.stdout.strip())


async def keep(client: Client, order_id: str, test: str) -> None:
    """Write down the histories of an order and of its shipments, every run of a continued one.

    Raises ``Released`` where that would replace what runs in flight may have been started by.
    """
    workflows = {"order-0": order_workflow_id(order_id)} | {
        f"shipment-{n}": shipment_workflow_id(shipment_id(order_id, n)) for n in range(1, _MOST_SHIPMENTS)
    }
    await keep_runs(client, workflows, test)


async def keep_runs(client: Client, workflows: Mapping[str, str], test: str) -> None:
    """Write down the histories of workflows by their names in the file's, every run. Raises ``Released`` as above."""
    if is_released(NEWEST.name, REPOSITORY):
        raise Released(f"version {NEWEST.name} is released: raise it in pyproject.toml before recording anew")
    NEWEST.mkdir(parents=True, exist_ok=True)
    for old in NEWEST.glob(f"{test}-*.json.gz"):
        old.unlink()
    for name, workflow_id in workflows.items():
        runs = [history async for history in _runs(client, workflow_id) if _type_of(history) in _OURS]
        for number, history in enumerate(reversed(runs), start=1):
            path = NEWEST / f"{test}-{name}-{number}.json.gz"
            # No time-stamp and one line: what did not change stays the same file.
            text = json.dumps(_without_this_machine(json.loads(history.to_json())), sort_keys=True)
            path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _type_of(history: WorkflowHistory) -> str:
    return history.events[0].workflow_execution_started_event_attributes.workflow_type.name


def _without_this_machine(value: Any) -> Any:
    """Without stack traces and process names: no replay needs them, and they say where it was recorded."""
    if isinstance(value, dict):
        if value.get("kind") == "TASK_QUEUE_KIND_STICKY":
            value = value | {"name": "sticky"}
        return {k: _without_this_machine(v) for k, v in value.items() if k not in ("stackTrace", "identity")}
    return [_without_this_machine(item) for item in value] if isinstance(value, list) else value


async def fingerprint(client: Client, order_id: str) -> str:
    """What the runs of an order and its first shipment commanded, in order, one command a line.

    Left out is what depends on how fast the machine is: timers, when the timeline was flushed, where that came in
    between which goes out beside everything else, and how many reports a row of changes took.
    """
    lines: list[str] = []
    for workflow_id in (order_workflow_id(order_id), shipment_workflow_id(shipment_id(order_id, 1))):
        await _until_ended(client, workflow_id)
        runs = [history async for history in _runs(client, workflow_id)]
        commands = [command for run in reversed(runs) for event in run.events if (command := _command(event))]
        beside = sorted(command for command in commands if command in _BESIDE)
        others = (command for command in commands if command not in _BESIDE)
        once = [command for command, same in groupby(others) for command in _told_once(command, same)]
        lines += [workflow_id.partition(":")[0], *(f"  {command}" for command in once + beside)]
    return "\n".join(lines) + "\n"


async def commands(client: Client, workflow_id: str) -> list[str]:
    """What the runs of one workflow commanded, in order."""
    runs = [history async for history in _runs(client, workflow_id)]
    return [command for run in reversed(runs) for event in run.events if (command := _command(event))]


async def _until_ended(client: Client, workflow_id: str) -> None:
    # An order's run may end a moment before its shipment's. What goes wrong with one shows in its commands.
    with suppress(TimeoutError, WorkflowFailureError, RPCError):
        async with asyncio.timeout(60):
            await client.get_workflow_handle(workflow_id).result()


def _told_once(command: str, same: Iterable[str]) -> list[str]:
    # How many looks fit into a skip of time depends on the machine, too.
    return [command] if command.startswith("signal ") or command == _LOOK else list(same)


_BESIDE = frozenset({"activity notify", "activity intercept_parcel"})
_FLUSH = "activity record_progress"
_LOOK = "activity track_parcel"


_NAMES: dict[int, Callable[[HistoryEvent], str]] = {
    EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: lambda event: (
        f"activity {event.activity_task_scheduled_event_attributes.activity_type.name}"
    ),
    EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED: lambda event: (
        f"child {event.start_child_workflow_execution_initiated_event_attributes.workflow_type.name}"
    ),
    EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: lambda event: (
        f"signal {event.signal_external_workflow_execution_initiated_event_attributes.signal_name}"
    ),
    EventType.EVENT_TYPE_MARKER_RECORDED: lambda event: (
        f"marker {event.marker_recorded_event_attributes.marker_name}"
    ),
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: lambda _: "complete",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: lambda _: "continue as new",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: lambda _: "fail",
}


def _command(event: HistoryEvent) -> str | None:
    name = _NAMES.get(event.event_type)
    command = name(event) if name else None
    return None if command == _FLUSH else command


async def _runs(client: Client, workflow_id: str) -> AsyncIterator[WorkflowHistory]:
    """The runs of a chain, the last one first; none for a workflow that never was."""
    run_id: str | None = None
    while True:
        try:
            history = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return
            raise
        yield history
        started = history.events[0].workflow_execution_started_event_attributes
        run_id = started.continued_execution_run_id
        if not run_id:
            return
