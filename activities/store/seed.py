"""Load the fulfilment network and the first stock: ``python -m activities.store.seed [--network FILE] [--stock FILE]``.

Run it as often as you like: nodes and services become what the file says, stock that is already there keeps its counts.
Exit code 2: no such file, or one that cannot be used.
"""

import argparse
import asyncio
import os
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
from pydantic import ValidationError

from activities.store.network import StockLevel, load_network, seed_stock
from activities.store.store import Store
from models.errors import InvalidDocument, NotReachable, OrderwrightError, Problem
from models.network import Network

_EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
DEFAULT_NETWORK = _EXAMPLES / "network.toml"
DEFAULT_STOCK = _EXAMPLES / "online_retail" / "stock.parquet"


def main(arguments: Sequence[str] | None = None) -> int:
    """Seed the database that ``DATABASE_URL`` names; answers the exit code."""
    asked = _parser().parse_args(arguments)
    url = os.environ.get("DATABASE_URL", "")
    if not url:
        print("DATABASE_URL is not set: name the database to seed", file=sys.stderr)  # noqa: T201
        return 2
    try:
        inserted = asyncio.run(seed(url, asked.network, asked.stock))
    except OrderwrightError as error:
        print(error.message, file=sys.stderr)  # noqa: T201
        return 3 if isinstance(error, NotReachable) else 2
    print(f"network loaded from {asked.network.name}, {inserted:,} stock rows added")  # noqa: T201
    return 0


async def seed(url: str, network_file: Path, stock_file: Path | None) -> int:
    """Load both files into the database at ``url``; answers how many stock rows were new.

    ``stock_file`` None loads no stock. Raises ``InvalidDocument`` for a file that is missing or cannot be used.
    """
    network = read_network(network_file)
    levels = list(read_stock(stock_file)) if stock_file is not None else []
    _check_nodes(network, levels, stock_file)
    store = Store.at(url, pool_size=1)
    try:
        async with store.transaction() as session:
            await load_network(session, network)
            return await seed_stock(session, levels)
    finally:
        await store.close()


def read_network(file: Path) -> Network:
    """The network of a TOML file. Raises ``InvalidDocument`` with every problem."""
    try:
        parsed = tomllib.loads(file.read_text(encoding="utf-8"))
        return Network.model_validate(parsed)
    except FileNotFoundError:
        raise _unusable(file, "there is no such file: name your network with --network FILE") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _unusable(file, str(error)) from None
    except ValidationError as error:
        raise InvalidDocument(
            tuple(
                Problem(
                    path=f"{file.name}: {'.'.join(str(part) for part in item['loc'])}",
                    code=item["type"],
                    message=item["msg"],
                )
                for item in error.errors(include_url=False)
            )
        ) from None


def read_stock(file: Path) -> Iterator[StockLevel]:
    """The rows of a parquet file with columns ``node``, ``sku`` and ``on_hand``. Raises ``InvalidDocument``."""
    try:
        table = pyarrow.parquet.read_table(file, columns=["node", "sku", "on_hand"])
        for row in table.to_pylist():
            yield StockLevel.model_validate(row)
    except FileNotFoundError:
        raise _unusable(file, "there is no such file") from None
    except (OSError, pyarrow.ArrowException, ValidationError) as error:
        raise _unusable(file, f"needs columns node, sku, on_hand: {error}") from None


def _check_nodes(network: Network, levels: list[StockLevel], file: Path | None) -> None:
    unknown = {level.node for level in levels} - {node.node_id for node in network.nodes}
    if unknown and file is not None:
        raise _unusable(file, f"stock at nodes that the network does not have: {', '.join(sorted(unknown))}")


def _unusable(file: Path, why: str) -> InvalidDocument:
    return InvalidDocument((Problem(path=str(file), code="unusable_file", message=why),))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m activities.store.seed", description=__doc__)
    network = Path(os.environ.get("ORDERWRIGHT_NETWORK_FILE", DEFAULT_NETWORK))
    # The example's stock lies at the example's nodes: another network brings its own.
    stock = DEFAULT_STOCK if network == DEFAULT_NETWORK and DEFAULT_STOCK.exists() else None
    parser.add_argument("--network", type=Path, default=network, help="TOML file of nodes and services")
    parser.add_argument("--stock", type=Path, default=stock, help="parquet file: node, sku, on_hand")
    return parser


if __name__ == "__main__":
    sys.exit(main())
