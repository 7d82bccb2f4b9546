from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from sqlalchemy import text

from activities.store.network import network, stock_of
from activities.store.seed import DEFAULT_NETWORK, DEFAULT_STOCK, read_network, seed
from activities.store.store import Store
from models.errors import InvalidDocument


def a_stock_file(folder: Path, on_hand: int, node: str = "gb-north") -> Path:
    file = folder / "stock.parquet"
    table = pyarrow.table({"node": [node], "sku": ["10080"], "on_hand": [on_hand]})
    pyarrow.parquet.write_table(table, file)
    return file


async def test_the_example_is_loaded_and_loading_it_again_changes_nothing(fresh_database: str) -> None:
    first = await seed(fresh_database, DEFAULT_NETWORK, DEFAULT_STOCK)
    again = await seed(fresh_database, DEFAULT_NETWORK, DEFAULT_STOCK)
    assert first > 10_000
    assert again == 0
    store = Store.at(fresh_database)
    async with store.transaction() as session:
        loaded = await network(session)
    await store.close()
    wanted = read_network(DEFAULT_NETWORK)
    assert {node.node_id: node for node in loaded.nodes} == {node.node_id: node for node in wanted.nodes}
    assert sorted(loaded.services, key=str) == sorted(wanted.services, key=str)


async def test_stock_that_is_in_use_keeps_its_counts(fresh_database: str, tmp_path: Path) -> None:
    await seed(fresh_database, DEFAULT_NETWORK, a_stock_file(tmp_path, 10))
    store = Store.at(fresh_database)
    async with store.transaction() as session:
        await session.execute(text("UPDATE stock SET on_hand = 7, reserved = 2"))
    await seed(fresh_database, DEFAULT_NETWORK, a_stock_file(tmp_path, 10))
    async with store.transaction() as session:
        (level,) = await stock_of(session, ["10080"], "web:1")
    await store.close()
    assert (level.on_hand, level.reserved, level.available) == (7, 2, 5)


async def test_a_node_that_the_file_no_longer_names_becomes_inactive(
    fresh_database: str, tmp_path: Path
) -> None:
    await seed(fresh_database, DEFAULT_NETWORK, None)
    smaller = tmp_path / "network.toml"
    whole = DEFAULT_NETWORK.read_text().split("[[nodes]]")
    smaller.write_text("[[nodes]]".join(whole[:2] + whole[3:]))
    await seed(fresh_database, smaller, None)
    store = Store.at(fresh_database)
    async with store.transaction() as session:
        active = {node.node_id: node.active for node in (await network(session)).nodes}
    await store.close()
    assert [node for node, is_active in active.items() if not is_active] == ["gb-north"]


async def test_stock_at_an_unknown_node_is_refused(fresh_database: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidDocument, match="atlantis"):
        await seed(fresh_database, DEFAULT_NETWORK, a_stock_file(tmp_path, 1, node="atlantis"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("currency = ", "Invalid value"), ("currency = 'GBP'", "unit_weight_g"), (None, "no such file")],
)
def test_a_network_file_that_cannot_be_used_is_a_clear_error(
    tmp_path: Path, content: str | None, complaint: str
) -> None:
    file = tmp_path / "network.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InvalidDocument, match=complaint):
        read_network(file)
