"""Load the fulfilment network and the first stock; ``orderwright prepare`` does it from the settings.

Run it as often as you like: nodes and services become what the file says, stock that is already there keeps its counts.
"""

import csv
import tomllib
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import available_timezones

import pyarrow
import pyarrow.parquet
from pydantic import ValidationError

from activities.holidays import has_holidays
from activities.store.network import StockLevel, load_centroids, load_network, seed_stock
from activities.store.store import Store
from models.errors import InvalidDocument, Problem
from models.network import Centroid, Known, Network
from policies.routing.distance import written_alike

_EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
DEFAULT_NETWORK = _EXAMPLES / "network.toml"
# Of a file in which every row is wrong, the first say enough.
_PROBLEMS_TOLD = 20
DEFAULT_STOCK = _EXAMPLES / "online_retail" / "stock.parquet"


async def seed(url: str, network_file: Path, stock_file: Path | None) -> int:
    """Load both files into the database at ``url``; answers how many stock rows were new.

    So are the centroids of postcodes, if the network names a file of them. ``stock_file`` None loads no stock. Raises
    ``InvalidDocument`` for a file that is missing or cannot be used.
    """
    network = read_network(network_file)
    centroids = () if network.centroids is None else read_centroids(network_file.parent / network.centroids)
    levels = list(read_stock(stock_file)) if stock_file is not None else []
    _check_nodes(network, levels, stock_file)
    store = Store.at(url, pool_size=1)
    try:
        async with store.transaction() as session:
            await load_network(session, network)
            await load_centroids(session, centroids)
            return await seed_stock(session, levels)
    finally:
        await store.close()


def read_network(file: Path) -> Network:
    """The network of a TOML file. Raises ``InvalidDocument`` with every problem."""
    try:
        parsed = tomllib.loads(file.read_text(encoding="utf-8"))
        known = Known(time_zones=available_timezones(), has_holidays=has_holidays)
        return Network.model_validate(parsed, context=known)
    except FileNotFoundError:
        raise _unusable(file, "there is no such file: name your network with --network FILE") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _unusable(file, str(error)) from None
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise InvalidDocument(
            tuple(
                Problem(
                    path=f"{file.name}: {'.'.join(str(part) for part in item['loc'])}",
                    code=item["type"],
                    message=item["msg"],
                )
                for item in found
                # A list whose only entry is wrong is not too short as well.
                if item["type"] != "too_short"
                or not any(
                    other["loc"][: len(item["loc"])] == item["loc"] for other in found if other != item
                )
            )
        ) from None


def read_centroids(file: Path) -> tuple[Centroid, ...]:
    """The rows of a CSV file with columns ``country``, ``prefix``, ``latitude`` and ``longitude``; prefixes as they are
    compared. Raises ``InvalidDocument`` with the first problems, line by line.
    """
    found: dict[tuple[str, str], Centroid] = {}
    problems = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = csv.DictReader(opened, restkey="further columns")
            if sorted(rows.fieldnames or ()) != sorted(Centroid.model_fields):
                raise _unusable(file, f"its first line must be {','.join(Centroid.model_fields)}")
            for row in rows:
                try:
                    read = Centroid.model_validate(row)
                except ValidationError as error:
                    problems += [
                        _wrong_row(file, rows.line_num, f"{item['loc'][0]}: {item['msg']}")
                        for item in error.errors(include_url=False)
                    ]
                    continue
                one = read.model_copy(update={"prefix": written_alike(read.country, read.prefix)})
                if (one.country, one.prefix) in found:
                    problems.append(
                        _wrong_row(file, rows.line_num, f"{one.country} {one.prefix} is there twice")
                    )
                found[one.country, one.prefix] = one
    except FileNotFoundError:
        raise _unusable(file, "there is no such file, and the network names it as centroids") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unusable(file, str(error)) from None
    if problems:
        more = len(problems) - _PROBLEMS_TOLD
        rest = (_wrong_row(file, rows.line_num, f"and {more} more problems"),) if more > 0 else ()
        raise InvalidDocument((*problems[:_PROBLEMS_TOLD], *rest))
    return tuple(found.values())


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


def _wrong_row(file: Path, line: int, why: str) -> Problem:
    return Problem(path=f"{file.name}: line {line}", code="unusable_row", message=why)


def _unusable(file: Path, why: str) -> InvalidDocument:
    return InvalidDocument((Problem(path=str(file), code="unusable_file", message=why),))
