"""``orderwright api``, ``prepare`` and ``migrate``: what a deployment runs, beside ``orderwright worker run``.

They are told everything by the environment: see ``workers.settings``.
"""

import asyncio
from typing import Annotated

import typer

from activities.store.migrate import migrate as migrate_database
from workers.logging import configure_logging
from workers.prepare import prepare_database, prepare_namespace
from workers.settings import Settings, get_settings

Wait = Annotated[
    float, typer.Option("--wait", min=0, help="Seconds to wait for a server that is just starting.")
]


def api() -> None:
    """Serve the HTTP API until Ctrl-C or SIGTERM; what is being answered is finished first."""
    # Imported here: migrate and prepare need no web server.
    from apps.api.__main__ import main

    raise typer.Exit(main())


def prepare(wait: Wait = 60) -> None:
    """Make the database and the Temporal namespace ready: tables, network, search attributes, this build as current.

    Run it before the API and the workers of each new version. It is safe to repeat, and when two run at once.
    """
    settings = _settings()
    prepare_database(settings, wait=wait)
    asyncio.run(prepare_namespace(wait=wait))


def migrate(wait: Wait = 60) -> None:
    """Create the database if it is missing and bring its tables up to date; nothing else."""
    migrate_database(_settings().database_url, wait=wait)


def _settings() -> Settings:
    settings = get_settings()
    configure_logging(settings.log_level, json=settings.log_json)
    return settings
