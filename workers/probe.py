"""``python -m workers.probe URL``: exit code 0 if a GET of URL answers 200, 1 if it does not.

For health checks in containers, which have no curl. It imports next to nothing, for it runs all the time.
"""

import sys

from workers.embedded.ports import answers_ok


def main() -> int:
    """Ask once."""
    if len(sys.argv) != 2:
        print("usage: python -m workers.probe URL", file=sys.stderr)  # noqa: T201
        return 2
    return 0 if answers_ok(sys.argv[1]) else 1


if __name__ == "__main__":
    sys.exit(main())
