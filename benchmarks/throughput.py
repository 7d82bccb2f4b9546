"""What an order costs, against what the engine could do at best: ``python -m benchmarks.throughput --json FILE``.

It starts a stack of its own on empty data and measures, on the same server in one run, happy single-shipment orders
with simulators that take no time, and workflows that do nothing. Run it on a machine that has nothing else to do.
Exit code 0 also when an aim is missed, which the tables say; 1 when a run of the load did not end well.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.alone import console, temporary_directory
from benchmarks.bench import QUICK, Plan, measure
from benchmarks.figures import Figures
from benchmarks.page import rewrite, unfit
from benchmarks.tables import show
from models.errors import OrderwrightError
from workers import exit as process_exit
from workers.embedded.signals import run_until_interrupted
from workers.logging import configure_logging


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; answers the exit code."""
    asked = _parser().parse_args(arguments)
    told = console()
    if asked.from_json is not None:
        figures = Figures.model_validate_json(asked.from_json.read_bytes())
        show(figures, told)
        _keep(figures, asked, told)
        return 0
    configure_logging("WARNING")
    return run_until_interrupted(_measure(asked, told))


async def _measure(asked: argparse.Namespace, told: Console) -> int:
    data_dir = temporary_directory()
    keep = False
    try:
        figures = await measure(
            QUICK if asked.quick else Plan(),
            data_dir,
            lambda line: told.print(line, highlight=False, soft_wrap=True),
            quick=asked.quick,
        )
    except OrderwrightError as error:
        told.print(error.message, style="red", soft_wrap=True)
        told.print(f"data and logs are kept in {data_dir}", soft_wrap=True)
        keep = True
        return 1
    finally:
        if not keep:
            shutil.rmtree(data_dir, ignore_errors=True)
    show(figures, told)
    _keep(figures, asked, told)
    return 0


def _keep(figures: Figures, asked: argparse.Namespace, told: Console) -> None:
    if asked.json is not None:
        asked.json.write_text(figures.model_dump_json(indent=1) + "\n")
        told.print(f"figures: {asked.json}", soft_wrap=True)
    if asked.page is not None and (lacking := unfit(figures)):
        told.print(f"{asked.page} is left as it is: {lacking}", soft_wrap=True)
    elif asked.page is not None:
        rewrite(asked.page, figures)
        told.print(f"tables and plot: {asked.page}", soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument(
        "--page",
        type=Path,
        help="put tables and plot into this page, between its markers, and the plot beside it",
    )
    parser.add_argument("--quick", action="store_true", help="under two minutes, and too rough to publish")
    parser.add_argument(
        "--from-json",
        type=Path,
        help="measure nothing: show, and with --page publish, the figures of this file",
    )
    return parser


if __name__ == "__main__":
    process_exit.run(main)
