"""``orderwright simulators``: what the stand-in neighbours of a stack did, and how badly they behave."""

from pathlib import Path
from typing import Annotated

import typer

from apps.cli.output import console, listing, print_json
from apps.cli.remote import AsJson, bad_input
from apps.simulators.faults import PRESETS, FaultScript, in_force, put_in_force, read_script
from apps.simulators.statement import as_text, statements_in
from models.errors import NotFound
from workers.embedded.stack import simulators_dir
from workers.settings import get_settings

app = typer.Typer()


@app.callback()
def simulators() -> None:
    """What the stand-in neighbours of a stack did, and how badly they behave."""


@app.command()
def statement(
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Whose simulators, running or not; default: as for up.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print everything that payment provider, warehouse, carriers and message gateway did, and the totals."""
    kept_in = _kept_in(data_dir)
    statements = statements_in(kept_in)
    if as_json:
        print_json(statements)
    else:
        print(as_text(statements))


@app.command()
def faults(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A script of faults (TOML), to be in force from now on."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help=f"One of our own scripts: {', '.join(PRESETS)}.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Whose simulators, running or not; default: as for up.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let the simulators misbehave by a script, or stop that with --preset off; without either: what is in force.

    docs/faults.md has the kinds of faults. A running stack follows at once; what was planned before stays as it was.
    """
    if file is not None and preset is not None:
        raise bad_input("FILE and --preset", "name two scripts: give one of them")
    kept_in = _kept_in(data_dir)
    if file is not None or preset is not None:
        put_in_force(read_script(file) if file is not None else preset_script(preset or ""), kept_in)
    script = in_force(kept_in)
    if as_json:
        print_json(script.model_dump(mode="json", exclude_defaults=True))
    else:
        _print_script(script)


def _kept_in(data_dir: Path | None) -> Path:
    """Where the simulators on ``data_dir`` keep their state. Raises ``NotFound`` when none ever ran there."""
    kept_in = simulators_dir(data_dir or get_settings().data_dir)
    if not kept_in.is_dir():
        raise NotFound(
            f"no simulator ever ran on these data ({kept_in} is missing): start a stack on them, or name others with"
            " --data-dir; where each process has a container of its own, ask in one of a simulator:"
            " docker compose exec simulator-payment orderwright simulators ..."
        )
    return kept_in


def preset_script(name: str) -> FaultScript:
    """One of our own scripts. Raises ``InvalidDocument`` naming them all."""
    script = PRESETS.get(name)
    if script is None:
        raise bad_input("--preset", f"{name!r} is none of: {', '.join(PRESETS)}")
    return script


def _print_script(script: FaultScript) -> None:
    target = console()
    if script.customers_pay:
        target.print(f"{script.customers_pay:.0%} of customers whose payment is declined give another card")
    if not script.fault:
        target.print("the simulators behave: no fault script is in force")
        return
    table = listing("what goes wrong", "at", "endpoint", "order", "share", "times", right=("share", "times"))
    for fault in script.fault:
        what = f"{fault.do} {fault.status}" if fault.do == "status" else fault.do
        table.add_row(
            f"{what} ({fault.wait:g} s)" if fault.wait else what,
            fault.at,
            fault.endpoint,
            fault.order,
            f"{fault.share:.0%}" if fault.share >= 0.01 else f"{fault.share:.2%}",
            str(fault.times) if fault.times else "always",
        )
    target.print(table)
