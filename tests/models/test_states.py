from collections.abc import Mapping
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from models.states import (
    ORDER_TERMINAL,
    ORDER_TRANSITIONS,
    SHIPMENT_HANDED_OVER,
    SHIPMENT_TERMINAL,
    SHIPMENT_TRANSITIONS,
    OrderState,
    ShipmentState,
    order_may,
    shipment_may,
)


def test_every_state_has_its_row() -> None:
    assert set(ORDER_TRANSITIONS) == set(OrderState)
    assert set(SHIPMENT_TRANSITIONS) == set(ShipmentState)


def test_nothing_leaves_an_end() -> None:
    assert all(not ORDER_TRANSITIONS[state] for state in ORDER_TERMINAL)
    # A parcel that was given up can still turn up; nothing else comes back.
    assert {
        state: set(SHIPMENT_TRANSITIONS[state]) for state in SHIPMENT_TERMINAL if SHIPMENT_TRANSITIONS[state]
    } == {ShipmentState.LOST: {ShipmentState.DELIVERED}}


@given(st.sampled_from(sorted(OrderState)))
def test_every_order_can_reach_an_end(start: OrderState) -> None:
    assert _reachable(start, ORDER_TRANSITIONS) & ORDER_TERMINAL


@given(st.sampled_from(sorted(ShipmentState)))
def test_every_shipment_can_reach_an_end(start: ShipmentState) -> None:
    assert _reachable(start, SHIPMENT_TRANSITIONS) & SHIPMENT_TERMINAL


def test_every_state_can_be_reached_from_the_start() -> None:
    assert _reachable(OrderState.RECEIVED, ORDER_TRANSITIONS) == set(OrderState)
    assert _reachable(ShipmentState.PLANNED, SHIPMENT_TRANSITIONS) == set(ShipmentState)


@given(st.sampled_from(sorted(ShipmentState)), st.sampled_from(sorted(ShipmentState)))
def test_a_parcel_with_the_carrier_is_never_cancelled(one: ShipmentState, other: ShipmentState) -> None:
    if one in SHIPMENT_HANDED_OVER and other in (ShipmentState.CANCELLING, ShipmentState.CANCELLED):
        assert not shipment_may(one, other)


def test_money_is_never_taken_back_from_a_closed_order() -> None:
    assert not order_may(OrderState.CLOSED, OrderState.COMPENSATING)
    assert not order_may(OrderState.RECEIVED, OrderState.RELEASED)


@given(st.sampled_from(sorted(OrderState)))
def test_staying_put_is_legal(state: OrderState) -> None:
    assert order_may(state, state)


State = TypeVar("State", OrderState, ShipmentState)


def _reachable(start: State, table: Mapping[State, frozenset[State]]) -> set[State]:
    seen, open_ = {start}, [start]
    while open_:
        for following in table[open_.pop()]:
            if following not in seen:
                seen.add(following)
                open_.append(following)
    return seen
