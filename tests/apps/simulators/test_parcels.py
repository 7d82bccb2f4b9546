"""How parcels travel: the same way every time, in order, and mostly within the transit time."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from apps.simulators.carrier import LabelRequest, Scan, fate_of_town, way_of
from models.messages import CarrierEventKind as Kind
from models.order import Address


def a_label(transit_days: int = 2, city: str = "Leeds") -> LabelRequest:
    return LabelRequest(
        carrier="islandpost",
        service="tracked48",
        shipment_id="web:1:1",
        node="gb-midlands",
        ship_to=Address(lines=("1 High Street",), city=city, country="GB"),
        recipient="A. Customer",
        weight_g=1800,
        transit_days=transit_days,
        price_minor=395,
        currency="GBP",
        business_now=datetime(2026, 3, 2, 12, tzinfo=UTC),
    )


def way(key: str, *, transit_days: int = 2, city: str = "Leeds", seed: int = 0) -> list[Scan]:
    label = a_label(transit_days, city)
    return way_of(label, fate_of_town(label), seed=seed, key=key)


CITIES = st.sampled_from(["Leeds", "LATEVILLE", "LOSTVILLE", "SILENTVILLE", "TROUBLEVILLE"])


@given(st.text(min_size=1, max_size=40), st.integers(0, 60), CITIES, st.integers(0, 5))
def test_every_parcel_is_collected_first_and_scanned_forward_in_time(
    key: str, transit_days: int, city: str, seed: int
) -> None:
    scans = way(key, transit_days=transit_days, city=city, seed=seed)

    assert scans[0].kind is Kind.COLLECTED
    assert timedelta(hours=2) <= scans[0].after <= timedelta(hours=8)
    assert [scan.after for scan in scans] == sorted({scan.after for scan in scans})
    assert scans == way(key, transit_days=transit_days, city=city, seed=seed)


def test_most_parcels_are_on_time_some_a_day_or_two_late_and_none_lost() -> None:
    transit = timedelta(days=2)
    ways = [way(f"key-{n}") for n in range(4000)]

    assert {scans[-1].kind for scans in ways} == {Kind.DELIVERED}
    late = [scans[-1].after - transit for scans in ways if scans[-1].after > transit]
    assert 0.025 < len(late) / len(ways) < 0.045
    assert all(timedelta(days=1) <= delay <= timedelta(days=2) for delay in late)


def test_another_seed_makes_other_days() -> None:
    assert way("key", seed=1) != way("key", seed=2)


def test_some_towns_have_a_fate_of_their_own() -> None:
    assert way("key", city="Lateville")[-1] == Scan(Kind.DELIVERED, timedelta(days=7))
    assert [scan.kind for scan in way("key", city="LOSTVILLE")] == [
        Kind.COLLECTED,
        Kind.IN_TRANSIT,
        Kind.LOST,
    ]
    assert [scan.kind for scan in way("key", city="SILENTVILLE")] == [Kind.COLLECTED]
    assert way("key", city="IDLEVILLE") == []
    assert [scan.kind for scan in way("key", city="TROUBLEVILLE")][-2:] == [Kind.EXCEPTION, Kind.DELIVERED]
