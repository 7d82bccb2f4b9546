"""Make ready what the processes need: ``orderwright prepare``. Safe to repeat, and when two run at once.

The database: every missing migration, the network and the first stock; stock that is there keeps its counts. The
Temporal namespace: made if it is missing, its search attributes, and this build as the one that runs orders.
"""

import asyncio
import sys
from datetime import timedelta

from activities.store.migrate import migrate
from activities.store.seed import DEFAULT_NETWORK, DEFAULT_STOCK, seed
from models.errors import InvalidDocument, NotReachable, OrderwrightError
from workers.client import connect
from workers.embedded import namespace
from workers.logging import configure_logging, get_logger
from workers.settings import Settings, get_settings
from workers.versioning import current_build_id

log = get_logger(__name__)


def main() -> int:
    """``python -m workers.prepare``, as the embedded stack calls it: the database only; answers the exit code.

    0, 2 for a network file that cannot be used, 3 when the database does not answer.
    """
    try:
        settings = get_settings()
        configure_logging(settings.log_level, json=settings.log_json)
        prepare_database(settings)
    except OrderwrightError as error:
        print(error.message, file=sys.stderr)  # noqa: T201
        if isinstance(error, NotReachable):
            return 3
        return 2 if isinstance(error, InvalidDocument) else 1
    return 0


def prepare_database(settings: Settings, *, wait: float = 30.0) -> None:
    """Migrate, then seed. Raises ``NotReachable``, or ``InvalidDocument`` for a network file that cannot be used."""
    migrate(settings.database_url, wait=wait)
    # The example's stock lies at the example's nodes: another network brings its own.
    stock = DEFAULT_STOCK if settings.network_file == DEFAULT_NETWORK else None
    added = asyncio.run(seed(settings.database_url, settings.network_file, stock))
    log.info("the database is ready", network=settings.network_file.name, stock_rows_added=added)


async def prepare_namespace(*, wait: float = 30.0) -> None:
    """Make the namespace of the environment ready for this build. Raises ``NotReachable``."""
    client = await connect(wait=wait)
    made = await namespace.create_if_missing(client)
    build_id = current_build_id()
    settings = get_settings()
    await namespace.prepare(
        client,
        build_id,
        ours=made,
        reconcile_every=timedelta(minutes=settings.reconcile_minutes),
        values_every=timedelta(minutes=settings.values_minutes),
    )
    log.info("the namespace is ready", namespace=client.namespace, made=made, build_id=build_id)


if __name__ == "__main__":
    sys.exit(main())
