"""The whole stack on one machine: PostgreSQL, Temporal, simulators, API and workers, as children of this process.

``Stack.start`` reads as the order of things; a component that the environment names (``TEMPORAL_ADDRESS``,
``DATABASE_URL``) is used as it is instead of being embedded.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client

from models.errors import Refused
from workers.client import configured_address, configured_namespace, connect
from workers.embedded import namespace
from workers.embedded.children import Child, ChildFailed, ChildRecords, log_tail
from workers.embedded.locks import DataDirectoryLock, hold
from workers.embedded.ports import LOOPBACK, HeldPort, answers_ok, hold_port
from workers.embedded.postgres import EmbeddedPostgres
from workers.embedded.published import (
    PublishedStack,
    StackSecrets,
    load_secrets,
    publish,
    read_stack,
    withdraw,
)
from workers.embedded.signals import on_stop_signal
from workers.embedded.speed import keep_speed, kept_speed, refuse_another_speed_for_open_orders
from workers.embedded.supervisor import Supervisor
from workers.embedded.temporal import EmbeddedTemporal
from workers.settings import REPOSITORY, get_settings
from workers.versioning import current_build_id
from workflows import steps

Progress = Callable[[str], None]

# A worker process per group: what is slow or heavy for one group does not hold up the others.
WORKER_GROUPS: dict[str, tuple[str, ...]] = {
    "workflows": (steps.WORKFLOWS,),
    "effects": (steps.ORDERS, steps.INVENTORY, steps.PAYMENTS, steps.SHIPPING, steps.NOTIFY_QUEUE),
    "decisions": (steps.ROUTING, steps.CLASSIFY),
}
# Simulator -> the setting by which the others find it.
SIMULATORS: dict[str, str] = {
    "payment": "ORDERWRIGHT_PAYMENT_URL",
    "warehouse": "ORDERWRIGHT_WAREHOUSE_URL",
    "carrier": "ORDERWRIGHT_CARRIER_URL",
    "messages": "ORDERWRIGHT_MESSAGE_URL",
}
_FIRST_SIMULATOR_PORT = 8091


@dataclass(frozen=True)
class StackOptions:
    """What a stack is told.

    Args:
        data_dir: everything it keeps; one live stack each.
        api_port, temporal_port, ui_port, simulator_port: preferred ports; the next free one if somebody else's.
        speed: business seconds per wall second, refused while orders of another speed are open; None takes the speed
            of the last stack on these data, or ``usual_speed`` on new ones.
        with_simulators: False uses the payment, warehouse, carrier and message services of the settings.
    """

    data_dir: Path = field(default_factory=lambda: get_settings().data_dir)
    api_port: int = field(default_factory=lambda: get_settings().api_port)
    speed: float | None = None
    usual_speed: float = field(default_factory=lambda: get_settings().speed)
    with_simulators: bool = True
    ui_port: int = 8233
    temporal_port: int = 7233
    simulator_port: int = _FIRST_SIMULATOR_PORT


class Stack:
    """One stack, from ``start`` to ``stop``.

    A ``start`` that fails or is cancelled leaves nothing running. After it, ``published`` says where everything is.
    """

    def __init__(self, options: StackOptions) -> None:
        self.options = options
        self.data_dir = options.data_dir.expanduser().absolute()
        self.published: PublishedStack | None = None
        self._lock: DataDirectoryLock | None = None
        self._supervisor: Supervisor | None = None
        # Until the stack ends: a child that is started again must find its port as it left it.
        self._ports: list[HeldPort] = []
        self._stop_asked = asyncio.Event()

    async def start(self, progress: Progress = lambda _: None) -> None:
        """Bring everything up and wait until it serves. ``progress`` is told each step in a few words.

        Raises:
            DataDirectoryHeld: a live stack works on the data directory.
            OrdersRunAtAnotherSpeed: orders are open, and the options ask for another speed than theirs.
            ChildFailed: a component did not come up; the message carries the end of its log.
        """
        self._make_data_dir()
        records = ChildRecords(self.data_dir / "children.json")
        self._lock = await asyncio.to_thread(self._hold, records, progress)
        self._supervisor = Supervisor(records=records, lock_fd=self._lock.fd)
        try:
            await self._start_all(progress)
        except BaseException:
            await self.stop()
            raise

    @property
    def urls(self) -> dict[str, str]:
        """What a person may want to open or connect to, by name, in the order worth printing."""
        stack = self._running()
        urls = {"API": stack.api_url, "API documentation": f"{stack.api_url}/docs"}
        if stack.temporal_ui_url:
            urls["Temporal Web"] = stack.temporal_ui_url
        urls["Temporal gRPC"] = stack.temporal_address
        urls["PostgreSQL"] = stack.psql_url
        urls |= {f"{name} simulator": url for name, url in stack.simulators.items()}
        return urls

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each child, as of now."""
        return self._supervisor.pids() if self._supervisor else {}

    async def scale(self, group: str, processes: int) -> None:
        """Serve the queues of a worker group by so many processes, at least one. A surplus one ends what it has begun.

        Raises:
            ChildFailed: a process did not come up.
        """
        if self._supervisor is None:
            raise Refused("the stack is not running")
        environment = self._environment(self._running(), load_secrets(self.data_dir))
        running = [name for name in self.pids if name.partition("#")[0] == _worker_name(group)]
        wanted = [_worker_name(group, number) for number in range(1, max(processes, 1) + 1)]
        await self._supervisor.stop([name for name in running if name not in wanted])
        await _together(
            *(
                self._start_worker(name, WORKER_GROUPS[group], environment)
                for name in wanted
                if name not in running
            )
        )

    async def run_until_stopped(self) -> None:
        """Keep everything alive until a stop signal arrives or ``ask_to_stop`` is called. Does not stop it itself."""
        with on_stop_signal(self._stop_asked.set):
            await self._stop_asked.wait()

    def ask_to_stop(self) -> None:
        """End ``run_until_stopped``."""
        self._stop_asked.set()

    async def stop(self, progress: Progress = lambda _: None) -> None:
        """End everything in reverse order and give the data directory free. A second stop signal kills the rest."""
        supervisor, lock = self._supervisor, self._lock
        if supervisor is not None:
            with on_stop_signal(supervisor.hurry):
                progress("stopping workers and API")
                await supervisor.stop([name for name in supervisor.pids() if _is_worker(name)] + ["api"])
                await supervisor.stop(SIMULATORS)
                progress("stopping Temporal and PostgreSQL")
                await supervisor.stop(["temporal"])
                await supervisor.stop(["postgres"])
                await supervisor.stop_all()
        self._supervisor = None
        while self._ports:
            self._ports.pop().release()
        if lock is not None:
            withdraw(self.data_dir)
            lock.release()
        self._lock = None
        self.published = None

    async def _start_all(self, progress: Progress) -> None:
        stack = self._plan()
        keys = load_secrets(self.data_dir)
        environment = self._environment(stack, keys)

        progress("starting PostgreSQL and Temporal")
        await _together(self._start_postgres(), self._start_temporal(stack))
        await self._settle_speed(stack)
        progress("preparing the database, the namespace and the simulators")
        await _together(
            self._prepare_database(environment),
            self._prepare_namespace(stack),
            *(self._start_simulator(name, url, stack, environment) for name, url in stack.simulators.items()),
        )
        progress("starting API and workers")
        await _together(
            self._start_api(stack, environment),
            *(
                self._start_worker(_worker_name(group), queues, environment)
                for group, queues in WORKER_GROUPS.items()
            ),
        )
        self.published = stack
        publish(stack)
        progress("ready")

    def _plan(self) -> PublishedStack:
        """Choose the ports, so that everybody can be told where everybody else will be."""
        options = self.options

        def port(preferred: int) -> int:
            self._ports.append(hold_port(preferred))
            return self._ports[-1].port

        # What must be on its usual port comes first.
        api = port(options.api_port)
        embedded_temporal = _embeds_temporal()
        ui = port(options.ui_port) if embedded_temporal else None
        address = f"{LOOPBACK}:{port(options.temporal_port)}" if embedded_temporal else None
        simulators = {
            name: f"http://{LOOPBACK}:{port(options.simulator_port + offset)}"
            for offset, name in enumerate(SIMULATORS)
            if options.with_simulators
        }
        return PublishedStack(
            pid=os.getpid(),
            started=time.time(),
            data_dir=self.data_dir,
            speed=options.speed or kept_speed(self.data_dir) or options.usual_speed,
            api_url=f"http://{LOOPBACK}:{api}",
            api_token=load_secrets(self.data_dir).api_token,
            database_url=self._postgres().url() if _embeds_postgres() else get_settings().database_url,
            temporal_address=address or configured_address(),
            temporal_namespace="default" if embedded_temporal else configured_namespace(),
            temporal_ui_url=f"http://{LOOPBACK}:{ui}" if ui else None,
            build_id=current_build_id(),
            simulators=simulators,
        )

    def _environment(self, stack: PublishedStack, keys: StackSecrets) -> dict[str, str]:
        """What every process of ours is started with."""
        environment = dict(os.environ)
        if _embeds_temporal():
            # Nothing of the user's own Temporal (profile, TLS, API key) may reach our server.
            environment = {k: v for k, v in environment.items() if not k.startswith("TEMPORAL_")}
            environment |= {"TEMPORAL_ADDRESS": stack.temporal_address, "TEMPORAL_CONFIG_FILE": os.devnull}
            environment["TEMPORAL_NAMESPACE"] = stack.temporal_namespace
        return environment | {
            "PYTHONUNBUFFERED": "1",
            "DATABASE_URL": stack.database_url,
            "ORDERWRIGHT_DATA_DIR": str(self.data_dir),
            "ORDERWRIGHT_API_HOST": LOOPBACK,
            "ORDERWRIGHT_API_PORT": stack.api_url.rpartition(":")[2],
            "ORDERWRIGHT_API_TOKEN": keys.api_token,
            "ORDERWRIGHT_WEBHOOK_SECRET": keys.webhook_secret,
            "ORDERWRIGHT_PAY_LINK_SECRET": keys.pay_link_secret,
            **(
                {
                    "ORDERWRIGHT_PAYMENT_TOKEN": keys.neighbour_token,
                    "ORDERWRIGHT_CARRIER_TOKEN": keys.neighbour_token,
                }
                if stack.simulators
                else {}
            ),
            # Everybody here calls from the same address.
            "ORDERWRIGHT_API_CONNECTION_SHARE": "1",
            "ORDERWRIGHT_SPEED": repr(stack.speed),
            "ORDERWRIGHT_DEPLOYMENT_BUILD_ID": stack.build_id,
            **{SIMULATORS[name]: url for name, url in stack.simulators.items()},
        }

    async def _start_postgres(self) -> None:
        if not _embeds_postgres():
            return
        postgres = self._postgres()
        await asyncio.to_thread(postgres.prepare)
        await self._supervise(postgres.child())
        await asyncio.to_thread(postgres.create_database)

    async def _start_temporal(self, stack: PublishedStack) -> None:
        if not _embeds_temporal():
            return
        temporal = EmbeddedTemporal(
            self.data_dir,
            port=_port_of(stack.temporal_address),
            ui_port=_port_of(stack.temporal_ui_url or ""),
        )
        await self._supervise(temporal.child())

    async def _settle_speed(self, stack: PublishedStack) -> None:
        """Before anything runs at it: the speed suits the open orders, and the next start will know it."""
        kept = kept_speed(self.data_dir)
        if kept == stack.speed:
            return
        if kept is not None:
            client = await self._connect(stack)
            await refuse_another_speed_for_open_orders(client, kept=kept, asked=stack.speed)
        keep_speed(self.data_dir, stack.speed)

    async def _prepare_database(self, environment: dict[str, str]) -> None:
        await self._run_once("prepare", ["-m", "workers.prepare"], environment)

    async def _prepare_namespace(self, stack: PublishedStack) -> None:
        await namespace.prepare(
            await self._connect(stack),
            stack.build_id,
            ours=_embeds_temporal(),
            reconcile_every=timedelta(minutes=get_settings().reconcile_minutes),
            values_every=timedelta(minutes=get_settings().values_minutes),
        )

    async def _connect(self, stack: PublishedStack) -> Client:
        return await connect(
            stack.temporal_address, stack.temporal_namespace, from_environment=not _embeds_temporal()
        )

    async def _start_simulator(
        self, name: str, url: str, stack: PublishedStack, environment: dict[str, str]
    ) -> None:
        arguments = [
            "-m",
            "apps.simulators",
            name,
            "--port",
            str(_port_of(url)),
            "--speed",
            repr(stack.speed),
        ]
        arguments += ["--data-dir", str(simulators_dir(self.data_dir))]
        arguments += ["--webhook-url", f"{stack.api_url}/v1/webhooks/{name}"]
        if name == "payment":
            arguments.append("--notify")  # as real providers do: each movement once more, by webhook
        await self._supervise(
            self._python(name, arguments, environment, ready=lambda: answers_ok(f"{url}/healthz"), grace=5.0)
        )

    async def _start_api(self, stack: PublishedStack, environment: dict[str, str]) -> None:
        await self._supervise(
            self._python(
                "api",
                ["-m", "apps.api"],
                environment,
                # Ready it is before it has found Temporal; the first command of whoever starts us may need both.
                ready=lambda: answers_ok(f"{stack.api_url}/readyz", saying=b'"status":"ok"'),
                grace=10.0,
            )
        )

    async def _start_worker(self, name: str, queues: tuple[str, ...], environment: dict[str, str]) -> None:
        environment = environment | self._own_ports(name)
        ready_file = self.data_dir / "run" / f"{name}.ready"
        ready_file.parent.mkdir(exist_ok=True)
        arguments = ["-m", "apps.cli", "worker", "run", "--queues", ",".join(queues)]
        arguments += ["--ready-file", str(ready_file)]
        await self._supervise(
            self._python(
                name,
                arguments,
                environment,
                ready=ready_file.exists,
                prepare=lambda: ready_file.unlink(missing_ok=True),
                grace=30.0,  # what a worker has begun it finishes, within 25 s
            )
        )

    @staticmethod
    def _own_ports(name: str) -> dict[str, str]:
        """A port asked for is the first worker's; of those on one machine each needs its own; later ones have none."""
        settings, firsts = get_settings(), [_worker_name(group) for group in WORKER_GROUPS]
        ports = {"METRICS": settings.metrics_port, "HEALTH": settings.health_port}
        return {
            f"ORDERWRIGHT_{what}_PORT": str(port + firsts.index(name) if port and name in firsts else 0)
            for what, port in ports.items()
        }

    async def _supervise(self, child: Child) -> None:
        if self._supervisor is None:
            raise Refused("the stack was stopped while it started")
        await self._supervisor.start(child)

    async def _run_once(self, name: str, arguments: list[str], environment: dict[str, str]) -> None:
        """Run a step of preparation to its end.

        Raises:
            ChildFailed: it ended with another exit code than 0.
        """
        path = self._log(name)
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                cwd=REPOSITORY,
                env=environment,
                start_new_session=True,
            )
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                process.kill()
                await process.wait()
                raise
        if code != 0:
            raise ChildFailed(f"{name} failed (exit code {code}).{log_tail(path)}")

    def _python(
        self,
        name: str,
        arguments: list[str],
        environment: dict[str, str],
        *,
        ready: Callable[[], bool],
        grace: float,
        prepare: Callable[[], None] | None = None,
    ) -> Child:
        return Child(
            name=name,
            argv=(sys.executable, *arguments),
            log=self._log(name),
            env=environment,
            cwd=REPOSITORY,
            ready=ready,
            prepare=prepare,
            grace=grace,
        )

    def _log(self, name: str) -> Path:
        return self.data_dir / "logs" / f"{name}.log"

    def _postgres(self) -> EmbeddedPostgres:
        return EmbeddedPostgres(self.data_dir)

    def _make_data_dir(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            (self.data_dir / "logs").mkdir(exist_ok=True)
        except OSError as closed:
            raise Refused(
                f"the data directory {self.data_dir} cannot be used ({closed.strerror}): name another with --data-dir"
            ) from closed

    def _hold(self, records: ChildRecords, progress: Progress) -> DataDirectoryLock:
        def end_orphans() -> None:
            ended = records.end_orphans()
            if ended:
                progress(f"ended what a killed stack left running: {', '.join(ended)}")

        return hold(self.data_dir, end_orphans=end_orphans, describe=self._where_the_other_is)

    def _where_the_other_is(self) -> str:
        other = read_stack(self.data_dir)
        if other is None:
            return ""
        return f"{other.api_url} (API)" + (
            f" and {other.temporal_ui_url} (Temporal Web)" if other.temporal_ui_url else ""
        )

    def _running(self) -> PublishedStack:
        if self.published is None:
            raise Refused("the stack is not running")
        return self.published


def simulators_dir(data_dir: Path) -> Path:
    """Where the simulators of the stack on ``data_dir`` keep their state."""
    return data_dir / "simulators"


async def _together(*steps: Awaitable[None]) -> None:
    """Run steps at the same time; the first that fails cancels the others and is raised as it is."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _embeds_temporal() -> bool:
    return not (os.environ.get("TEMPORAL_ADDRESS") or os.environ.get("TEMPORAL_PROFILE"))


def _embeds_postgres() -> bool:
    return "database_url" not in get_settings().model_fields_set


def _worker_name(group: str, number: int = 1) -> str:
    return f"worker-{group}" + (f"#{number}" if number > 1 else "")


def _is_worker(name: str) -> bool:
    return name.startswith("worker-")


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2])
