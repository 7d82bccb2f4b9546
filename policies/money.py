"""What of an order's money is goods, postage, tax, fee or discount: for each line, each shipment and each unit.

One rule at every level, so that parts always add up. A whole is split by largest remainder (``Money.allocate``) over
its parts' goods values: its total first, then each kind of charge. The kind that is largest in the whole takes up what
rounding leaves. So a part's goods are exact, its total is the one that the router planned with
(``activities.routing``), and no part's total is below zero.

The whole of an order is split over its shipments, a shipment's share over its lines, and a line's share over its units:
of ``n`` units together, whatever is said of them first, the share is that of ``n`` units out of all, rounded down; so
what is paid back for three units is the same in one go and one by one, and the last unit takes what is left.
"""

from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from models.base import Contract
from models.money import Money
from models.order import ChargeKind, OrderDraft
from models.plan import Plan

_FIELDS = {
    ChargeKind.DISCOUNT: "discount",
    ChargeKind.TAX: "tax",
    ChargeKind.SHIPPING: "freight",
    ChargeKind.FEE: "fees",
    ChargeKind.ADJUSTMENT: "adjustments",
}
CHARGES = tuple(_FIELDS.values())


class Parts(Contract):
    """An amount by what it is for, in minor units. A discount is negative; an adjustment is either."""

    goods: int = 0
    discount: int = 0
    tax: int = 0
    freight: int = 0
    fees: int = 0
    adjustments: int = 0

    @property
    def total(self) -> int:
        """All of it together."""
        return self.goods + self.charges

    @property
    def charges(self) -> int:
        """Everything that is not goods."""
        return sum(getattr(self, kind) for kind in CHARGES)

    def __add__(self, other: "Parts") -> "Parts":
        return Parts(**{kind: getattr(self, kind) + getattr(other, kind) for kind in _ALL})

    def __sub__(self, other: "Parts") -> "Parts":
        return Parts(**{kind: getattr(self, kind) - getattr(other, kind) for kind in _ALL})


_ALL = ("goods", *CHARGES)


class LineUnits(Contract):
    """``quantity`` units of a line of an order."""

    line_id: str
    quantity: int = Field(ge=1)


class ShipmentShare(Contract):
    """What one shipment is charged for: as a whole, and line by line."""

    parts: Parts
    lines: Mapping[str, Parts]
    quantities: Mapping[str, int]


def whole_of(draft: OrderDraft) -> Parts:
    """The order's make-up. Charges of one kind are added up first, so that many small ones are split as one."""
    charges: dict[str, int] = {}
    for charge in draft.charges:
        charges[_FIELDS[charge.kind]] = charges.get(_FIELDS[charge.kind], 0) + charge.amount_minor
    return Parts(goods=sum(line.quantity * line.unit_price_minor for line in draft.lines), **charges)


def split(whole: Parts, goods: Sequence[int], currency: str) -> tuple[Parts, ...]:
    """``whole`` in parts whose goods are worth ``goods``; the parts add up to it kind by kind.

    Of a whole that has a total of zero or more no part's total is below zero. Where ``goods`` do not add up to the
    whole's, they are only its proportions. Raises ``ValueError`` without parts or for goods below zero.
    """

    def shares(amount: int) -> list[int]:
        return [part.minor for part in Money(minor=amount, currency=currency).allocate(goods)]

    columns = {"goods": shares(whole.goods)} | {kind: shares(getattr(whole, kind)) for kind in CHARGES}
    if any(getattr(whole, kind) for kind in CHARGES):
        totals = shares(whole.total)
        takes_up = _largest(whole)
        others = [kind for kind in _ALL if kind != takes_up]
        columns[takes_up] = [
            total - sum(columns[kind][place] for kind in others) for place, total in enumerate(totals)
        ]
    return tuple(Parts(**{kind: columns[kind][place] for kind in _ALL}) for place in range(len(goods)))


def of_units(line: Parts, quantity: int, units: int, before: int = 0) -> Parts:
    """The share of ``units`` of a line's ``quantity``, after ``before`` of them had theirs.

    Raises ``ValueError`` for more units than the line has.
    """
    if units < 0 or before < 0 or before + units > quantity:
        raise ValueError(f"{units} units after {before} are more than the line's {quantity}")
    return _first_units(line, quantity, before + units) - _first_units(line, quantity, before)


def by_shipment(draft: OrderDraft, plan: Plan, kept: Parts | None = None) -> dict[int, ShipmentShare]:
    """What each of a plan's shipments is charged for, by its number; with what it leaves out, all of them, the order.

    ``kept`` is what shipments of earlier plans that go on are charged for: the plan has the rest. The totals are those
    that the plan's ``ShipmentRef`` have. Raises ``ValueError`` where plan and document do not fit.
    """
    price = {line.line_id: line.unit_price_minor for line in draft.lines}
    parcels = [shipment.lines for shipment in plan.shipments]
    if strange := {line.line_id for lines in (*parcels, plan.left_out) for line in lines} - price.keys():
        raise ValueError(f"the document has no line {', '.join(sorted(strange))}")
    goods = goods_of(plan, price)
    whole = whole_of(draft) - (kept or Parts())
    if whole.total < 0:
        raise ValueError("what is kept costs more than the whole")
    shares: dict[int, ShipmentShare] = {}
    for shipment, parts in zip(plan.shipments, split(whole, goods, draft.currency), strict=False):
        quantities = _quantities((line.line_id, line.quantity) for line in shipment.lines)
        lines = split(parts, [units * price[line] for line, units in quantities.items()], draft.currency)
        shares[shipment.number] = ShipmentShare(
            parts=parts, lines=dict(zip(quantities, lines, strict=True)), quantities=quantities
        )
    return shares


def goods_of(plan: Plan, prices: Mapping[str, int]) -> list[int]:
    """What the goods of each shipment of a plan are worth, and at the end those that it leaves out, if it does."""
    parts = [shipment.lines for shipment in plan.shipments]
    if plan.left_out:
        parts.append(plan.left_out)
    return [sum(line.quantity * prices[line.line_id] for line in lines) for lines in parts]


def by_line(draft: OrderDraft) -> dict[str, Parts]:
    """Each line's share of the order, before anybody knows how it is shipped."""
    goods = [line.quantity * line.unit_price_minor for line in draft.lines]
    shares = split(whole_of(draft), goods, draft.currency)
    return {line.line_id: share for line, share in zip(draft.lines, shares, strict=True)}


def of_refund(
    share: ShipmentShare, units: Sequence[LineUnits], before: Mapping[str, int] | None = None
) -> Parts:
    """What ``units`` of a shipment cost, when ``before`` says how many of each line were paid back already.

    All units of a shipment together, in whichever order and portions, cost what was captured for it. Raises
    ``ValueError`` for units that the shipment does not have.
    """
    gone = dict(before or {})
    amount = Parts()
    for line_id, quantity in _quantities((one.line_id, one.quantity) for one in units).items():
        if line_id not in share.lines:
            raise ValueError(f"the shipment has no line {line_id}")
        amount += of_units(share.lines[line_id], share.quantities[line_id], quantity, gone.get(line_id, 0))
    return amount


def _first_units(line: Parts, quantity: int, units: int) -> Parts:
    """The share of the first ``units``: the total rounded down, the goods exact where they are, the rest by kind."""

    def toward_zero(amount: int) -> int:
        share = abs(amount) * units // quantity
        return -share if amount < 0 else share

    shares = {kind: toward_zero(getattr(line, kind)) for kind in _ALL}
    if any(getattr(line, kind) for kind in CHARGES):
        takes_up = _largest(line)
        total = line.total * units // quantity
        shares[takes_up] = total - sum(shares[kind] for kind in _ALL if kind != takes_up)
    return Parts(**shares)


def _largest(parts: Parts) -> str:
    """The kind of charge that a penny matters least to."""
    return max(CHARGES, key=lambda kind: (abs(getattr(parts, kind)), -CHARGES.index(kind)))


def _quantities(lines: Iterable[tuple[str, int]]) -> dict[str, int]:
    units: dict[str, int] = {}
    for line_id, quantity in lines:
        units[line_id] = units.get(line_id, 0) + quantity
    return units
