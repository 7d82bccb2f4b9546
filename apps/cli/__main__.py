"""``orderwright`` and ``python -m apps.cli``: run a command, say what went wrong in a sentence, leave with its code."""

import json
import sys
from typing import NoReturn

from apps.cli.app import build, exit_code
from models.errors import InvalidDocument, OrderwrightError
from workers import exit as process_exit


def main() -> NoReturn:
    """Run the command line. Exit codes: 0 done, 1 refused, 2 bad input, 3 not reachable."""
    process_exit.run(_run)


def _run() -> int:
    arguments = sys.argv[1:]
    try:
        build(arguments)(args=arguments)
    except OrderwrightError as error:
        _say(error, as_json="--json" in arguments)
        return exit_code(error)
    return 0


def _say(error: OrderwrightError, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": {"code": error.code, "message": error.message}}))
        return
    if isinstance(error, InvalidDocument):
        print("orderwright: the input cannot be used:", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem.path or 'document'}: {problem.message}", file=sys.stderr)
        return
    print(f"orderwright: {error.message}", file=sys.stderr)


if __name__ == "__main__":
    main()
