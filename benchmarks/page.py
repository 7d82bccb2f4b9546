"""Puts what was measured into docs/performance.md: tables between their markers, figures and plot beside the page.

The prose around them is written by hand. Only what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->`` is replaced.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks.figures import IN_FLIGHT, PROCESSES, Cell, Computer, Figures
from benchmarks.tables import listings, markdown
from models.errors import Refused

WIDTH, HEIGHT = 9.0, 3.6


def rewrite(page: Path, figures: Figures) -> None:
    """Replace the page's tables, and beside it the figures (``.json``) and the plot (``.svg``).

    Raises ``Refused`` for a page that has no place for a table, and for figures that are not fit to be published.
    """
    if lacking := unfit(figures):
        raise Refused(f"these figures are not fit to be published: {lacking}")
    page.write_text(with_tables(page.read_text(), figures))
    page.with_suffix(".json").write_text(figures.model_dump_json(indent=1) + "\n")
    plot(figures, page.with_suffix(".svg"))


def unfit(figures: Figures) -> str:
    """What keeps the figures from being published; nothing for those of a whole run."""
    in_flight = tuple(cell.in_flight for cell in figures.by_in_flight)
    processes = tuple(cell.worker_processes for cell in figures.by_processes)
    return ", ".join(
        filter(
            None,
            (
                "they are of a quick run" if figures.quick else "",
                f"measured with {in_flight} orders in flight, not {IN_FLIGHT}"
                if in_flight != IN_FLIGHT
                else "",
                f"measured with {processes} processes, not {PROCESSES}" if processes != PROCESSES else "",
            ),
        )
    )


def with_tables(text: str, figures: Figures) -> str:
    """The page with the tables of ``figures``."""
    return with_blocks(
        text, {listing.name: markdown(listing) for listing in listings(figures)} | {"where": _where(figures)}
    )


def with_blocks(text: str, blocks: Mapping[str, str]) -> str:
    """The page with each block between its markers. Raises ``Refused`` for a page that has no place for one."""
    for name, block in blocks.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, found = marked.subn(lambda match, block=block: f"{match[1]}{block}\n{match[2]}", text)  # type: ignore[misc]
        if found != 1:
            raise Refused(
                f"the page must have one place for the table {name!r}: <!-- {name} --> … <!-- /{name} -->"
            )
    return text


def _where(figures: Figures) -> str:
    machine = figures.machine
    rough = " A quick run: too rough to rely on." if figures.quick else ""
    return (
        f"Measured {figures.measured_at} in {figures.seconds:.0f} s: {on(machine)}, Temporal server {machine.temporal}"
        f" (dev server on SQLite), Python SDK {machine.sdk}.{rough}"
    )


def on(computer: Computer) -> str:
    """The machine, in a line."""
    return (
        f"{computer.cores} cores ({computer.processor}), {computer.memory_gb:.0f} GB, {computer.system},"
        f" Python {computer.python}"
    )


def plot(figures: Figures, file: Path) -> None:
    """Draw orders/s by orders in flight, and by worker processes, as SVG."""
    # Imported here: only whoever draws needs the library, which is a development dependency.
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    # The same figures give the same file, so that its history shows only what changed.
    with mpl.rc_context({"svg.hashsalt": "orderwright", "font.size": 9, "svg.fonttype": "none"}):
        picture = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        left, right = picture.subplots(1, 2)
        cells = figures.by_in_flight
        left.plot([cell.in_flight for cell in cells], _rates(cells), marker="o", label="orders/s")
        left.set_xscale("log")
        left.set_xticks([cell.in_flight for cell in cells], [str(cell.in_flight) for cell in cells])
        left.minorticks_off()
        left.set_xlabel("orders in flight, one process per worker group")
        left.set_ylabel("orders/s")
        waiting = left.twinx()
        waiting.plot(
            [cell.in_flight for cell in cells],
            [(cell.reserved_p50_ms or 0) / 1000 for cell in cells],
            marker="s",
            linestyle="--",
            color="tab:orange",
            label="submit to reserved, p50, s",
        )
        waiting.set_ylabel("submit to reserved, p50, s")
        waiting.set_ylim(bottom=0)
        picture.legend(loc="outside upper left", ncols=2, frameon=False)
        scaled = figures.by_processes
        right.plot([cell.worker_processes for cell in scaled], _rates(scaled), marker="o")
        right.set_xticks([cell.worker_processes for cell in scaled])
        right.set_xlabel(
            f"processes per worker group, {scaled[0].in_flight} in flight, {figures.machine.cores} cores"
        )
        right.set_ylabel("orders/s")
        for axes, cells in ((left, figures.by_in_flight), (right, scaled)):
            axes.set_ylim(0, 1.15 * max(_rates(cells)))
            axes.grid(alpha=0.3)
        picture.savefig(file, format="svg", metadata={"Date": None})


def _rates(cells: tuple[Cell, ...]) -> list[float]:
    return [cell.runs_per_second for cell in cells]
