"""``orderwright simulators``: what the stand-in neighbours of a stack did."""

from pathlib import Path
from typing import Annotated

import typer

from apps.cli.output import print_json
from apps.cli.remote import AsJson
from apps.simulators.statement import as_text, statements_in
from models.errors import NotFound
from workers.embedded.stack import simulators_dir
from workers.settings import get_settings

app = typer.Typer()


@app.callback()
def simulators() -> None:
    """What the stand-in neighbours of a stack did."""


@app.command()
def statement(
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Whose simulators, running or not; default: as for up.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print everything that payment provider, warehouse, carriers and message gateway did, and the totals."""
    kept_in = simulators_dir(data_dir or get_settings().data_dir)
    if not kept_in.is_dir():
        raise NotFound(
            f"no simulator ever ran on these data ({kept_in} is missing): name others with --data-dir"
        )
    statements = statements_in(kept_in)
    if as_json:
        print_json(statements)
    else:
        print(as_text(statements))
