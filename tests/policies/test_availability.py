"""What can be promised when: nothing twice, nothing before it is there."""

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from models.availability import FromThen, Inbound, Promise
from policies.availability import limited, promisable, together

TODAY = date(2026, 3, 2)


def day(number: int) -> date:
    return TODAY + timedelta(days=number)


def test_supply_adds_up_day_by_day() -> None:
    inbound = [Inbound(on=day(9), quantity=5), Inbound(on=day(3), quantity=2), Inbound(on=day(9), quantity=1)]
    assert promisable(4, inbound, TODAY) == Promise(
        available=4, later=(FromThen(on=day(3), quantity=6), FromThen(on=day(9), quantity=12))
    )


def test_supply_fills_what_is_short_before_it_is_promised() -> None:
    inbound = [Inbound(on=day(1), quantity=3), Inbound(on=day(2), quantity=4)]
    assert promisable(-5, inbound, TODAY) == Promise(available=0, later=(FromThen(on=day(2), quantity=2),))


def test_supply_that_is_late_is_not_promised() -> None:
    assert promisable(1, [Inbound(on=day(-1), quantity=9)], TODAY) == Promise(available=1)
    assert promisable(1, [Inbound(on=TODAY, quantity=9)], TODAY).later == (FromThen(on=TODAY, quantity=10),)


supplies = st.lists(
    st.builds(Inbound, on=st.integers(-3, 20).map(day), quantity=st.integers(0, 50)), max_size=6
)


@given(rows=st.lists(st.tuples(st.integers(-20, 50), supplies), max_size=5), when=st.integers(0, 25))
def test_on_any_day_all_nodes_promise_the_sum_of_what_each_has_then(
    rows: list[tuple[int, list[Inbound]]], when: int
) -> None:
    def on_day(promise: Promise) -> int:
        steps = [step.quantity for step in promise.later if step.on <= day(when)]
        return steps[-1] if steps else promise.available

    promises = [promisable(free, inbound, TODAY) for free, inbound in rows]
    for (free, inbound), promise in zip(rows, promises, strict=True):
        there = free + sum(one.quantity for one in inbound if TODAY <= one.on <= day(when))
        assert on_day(promise) == max(there, 0)
        days = [step.on for step in promise.later]
        assert days == sorted(set(days))
    assert on_day(together(promises)) == sum(map(on_day, promises))


def test_a_limit_is_not_made_larger_by_goods_that_arrive() -> None:
    promise = Promise(available=4, later=(FromThen(on=day(3), quantity=6), FromThen(on=day(9), quantity=12)))
    assert limited(promise, None) == promise
    assert limited(promise, 8) == Promise(
        available=4, later=(FromThen(on=day(3), quantity=6), FromThen(on=day(9), quantity=8))
    )
    assert limited(promise, 6) == Promise(available=4, later=(FromThen(on=day(3), quantity=6),))
    assert limited(promise, 3) == Promise(available=3)
    assert limited(promise, -1) == Promise(available=0)
