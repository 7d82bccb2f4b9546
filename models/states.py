"""The states of orders, shipments and review tasks, and which may follow which. Data, so that it can be tested."""

from collections.abc import Mapping
from enum import StrEnum


class OrderState(StrEnum):
    """Where an order stands. IN_REVIEW: a person of ours decides. NEEDS_OPERATOR: a person of ours must mend it."""

    RECEIVED = "received"
    VALIDATING = "validating"
    ASSESSING = "assessing"
    AUTHORISING = "authorising"
    ROUTING = "routing"
    BACKORDERED = "backordered"
    RESERVING = "reserving"
    RELEASED = "released"
    PARTIALLY_SHIPPED = "partially_shipped"
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    CLOSED = "closed"
    IN_REVIEW = "in_review"
    AWAITING_CUSTOMER = "awaiting_customer"
    REJECTED = "rejected"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    NEEDS_OPERATOR = "needs_operator"


class ShipmentState(StrEnum):
    """Where a shipment stands, from plan to the customer's door."""

    PLANNED = "planned"
    PICK_REQUESTED = "pick_requested"
    PICKED = "picked"
    LABELLED = "labelled"
    HANDED_OVER = "handed_over"
    IN_TRANSIT = "in_transit"
    OUT_FOR_DELIVERY = "out_for_delivery"
    DELIVERED = "delivered"
    IN_REVIEW = "in_review"
    NEEDS_OPERATOR = "needs_operator"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    LOST = "lost"
    RETURNING = "returning"
    RETURNED = "returned"


class ReviewState(StrEnum):
    """A review task is open until a person decides, its deadline decides, or the case moves on without it."""

    OPEN = "open"
    DECIDED = "decided"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


_O = OrderState
_S = ShipmentState

# An amendment, or stock that is not there after all, takes an order back to planning what is still to be shipped.
_AGAIN = (_O.ASSESSING, _O.AUTHORISING, _O.ROUTING)
# A part goes ahead, maybe before the order has heard of the start, and the rest waits.
_IN_PART = (_O.BACKORDERED,)
# Where shipments of an earlier plan go on, the rest may be dropped on the way.
_OUT = (_O.RELEASED,)
_ORDER_FORWARD: dict[OrderState, set[OrderState]] = {
    _O.RECEIVED: {_O.VALIDATING},
    _O.VALIDATING: {_O.ASSESSING, _O.REJECTED},
    # To planning at once where an amended order is paid from what is held.
    _O.ASSESSING: {_O.AUTHORISING, _O.ROUTING, _O.REJECTED},
    _O.AUTHORISING: {_O.ROUTING, _O.REJECTED, *_AGAIN, *_OUT},
    _O.ROUTING: {_O.RESERVING, _O.BACKORDERED, *_AGAIN, *_OUT},
    _O.BACKORDERED: {_O.ROUTING, *_AGAIN, *_OUT},
    _O.RESERVING: {_O.RELEASED, _O.ROUTING, _O.BACKORDERED, *_AGAIN, *_OUT},
    _O.RELEASED: {_O.PARTIALLY_SHIPPED, _O.SHIPPED, _O.DELIVERED, *_AGAIN, *_IN_PART},
    _O.PARTIALLY_SHIPPED: {_O.SHIPPED, _O.DELIVERED, *_AGAIN, *_IN_PART},
    _O.SHIPPED: {_O.DELIVERED, *_AGAIN, *_IN_PART},
    _O.DELIVERED: {_O.CLOSED},
}
_PAUSES = {_O.IN_REVIEW, _O.AWAITING_CUSTOMER, _O.NEEDS_OPERATOR}
_UNDOING = {_O.CANCELLING, _O.COMPENSATING}
_ORDER_WORKING = set(_ORDER_FORWARD)


def _order_transitions() -> dict[OrderState, frozenset[OrderState]]:
    table: dict[OrderState, set[OrderState]] = {s: set(_ORDER_FORWARD.get(s, ())) for s in OrderState}
    for state in _ORDER_WORKING:
        table[state] |= _PAUSES | _UNDOING
    for state in _PAUSES:
        # A pause returns to the state it interrupted, or leaves through one of the exits.
        table[state] |= _ORDER_WORKING | _UNDOING | (_PAUSES - {state}) | {_O.REJECTED}
    table[_O.CANCELLING] |= {
        _O.CANCELLED,
        # A parcel that could not be called back may still get lost.
        _O.COMPENSATING,
        _O.NEEDS_OPERATOR,
        _O.RELEASED,
        _O.PARTIALLY_SHIPPED,
        _O.SHIPPED,
        _O.DELIVERED,
    }
    table[_O.COMPENSATING] |= {_O.COMPENSATED, _O.REJECTED, _O.NEEDS_OPERATOR}
    return {state: frozenset(following) for state, following in table.items()}


def _shipment_transitions() -> dict[ShipmentState, frozenset[ShipmentState]]:
    moving = [_S.HANDED_OVER, _S.IN_TRANSIT, _S.OUT_FOR_DELIVERY, _S.DELIVERED]
    table: dict[ShipmentState, set[ShipmentState]] = {s: set() for s in ShipmentState}
    table[_S.PLANNED] |= {_S.PICK_REQUESTED}
    table[_S.PICK_REQUESTED] |= {_S.PICKED}
    table[_S.PICKED] |= {_S.LABELLED}
    table[_S.LABELLED] |= set(moving)
    for index, state in enumerate(moving[:-1]):
        # Carriers skip scans: any later one is legal. A failed attempt goes from "out for delivery" back to transit.
        table[state] |= set(moving[index + 1 :]) | {_S.LOST}
        # Any parcel may be on its way back to the sender: called back, refused at the door, or nobody was there.
        table[state] |= {_S.RETURNING, _S.RETURNED}
    table[_S.OUT_FOR_DELIVERY] |= {_S.IN_TRANSIT}
    # One that was to come back may get lost, or reach the customer all the same.
    table[_S.RETURNING] |= {_S.RETURNED, _S.DELIVERED, _S.LOST}
    # A parcel given up for lost can still turn up.
    table[_S.LOST] |= {_S.DELIVERED}
    before_handover = [_S.PLANNED, _S.PICK_REQUESTED, _S.PICKED, _S.LABELLED]
    working = [*before_handover, *moving[:-1], _S.RETURNING]
    for state in before_handover:
        table[state] |= {_S.CANCELLING}
    for state in working:
        table[state] |= {_S.IN_REVIEW, _S.NEEDS_OPERATOR}
    for state in (_S.IN_REVIEW, _S.NEEDS_OPERATOR):
        table[state] |= set(working) | {
            _S.CANCELLING,
            _S.LOST,
            _S.DELIVERED,
            _S.RETURNED,
            _S.IN_REVIEW,
            _S.NEEDS_OPERATOR,
        } - {state}
    table[_S.CANCELLING] |= {_S.CANCELLED, _S.NEEDS_OPERATOR, _S.HANDED_OVER}
    return {state: frozenset(following) for state, following in table.items()}


ORDER_TRANSITIONS: Mapping[OrderState, frozenset[OrderState]] = _order_transitions()
SHIPMENT_TRANSITIONS: Mapping[ShipmentState, frozenset[ShipmentState]] = _shipment_transitions()

ORDER_TERMINAL = frozenset({_O.CLOSED, _O.REJECTED, _O.CANCELLED, _O.COMPENSATED})
SHIPMENT_TERMINAL = frozenset({_S.DELIVERED, _S.CANCELLED, _S.LOST, _S.RETURNED})
# From here on the goods are with the carrier: a cancellation can no longer simply undo.
SHIPMENT_HANDED_OVER = frozenset(
    {
        _S.HANDED_OVER,
        _S.IN_TRANSIT,
        _S.OUT_FOR_DELIVERY,
        _S.DELIVERED,
        _S.LOST,
        _S.RETURNING,
        _S.RETURNED,
    }
)


def order_may(current: OrderState, following: OrderState) -> bool:
    """Whether an order in ``current`` may go to ``following``. Staying put is always legal."""
    return current == following or following in ORDER_TRANSITIONS[current]


def shipment_may(current: ShipmentState, following: ShipmentState) -> bool:
    """Whether a shipment in ``current`` may go to ``following``. Staying put is always legal."""
    return current == following or following in SHIPMENT_TRANSITIONS[current]
