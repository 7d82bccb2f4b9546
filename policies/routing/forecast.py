"""What a unit of each SKU is worth at each node, if the next weeks are like the last ones.

Regions are countries: no rate of the network tells smaller ones apart. What a unit costs from a node to a country is
its freight by the cheapest service, and its part of the parcel (what the parcel costs before any weight, over the units
that an order has on average). How likely it is late, and calendars, make no difference here. A unit that nobody is sent
counts twice the dearest way. Of ways that differ little prices differ little; only what they differ by reaches orders.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from models.network import Network, Node
from policies.routing.batch import Mills
from policies.routing.held_orders import Ints
from policies.routing.lookahead import expected_demand, shadow_prices
from policies.routing.offers import zone_of

METHOD = "shadow-prices/1"
# A SKU of which fewer lines were ordered within the window has no price.
LEAST_LINES = 10
MOST_COUNTRIES = 40
# Numbers of SKUs, countries and nodes at once: some tens of megabytes.
_AT_ONCE = 1_000_000
_MILLS = 1000


class Ordered(NamedTuple):
    """``units`` of a SKU in ``lines`` order lines to a country, within the window."""

    sku: str
    country: str
    lines: int
    units: int


class Past(NamedTuple):
    """What happened within the window: ``span_days`` of it, ``orders`` with ``units``, and what was asked for."""

    span_days: float
    orders: int
    units: int
    ordered: Sequence[Ordered]


class Priced(NamedTuple):
    """What a unit of a SKU is worth at a node, in mills."""

    sku: str
    node: str
    mills: int


class Forecast:
    """Prices to be worked out block by block, of the SKUs that were sold often enough (``skus``).

    Args:
        network: whose active nodes and services count.
        past: what happened.
        available: units that can be promised, by SKU and node.
        days_ahead: until more of a SKU comes.
    """

    def __init__(
        self,
        network: Network,
        past: Past,
        available: Mapping[tuple[str, str], int],
        days_ahead: Mapping[str, int],
    ) -> None:
        lines: dict[str, int] = {}
        wanted: dict[str, int] = {}
        for one in past.ordered:
            lines[one.sku] = lines.get(one.sku, 0) + one.lines
            wanted[one.country] = wanted.get(one.country, 0) + one.units
        self.skus = tuple(
            sorted(sku for sku, count in lines.items() if count >= LEAST_LINES and sku in days_ahead)
        )
        countries = sorted(wanted, key=lambda country: (-wanted[country], country))
        self.countries = tuple(countries[:MOST_COUNTRIES])
        self.countries_left_out = len(countries) - len(self.countries)
        self._nodes = tuple(node for node in network.nodes if node.active)
        self._unit_cost, self._unfilled = _unit_costs(
            network, self._nodes, self.countries, units=past.units / max(past.orders, 1)
        )
        rows = {sku: row for row, sku in enumerate(self.skus)}
        columns = {country: column for column, country in enumerate(self.countries)}
        kept = [one for one in past.ordered if one.sku in rows and one.country in columns]
        demand = expected_demand(
            np.array([rows[one.sku] for one in kept], dtype=np.int64),
            np.array([columns[one.country] for one in kept], dtype=np.int64),
            np.array([one.units for one in kept], dtype=np.int64),
            (len(self.skus), len(self.countries)),
            ahead=1.0,
        )
        ahead = np.array([days_ahead[sku] for sku in self.skus], dtype=np.float64) / past.span_days
        self._demand = demand * ahead[:, None]
        self._stock: Ints = np.array(
            [[available.get((sku, node.node_id), 0) for node in self._nodes] for sku in self.skus],
            dtype=np.int64,
        ).reshape(len(self.skus), len(self._nodes))

    def blocks(self) -> Iterator[list[Priced]]:
        """The prices above zero, so many SKUs at a time that a block takes a second or two."""
        size = max(1, _AT_ONCE // max(1, len(self._nodes) * len(self.countries)))
        if not self._nodes or not self.countries or not self._unfilled:
            return
        for first in range(0, len(self.skus), size):
            yield self._priced(slice(first, first + size))

    def _priced(self, some: slice) -> list[Priced]:
        stock = self._stock[some]
        prices = shadow_prices(
            self._demand[some],
            np.broadcast_to(self._unit_cost, (len(stock), *self._unit_cost.shape)),
            np.full(len(stock), self._unfilled, dtype=np.int64),
            stock,
        )
        # Subgradients swing: where there is enough of all, a few mills may be left over, but never more than sense.
        prices = np.where(stock > 0, np.minimum(prices, self._unfilled), 0)
        skus = self.skus[some]
        return [
            Priced(skus[row], self._nodes[column].node_id, int(prices[row, column]))
            for row, column in np.argwhere(prices > 0).tolist()
        ]


def _unit_costs(
    network: Network, nodes: Sequence[Node], countries: Sequence[str], *, units: float
) -> tuple[Mills, int]:
    """Mills (R, N) for a unit from each node to each country, and for one that is not sent; 0 where nothing goes
    anywhere. Where no service goes a unit costs as much as one that is not sent.
    """
    costs = [[_unit_cost(network, node, country, max(units, 1.0)) for node in nodes] for country in countries]
    known = [cost for row in costs for cost in row if cost is not None]
    unfilled = 2 * max(known, default=0)
    return (
        np.array(
            [[unfilled if cost is None else cost for cost in row] for row in costs], dtype=np.int64
        ).reshape(len(countries), len(nodes)),
        unfilled,
    )


def _unit_cost(network: Network, node: Node, country: str, units: float) -> int | None:
    zones = (zone_of(service, node.country, country) for service in network.services if service.active)
    # So many minor units a kilogram are as many mills a gram.
    return min(
        (
            round(_MILLS * (node.handling_minor + zone.base_minor) / units)
            + zone.per_kg_minor * network.unit_weight_g
            for zone in zones
            if zone is not None
        ),
        default=None,
    )
