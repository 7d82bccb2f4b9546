"""What a unit is worth where it lies, for orders that are still to come: the price that an order pays for it on top.

Without one, an order takes the last unit in Glasgow although one from Leeds costs it hardly more, and the next
customer in Glasgow waits. Shadow prices of the demand that is expected say what that costs (Acimovic & Graves 2015).
They are forecasts: taken whole they make orders shun stock that nobody else comes for, so they are scaled, and fade
as they get older.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Protocol

import numpy as np

from policies.routing.ascent import Ascent, Floats
from policies.routing.batch import Mills
from policies.routing.fading import still_counts
from policies.routing.held_orders import HeldOrders, Ints
from policies.routing.prices import price


class Lookahead(Protocol):
    """Prices stock by what it is worth to later orders. Deterministic: the same moment gives the same price."""

    def price(self, sku: str, node: str, moment: datetime) -> int:
        """Mills (thousandths of a minor unit) per unit of ``sku`` at ``node``, at least 0; 0 for what it knows
        nothing of.
        """
        ...


class NoLookahead:
    """First come, first served."""

    def price(self, sku: str, node: str, moment: datetime) -> int:
        """Nothing, always."""
        return 0


@dataclass(frozen=True)
class ShadowPrices:
    """Prices as they were worked out at a moment. ``mills`` (S, N): a row per SKU, a column per node.

    At age 0 they count ``scale``, and half of that after each ``half_life``. Raises ``ValueError`` for prices that
    do not fit their names, a scale outside 0 to 1, or a half-life that is none.
    """

    skus: tuple[str, ...]
    nodes: tuple[str, ...]
    mills: Mills
    worked_out_at: datetime
    scale: float = 0.75
    half_life: timedelta = field(default=timedelta(days=7))

    def __post_init__(self) -> None:
        if self.mills.shape != (len(self.skus), len(self.nodes)):
            raise ValueError(
                f"shadow prices of {len(self.skus)} SKUs at {len(self.nodes)} nodes cannot have the "
                f"shape {self.mills.shape}"
            )
        if self.mills.min(initial=0) < 0:
            raise ValueError("a shadow price is never below zero")
        if not 0 <= self.scale <= 1 or self.half_life <= timedelta(0):
            raise ValueError(
                f"shadow prices need a scale from 0 to 1 and a half-life above zero, not "
                f"{self.scale} and {self.half_life}"
            )

    def price(self, sku: str, node: str, moment: datetime) -> int:
        """See ``Lookahead``. Raises ``ValueError`` for a moment before the prices were worked out."""
        row, column = self._rows.get(sku), self._columns.get(node)
        if row is None or column is None:
            return 0
        return int(self.mills[row, column] * self._weight(moment))

    def at(self, moment: datetime) -> Mills:
        """All prices (S, N) at a moment, as ``price`` gives them one by one."""
        return (self.mills * self._weight(moment)).astype(np.int64)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {sku: row for row, sku in enumerate(self.skus)}

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {node: column for column, node in enumerate(self.nodes)}

    def _weight(self, moment: datetime) -> float:
        age = moment - self.worked_out_at
        if age < timedelta(0):
            raise ValueError(
                f"prices worked out at {self.worked_out_at} say nothing about {moment}, before that"
            )
        return still_counts(age, self.scale, self.half_life)


def expected_demand(
    sku: Ints, region: Ints, units: Ints, shape: tuple[int, int], *, ahead: float, trust: float = 20.0
) -> Floats:
    """Units (S, R) that each region will want of each SKU: the moving average of a window of recent lines.

    ``sku``, ``region``, ``units``: one entry per line of the window; ``shape`` (S, R). ``ahead``: how many windows
    long the time is until more stock comes. Few SKUs sell often enough to know their regions: a SKU's own pattern
    counts as much as everybody's once it sold ``trust`` units. Raises ``ValueError`` for entries that do not match,
    or no time ahead.
    """
    if not sku.shape == region.shape == units.shape or ahead < 0 or trust <= 0:
        raise ValueError(
            "expected demand needs a SKU, a region and units for every line, no negative time ahead and some trust"
        )
    skus, regions = shape
    sold = np.bincount(sku * regions + region, units, skus * regions).reshape(shape)
    of_sku, of_region = sold.sum(axis=1, keepdims=True), sold.sum(axis=0)
    common = of_region / max(of_region.sum(), 1)
    demand: Floats = ahead * of_sku * (sold + trust * common) / (of_sku + trust)
    return demand


def prices_of_recent(recent: HeldOrders, stock: Ints, ahead: float, rounds: int = 30) -> Mills:
    """Prices (S, N), mills per unit, if orders like the ``recent`` come ``ahead`` more times and share the ``stock``
    (S, N).

    Keeps what ``shadow_prices`` cannot know: which lines are bought together and so had better lie together. It
    wants the orders themselves, and takes a second or so per thousand. Raises ``ValueError`` as ``price`` does.
    """
    return price(recent.part(np.arange(recent.orders), stock=stock), rounds, ahead).stock


def shadow_prices(demand: Floats, unit_cost: Mills, unfilled: Mills, stock: Ints, rounds: int = 60) -> Mills:
    """Prices (S, N), mills per unit, at which the expected demand fits the stock as cheaply as can be.

    ``demand`` (S, R) units; ``unit_cost`` (S, R, N) mills for a unit from a node to a region, its part of the parcel
    included; ``unfilled`` (S) mills for a unit that is not sent; ``stock`` (S, N). Lagrangian relaxation of the
    transport problem of each SKU, all at once. Raises ``ValueError`` for shapes that do not match or no round.
    """
    skus, nodes = stock.shape
    if (
        demand.shape[0] != skus
        or unit_cost.shape != (skus, demand.shape[1], nodes)
        or unfilled.shape != (skus,)
        or rounds < 1
    ):
        raise ValueError(
            f"shadow prices need a round and matching shapes, not demand {demand.shape}, unit_cost {unit_cost.shape}, "
            f"unfilled {unfilled.shape}, stock {stock.shape} and {rounds} rounds"
        )
    spread = np.sort(unit_cost, axis=2)
    usual = spread[:, :, min(nodes - 1, nodes // 2)] - spread[:, :, 0]
    step = np.maximum((usual * demand).sum(axis=1) / np.maximum(demand.sum(axis=1), 1e-9), 1.0) * _FIRST_STEP
    ascent = Ascent(np.repeat(step[:, None], nodes, axis=1), rounds)
    # A node without stock serves nobody: its price is that of a unit that it does not have.
    held = stock > 0
    rows = np.arange(skus)[:, None] * nodes
    mean: Floats = np.zeros(stock.shape)
    for number in range(rounds):
        offers = np.where(held[:, None, :], unit_cost + ascent.prices[:, None, :], np.inf)
        node = offers.argmin(axis=2)
        sent = np.where(
            np.take_along_axis(offers, node[:, :, None], axis=2)[:, :, 0] < unfilled[:, None], demand, 0
        )
        taken = np.bincount((rows + node).ravel(), sent.ravel(), skus * nodes).reshape(stock.shape)
        ascent.rise(np.where(held, taken - stock, 0))
        # Prices swing around their best: the mean of the later rounds is nearer to it than the last.
        if number >= rounds // 2:
            mean += ascent.prices / (rounds - rounds // 2)
    return np.rint(mean).astype(np.int64)


# As a share of the difference between a region's nearest node and a middling one.
_FIRST_STEP = 0.2
