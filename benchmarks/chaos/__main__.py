"""Break everything, and prove that nothing was lost: ``python -m benchmarks.chaos --orders 300 --kills 30 --seed 7``.

It starts a stack of its own on empty data, sends real example orders to it with neighbours at their worst, kills its
processes at random moments, freezes one, ends two runs from outside; then it lets everything heal, and checks each
promise of docs/guarantees.md. The same seed gives the same faults. Exit code 0: no violation; 1: violations, with the
whole timeline of the orders concerned, or the stack did not come back.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.chaos.plan import plan_for
from benchmarks.chaos.report import show
from benchmarks.chaos.run import Options, run
from models.errors import OrderwrightError
from workers import exit as process_exit
from workers.embedded.signals import run_until_interrupted
from workers.logging import configure_logging

_WIDTH_OF_A_FILE = 150
_INTERRUPTED = 130
_MOST_IN_FLIGHT = 24


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and break things; answers the exit code."""
    asked = _parser().parse_args(arguments)
    told = Console()
    if not told.is_terminal:
        told.width = _WIDTH_OF_A_FILE
    plan = plan_for(asked.seed, orders=asked.orders, kills=asked.kills)
    if asked.plan:
        told.print(str(plan), highlight=False, soft_wrap=True)
        return 0
    if asked.json is not None:
        _require_writable(asked.json)
    configure_logging("ERROR")
    finished: list[int] = []
    run_until_interrupted(_run(asked, told, finished))
    # Being stopped is no failure of the stack's, and no proof of anything either.
    return finished[0] if finished else _INTERRUPTED


async def _run(asked: argparse.Namespace, told: Console, finished: list[int]) -> None:
    """Run, tell, and put the exit code into ``finished``; nothing is put there when it is interrupted."""
    data_dir = _temporary_directory()
    options = Options(
        data_dir=data_dir,
        plan=plan_for(asked.seed, orders=asked.orders, kills=asked.kills),
        speed=asked.speed,
        in_flight=asked.in_flight or max(1, min(_MOST_IN_FLIGHT, asked.orders // 5)),
        patience=asked.patience,
    )
    try:
        report = await run(options, told)
    except OrderwrightError as error:
        told.print(error.message, style="bold red", soft_wrap=True)
        finished.append(1)
        return
    finally:
        if asked.keep:
            told.print(f"data and logs are kept in {data_dir}", soft_wrap=True)
        else:
            shutil.rmtree(data_dir, ignore_errors=True)
    show(report, told)
    if asked.json is not None:
        asked.json.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        told.print(f"figures: {asked.json}", soft_wrap=True)
    finished.append(0 if report.ok else 1)


def _require_writable(file: Path) -> None:
    """Say now, not after ten minutes, that the figures have nowhere to go."""
    try:
        with file.open("a"):
            return
    except OSError as error:
        print(f"--json: cannot write {file}: {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from error


def _temporary_directory() -> Path:
    """Short, because socket paths are limited; searchable, because PostgreSQL may run as another user."""
    directory = Path(tempfile.mkdtemp(prefix="ow-"))
    directory.chmod(0o711)
    return directory


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--orders", type=_count(1), default=300, help="example orders to send (300)")
    parser.add_argument("--kills", type=_count(0), default=30, help="processes to kill (30)")
    parser.add_argument("--seed", type=_count(0), default=7, help="another seed, other faults (7)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plan", action="store_true", help="only print what would be done and when")
    parser.add_argument("--keep", action="store_true", help="keep data and logs, and say where")
    parser.add_argument("--speed", type=float, default=86_400.0, help="business seconds per second (86400)")
    parser.add_argument(
        "--in-flight", type=_count(1), help="orders under way at once (a fifth of them, 24 at most)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=300.0,
        help="seconds without any order moving until it gives up (300)",
    )
    return parser


def _count(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return value

    return count


if __name__ == "__main__":
    process_exit.run(main)
