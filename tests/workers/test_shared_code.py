import importlib
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from temporalio.worker import Worker

from workers.client import connect
from workers.embedded.temporal import EmbeddedTemporal
from workers.shared_code import share_code_of

WORKFLOW = """
from temporalio import workflow


def helper():
    return None


@workflow.defn
class WhereItIs:
    @workflow.run
    async def run(self) -> list[int]:
        return [id(helper), id(helper.__code__)]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that is loaded for the first time by the test."""
    name = f"shared_code_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text("seen = []\n\n\ndef look():\n    return seen\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    share_code_of([name])
    yield name
    sys.modules.pop(name, None)


def loaded_anew(name: str) -> ModuleType:
    sys.modules.pop(name, None)
    return importlib.import_module(name)


def test_a_module_that_is_loaded_anew_shares_its_code_and_nothing_else(module: str) -> None:
    first, second = loaded_anew(module), loaded_anew(module)
    first.seen.append("of the first")
    assert first.look() == ["of the first"] and second.look() == []
    assert first.look is not second.look
    assert first.look.__code__ is second.look.__code__


def test_other_modules_are_loaded_as_ever(module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}_other.py").write_text("def look():\n    return 1\n")
    first, second = loaded_anew(f"{module}_other"), loaded_anew(f"{module}_other")
    assert first.look.__code__ is not second.look.__code__
    assert first.__spec__ is not None and type(first.__spec__.loader).__module__.startswith(
        "_frozen_importlib"
    )


async def test_runs_in_the_sandbox_of_a_real_worker_share_code_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"shared_code_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(WORKFLOW)
    monkeypatch.syspath_prepend(str(tmp_path))
    share_code_of([name])
    kind = importlib.import_module(name).WhereItIs
    async with EmbeddedTemporal(tmp_path / "temporal", in_memory=True) as server:
        client = await connect(server.address, "default", from_environment=False)
        async with Worker(client, task_queue="q", workflows=[kind]):
            # Both are held at once, so that neither can have been put where the other one was.
            first, second = [
                await client.execute_workflow("WhereItIs", id=f"run-{n}", task_queue="q") for n in range(2)
            ]
    assert first[0] != second[0], "each run has a module of its own"
    assert first[1] == second[1]
    sys.modules.pop(name, None)
