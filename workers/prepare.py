"""Make the database of the settings ready: ``python -m workers.prepare``. Safe to repeat, and when two run at once.

It applies every missing migration and loads the network and the first stock; stock that is there keeps its counts.
Exit code 0, 2 for a network file that cannot be used, 3 when the database does not answer.
"""

import asyncio
import sys

from activities.store.migrate import migrate
from activities.store.seed import DEFAULT_NETWORK, DEFAULT_STOCK, seed
from models.errors import InvalidDocument, NotReachable, OrderwrightError
from workers.logging import configure_logging, get_logger
from workers.settings import Settings, get_settings

log = get_logger(__name__)


def main() -> int:
    """Prepare the database that the settings name; answers the exit code."""
    try:
        settings = get_settings()
        configure_logging(settings.log_level, json=settings.log_json)
        prepare(settings)
    except OrderwrightError as error:
        print(error.message, file=sys.stderr)  # noqa: T201
        if isinstance(error, NotReachable):
            return 3
        return 2 if isinstance(error, InvalidDocument) else 1
    return 0


def prepare(settings: Settings) -> None:
    """Migrate, then seed. Raises ``NotReachable``, or ``InvalidDocument`` for a network file that cannot be used."""
    migrate(settings.database_url)
    # The example's stock lies at the example's nodes: another network brings its own.
    stock = DEFAULT_STOCK if settings.network_file == DEFAULT_NETWORK else None
    added = asyncio.run(seed(settings.database_url, settings.network_file, stock))
    log.info("the database is ready", network=settings.network_file.name, stock_rows_added=added)


if __name__ == "__main__":
    sys.exit(main())
