"""``orderwright up``: the whole stack on this machine, until somebody asks it to stop."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from apps.simulators.faults import in_force
from models.clock import FASTEST, SLOWEST
from models.errors import OrderwrightError
from workers.embedded.signals import run_until_interrupted
from workers.embedded.stack import Stack, StackOptions, simulators_dir
from workers.logging import configure_logging
from workers.settings import Settings, get_settings

Speed = Annotated[
    float | None,
    typer.Option(
        "--speed",
        min=SLOWEST,
        max=FASTEST,
        help="Business seconds per second of this clock; 86400 is a day in a second. Default: as before on these data.",
    ),
]


def up(
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Where the stack keeps everything. One live stack each.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="The API's port; the next free one if taken."),
    ] = None,
    speed: Speed = None,
    simulators: Annotated[
        bool,
        typer.Option(help="Run the simulated payment provider, warehouse, carriers and message gateway."),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the addresses as one JSON object.")] = False,
) -> None:
    """Start PostgreSQL, Temporal, the simulators, the API and the workers, and keep them alive.

    Ctrl-C or SIGTERM stops everything in order. Started again on the same data, every open order goes on.
    """
    settings = get_settings()
    configure_logging(settings.log_level, json=settings.log_json)
    options = StackOptions(
        data_dir=data_dir or settings.data_dir,
        api_port=port or settings.api_port,
        speed=speed or _speed_of_the_environment(settings),
        with_simulators=simulators,
    )
    code = run_until_interrupted(_serve(options, as_json=as_json))
    raise typer.Exit(code)


def _speed_of_the_environment(settings: Settings) -> float | None:
    return settings.speed if "speed" in settings.model_fields_set else None


async def _serve(options: StackOptions, *, as_json: bool) -> int:
    told = Console(stderr=True)
    stack = Stack(options)
    try:
        await stack.start(lambda step: told.print(f"[dim]{step} …[/dim]", highlight=False))
        if as_json:
            print(stack_as_json(stack), flush=True)
        else:
            print_addresses(stack, Console())
        await stack.run_until_stopped()
    finally:
        await stack.stop(lambda step: told.print(f"[dim]{step} …[/dim]", highlight=False))
    return 0


def print_addresses(stack: Stack, console: Console) -> None:
    """Show a person where everything is, and the token that the API asks for."""
    if stack.published is None:
        raise OrderwrightError("the stack is not running")
    shown = stack.urls | {"API token": stack.published.api_token, "Data and logs": str(stack.data_dir)}
    width = max(map(len, shown))
    for name, value in shown.items():
        # No table: it would cut a long address short, and a copied one has to be whole.
        console.print(Text.assemble(f"{name:<{width}}  ", (value, "bold")), soft_wrap=True, highlight=False)
    say_what_misbehaves(stack.data_dir, console)
    console.print("[dim]Ctrl-C stops everything; open orders go on at the next start.[/dim]")


def say_what_misbehaves(data_dir: Path, console: Console) -> None:
    """A fault script stays in force until it is put off: whoever wonders about the figures has to know."""
    script = in_force(simulators_dir(data_dir))
    if script.fault:
        console.print(
            f"a fault script is in force ({len(script.fault)} faults): orderwright simulators faults --preset off",
            style="yellow",
        )


def stack_as_json(stack: Stack) -> str:
    """The same for a program, as one line of JSON."""
    if stack.published is None:
        raise OrderwrightError("the stack is not running")
    return json.dumps(stack.published.model_dump(mode="json"))
