import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A short path that PostgreSQL's user may enter, which pytest's own private directories are not."""
    path = Path(tempfile.mkdtemp(prefix="ow-test-"))
    path.chmod(0o711)
    yield path
    left = processes_of(path)
    for process in left:
        process.kill()
    shutil.rmtree(path, ignore_errors=True)
    assert not left, f"the test left running: {[p.pid for p in left]}"


def processes_of(path: Path) -> list[psutil.Process]:
    """The processes that name ``path`` on their command line, this one excepted."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.pid != os.getpid()
        and process.info["status"] != psutil.STATUS_ZOMBIE
        and any(str(path) in argument for argument in process.info["cmdline"] or [])
    ]
