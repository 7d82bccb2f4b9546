"""``python -m apps.simulators``: run one of the four stand-in neighbours, or print what all of them did.

    python -m apps.simulators carrier --port 8093 --data-dir D --speed 60 --webhook-url URL
    python -m apps.simulators statement --data-dir D

Webhooks are signed with the secret in ``ORDERWRIGHT_WEBHOOK_SECRET``, or with the neighbour's own where it has one
(``ORDERWRIGHT_WEBHOOK_SECRET_CARRIER`` …). Payment and carrier show their statement, line by line, to who has the token
in ``ORDERWRIGHT_PAYMENT_TOKEN`` and ``ORDERWRIGHT_CARRIER_TOKEN``.
Exit codes: 0, 2 bad arguments, 3 already running.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from apps.simulators.assembly import ROUTES, open_simulator
from apps.simulators.ledger import AlreadyRunning
from apps.simulators.serving import Settings, serve
from apps.simulators.statement import as_text, statements_in

SECRET_VARIABLE = "ORDERWRIGHT_WEBHOOK_SECRET"  # noqa: S105 - the variable's name, not a secret


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and do it; answers the exit code."""
    asked = _parser().parse_args(arguments)
    if asked.what == "statement":
        statements = statements_in(asked.data_dir)
        print(json.dumps(statements, indent=2) if asked.json else as_text(statements))
        return 0
    calls_back = asked.what in ("warehouse", "carrier") or asked.notify
    if calls_back and not (asked.webhook_url and asked.secret):
        print(f"{asked.what} calls back: give --webhook-url and set {SECRET_VARIABLE}", file=sys.stderr)
        return 2
    try:
        _run(asked)
    except AlreadyRunning as refused:
        print(refused, file=sys.stderr)
        return 3
    return 0


def _run(asked: argparse.Namespace) -> None:
    settings = Settings(
        seed=asked.seed,
        speed=asked.speed,
        notify=asked.notify,
        hold_days=asked.hold_days,
        nodes=frozenset(asked.node),
        token=asked.token,
    )
    with open_simulator(
        asked.what, asked.data_dir, settings, webhook_url=asked.webhook_url or "", secret=asked.secret
    ) as app:
        print(f"{asked.what} simulator on http://{asked.host}:{asked.port}", flush=True)
        serve(app, host=asked.host, port=asked.port)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m apps.simulators", description="Stand-in neighbours.")
    commands = parser.add_subparsers(dest="what", required=True)
    for name in ROUTES:
        one = commands.add_parser(name, help=f"run the {name} simulator")
        one.add_argument("--host", default="127.0.0.1")
        one.add_argument("--port", type=int, required=True)
        one.add_argument("--data-dir", type=Path, required=True, help="where its state is kept")
        one.add_argument(
            "--speed", type=_positive, default=1.0, help="business seconds that pass per wall second"
        )
        one.add_argument("--webhook-url", type=_http_url, default=None, help="where its events are posted to")
        one.add_argument("--seed", type=int, default=0, help="another seed, other delays")
        one.add_argument("--notify", action="store_true", help="payment: tell of every movement by webhook")
        one.add_argument("--hold-days", type=_positive, default=7.0, help="payment: how long a hold lasts")
        one.add_argument("--node", action="append", default=[], help="warehouse: a node it knows; none: all")
        own = os.environ.get(f"{SECRET_VARIABLE}_{name.upper()}", "")
        one.set_defaults(secret=own if own.strip() else os.environ.get(SECRET_VARIABLE, ""))
        one.set_defaults(token=os.environ.get(f"ORDERWRIGHT_{name.upper()}_TOKEN", "").strip())
    statement = commands.add_parser("statement", help="print what all simulators did")
    statement.add_argument("--data-dir", type=Path, required=True)
    statement.add_argument("--json", action="store_true")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1e7:
        raise argparse.ArgumentTypeError("must be above 0 and at most 10 million")
    return value


def _http_url(text: str) -> str:
    address = urlsplit(text)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise argparse.ArgumentTypeError(
            "must be a full URL such as http://127.0.0.1:8080/v1/webhooks/carrier"
        )
    return text


if __name__ == "__main__":
    sys.exit(main())
