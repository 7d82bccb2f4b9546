"""What stock and money cost: ``python -m benchmarks.stock_and_money --page docs/speed-of-stock-and-money.md``.

It runs the benchmarks of reservations, the ledger and the outbox, one after the other, each on a PostgreSQL of its own,
and puts their tables and the plots of how they grow into a page. Run it on a machine that has nothing else to do.
Exit code 0 also when an aim is missed, which the tables say; 1 when a unit was sold twice, the books do not balance or
an event was lost.
"""

import argparse
import hashlib
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks import alone, ledger, outbox, page, reservations, using
from benchmarks.figures import Aim, Computer
from benchmarks.ledger import APPEND, BALANCE, CAPTURE, LEDGER
from benchmarks.tables import Listing, aims_table, markdown, print_tables
from models.base import Contract
from models.errors import Refused
from workers import exit as process_exit
from workers.embedded.signals import run_until_interrupted
from workers.logging import configure_logging

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES = LOOK_UPS, OF_LEDGER = "look-ups", "ledger"
_DOTS_PER_INCH = 130


class Server(Contract):
    """The PostgreSQL that it was measured on."""

    version: str
    settings: dict[str, str]


class Figures(Contract):
    """Everything of one run. ``others_cpu_percent``: of all cores, what programs outside of a benchmark used."""

    quick: bool
    measured_at: str
    seconds: float
    machine: Computer
    server: Server
    others_cpu_percent: dict[str, float]
    reservations: reservations.Figures
    ledger: ledger.Figures
    outbox: outbox.Figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; answers the exit code."""
    asked = _parser().parse_args(arguments)
    told = alone.console()
    if asked.from_json is not None:
        return _tell(Figures.model_validate_json(asked.from_json.read_bytes()), asked, told)
    configure_logging("WARNING")
    return run_until_interrupted(_measure(asked, told))


async def _measure(asked: argparse.Namespace, told: Console) -> int:
    return _tell(await measure(told.print, quick=asked.quick), asked, told)


def _tell(figures: Figures, asked: argparse.Namespace, told: Console) -> int:
    show(figures, told)
    if asked.json is not None:
        alone.keep(figures, asked.json, told)
    if asked.page is not None and (lacking := unfit(figures)):
        told.print(f"{asked.page} is left as it is: {lacking}", soft_wrap=True)
    elif asked.page is not None:
        rewrite(asked.page, figures)
        told.print(f"tables and plots: {asked.page}", soft_wrap=True)
    return 0 if good(figures) else 1


async def measure(tell: alone.Tell, *, quick: bool) -> Figures:
    """All three, one after the other."""
    began, at = time.monotonic(), datetime.now(UTC)
    async with alone.own_postgres() as server:
        asked = await _asked(server.url())
        with using.Others() as while_reserving:
            plan = reservations.QUICK if quick else reservations.Plan()
            reserved = await reservations.measure(server, plan, tell, quick=quick)
    async with alone.own_postgres() as server:
        with using.Others() as while_posting:
            posted = await ledger.measure(server, ledger.QUICK if quick else ledger.Plan(), tell, quick=quick)
    async with alone.own_postgres() as server:
        with using.Others() as while_telling:
            heard = await outbox.measure(server, outbox.QUICK if quick else outbox.Plan(), tell, quick=quick)
    return Figures(
        quick=quick,
        measured_at=f"{at:%Y-%m-%d %H:%M} UTC",
        seconds=round(time.monotonic() - began, 1),
        machine=using.computer(),
        server=asked,
        others_cpu_percent={
            "reservations": while_reserving.percent,
            "ledger": while_posting.percent,
            "outbox": while_telling.percent,
        },
        reservations=reserved,
        ledger=posted,
        outbox=heard,
    )


_SETTINGS = ("fsync", "synchronous_commit", "shared_buffers", "wal_sync_method")


async def _asked(url: str) -> Server:
    async with await alone.connect(url) as connection:
        found = await connection.execute(
            "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name",
            (["server_version", *_SETTINGS],),
        )
        settings = {str(name): str(value) for name, value in await found.fetchall()}
    return Server(version=settings.pop("server_version"), settings=settings)


def good(figures: Figures) -> bool:
    """Whether nothing was sold twice, everything balances and no event was lost; aims are another matter."""
    return (
        reservations.good(figures.reservations)
        and ledger.good(figures.ledger)
        and outbox.good(figures.outbox)
    )


def aims(figures: Figures) -> Iterator[Aim]:
    """Each aim beside what was measured."""
    yield from reservations.aims(figures.reservations)
    yield from ledger.aims(figures.ledger)
    yield from outbox.aims(figures.outbox)


def listings(figures: Figures) -> Iterator[Listing]:
    """Every table, in the order of the page."""
    yield aims_table(aims(figures))
    yield from reservations.listings(figures.reservations)
    yield from ledger.listings(figures.ledger)
    yield from outbox.listings(figures.outbox)


def show(figures: Figures, told: Console) -> None:
    """Print every table."""
    print_tables(listings(figures), told)
    told.print(_where(figures), soft_wrap=True)


def rewrite(file: Path, figures: Figures) -> None:
    """Replace the page's tables, and beside it the figures (``.json``) and the plots (see ``pictures``).

    Raises ``Refused`` for a page that has no place for a table, and for figures that are not fit to be published.
    """
    if lacking := unfit(figures):
        raise Refused(f"these figures are not fit to be published: {lacking}")
    file.write_text(with_tables(file.read_text(), figures))
    file.with_suffix(".json").write_text(figures.model_dump_json(indent=1) + "\n")
    for what, picture in pictures(file).items():
        plot(what, figures, picture)


def unfit(figures: Figures) -> str:
    """What keeps the figures from being published; nothing for those of a whole run that nothing went wrong in."""
    whole = {
        "clients": (tuple(dict.fromkeys(cell.clients for cell in figures.reservations.cells)), reservations.CLIENTS),
        "rows of stock": (
            tuple(one.rows for one in figures.reservations.look_ups), reservations.Plan().stock_rows
        ),
        "entries in the ledger": (tuple(size.filled for size in figures.ledger.sizes), ledger.Plan().entries),
    }  # fmt: skip
    lacking = [
        *(["they are of a quick run"] if _quick(figures) else []),
        *(
            f"measured with {found} {what}, not {asked}"
            for what, (found, asked) in whole.items()
            if found != asked
        ),
        *([] if good(figures) else ["something went wrong in it"]),
    ]
    return ", ".join(lacking)


def _quick(figures: Figures) -> bool:
    return figures.quick or figures.reservations.quick or figures.ledger.quick or figures.outbox.quick


def with_tables(text: str, figures: Figures) -> str:
    """The page with the tables of ``figures``."""
    blocks = {listing.name: markdown(listing) for listing in listings(figures)}
    return page.with_blocks(text, blocks | {"where": _where(figures)})


def _where(figures: Figures) -> str:
    others = ", ".join(
        f"{percent:.0f} % while {what}" for what, percent in figures.others_cpu_percent.items()
    )
    settings = ", ".join(f"{name} {value}" for name, value in figures.server.settings.items())
    rough = " A quick run: too rough to rely on." if figures.quick else ""
    return (
        f"Measured {figures.measured_at} in {figures.seconds:.0f} s: {page.on(figures.machine)},"
        f" PostgreSQL {figures.server.version} ({settings}). CPU of others: {others}.{rough}"
    )


# --- the plots ---
def pictures(file: Path) -> dict[str, Path]:
    """Where the plots of the page ``file`` are."""
    return {what: file.with_name(f"{file.stem}.{what}.png") for what in PICTURES}


def digest(figures: Figures) -> str:
    """Says which figures a plot shows: it stands in the file of the plot."""
    return hashlib.sha256(figures.model_dump_json().encode()).hexdigest()


def plot(what: str, figures: Figures, file: Path) -> None:
    """Draw how long it takes as the table grows, as PNG."""
    # Imported here: only whoever draws needs the library, which is a development dependency.
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context({"font.size": 9}):
        if what == LOOK_UPS:
            picture = Figure(figsize=(5.2, 3.8), layout="constrained")
            _draw_look_ups(picture.subplots(), figures.reservations)
        else:
            picture = Figure(figsize=(9.0, 4.0), layout="constrained")
            _draw_ledger(picture.subplots(1, 2, sharey=True), figures.ledger)
        # The same figures give the same file, so that its history shows only what changed.
        picture.savefig(
            file, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None, "Comment": digest(figures)}
        )


def _draw_look_ups(axes: "Axes", figures: reservations.Figures) -> None:
    rows = [one.rows for one in figures.look_ups]
    p50, p99 = [one.p50_ms for one in figures.look_ups], [one.p99_ms for one in figures.look_ups]
    _curves(axes, rows, p50, p99)
    aim = reservations.AIM_LOOK_UP_P99_MS
    _finish(axes, "Availability of a SKU at 20 nodes", "rows of stock", aim, highest=max(p99))


def _draw_ledger(both: "Sequence[Axes]", figures: ledger.Figures) -> None:
    entries = [size.filled for size in figures.sizes]
    highest = max(one.p99_ms for size in figures.sizes for one in size.took)
    for axes, title, kinds in zip(
        both, ("Writing", "Reading"), ((APPEND, CAPTURE), (BALANCE, LEDGER)), strict=True
    ):
        for colour, kind in zip(("tab:blue", "tab:orange"), kinds, strict=True):
            took = [one for size in figures.sizes for one in size.took if one.what == kind]
            p50, p99 = [one.p50_ms for one in took], [one.p99_ms for one in took]
            _curves(axes, entries, p50, p99, what=f"{kind}, ", colour=colour)
        _finish(axes, title, "entries in the ledger", ledger.AIM_P99_MS, highest=highest)


def _curves(
    axes: "Axes",
    rows: Sequence[int],
    p50_ms: Sequence[float],
    p99_ms: Sequence[float],
    *,
    what: str = "",
    colour: str = "tab:blue",
) -> None:
    axes.plot(rows, p50_ms, marker="o", color=colour, label=f"{what}p50")
    axes.plot(rows, p99_ms, marker="s", color=colour, label=f"{what}p99", linestyle="--")


def _finish(axes: "Axes", title: str, along: str, aim: float, *, highest: float) -> None:
    axes.axhline(aim, color="grey", linewidth=1, linestyle=":", label=f"aim for p99: {aim:g} ms")
    axes.set_title(title)
    axes.set_xscale("log")
    axes.set_xlabel(along)
    axes.set_ylabel("ms")
    axes.set_ylim(0, 1.1 * max(highest, aim))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stock_and_money", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument(
        "--page",
        type=Path,
        help="put the tables into this page, between its markers, and figures and plots beside it",
    )
    parser.add_argument("--quick", action="store_true", help="under a minute, and too rough to publish")
    parser.add_argument(
        "--from-json",
        type=Path,
        help="measure nothing: show, and with --page publish, the figures of this file",
    )
    return parser


if __name__ == "__main__":
    process_exit.run(main)
