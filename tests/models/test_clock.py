from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from models.clock import EARLIEST, LATEST, SCALED_DEADLINE_FLOOR, BusinessClock

WALL = datetime(2026, 3, 2, 12, tzinfo=UTC)
BUSINESS = datetime(2011, 9, 1, 8, tzinfo=UTC)


def a_clock(speed: float = 86_400) -> BusinessClock:
    return BusinessClock(speed=speed, wall_start=WALL, business_start=BUSINESS)


def test_a_second_is_a_day_at_demo_speed() -> None:
    assert a_clock().at(WALL + timedelta(seconds=3)) == BUSINESS + timedelta(days=3)


def test_the_clock_stands_still_during_a_pause() -> None:
    clock = a_clock().after_pause(timedelta(seconds=2))
    assert clock.at(WALL + timedelta(seconds=3)) == BUSINESS + timedelta(days=1)


def test_a_scaled_deadline_has_a_floor_and_a_real_one_has_none() -> None:
    assert a_clock().wall_delay(timedelta(days=1)) == SCALED_DEADLINE_FLOOR
    assert a_clock(speed=1).wall_delay(timedelta(seconds=3)) == timedelta(seconds=3)


@given(st.floats(1, 1e6), st.timedeltas(timedelta(0), timedelta(days=400)))
def test_no_wait_is_shorter_than_the_business_time_it_waits_for(speed: float, business: timedelta) -> None:
    wall = a_clock(speed).wall_delay(business)
    assert wall >= timedelta(0)
    assert wall * speed >= business - timedelta(seconds=1)


@given(st.floats(0.001, 1e7), st.datetimes(EARLIEST.replace(tzinfo=None), LATEST.replace(tzinfo=None)))
def test_no_clock_runs_off_the_calendar(speed: float, start: datetime) -> None:
    clock = BusinessClock(speed=speed, wall_start=WALL, business_start=start.replace(tzinfo=UTC))
    later = clock.at(WALL + timedelta(days=36_500))
    assert clock.business_start <= later <= LATEST
    assert WALL + clock.wall_delay(later - clock.business_start) >= WALL


def test_a_deadline_in_the_past_is_due_at_once() -> None:
    assert a_clock(speed=1).wall_delay(timedelta(days=-3)) == timedelta(0)
