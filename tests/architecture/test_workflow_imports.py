"""Workflow modules are imported again for every sandbox: what they pull in is paid for at each workflow start."""

import json
import subprocess
import sys

from tests.architecture.sources import REPOSITORY, modules

TOO_HEAVY = {
    "numpy",
    "xgboost",
    "ortools",
    "sqlalchemy",
    "sqlmodel",
    "httpx",
    "pyarrow",
    "pandas",
    "scipy",
    "psycopg",
    "fastapi",
    "rich",
    "typer",
}


def test_importing_every_workflow_module_loads_nothing_heavy() -> None:
    names = sorted(name for name, _ in modules("workflows") if name != "workflows")
    assert names, "there are workflow modules to look at"
    program = (
        "import importlib, json, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert TOO_HEAVY & set(json.loads(done.stdout)) == set()
