"""``orderwright demo``: real orders through the whole stack, watched live, with accounts at the end."""

import asyncio
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from activities.channels.assumed_stock import assumed_stock, demand_of
from activities.channels.online_retail import ImportedInvoice, RefusalKind, read_invoices, require_readable
from activities.store.network import StockLevel, seed_stock
from activities.store.store import Store
from apps.cli import accounts
from apps.cli.accounts import Books, Effort, Outcomes, sums
from apps.cli.output import console, facts, listing, plain, state
from apps.cli.remote import bad_input
from apps.cli.replay import Replay, Tally
from apps.cli.up import Speed, print_addresses, say_what_misbehaves
from apps.simulators.faults import PRESETS, FaultScript, put_in_force, read_script
from models.errors import Refused
from models.states import OrderState
from workers.client import connect
from workers.embedded.published import PublishedStack, read_stack
from workers.embedded.signals import run_until_interrupted
from workers.embedded.speed import kept_speed
from workers.embedded.stack import Stack, StackOptions, simulators_dir
from workers.logging import configure_logging
from workers.settings import REPOSITORY, get_settings

EXAMPLE = REPOSITORY / "examples" / "online_retail" / "invoices-2011-09-10.parquet"
FAST = 86_400.0
_BAR = 40
_PLAIN_EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class _Options:
    """What was asked for. ``temporary``: the data directory is ours alone and goes when all went well."""

    orders: int
    source: Path
    speed: float | None
    leave: bool
    json_file: Path | None
    data_dir: Path
    temporary: bool
    in_flight: int
    patience: float
    faults: FaultScript | None


def demo(
    *,
    orders: Annotated[
        int, typer.Option("--orders", min=0, help="How many orders to send; 0 sends all there are.")
    ] = 300,
    source: Annotated[
        Path | None,
        typer.Option(
            help="Invoices with the columns of the Online Retail data set, parquet or CSV; default: the example."
        ),
    ] = None,
    speed: Speed = None,
    leave: Annotated[
        bool, typer.Option("--exit", help="Stop the stack at the end instead of leaving it running.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file; - prints them.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Whose stack to start, or to join if it runs. With --exit alone: a temporary one."),
    ] = None,
    in_flight: Annotated[
        int, typer.Option(min=1, max=1000, help="Orders under way at once; those in review do not count.")
    ] = 16,
    patience: Annotated[
        float, typer.Option(min=1, help="Give up when no order has moved for so many seconds, and say so.")
    ] = 180.0,
    faults: Annotated[
        str | None,
        typer.Option(
            help=f"Let the simulators misbehave: {', '.join(PRESETS)}, or a file (see simulators faults)."
        ),
    ] = None,
) -> None:
    """Replay two real months of a gift wholesaler: real invoices, real engine, simulated neighbours.

    Names, addresses, payments, stock, carriers and weights are assumed (examples/online_retail/README.md). No review is
    answered: what needs a person waits for one. Exit code 1: an order failed or was lost, the books differ, or
    a parcel was picked or labelled twice.
    """
    settings = get_settings()
    configure_logging(settings.log_level, json=settings.log_json)
    source = source or EXAMPLE
    require_readable(source)
    _require_writable(json_file)
    temporary = leave and data_dir is None
    options = _Options(
        orders=orders,
        source=source,
        speed=speed,
        leave=leave,
        json_file=json_file,
        data_dir=_temporary_directory() if temporary else (data_dir or settings.data_dir).absolute(),
        temporary=temporary,
        in_flight=in_flight,
        patience=patience,
        faults=_fault_script(faults),
    )
    # With --json - standard output belongs to the figures.
    told = console(to_stderr=str(json_file) == "-")
    raise typer.Exit(run_until_interrupted(_demo(options, told)))


async def _demo(options: _Options, told: Console) -> int:
    began = time.monotonic()
    live = read_stack(options.data_dir)
    if live is not None:
        _require_speed(options, live)
    stack = None if live else Stack(_stack_options(options.data_dir, options.speed))
    # The file is read while the stack starts.
    reading = asyncio.create_task(asyncio.to_thread(_open_source, options))
    ended_well = False
    try:
        if stack is not None:
            await stack.start(lambda step: told.print(f"{step} ..."))
            live = stack.published
            print_addresses(stack, Console(stderr=told.stderr))
        if options.faults is not None:
            put_in_force(options.faults, simulators_dir(options.data_dir))
            say_what_misbehaves(options.data_dir, told)
        if live is None:
            raise AssertionError("a stack that started has published where it is")
        if stack is None:
            told.print(f"joining the stack at {live.api_url}")
        told.print(f"the business clock runs at {live.speed:,.12g} times real speed")
        invoices = await reading
        ready_seconds = time.monotonic() - began
        report = await _replay(options, live, invoices, told)
        report["ready_seconds"] = round(ready_seconds, 1)
        _write(report, options.json_file)
        ended_well = bool(report["ok"])
        if stack is not None and not options.leave:
            told.print()
            print_addresses(stack, Console(stderr=told.stderr))
            await stack.run_until_stopped()
    except asyncio.CancelledError:
        told.print("stopped before the end: no figures. Run it again on the same data and it goes on.")
        raise
    finally:
        reading.cancel()
        if stack is not None:
            await stack.stop(lambda step: told.print(f"{step} ..."))
        if options.temporary:
            _clean_up(options, told, keep=not ended_well)
    return 0 if ended_well else 1


def _fault_script(asked: str | None) -> FaultScript | None:
    """By name or by file; None leaves in force what is."""
    if asked is None:
        return None
    return PRESETS[asked] if asked in PRESETS else read_script(Path(asked))


def _stack_options(data_dir: Path, speed: float | None) -> StackOptions:
    if speed is None and kept_speed(data_dir) == 1:
        # In real time a demo would take days: that is not what the last stack's speed was chosen for.
        speed = FAST
    return StackOptions(data_dir=data_dir, speed=speed, usual_speed=FAST)


def _require_speed(options: _Options, live: PublishedStack) -> None:
    """The stack that runs cannot change its speed: say so instead of replaying at another one than was asked for."""
    if options.speed not in (None, live.speed):
        raise Refused(
            f"the stack at {live.api_url} runs at speed {live.speed:.12g}, not {options.speed:.12g}: leave --speed"
            " away to join it, stop it first, or name other data with --data-dir"
        )


async def _replay(
    options: _Options, live: PublishedStack, invoices: Iterator[ImportedInvoice], told: Console
) -> dict[str, Any]:
    """Run the loop against a live stack, print the summary, and give the figures."""
    store = Store.at(live.database_url, pool_size=2)
    client = httpx.AsyncClient(
        base_url=live.api_url, headers={"Authorization": f"Bearer {live.api_token}"}, timeout=30
    )
    try:
        invoices = await _assume_stock(options, store, invoices, told)
        with _Display(told) as display:
            replay = Replay(
                client,
                store,
                limit=options.orders,
                in_flight=options.in_flight,
                patience=options.patience,
                on_change=display.show,
                customers=lambda: accounts.about_to_pay(live.simulators.get("messages")),
            )
            tally = await replay.run(invoices)
            display.show(tally)
        temporal = await connect(
            live.temporal_address,
            live.temporal_namespace,
            from_environment=live.temporal_ui_url is None,
            wait=60,
        )
        became = await accounts.outcomes(tally, store, temporal)
        money = await accounts.books(store, live.simulators.get("payment"))
        took = await accounts.effort(tally, store, temporal)
        twice = await accounts.done_twice(live.simulators)
    finally:
        await client.aclose()
        await store.close()
    _print_summary(told, tally, became, money, took)
    if twice:
        told.print(Text(f"picked or labelled twice: {', '.join(twice[:5])}", style="bold red"))
    figures = _figures(tally, became, money, took, live)
    return figures | {"ok": figures["ok"] and not twice, "picks_or_labels_twice": list(twice)}


# --- What goes in ---
def _open_source(options: _Options) -> Iterator[ImportedInvoice]:
    """The invoices, with the first one read: the slow part of opening a file."""
    invoices = read_invoices(options.source)
    first = next(invoices, None)

    def again() -> Iterator[ImportedInvoice]:
        if first is not None:
            yield first
            yield from invoices

    return again()


async def _assume_stock(
    options: _Options, store: Store, invoices: Iterator[ImportedInvoice], told: Console
) -> Iterator[ImportedInvoice]:
    """For a file that is not the example: stock for what it sells, by the example's rule. Kept counts stay."""
    example_network = get_settings().network_file == REPOSITORY / "examples" / "network.toml"
    if options.source.resolve() == EXAMPLE.resolve() or not example_network:
        return invoices
    chosen = await asyncio.to_thread(_first_orders, invoices, options.orders)
    demand = demand_of(invoice.draft for invoice in chosen if invoice.draft is not None)
    levels = [StockLevel(node=row.node, sku=row.sku, on_hand=row.on_hand) for row in assumed_stock(demand)]
    async with store.transaction() as session:
        added = await seed_stock(session, levels)
    told.print(f"assumed stock for what {options.source.name} sells: {added:,} rows added")
    return iter(chosen)


def _first_orders(invoices: Iterator[ImportedInvoice], limit: int) -> list[ImportedInvoice]:
    chosen: list[ImportedInvoice] = []
    orders = 0
    for invoice in invoices:
        chosen.append(invoice)
        orders += invoice.draft is not None
        if limit and orders >= limit:
            break
    return chosen


def _require_writable(json_file: Path | None) -> None:
    """Say now, not after an hour, that the figures have nowhere to go."""
    if json_file is None or str(json_file) == "-":
        return
    try:
        with json_file.open("a"):
            return
    except OSError as error:
        raise bad_input("--json", f"cannot write {json_file}: {error.strerror}") from error


def _temporary_directory() -> Path:
    """Short, because socket paths are limited; searchable, because PostgreSQL may run as another user."""
    directory = Path(tempfile.mkdtemp(prefix="ow-"))
    directory.chmod(0o711)
    return directory


def _clean_up(options: _Options, told: Console, *, keep: bool) -> None:
    if keep:
        told.print(f"data and logs are kept in {options.data_dir}")
    else:
        shutil.rmtree(options.data_dir, ignore_errors=True)


# --- What is shown while it runs ---
class _Display:
    """A live picture on a terminal; a line every few seconds anywhere else."""

    def __init__(self, told: Console) -> None:
        self._told = told
        self._live = Live(console=told, refresh_per_second=4, transient=True) if told.is_terminal else None
        self._said = 0.0

    def __enter__(self) -> "_Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, tally: Tally) -> None:
        """Show where everything stands."""
        if self._live is not None:
            self._live.update(_picture(tally))
        elif time.monotonic() - self._said >= _PLAIN_EVERY_SECONDS:
            self._said = time.monotonic()
            self._told.print(_line(tally), soft_wrap=True)


def _picture(tally: Tally) -> RenderableType:
    states = Counter(standing.state for standing in tally.standings.values())
    table = listing("state", "orders", right=("orders",))
    for name, count in sorted(states.items()):
        table.add_row(state(name), str(count))
    events = Text("\n".join(plain(event) for event in tally.last_events), style="dim", no_wrap=True)
    parts: list[RenderableType] = [Text(_bar(tally)), Text(_line(tally)), table, events]
    return Group(*parts)


def _bar(tally: Tally) -> str:
    rested = tally.submitted - tally.in_flight
    whole = tally.wanted or tally.submitted or 1
    filled = min(_BAR * rested // whole, _BAR)
    return f"[{'#' * filled}{'.' * (_BAR - filled)}] {rested:,} of {tally.wanted or 'all'}"


def _line(tally: Tally) -> str:
    states = Counter(standing.state for standing in tally.standings.values())
    text = (
        f"{tally.seconds:5.0f} s  {tally.submitted:,} sent, {states[OrderState.CLOSED]:,} closed, "
        f"{tally.in_flight} in flight, {tally.parked} wait for a person, {tally.orders_per_second:.1f} orders/s"
    )
    return f"{text}  ({tally.trouble})" if tally.trouble else text


# --- What is told at the end ---
def _print_summary(told: Console, tally: Tally, became: Outcomes, money: Books | None, took: Effort) -> None:
    refused = sum(tally.refused.values())
    table = listing("invoices", "count", right=("count",))
    table.add_row("read from the file", f"{tally.read:,}")
    for kind in RefusalKind:
        if tally.refused[kind]:
            table.add_row(f"  no order: {kind}", f"{tally.refused[kind]:,}")
    if tally.not_accepted:
        table.add_row("  not accepted by the API", f"{len(tally.not_accepted):,}")
    if tally.conflicts:
        table.add_row("  number taken by other content", f"{len(tally.conflicts):,}")
    unsent = tally.read - refused - len(tally.not_accepted) - len(tally.conflicts) - tally.submitted
    if unsent:
        table.add_row("  read but not sent", f"{unsent:,}")
    table.add_row("  submitted as orders", f"{tally.submitted:,}")
    told.print()
    told.print(table)

    fates = listing("orders", "count", right=("count",))
    for name, count in became.model_dump(exclude={"submitted"}).items():
        if count or name in ("closed", "failed", "orphaned"):
            style = "red" if count and name in ("failed", "orphaned", "still_open") else ""
            fates.add_row(Text(f"  {name.replace('_', ' ')}", style=style), f"{count:,}")
    fates.add_row("submitted", f"{became.submitted:,}")
    told.print()
    told.print(fates)
    told.print()
    told.print(
        facts(
            ("took", f"{tally.seconds:.1f} s, {tally.orders_per_second:.2f} orders/s"),
            ("already there", f"{tally.repeated:,} from an earlier run" if tally.repeated else None),
            (
                "touchless",
                f"{took.touchless:,} of {became.submitted:,} closed without a person ({_share(took, became):.1%})",
            ),
            ("shipments", f"{took.shipments:,}, {took.late_shipments:,} late (carriers are simulated)"),
            (
                "plans",
                f"{took.plans:,}, {took.proven_plans:,} proven to be the cheapest ({_proven(took):.1%})",
            ),
            (
                "engine",
                f"{took.activities_per_order:.1f} activities per closed order (sample of {took.sampled})",
            ),
            *(_money_rows(money)),
        ),
        soft_wrap=True,
    )
    for invoice, why in list(tally.not_accepted.items())[:5]:
        told.print(Text(plain(f"invoice {invoice}: {why}"), style="red"), soft_wrap=True)
    if tally.gave_up:
        told.print(Text(f"stopped waiting: {tally.gave_up}", style="bold red"), soft_wrap=True)
    if became.in_review:
        told.print("what waits for a person: orderwright review list")
    if became.awaiting_customer:
        told.print(
            "what waits for another means of payment: orderwright orders list --state awaiting_customer"
        )


def _money_rows(money: Books | None) -> list[tuple[str, str | None]]:
    if money is None:
        return [("money", "no payment simulator here: nothing to compare with")]
    verdict = "equal to the penny" if money.agree else f"DIFFER: {', '.join(money.differing_orders[:5])}"
    return [
        ("charged", f"{sums(money.statement_captured)} by the provider's statement"),
        ("", f"{sums(money.store_captured)} by our records: {verdict}"),
        ("refunded", f"{sums(money.statement_refunded)} / {sums(money.store_refunded)}"),
    ]


def _proven(took: Effort) -> float:
    return took.proven_plans / took.plans if took.plans else 0.0


def _share(took: Effort, became: Outcomes) -> float:
    return took.touchless / became.submitted if became.submitted else 0.0


def _figures(
    tally: Tally, became: Outcomes, money: Books | None, took: Effort, live: PublishedStack
) -> dict[str, Any]:
    """The figures for programs: the accounts of the orders, then how, then the invoices behind them."""
    healthy = became.failed == became.orphaned == became.still_open == 0 and became.adds_up
    books_agree = money is None or money.agree
    return {
        "ok": healthy and books_agree and not tally.gave_up and not tally.not_accepted,
        **became.model_dump(),
        "seconds": round(tally.seconds, 2),
        "orders_per_second": round(tally.orders_per_second, 3),
        "activities_per_order": took.activities_per_order,
        "activities_sampled_orders": took.sampled,
        "touchless": took.touchless,
        "touchless_share": round(_share(took, became), 4),
        "shipments": took.shipments,
        "late_shipments": took.late_shipments,
        "plans": took.plans,
        "plans_proven_optimal": took.proven_plans,
        "plans_proven_share": round(_proven(took), 4),
        "reviews_opened": took.reviews_opened,
        "already_there": tally.repeated,
        "invoices_read": tally.read,
        "refused": {kind.value: tally.refused[kind] for kind in RefusalKind},
        "not_accepted": tally.not_accepted,
        "conflicts": tally.conflicts,
        "read_whole_file": tally.read_all,
        "invoices_with_notes": tally.noted,
        "gave_up": tally.gave_up or None,
        "first_delivered_seconds": tally.first_delivered_seconds,
        "speed": live.speed,
        "money": money.model_dump(mode="json") | {"agree": money.agree} if money else None,
        "assumed": "names, addresses, payments, stock, carriers, weights: see examples/online_retail/README.md",
    }


def _write(report: dict[str, Any], json_file: Path | None) -> None:
    if json_file is None:
        return
    text = json.dumps(report, indent=2) + "\n"
    if str(json_file) == "-":
        print(text, end="")
    else:
        json_file.write_text(text, encoding="utf-8")
