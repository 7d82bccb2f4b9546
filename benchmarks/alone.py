"""How a benchmark is run that needs nothing but a PostgreSQL of its own: its command line, and the server."""

import argparse
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import psycopg
from rich.console import Console

from benchmarks.figures import percentile
from models.base import Contract
from workers.embedded.postgres import EmbeddedPostgres
from workers.embedded.signals import run_until_interrupted
from workers.logging import configure_logging

Tell = Callable[[str], None]
FiguresT = TypeVar("FiguresT", bound=Contract)

_WIDTH_OF_A_FILE = 130


def run(
    name: str,
    about: str | None,
    quick_is: str,
    *,
    measure: Callable[[EmbeddedPostgres, Tell, bool], Awaitable[FiguresT]],
    show: Callable[[FiguresT, Console], None],
    good: Callable[[FiguresT], bool],
    arguments: Sequence[str] | None,
) -> int:
    """Parse the command line of ``python -m benchmarks.NAME``, ``measure`` (the last argument: quickly) and ``show``.

    Answers the exit code: 1 for figures that are not ``good``, which no aim decides.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help=f"{quick_is}, and too rough to publish")
    asked = parser.parse_args(arguments)
    told = console()
    configure_logging("WARNING")

    async def whole() -> int:
        async with own_postgres() as server:
            figures = await measure(server, told.print, asked.quick)
        show(figures, told)
        if asked.json is not None:
            keep(figures, asked.json, told)
        return 0 if good(figures) else 1

    return run_until_interrupted(whole())


def console() -> Console:
    """Where it is told; a file is given the room that the tables need."""
    told = Console()
    if not told.is_terminal:
        told.width = _WIDTH_OF_A_FILE
    return told


def keep(figures: Contract, file: Path, told: Console) -> None:
    """Write the figures down as JSON."""
    file.write_text(figures.model_dump_json(indent=1) + "\n")
    told.print(f"figures: {file}", soft_wrap=True)


@asynccontextmanager
async def own_postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A server on empty data, as the embedded stack runs it: what it has committed is on disk. Gone afterwards."""
    directory = temporary_directory()
    try:
        async with EmbeddedPostgres(directory) as server:
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def temporary_directory() -> Path:
    """Short, because socket paths are limited; searchable, because PostgreSQL may run as another user."""
    directory = Path(tempfile.mkdtemp(prefix="ow-"))
    directory.chmod(0o711)
    return directory


async def connect(url: str) -> psycopg.AsyncConnection[tuple[object, ...]]:
    """A connection past our own code, each statement of which is a transaction."""
    return await psycopg.AsyncConnection.connect(url.replace("+psycopg", ""), autocommit=True)


def ms(seconds: Sequence[float], percent: float) -> float:
    """What so many percent of ``seconds`` stay below, in milliseconds."""
    return round(percentile(seconds, percent) * 1000, 2)
