"""``orderwright`` and ``python -m apps.cli``: run a command, say what went wrong in a sentence, leave with its code."""

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NoReturn

from apps.cli.app import build, command_in, exit_code
from models.errors import OrderwrightError
from workers import exit as process_exit


def main() -> NoReturn:
    """Run the command line. Exit codes: 0 done, 1 refused, 2 bad input, 3 not reachable."""
    process_exit.run(_run)


def _run() -> int:
    arguments = sys.argv[1:]
    try:
        build(arguments)(args=arguments)
    except OrderwrightError as error:
        _say(error, as_json=_wants_json(arguments))
        return exit_code(error)
    return 0


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether standard output is for a program. The demo's ``--json`` names a file, and ``-`` is standard output."""
    if command_in(arguments) != "demo":
        return "--json" in arguments
    return "--json=-" in arguments or ("--json", "-") in pairwise(arguments)


def _say(error: OrderwrightError, *, as_json: bool) -> None:
    from apps.cli.output import console, error_json, print_error, print_json

    if as_json:
        print_json({"error": error_json(error)})
    else:
        print_error(console(to_stderr=True), error, about="orderwright")


if __name__ == "__main__":
    main()
