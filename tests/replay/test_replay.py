"""Changed workflow code must go on where recorded runs stood: what fails here would fail for orders in flight."""

import ast
import gzip
import json
import subprocess
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from temporalio.client import WorkflowHistory
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from tests.replay.recording import HISTORIES, NEWEST, RECONCILIATION, STOCK_VALUES, is_released
from workflows.order import OrderWorkflow
from workflows.reconciliation import ReconciliationWorkflow
from workflows.shipment import ShipmentWorkflow
from workflows.stock_values import StockValuesWorkflow

_FILES = sorted(str(path.relative_to(HISTORIES)) for path in HISTORIES.glob("*/*.json.gz"))
_WORKFLOW_TESTS = Path(__file__).parent.parent / "workflows"

_HOW = "record it with `make record`; docs/change-a-workflow.md says when a patch is needed instead"


@pytest.mark.parametrize("name", _FILES)
async def test_a_recorded_history_replays(name: str) -> None:
    text = gzip.decompress((HISTORIES / name).read_bytes()).decode()
    # Its own id: children and keys are named after it.
    workflow_id = json.loads(text)["events"][0]["workflowExecutionStartedEventAttributes"]["workflowId"]
    replayer = Replayer(
        workflows=[OrderWorkflow, ShipmentWorkflow, ReconciliationWorkflow, StockValuesWorkflow],
        data_converter=pydantic_data_converter,
        # What is looked for is another sequence of commands, not a machine that is too busy to answer in two seconds.
        debug_mode=True,
    )
    await replayer.replay_workflow(WorkflowHistory.from_json(workflow_id, text))


@pytest.mark.parametrize("name", _FILES[:: max(1, len(_FILES) // 3)])
async def test_a_history_recorded_without_traces_replays_with_them(name: str) -> None:
    """Whoever turns tracing on has orders in flight. (The other way round: tests/workers/test_watched.)"""
    text = gzip.decompress((HISTORIES / name).read_bytes()).decode()
    workflow_id = json.loads(text)["events"][0]["workflowExecutionStartedEventAttributes"]["workflowId"]
    replayer = Replayer(
        workflows=[OrderWorkflow, ShipmentWorkflow, ReconciliationWorkflow, StockValuesWorkflow],
        data_converter=pydantic_data_converter,
        debug_mode=True,
        interceptors=[
            TracingInterceptor(TracerProvider().get_tracer("tests"), always_create_workflow_spans=True)
        ],
    )
    await replayer.replay_workflow(WorkflowHistory.from_json(workflow_id, text))


def test_a_released_version_is_not_recorded_over(tmp_path: Path) -> None:
    def git(*command: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
        subprocess.run(["git", *who, *command], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "--message", "first")
    git("tag", "v1.2.3")
    assert is_released("1.2.3", tmp_path)
    assert not is_released("1.2", tmp_path)
    assert not is_released("1.2.3", tmp_path.parent)


def test_every_path_that_is_tested_is_recorded() -> None:
    kept = {path.name.partition("-")[0] for path in NEWEST.glob("*.json.gz")}
    missing = sorted(tested - kept) if (tested := set(_tests_of_cases())) else ["no tests were found"]
    assert not missing, f"no history of {', '.join(missing)}: {_HOW}"
    # Those of the scheduled workflows are kept by their own tests, which drive no case.
    kept = {name for name in kept if not name.startswith((RECONCILIATION, STOCK_VALUES))}
    assert not (left_over := sorted(kept - tested)), f"these tests are gone: {', '.join(left_over)}"


@pytest.mark.parametrize(
    ("prefix", "file"),
    [(RECONCILIATION, "test_reconciliation.py"), (STOCK_VALUES, "test_stock_values.py")],
)
def test_every_tested_path_of_a_scheduled_workflow_is_recorded(prefix: str, file: str) -> None:
    kept = {path.name.partition("-")[0] for path in NEWEST.glob(f"{prefix}*.json.gz")}
    source = ast.parse((_WORKFLOW_TESTS / file).read_text())
    tested = {
        part.name
        for part in source.body
        if isinstance(part, ast.AsyncFunctionDef) and part.name.startswith(prefix)
    }
    assert tested
    assert kept == tested, _HOW


def _tests_of_cases() -> list[str]:
    """The tests that drive a case, whatever their parameters; not those on a server that is set up otherwise."""
    tests = []
    for file in _WORKFLOW_TESTS.glob("test_*.py"):
        functions = [
            part for part in ast.parse(file.read_text()).body if isinstance(part, ast.AsyncFunctionDef)
        ]
        if "case" not in {function.name for function in functions}:
            tests += [
                function.name
                for function in functions
                if function.name.startswith("test_")
                and any(argument.arg == "case" for argument in function.args.args)
            ]
    return tests
