"""Many orders and the stock that they compete for, as arrays: what a wave, and a stream of orders, is routed from."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from policies.routing.batch import MOST_NODES, NEVER, Mills, Orders

Ints = npt.NDArray[np.int64]

# So that sums over all orders stay far from overflow, and an order's cost leaves room for a bit per node.
_DEAREST_ORDER = 1 << 36


@dataclass(frozen=True)
class HeldOrders:
    """``O`` orders with ``L`` lines of ``S`` SKUs, and ``N`` nodes. Costs are mills (thousandths of a minor unit).

    ``first_line`` (O + 1): order ``o`` has the lines ``first_line[o]`` to ``first_line[o + 1]``, at least one, no
    SKU twice.
    ``sku`` (L): row of ``stock``. ``quantity`` (L): units, sent whole from one node.
    ``opening`` (O, N): a shipment's own cost; ``NEVER`` where the node cannot serve the order.
    ``split`` (O): for each shipment beyond the first. ``line`` (L, N): for the line from there; ``NEVER`` where it
    cannot be.
    ``unfilled`` (L): penalty. ``stock`` (S, N): units that may be promised. ``capacity`` (N): shipments that may be
    sent.

    Raises ``ValueError`` that names what is wrong.
    """

    first_line: Ints
    sku: Ints
    quantity: Ints
    opening: Mills
    split: Mills
    line: Mills
    unfilled: Mills
    stock: Ints
    capacity: Ints

    def __post_init__(self) -> None:
        for wrong in _wrong(self):
            raise ValueError(f"these orders cannot be routed together: {wrong}")

    @property
    def orders(self) -> int:
        """How many orders: ``O``."""
        return len(self.first_line) - 1

    @property
    def nodes(self) -> int:
        """How many nodes: ``N``."""
        return int(self.stock.shape[1])

    @cached_property
    def lines_of(self) -> Ints:
        """Lines per order (O)."""
        return np.diff(self.first_line)

    @cached_property
    def order(self) -> Ints:
        """The order of each line (L)."""
        return np.repeat(np.arange(self.orders), self.lines_of)

    def part(self, orders: Ints, *, stock: Ints | None = None, capacity: Ints | None = None) -> "HeldOrders":
        """Only these orders, of other stock and capacity when given. What is a part of the right is right: not
        checked again.
        """
        first_line, places = self.places(orders)
        part = object.__new__(HeldOrders)
        part.__dict__.update(
            first_line=first_line,
            sku=self.sku[places],
            quantity=self.quantity[places],
            opening=self.opening[orders],
            split=self.split[orders],
            line=self.line[places],
            unfilled=self.unfilled[places],
            stock=self.stock if stock is None else stock,
            capacity=self.capacity if capacity is None else capacity,
        )
        return part

    def places(self, orders: Ints) -> tuple[Ints, Ints]:
        """``first_line`` of these orders alone, and the places of their lines among all."""
        counts = self.lines_of[orders]
        first_line = np.concatenate([[0], np.cumsum(counts)])
        return first_line, np.repeat(self.first_line[orders] - first_line[:-1], counts) + np.arange(
            first_line[-1]
        )

    def priced(self, stock_prices: Mills, capacity_prices: Mills) -> Orders:
        """What each order would pay for itself, where there is enough for it, with ``stock_prices`` (S, N) per unit and
        ``capacity_prices`` (N) per shipment on top.
        """
        enough = (self.stock[self.sku] >= self.quantity[:, None]) & (self.line < NEVER)
        line = np.where(enough, self.line + stock_prices[self.sku] * self.quantity[:, None], NEVER)
        opens = (self.capacity > 0) & (self.opening < NEVER)
        opening = np.where(opens, self.opening + capacity_prices, NEVER)
        return Orders(self.first_line, opening, self.split, line, self.unfilled)

    def shipments(self, node: Ints) -> npt.NDArray[np.bool_]:
        """Which nodes (O, N) ship something of an order, when ``node`` (L, -1: unfilled) serves each line."""
        shipped = np.zeros((self.orders, self.nodes), bool)
        served = node >= 0
        shipped[self.order[served], node[served]] = True
        return shipped

    def costs(self, node: Ints) -> Mills:
        """What each order (O) costs, when ``node`` (L, -1: unfilled) serves each line. No prices on top."""
        shipped = self.shipments(node)
        opening = np.where(shipped, self.opening, 0).sum(axis=1)
        splits = self.split * np.maximum(shipped.sum(axis=1) - 1, 0)
        lines = np.where(node >= 0, self.line[np.arange(len(node)), node], self.unfilled)
        costs: Mills = opening + splits + np.add.reduceat(lines, self.first_line[:-1])
        return costs


def _wrong(held: HeldOrders) -> list[str]:
    """What is wrong with the orders; shapes first, for nothing else can be looked at without."""
    orders, lines = len(held.first_line) - 1, len(held.sku)
    if held.stock.ndim != 2 or not 1 <= held.stock.shape[1] <= MOST_NODES:
        return [
            f"stock must have a row per SKU and 1 to {MOST_NODES} nodes, not the shape {held.stock.shape}"
        ]
    nodes = held.stock.shape[1]
    shapes = {
        "quantity": (lines,),
        "opening": (orders, nodes),
        "split": (orders,),
        "line": (lines, nodes),
        "unfilled": (lines,),
        "capacity": (nodes,),
    }
    for name, shape in shapes.items():
        if (found := getattr(held, name).shape) != shape:
            return [f"{name} has the shape {found}, and should have {shape}"]
    if (
        orders < 1
        or held.first_line[0] != 0
        or held.first_line[-1] != lines
        or np.diff(held.first_line).min() < 1
    ):
        return ["first_line must rise from 0 to the number of lines, and every order needs a line"]
    if held.sku.min() < 0 or held.sku.max() >= held.stock.shape[0]:
        return [f"sku must lie between 0 and {held.stock.shape[0] - 1}, a row of stock"]
    wrong = [
        f"{name} must not be below {least}"
        for name, least in (
            ("quantity", 1), ("opening", 0), ("split", 0), ("line", 0), ("unfilled", 0), ("stock", 0), ("capacity", 0),
        )
        if getattr(held, name).min(initial=least) < least
    ]  # fmt: skip
    order = np.repeat(np.arange(orders), np.diff(held.first_line))
    if len(np.unique(order * held.stock.shape[0] + held.sku)) != lines:
        wrong.append("an order has a SKU on two lines: add them up")
    if np.add.reduceat(held.unfilled, held.first_line[:-1]).max() >= _DEAREST_ORDER:
        wrong.append(f"an order's penalties add up to more than {_DEAREST_ORDER // 1000} minor units")
    return wrong
