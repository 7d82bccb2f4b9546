"""``docs/guarantees.md``: its proofs exist, its commands work, and it leaves out no invariant of the harness."""

import ast
import re
import shlex
import subprocess
import sys

import pytest

from benchmarks.chaos.checks import Invariant
from workers.settings import REPOSITORY

PAGE = (REPOSITORY / "docs" / "guarantees.md").read_text(encoding="utf-8")
PROOFS = sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE)))
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("proof", PROOFS)
def test_a_proof_is_a_test_that_there_is(proof: str) -> None:
    path, _, name = proof.partition("::")
    tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
    functions = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in functions if name else any(name.startswith("test_") for name in functions)


def test_every_invariant_of_the_harness_is_promised_and_nothing_else_is_called_one() -> None:
    tables = PAGE[PAGE.index("## The table") : PAGE.index("## What is not promised")]
    rows = [line.split("|") for line in tables.splitlines() if line.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[3])}
    assert named == set(Invariant)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_the_harness_takes(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "python"
    taken = subprocess.run(
        [sys.executable, *arguments, *([] if "--plan" in arguments else ["--plan"])],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert taken.returncode == 0, taken.stderr
    assert "kill postgres" in taken.stdout


def test_a_benchmark_that_is_named_is_there() -> None:
    for module in set(re.findall(r"python -m (benchmarks\.\w+)", PAGE)):
        path = REPOSITORY / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
