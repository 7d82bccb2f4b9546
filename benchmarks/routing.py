"""What routing is worth, and what it takes: ``python -m benchmarks.routing --data DIR --json FILE --page FILE``.

All of it, one after the other: whether the methods are exact, and how long each takes (``benchmarks.routing_exact``),
real wholesale orders (``benchmarks.routing_wholesale``), streams of orders against the rules that others use
(``benchmarks.routing_streams``), and how the time grows (``benchmarks.routing_growth``). DIR holds ``olist`` and
``online_retail``, which are not part of this repository: without them what needs them is skipped, and named. Exit code
1 when two methods disagree or a plan takes more than there is; 0 also when an aim is missed, as the tables say. Run it
on a machine that has nothing else to do.
"""

import argparse
import hashlib
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks import (
    alone,
    page,
    routing_exact,
    routing_growth,
    routing_streams,
    routing_wholesale,
    using,
)
from benchmarks.figures import Aim, Computer, at_most
from benchmarks.routing_streams import LOOKING, NEAREST, OPTIMUM, WAVE_ORDERS, rule, saved_percent
from benchmarks.tables import Listing, aims_table, markdown, print_tables
from models.base import Contract
from models.errors import Refused
from workers import exit as process_exit

OLIST, ONLINE_RETAIL = "olist", "online_retail"


class Skipped(Contract):
    """A part that was not measured, and why."""

    part: str
    why: str


class Saving(Contract):
    """By how much routing is cheaper than the nearest rule on a network, in percent of its cost, with all fill rates.

    ``percent``: order by order with look-ahead; ``first_come_…``: without; ``in_waves_…``: waves with look-ahead.
    ``at_most_percent``: no plan can save more, even one that knows all orders beforehand.
    """

    percent: float
    fill_percent: float
    nearest_fill_percent: float
    first_come_percent: float
    first_come_fill_percent: float
    in_waves_percent: float
    in_waves_fill_percent: float
    at_most_percent: float


class Closed(Contract):
    """How much of the gap between first come, first served and the bound of the linear program look-ahead closes.

    ``gap_percent``: how wide it is, of the cost of first come, first served; where there is none, none is closed.
    """

    percent: float | None
    fill_percent: float
    first_come_fill_percent: float
    gap_percent: float


class Figures(Contract):
    """Everything of one run; what the aims are about comes first.

    ``…_ms`` on the clock. ``times_quicker_than_cp_sat``: by lines × nodes. ``wave_…``: a wave of 10,000 orders
    on 20 nodes, its gap in percent of the bound; ``None`` where it was not routed. ``others_cpu_percent``: of all
    cores, what other programs used meanwhile.
    """

    mismatches: int
    dp_p99_ms_10x50: float
    dp_cpu_p99_ms_10x50: float
    times_quicker_than_cp_sat: dict[str, routing_exact.Ratio]
    saving_vs_nearest: dict[str, Saving]
    lookahead_gap_closed: dict[str, Closed]
    wave_10000_seconds: float | None
    wave_10000_cpu_seconds: float | None
    wave_gap_to_lp: float | None
    wave_fill_percent: float | None
    wholesale_p50_ms: float | None
    wholesale_p99_ms: float | None
    wholesale_proven_percent: float | None
    skipped: tuple[Skipped, ...]
    quick: bool
    measured_at: str
    seconds: float
    seconds_of: dict[str, float]
    others_cpu_percent: dict[str, float]
    machine: Computer
    exact: routing_exact.Figures
    wholesale: routing_wholesale.Figures | None
    streams: routing_streams.Figures
    growth: routing_growth.Figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and show; answers the exit code."""
    asked = _parser().parse_args(arguments)
    told = alone.console()
    if asked.from_json is not None:
        figures = Figures.model_validate_json(asked.from_json.read_bytes())
    else:
        figures = measure(asked.data, told.print, quick=asked.quick)
    show(figures, told)
    if asked.json is not None:
        alone.keep(figures, asked.json, told)
    if asked.page is not None and (lacking := unfit(figures)):
        told.print(f"{asked.page} is left as it is: {lacking}", soft_wrap=True)
    elif asked.page is not None:
        rewrite(asked.page, figures)
        told.print(f"tables and plots: {asked.page}", soft_wrap=True)
    return 0 if good(figures) else 1


def measure(data: Path | None, tell: alone.Tell, *, quick: bool) -> Figures:
    """All parts, one after the other; what ``data`` lacks is skipped."""
    began, at = time.monotonic(), datetime.now(UTC)
    folders = {name: _folder(data, name) for name in (OLIST, ONLINE_RETAIL)}
    skipped = [
        Skipped(part=part, why=why)
        for part, why in (
            ("wholesale orders of online_retail", folders[ONLINE_RETAIL]),
            ("stream on the Olist network", folders[OLIST]),
        )
        if isinstance(why, str)
    ]
    for one in skipped:
        tell(f"skipped: {one.part}: {one.why}")
    seconds: dict[str, float] = {}
    others: dict[str, float] = {}
    with _Part("exactness and latency", seconds, others):
        exact = routing_exact.measure(tell, quick=quick)
    wholesale = None
    if isinstance(folder := folders[ONLINE_RETAIL], Path):
        with _Part("wholesale orders", seconds, others):
            wholesale = _or_skipped(folder, tell, skipped, quick=quick)
    with _Part("growth", seconds, others):
        growth = routing_growth.measure(tell, quick=quick)
    with _Part("streams and waves", seconds, others):
        streams = _streams(folders[OLIST], tell, skipped, quick=quick)
    wave = next((one for one in streams.growth if one.orders == WAVE_ORDERS), None)
    if wave is None:
        largest = streams.growth[-1].orders
        skipped.append(
            Skipped(part=f"wave of {WAVE_ORDERS:,}", why=f"a quick run: its largest is {largest:,}")
        )
    dp = next(one for one in exact.latencies if (one.method, one.lines, one.nodes) == ("dp, numpy", 10, 50))
    return Figures(
        mismatches=sum(one.mismatches for one in exact.agreements),
        dp_p99_ms_10x50=dp.p99_ms,
        dp_cpu_p99_ms_10x50=dp.cpu_p99_ms,
        times_quicker_than_cp_sat={f"{one.lines}x{one.nodes}": one for one in exact.ratios},
        saving_vs_nearest={_network(one): _saving(one) for one in streams.streams},
        lookahead_gap_closed={_network(one): _closed(one) for one in streams.streams},
        wave_10000_seconds=None if wave is None else wave.seconds,
        wave_10000_cpu_seconds=None if wave is None else wave.cpu_seconds,
        wave_gap_to_lp=None if wave is None else wave.gap_percent,
        wave_fill_percent=None if wave is None else wave.fill_percent,
        wholesale_p50_ms=None if wholesale is None else wholesale.p50_ms,
        wholesale_p99_ms=None if wholesale is None else wholesale.p99_ms,
        wholesale_proven_percent=None if wholesale is None else wholesale.proven_percent,
        skipped=tuple(skipped),
        quick=quick,
        measured_at=f"{at:%Y-%m-%d %H:%M} UTC",
        seconds=round(time.monotonic() - began, 1),
        seconds_of=seconds,
        others_cpu_percent=others,
        machine=using.computer(),
        exact=exact,
        wholesale=wholesale,
        streams=streams,
        growth=growth,
    )


def _folder(data: Path | None, name: str) -> Path | str:
    """Where the data set is, or why it is not there."""
    if data is None:
        return f"--data names no folder with {name}; it is not part of this repository"
    folder = data / name
    return folder if folder.is_dir() else f"there is no folder {name} in {data}"


class _Part:
    """Writes down how long a part took, and what others used meanwhile."""

    def __init__(self, name: str, seconds: dict[str, float], others: dict[str, float]) -> None:
        self._name, self._seconds, self._percent = name, seconds, others

    def __enter__(self) -> None:
        self._began, self._others = time.monotonic(), using.Others()
        self._others.__enter__()

    def __exit__(self, *raised: object) -> None:
        self._others.__exit__(*raised)
        self._seconds[self._name] = round(time.monotonic() - self._began, 1)
        self._percent[self._name] = self._others.percent


def _or_skipped(
    folder: Path, tell: alone.Tell, skipped: list[Skipped], *, quick: bool
) -> routing_wholesale.Figures | None:
    try:
        return routing_wholesale.measure(folder, tell, quick=quick)
    except Refused as error:
        skipped.append(Skipped(part="wholesale orders of online_retail", why=str(error)))
        tell(f"skipped: {error}")
        return None


def _streams(
    folder: Path | str, tell: alone.Tell, skipped: list[Skipped], *, quick: bool
) -> routing_streams.Figures:
    if isinstance(folder, Path):
        try:
            return routing_streams.measure(folder, quick=quick, tell=tell)
        except Refused as error:
            skipped.append(Skipped(part="stream on the Olist network", why=str(error)))
            tell(f"skipped: {error}")
    return routing_streams.measure(None, quick=quick, tell=tell)


def _network(streams: routing_streams.Streams) -> str:
    return streams.world.partition(",")[0].lower()


def _saving(streams: routing_streams.Streams) -> Saving:
    near, first, ahead = (rule(streams, name) for name in (NEAREST, OPTIMUM, LOOKING))
    waves = next(row for row in streams.rows if row.rule.startswith("waves of") and LOOKING in row.rule)
    return Saving(
        percent=saved_percent(ahead.cost, near.cost),
        fill_percent=ahead.fill_percent,
        nearest_fill_percent=near.fill_percent,
        first_come_percent=saved_percent(first.cost, near.cost),
        first_come_fill_percent=first.fill_percent,
        in_waves_percent=saved_percent(waves.cost, near.cost),
        in_waves_fill_percent=waves.fill_percent,
        at_most_percent=saved_percent(streams.bound, near.cost),
    )


def _closed(streams: routing_streams.Streams) -> Closed:
    first, ahead = rule(streams, OPTIMUM), rule(streams, LOOKING)
    return Closed(
        percent=ahead.gap_closed_percent,
        fill_percent=ahead.fill_percent,
        first_come_fill_percent=first.fill_percent,
        gap_percent=saved_percent(streams.bound, first.cost),
    )


def good(figures: Figures) -> bool:
    """Whether no methods disagree and every plan keeps to what there is; aims are another matter."""
    return routing_exact.good(figures.exact) and routing_streams.good(figures.streams)


# --- telling ---
def aims(figures: Figures) -> Iterator[Aim]:
    """Each aim beside what was measured."""
    yield from routing_exact.aims(figures.exact)
    if (wholesale := figures.wholesale) is not None:
        yield at_most(
            f"{wholesale.routed:,} wholesale orders, p99",
            wholesale.p99_ms,
            routing_wholesale.P99_BELOW_MS,
            " ms",
        )
        yield at_most(
            f"the {len(wholesale.largest)} largest, {routing_wholesale.LARGE} lines or more, longest",
            max(one.ms for one in wholesale.largest),
            routing_wholesale.LARGEST_BELOW_MS,
            " ms",
        )
    yield from routing_streams.aims(figures.streams)


def listings(figures: Figures) -> Iterator[Listing]:
    """Every table, in the order of the page."""
    yield aims_table(aims(figures))
    yield from (one for one in routing_exact.listings(figures.exact) if one.name != "aims")
    if figures.wholesale is not None:
        yield from routing_wholesale.listings(figures.wholesale)
    yield from routing_streams.listings(figures.streams)
    yield _savings(figures)
    yield from routing_growth.listings(figures.growth)


def _savings(figures: Figures) -> Listing:
    return Listing(
        "savings",
        "Cheaper than the nearest rule, and fill",
        ("network", "first come", "look-ahead", "waves, look-ahead", "no plan above", "fill: nearest", "first come",
         "look-ahead", "waves"),
        [
            (
                network,
                f"{one.first_come_percent:.2f} %",
                f"{one.percent:.2f} %",
                f"{one.in_waves_percent:.2f} %",
                f"{one.at_most_percent:.2f} %",
                f"{one.nearest_fill_percent:.2f} %",
                f"{one.first_come_fill_percent:.2f} %",
                f"{one.fill_percent:.2f} %",
                f"{one.in_waves_fill_percent:.2f} %",
            )
            for network, one in figures.saving_vs_nearest.items()
        ],
    )  # fmt: skip


def show(figures: Figures, told: Console) -> None:
    """Print every table, and what was skipped."""
    print_tables(listings(figures), told)
    for one in figures.skipped:
        told.print(f"skipped: {one.part}: {one.why}", style="yellow", soft_wrap=True)
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
        routing_growth.plot(what, figures.growth, figures.streams.growth, picture, digest(figures))


def pictures(file: Path) -> dict[str, Path]:
    """Where the plots of the page ``file`` are."""
    return {what: file.with_name(f"{file.stem}.{what}.png") for what in routing_growth.PICTURES}


def digest(figures: Figures) -> str:
    """Says which figures a plot shows: it stands in the file of the plot."""
    return hashlib.sha256(figures.model_dump_json().encode()).hexdigest()


def unfit(figures: Figures) -> str:
    """What keeps the figures from being published; nothing for those of a whole run that nothing went wrong in."""
    return ", ".join(
        [
            *(["they are of a quick run"] if figures.quick else []),
            *(f"{one.part} was skipped" for one in figures.skipped),
            *([] if good(figures) else ["something went wrong in it"]),
        ]
    )


def with_tables(text: str, figures: Figures) -> str:
    """The page with the tables of ``figures``."""
    blocks = {listing.name: markdown(listing) for listing in listings(figures)}
    about = {
        f"about-{number}": f"**{one.world}**. {one.about}"
        for number, one in enumerate(figures.streams.streams, 1)
    }
    return page.with_blocks(text, blocks | about | {"where": _where(figures)})


def _where(figures: Figures) -> str:
    parts = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in figures.seconds_of.items())
    others = ", ".join(
        f"{percent:.0f} % while {what}" for what, percent in figures.others_cpu_percent.items()
    )
    rough = " A quick run: too rough to rely on." if figures.quick else ""
    return (
        f"Measured {figures.measured_at} in {figures.seconds:.0f} s ({parts}): {page.on(figures.machine)}."
        f" CPU of others: {others}.{rough}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing", description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="folder with olist and online_retail; what is missing is skipped"
    )
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
