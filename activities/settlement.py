"""Whether an order's money is what its shipments justify. ``moved``: what the ledger has for each shipment."""

from collections.abc import Mapping, Sequence

from activities.store.ledger import Moved
from activities.store.views import MoneyTotals, ShipmentView
from models.money import Money
from models.states import SHIPMENT_HANDED_OVER, ShipmentState

_PAID_BACK = frozenset({ShipmentState.LOST, ShipmentState.RETURNED})
# The customer has nothing of these: nothing more will be taken for them.
_COST_NOTHING = _PAID_BACK | {ShipmentState.CANCELLED}


def left(shipment: ShipmentView) -> bool:
    """Whether the shipment was handed over. A review hides how far it is; the time of its hand-over does not."""
    return shipment.state in SHIPMENT_HANDED_OVER or shipment.handed_over_at is not None


def unpaid(moved: Mapping[str, Moved], shipments: Sequence[ShipmentView]) -> list[str]:
    """A sentence for each shipment that left and is still to be captured, wholly or in part, out of what is held.

    An order that was reset to before it released them does not know of them. Were its hold given back, the goods would
    be gone and nothing could be taken for them any more.
    """
    wrong = []
    for shipment in shipments:
        if not left(shipment) or shipment.state in _COST_NOTHING:
            continue
        captured = Money(minor=_of(shipment, moved).captured, currency=shipment.amount.currency)
        if captured < shipment.amount:
            wrong.append(
                f"shipment {shipment.shipment_id} has left with the carrier, {captured} captured, "
                f"{shipment.amount} due: the hold stays until its run has taken the money. Answer the review of that "
                f"run, or finish its capture by hand, then try again"
            )
    return wrong


def imbalances(
    total: Money, money: MoneyTotals, moved: Mapping[str, Moved], shipments: Sequence[ShipmentView]
) -> list[str]:
    """Every sentence that says why the books cannot be closed; none when they balance.

    They balance when no movement is unclear, nothing is held, each shipment that was handed over was captured in full,
    no other one keeps any money, nor one that was lost or came back, and refunds (each has its cause) stay within what
    was captured.
    """
    wrong = []
    zero = Money.zero(total.currency)
    if money.unclear:
        wrong.append(f"{money.unclear} movements of money have no answer yet")
    if money.held != zero:
        wrong.append(f"{money.held} are still held")
    if total < money.captured:
        wrong.append(f"{money.captured} were captured, the order's total is {total}")
    for shipment in shipments:
        captured = Money(minor=_of(shipment, moved).captured, currency=total.currency)
        refunded = Money(minor=_of(shipment, moved).refunded, currency=total.currency)
        if left(shipment) and captured != shipment.amount:
            wrong.append(f"shipment {shipment.shipment_id}: {captured} captured, {shipment.amount} due")
        if not left(shipment) and captured != refunded:
            wrong.append(
                f"shipment {shipment.shipment_id} is {shipment.state}: {captured} captured, {refunded} refunded"
            )
        if shipment.state in _PAID_BACK and captured != refunded:
            wrong.append(
                f"shipment {shipment.shipment_id} is {shipment.state}: {captured} captured, {refunded} refunded"
            )
        if captured < refunded:
            wrong.append(f"shipment {shipment.shipment_id}: {refunded} refunded of {captured} captured")
    strangers = sorted(moved.keys() - {shipment.shipment_id for shipment in shipments})
    if strangers:
        wrong.append(f"money moved for unknown shipments: {', '.join(strangers)}")
    return wrong


def _of(shipment: ShipmentView, moved: Mapping[str, Moved]) -> Moved:
    return moved.get(shipment.shipment_id, Moved())
