import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from workers.embedded.postgres import EmbeddedPostgres


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


@pytest.fixture(scope="session")
def made_cluster() -> Iterator[Path]:
    """A cluster that was made once: a copy of it costs a tenth of making one."""
    path = Path(tempfile.mkdtemp(prefix="ow-made-"))
    path.chmod(0o711)
    EmbeddedPostgres(path).prepare()
    yield path / "postgres"
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def data_dir_with_cluster(data_dir: Path, made_cluster: Path) -> Path:
    """A data directory in which the cluster exists already."""
    subprocess.run(["cp", "-a", str(made_cluster), str(data_dir)], check=True)
    return data_dir


def processes_of(path: Path) -> list[psutil.Process]:
    """The processes that name ``path`` on their command line, this one excepted."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.pid != os.getpid()
        and process.info["status"] != psutil.STATUS_ZOMBIE
        and any(str(path) in argument for argument in process.info["cmdline"] or [])
    ]
