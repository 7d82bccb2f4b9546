"""``orderwright worker run``: serve chosen task queues from this process."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from workers.embedded.signals import on_stop_signal
from workers.logging import configure_logging
from workers.loop import run_serving
from workers.running import serve
from workers.settings import get_settings
from workflows.steps import QUEUES

app = typer.Typer()


@app.callback()
def worker() -> None:
    """Run workers for chosen task queues."""


@app.command()
def run(
    queues: Annotated[str, typer.Option("--queues", help=f"Comma-separated, of: {', '.join(QUEUES)}.")],
    ready_file: Annotated[
        Path | None, typer.Option("--ready-file", help="Made once every queue is polled.", hidden=True)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Log one JSON object per line.")] = False,
) -> None:
    """Serve task queues until Ctrl-C or SIGTERM; what has begun is finished first."""
    settings = get_settings()
    configure_logging(settings.log_level, json=settings.log_json or as_json)
    names = tuple(dict.fromkeys(name.strip() for name in queues.split(",") if name.strip()))
    run_serving(_serve(names, ready_file))


async def _serve(names: tuple[str, ...], ready_file: Path | None) -> None:
    stopped = asyncio.Event()
    with on_stop_signal(stopped.set):
        await serve(names, stopped, ready_file)
