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


CALENDAR = """
currency = "GBP"
unit_weight_g = 200
split_penalty_minor = 450
processing_days = 1

[[nodes]]
node_id = "north"
name = "North"
country = "GB"
time_zone = "Europe/London"
handling_minor = 100

[nodes.calendar]
working_days = ["mon", "tue"]
cut_off = "14:30"
holidays = "GB-SCT"
closures = [
    { first = 2026-12-28, last = 2026-12-30, reason = "stock-taking" },
    { first = 2026-12-31, reason = "party" },
]
maintained_until = 2026-12-31

[[services]]
carrier = "islandpost"
service = "tracked48"
max_weight_g = 20000
pickup_days = ["mon"]
delivery_days = ["mon", "sat"]
holiday_delivery = false
zones = [{ origin = "GB", destinations = ["GB"], base_minor = 300, per_kg_minor = 50, transit_days = 2 }]
"""


async def test_calendars_and_days_of_carriers_are_stored_and_read_back(
    fresh_database: str, tmp_path: Path
) -> None:
    file = tmp_path / "network.toml"
    file.write_text(CALENDAR)
    await seed(fresh_database, file, None)
    wanted = read_network(file)
    assert wanted.nodes[0].calendar is not None
    store = Store.at(fresh_database)
    async with store.transaction() as session:
        assert await network(session) == wanted
        # What an image from before calendars writes, says nothing of them.
        await session.execute(
            text(
                "INSERT INTO nodes (node_id, name, country, time_zone, handling_minor, active) "
                "VALUES ('old', 'Old', 'GB', 'Atlantis/Capital', 1, true)"
            )
        )
        await session.execute(
            text(
                "INSERT INTO carrier_services (carrier, service, max_weight_g, zones, active) "
                "SELECT 'old', service, max_weight_g, zones, active FROM carrier_services"
            )
        )
        loaded = await network(session)
    (old,) = (node for node in loaded.nodes if node.node_id == "old")
    assert (old.calendar, old.time_zone) == (None, "Atlantis/Capital")
    (plain,) = (service for service in loaded.services if service.carrier == "old")
    assert (plain.pickup_days, plain.delivery_days, plain.holiday_delivery) == (None, None, True)
    # A calendar that the file does not have any more is gone.
    without, _, _ = CALENDAR.partition("[nodes.calendar]")
    file.write_text(without + CALENDAR[CALENDAR.index("[[services]]") :])
    await seed(fresh_database, file, None)
    async with store.transaction() as session:
        (north,) = (node for node in (await network(session)).nodes if node.node_id == "north")
    await store.close()
    assert north.calendar is None


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("Europe/London", "Europe/Londn", "nodes.0.time_zone: Europe/Londn is no time zone: say one like"),
        ("Europe/London", "", "nodes.0.time_zone:  is no time zone"),
        ("GB-SCT", "GB-XYZ", "nodes.0.calendar.holidays: no public holidays are known of GB-XYZ"),
        ("GB-SCT", "Scotland", "nodes.0.calendar.holidays: no public holidays are known of Scotland"),
        ('"14:30"', '"25:30"', "nodes.0.calendar.cut_off: must be a time of the day as HH:MM in quotes"),
        ('"14:30"', '"9:30"', "nodes.0.calendar.cut_off: must be a time of the day as HH:MM in quotes"),
        ('"14:30"', "14:30:00", "nodes.0.calendar.cut_off: must be a time of the day as HH:MM in quotes"),
        ('["mon", "tue"]', "[]", "nodes.0.calendar.working_days: name at least one weekday, of mon tue"),
        ('["mon", "tue"]', '["mon", "mon"]', "nodes.0.calendar.working_days: name each weekday once"),
        ('["mon", "tue"]', '["monday"]', "nodes.0.calendar.working_days.0: Input should be 'mon', 'tue'"),
        ('pickup_days = ["mon"]', "pickup_days = []", "services.0.pickup_days: name at least one weekday"),
        ("last = 2026-12-30", "last = 2026-12-27", "nodes.0.calendar.closures.0: ends before it begins"),
        ('"party"', '""', "nodes.0.calendar.closures.1.reason: String should have at least 1 character"),
        (
            "maintained_until = 2026-12-31",
            "maintained_until = 2026-12-30",
            "nodes.0.calendar: has a closure after 2026-12-30, until which it is maintained",
        ),
    ],
)
def test_a_calendar_that_cannot_be_used_is_one_clear_message(
    tmp_path: Path, right: str, wrong: str, complaint: str
) -> None:
    file = tmp_path / "network.toml"
    assert right in CALENDAR
    file.write_text(CALENDAR.replace(right, wrong))
    with pytest.raises(InvalidDocument) as refused:
        read_network(file)
    (problem,) = refused.value.problems
    assert f"{problem.path}: {problem.message}".startswith(f"network.toml: {complaint}")


def test_everything_that_is_wrong_with_a_network_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "network.toml"
    file.write_text(
        CALENDAR.replace("Europe/London", "Mars").replace("GB-SCT", "Mars").replace("14:30", "noon")
    )
    with pytest.raises(InvalidDocument, match="3 problems"):
        read_network(file)
