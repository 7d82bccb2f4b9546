from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from sqlalchemy import text

from activities.store.network import destination_of, network, stock_of
from activities.store.seed import DEFAULT_NETWORK, DEFAULT_STOCK, read_centroids, read_network, seed
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
    (tmp_path / "centroids.csv").write_text((DEFAULT_NETWORK.parent / "centroids.csv").read_text())
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


# --- where postcodes are ---
def a_network_with_centroids(
    folder: Path, rows: str, header: str = "country,prefix,latitude,longitude"
) -> Path:
    (folder / "centroids.csv").write_text(f"{header}\n{rows}")
    file = folder / "network.toml"
    file.write_text(f'centroids = "centroids.csv"\n{CALENDAR}')
    return file


async def test_a_destination_is_where_the_longest_beginning_of_its_postcode_is(
    fresh_database: str, tmp_path: Path
) -> None:
    rows = [
        "GB,L,53.4,-2.9",
        "GB,l1,53.4051,-2.9812",
        "GB,,54.0,-2.0",
        "DE,50,50.94,6.96",
        "GB,L1 1,53.41,-2.98",
    ]
    file = a_network_with_centroids(tmp_path, "\n".join(rows))
    await seed(fresh_database, file, None)
    store = Store.at(fresh_database)
    expected = {
        ("GB", "L11AA"): (53.41, -2.98),
        ("GB", "L1 9ZZ"): (53.41, -2.98),  # of L1, to two decimals
        ("GB", "L11 1AA"): (53.4, -2.9),
        ("GB", "EC1A 1BB"): (54.0, -2.0),
        ("GB", ""): (54.0, -2.0),
        ("DE", "D-50667"): (50.94, 6.96),
        ("DE", "10115"): None,
        ("FR", "75001"): None,
    }
    async with store.transaction() as session:
        found = {place: await destination_of(session, *place) for place in expected}
    assert {
        place: None if point is None else (point.latitude, point.longitude) for place, point in found.items()
    } == expected
    # What the file no longer has is gone, what it has otherwise is changed.
    await seed(fresh_database, a_network_with_centroids(tmp_path, "GB,L,53.5,-2.9\nFR,,46.2,2.2"), None)
    async with store.transaction() as session:
        changed = await session.execute(
            text("SELECT country, prefix, latitude, longitude FROM postcode_centroids ORDER BY country")
        )
        assert [tuple(row) for row in changed] == [("FR", "", 46.2, 2.2), ("GB", "L", 53.5, -2.9)]
    file.write_text(CALENDAR)
    await seed(fresh_database, file, None)
    async with store.transaction() as session:
        assert await destination_of(session, "FR", "75001") is None
    await store.close()


@pytest.mark.parametrize(
    ("rows", "complaints"),
    [
        ("GB,L,91,0", ["line 2: latitude: Input should be less than or equal to 90"]),
        (
            "GB,L,1,0\nGB,M,north,nan",
            ["line 3: latitude: Input should be a valid number", "line 3: longitude"],
        ),
        ("uk,L,1,0", ["line 2: country: String should match pattern"]),
        ("GB,sw1a 1AA,1,0\nGB,SW1A1AA,1,0", ["line 3: GB SW1A 1AA is there twice"]),
        ("GB,L", ["line 2: latitude: Input should be a valid number", "line 2: longitude"]),
        ("GB,L,1,0,9", ["line 2: further columns: Extra inputs are not permitted"]),
        ("GB,L,91,0\n" * 30, [f"line {line}" for line in range(2, 22)] + ["line 31: and 10 more problems"]),
    ],
)
def test_every_wrong_row_of_centroids_is_named_by_its_line(
    tmp_path: Path, rows: str, complaints: list[str]
) -> None:
    a_network_with_centroids(tmp_path, rows)
    with pytest.raises(InvalidDocument) as refused:
        read_centroids(tmp_path / "centroids.csv")
    told = [f"{problem.path}: {problem.message}" for problem in refused.value.problems]
    assert len(told) == len(complaints), told
    for line, complaint in zip(told, complaints, strict=True):
        assert line.startswith(f"centroids.csv: {complaint}")


async def test_centroids_that_cannot_be_used_leave_everything_as_it_was(
    fresh_database: str, tmp_path: Path
) -> None:
    file = a_network_with_centroids(tmp_path, "GB,L,1,0", header="country,prefix,lat,lon")
    with pytest.raises(InvalidDocument, match="first line must be country,prefix,latitude,longitude"):
        await seed(fresh_database, file, None)
    (tmp_path / "centroids.csv").unlink()
    with pytest.raises(InvalidDocument, match="no such file, and the network names it as centroids"):
        await seed(fresh_database, file, None)
    store = Store.at(fresh_database)
    async with store.transaction() as session:
        assert await session.scalar(text("SELECT count(*) FROM network")) == 0
    await store.close()


def test_a_node_is_somewhere_or_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "network.toml"
    there = CALENDAR.replace("handling_minor", "latitude = 53.4\nlongitude = -2.9\nhandling_minor")
    file.write_text(there)
    point = read_network(file).nodes[0].point
    assert point is not None
    assert (point.latitude, point.longitude) == (53.4, -2.9)
    file.write_text(there.replace("longitude = -2.9\n", ""))
    with pytest.raises(
        InvalidDocument, match=r"1 problem: network.toml: nodes.0: say both latitude and longitude"
    ):
        read_network(file)
