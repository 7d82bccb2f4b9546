"""The command line as a whole: which commands there are and where each is written."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

import typer

from models.errors import DocumentTooLarge, InvalidDocument, NotReachable, OrderwrightError

REFUSED, BAD_INPUT, NOT_REACHABLE = 1, 2, 3


@dataclass(frozen=True)
class _Command:
    """``member`` of ``module`` is a command function, or a ``typer.Typer`` with commands of its own."""

    name: str
    module: str
    member: str
    help: str


_COMMANDS = (
    _Command("up", "apps.cli.up", "up", "Start the whole stack and keep it running until Ctrl-C."),
    _Command("demo", "apps.cli.demo", "demo", "Start the stack and replay real orders through it."),
    _Command("doctor", "apps.cli.doctor", "doctor", "Check this machine and a running stack."),
    _Command("orders", "apps.cli.orders", "app", "Submit, show, list, amend and cancel orders."),
    _Command("review", "apps.cli.reviews", "app", "List, show and decide what waits for a person."),
    _Command(
        "route",
        "apps.cli.rerouting",
        "app",
        "Say why an order goes this way, what if not, and what is closed.",
    ),
    _Command(
        "policy", "apps.cli.policy", "app", "Show the policy; propose, compare and approve another one."
    ),
    _Command("ledger", "apps.cli.ledger", "app", "Show what happened to money, and what it adds up to."),
    _Command("prices", "apps.cli.prices", "app", "Load, assign and show price lists of business customers."),
    _Command(
        "stock", "apps.cli.stock", "app", "Show stock; receive, count, correct and send it; check its books."
    ),
    _Command(
        "subscribers", "apps.cli.subscribers", "app", "Say who is told of what happens, and look after it."
    ),
    _Command("simulators", "apps.cli.simulators", "app", "Print what the simulated neighbours did."),
    _Command("api", "apps.cli.serve", "api", "Serve the HTTP API."),
    _Command("worker", "apps.cli.worker", "app", "Run workers for chosen task queues."),
    _Command("prepare", "apps.cli.serve", "prepare", "Make database and namespace ready for this version."),
    _Command("migrate", "apps.cli.serve", "migrate", "Bring the database's tables up to date."),
)


def build(arguments: Sequence[str] | None = None) -> typer.Typer:
    """The command line app.

    With ``arguments`` only the command that they name is imported, and the others are there by name and help text:
    that is what lets ``--help`` answer at once. Without, every command is complete.
    """
    app = typer.Typer(
        name="orderwright",
        help="Durable, explainable order management on Temporal.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def orderwright() -> None:
        """Durable, explainable order management on Temporal."""

    named = None if arguments is None else command_in(arguments)
    for command in _COMMANDS:
        if named is None or named == command.name:
            _add(app, command)
        else:
            app.command(command.name, help=command.help)(_not_loaded)
    return app


def command_in(arguments: Sequence[str]) -> str:
    """The command that ``arguments`` name, or nothing."""
    return next((argument for argument in arguments if not argument.startswith("-")), "")


def exit_code(error: OrderwrightError) -> int:
    """What a shell is told: 3 when something does not answer, 2 for bad input, 1 for anything refused."""
    if isinstance(error, NotReachable):
        return NOT_REACHABLE
    if isinstance(error, InvalidDocument | DocumentTooLarge):
        return BAD_INPUT
    return REFUSED


def _add(app: typer.Typer, command: _Command) -> None:
    member = getattr(importlib.import_module(command.module), command.member)
    if isinstance(member, typer.Typer):
        app.add_typer(member, name=command.name, help=command.help, no_args_is_help=True)
    else:
        app.command(command.name, help=command.help)(member)


def _not_loaded() -> None:
    raise AssertionError("only the command that was named is ever run")
