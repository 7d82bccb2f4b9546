"""Networks with a stream of orders each, for ``benchmarks.routing_streams``: what is real, and what is assumed.

Of each world ``about`` tells that. All costs are mills (thousandths of a minor unit), all distances kilometres.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from activities.channels.online_retail import read_invoices
from activities.store.seed import DEFAULT_NETWORK, DEFAULT_STOCK, read_network, read_stock
from models.network import CarrierService, Network, ServiceZone
from models.order import OrderDraft
from policies.routing.batch import NEVER, Mills
from policies.routing.held_orders import HeldOrders, Ints

Floats = npt.NDArray[np.float64]

EXAMPLE_ORDERS = Path(DEFAULT_STOCK).parent / "invoices-2011-09-10.parquet"
PLENTY = 1 << 30
# Assumed everywhere: what it costs not to send a line, beside the line's own value where that is known.
UNFILLED = 3_000_000


@dataclass(frozen=True)
class Past:
    """Lines sold before the stream began, for the first forecast: ``sku``, ``region``, ``units`` of each; so many
    orders.
    """

    sku: Ints
    region: Ints
    units: Ints
    orders: int


@dataclass(frozen=True)
class World:
    """A network and its orders in the order of their coming.

    ``km`` and ``days`` (O, N): distance, and days until delivery. ``region`` (O) of ``regions``. ``unit_weight`` (S)
    grams and
    ``rate`` (O, N) mills per gram make up the line costs. ``at`` (O): when. ``per_day``: capacity counts anew each day.
    """

    name: str
    about: str
    held: HeldOrders
    km: Floats
    days: Floats
    region: Ints
    regions: int
    unit_weight: Floats
    rate: Floats
    at: tuple[datetime, ...]
    past: Past
    per_day: bool = False


_NONE = np.zeros(0, np.int64)
NO_PAST = Past(sku=_NONE, region=_NONE, units=_NONE, orders=0)


# --- made up: 20 nodes on a plane ---
def synthetic(orders: int = 10_000, nodes: int = 20, skus: int = 200, seed: int = 1) -> World:
    """Customers around cities, SKUs of very different popularity, and stock for 1.05 × the demand."""
    chance = np.random.default_rng(seed)
    cities = chance.uniform(0, 1000, (60, 2))
    size = chance.pareto(1.2, 60) + 0.3
    places = chance.uniform(0, 1000, (nodes, 2))
    popularity = np.arange(1, skus + 1) ** -0.8
    unit_weight = chance.integers(200, 3000, skus).astype(np.float64)
    handling = chance.integers(100, 300, nodes) * 1000

    def drawn(number: int) -> tuple[Floats, list[Ints], Ints]:
        home = cities[chance.choice(60, number, p=size / size.sum())] + chance.normal(0, 25, (number, 2))
        counts = np.minimum(chance.geometric(0.42, number), 10)
        lines = [
            chance.choice(skus, count, replace=False, p=popularity / popularity.sum()) for count in counts
        ]
        units = chance.choice([1, 2, 3], int(counts.sum()), p=[0.75, 0.18, 0.07])
        return np.hypot(*(home[:, None] - places).transpose(2, 0, 1)), lines, units

    past_km, past_lines, past_units = drawn(orders // 4)
    km, lines, units = drawn(orders)
    counts = np.array([len(one) for one in lines])
    sku = np.concatenate(lines)
    rate = 0.06 + 0.00012 * km
    demand = np.bincount(sku, units, skus)
    # A node holds more of everything if more customers live around it, and of each SKU by chance.
    near = np.bincount(km.argmin(axis=1), minlength=nodes) / orders
    shares = chance.dirichlet(3 * nodes * (0.5 * near + 0.5 / nodes), skus)
    return World(
        name=f"synthetic, {orders:,} orders × {nodes} nodes",
        about="All made up: places, orders, costs; stock is 1.05 × the demand of each SKU, spread by chance.",
        held=_held(
            counts, sku, units, (400_000 + handling + 600 * km).astype(np.int64), 250_000, rate, unit_weight,
            np.full(len(sku), UNFILLED), spread(demand * 1.05, shares, chance), np.full(nodes, PLENTY),
        ),
        km=km,
        days=1 + np.floor(km / 250),
        region=km.argmin(axis=1),
        regions=nodes,
        unit_weight=unit_weight,
        rate=rate,
        at=tuple(_BEGIN + timedelta(minutes=4 * number) for number in range(orders)),
        past=Past(
            np.concatenate(past_lines),
            np.repeat(past_km.argmin(axis=1), [len(one) for one in past_lines]),
            past_units,
            orders // 4,
        ),
    )  # fmt: skip


_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def spread(units: npt.NDArray[np.floating], shares: Floats, chance: np.random.Generator) -> Ints:
    """Whole ``units`` (S) laid out by ``shares`` (S, N); what rounding leaves over goes by chance."""
    stock = np.floor(shares * units[:, None]).astype(np.int64)
    for row, left in enumerate(np.ceil(units).astype(np.int64) - stock.sum(axis=1)):
        np.add.at(stock[row], chance.choice(shares.shape[1], int(left), p=shares[row]), 1)
    return stock


def _held(  # noqa: PLR0917
    counts: Ints,
    sku: Ints,
    units: Ints,
    opening: Mills,
    split: int,
    rate: Floats,
    unit_weight: Floats,
    unfilled: Mills,
    stock: Ints,
    capacity: Ints,
) -> HeldOrders:
    order = np.repeat(np.arange(len(counts)), counts)
    line = (rate[order] * (unit_weight[sku] * units)[:, None]).astype(np.int64)
    return HeldOrders(
        first_line=np.concatenate([[0], np.cumsum(counts)]),
        sku=sku,
        quantity=units,
        opening=opening,
        split=np.full(len(counts), split),
        line=np.where(opening[order] >= NEVER, NEVER, line),
        unfilled=unfilled,
        stock=stock,
        capacity=capacity,
    )


# --- the project's example: real orders, assumed network ---
def example(orders: int | None = None) -> World:
    """Two months of a gift wholesaler's invoices on the example network, with the example's stock."""
    network = read_network(DEFAULT_NETWORK)
    drafts = [one.draft for one in read_invoices(EXAMPLE_ORDERS) if one.draft is not None][:orders]
    lines = [_merged(draft) for draft in drafts]
    skus = {sku: row for row, sku in enumerate(sorted({sku for one in lines for sku in one}))}
    nodes = {node.node_id: column for column, node in enumerate(network.nodes)}
    stock = np.zeros((len(skus), len(nodes)), np.int64)
    for level in read_stock(DEFAULT_STOCK):
        if level.sku in skus:
            stock[skus[level.sku], nodes[level.node]] = level.on_hand
    countries = {country: row for row, country in enumerate(sorted({d.ship_to.country for d in drafts}))}
    offers = [
        _offers(network, draft.ship_to.country, sum(units for units, _ in one.values()))
        for draft, one in zip(drafts, lines, strict=True)
    ]
    opening, rate, days = (np.array([[offer[part] for offer in row] for row in offers]) for part in range(3))
    unit_weight = np.full(len(skus), float(network.unit_weight_g))
    counts = np.array([len(one) for one in lines])
    return World(
        name=f"example, {len(drafts):,} orders × {len(nodes)} nodes",
        about=(
            "Orders: UCI Online Retail, September and October 2011. Nodes, services, prices, weights and stock are the"
            " example's, all assumed; the only place of a country is its capital. A node offers an order the service"
            " that is cheapest if it sends all of it; kilograms are not rounded up; lines are not split."
        ),
        held=_held(
            counts,
            np.array([skus[sku] for one in lines for sku in one]),
            np.array([units for one in lines for units, _ in one.values()]),
            opening.astype(np.int64),
            network.split_penalty_minor * 1000,
            rate.astype(np.float64),
            unit_weight,
            np.array([UNFILLED + 1000 * worth for one in lines for _, worth in one.values()]),
            stock,
            np.full(len(nodes), PLENTY),
        ),
        km=np.array([_kilometres(draft.ship_to.country, list(nodes)) for draft in drafts]),
        days=days.astype(np.float64) + network.processing_days,
        region=np.array([countries[draft.ship_to.country] for draft in drafts]),
        regions=len(countries),
        unit_weight=unit_weight,
        rate=rate.astype(np.float64),
        at=tuple(draft.placed_at for draft in drafts),
        past=NO_PAST,
    )


def _merged(draft: OrderDraft) -> dict[str, tuple[int, int]]:
    """Units and worth (minor units) per SKU."""
    merged: dict[str, tuple[int, int]] = {}
    for line in draft.lines:
        units, worth = merged.get(line.sku, (0, 0))
        merged[line.sku] = units + line.quantity, worth + line.quantity * line.unit_price_minor
    return merged


def _offers(network: Network, country: str, units: int) -> list[tuple[int, float, int]]:
    """Of each node: opening in mills, mills per gram, and days of the service that is cheapest for all of the order."""
    weight = units * network.unit_weight_g
    offers = []
    for node in network.nodes:
        zones = [
            _zone(service, node.country, country)
            for service in network.services
            if service.active and weight <= service.max_weight_g
        ]
        zone = min(
            filter(None, zones), key=lambda z: z.base_minor * 1000 + z.per_kg_minor * weight, default=None
        )
        offers.append(
            (NEVER, 0.0, 0)
            if zone is None
            else ((node.handling_minor + zone.base_minor) * 1000, float(zone.per_kg_minor), zone.transit_days)
        )
    return offers


def _zone(service: CarrierService, origin: str, country: str) -> ServiceZone | None:
    zones = [zone for zone in service.zones if zone.origin in (origin, "*")]
    exact = (zone for zone in zones if country in zone.destinations)
    return next(exact, next((zone for zone in zones if "*" in zone.destinations), None))


# Latitude and longitude of the example's nodes, and of the capitals in which it lets all customers live.
_NODES = {
    "gb-midlands": (52.5, -1.9), "gb-north": (53.8, -1.5), "gb-south": (51.5, -0.1), "ie-dublin": (53.3, -6.3),
    "de-west": (50.9, 7.0), "nl-west": (51.9, 4.5),
}  # fmt: skip
_CAPITALS = {
    "AE": (24.5, 54.4), "AT": (48.2, 16.4), "AU": (-35.3, 149.1), "BE": (50.8, 4.4), "BH": (26.2, 50.6),
    "BR": (-15.8, -47.9), "CA": (45.4, -75.7), "CH": (46.9, 7.4), "CY": (35.2, 33.4), "CZ": (50.1, 14.4),
    "DE": (52.5, 13.4), "DK": (55.7, 12.6), "ES": (40.4, -3.7), "FI": (60.2, 24.9), "FR": (48.9, 2.4),
    "GB": (51.5, -0.1), "GR": (38.0, 23.7), "HK": (22.3, 114.2), "IE": (53.3, -6.3), "IL": (31.8, 35.2),
    "IS": (64.1, -21.9), "IT": (41.9, 12.5), "JE": (49.2, -2.1), "JP": (35.7, 139.7), "LB": (33.9, 35.5),
    "LT": (54.7, 25.3), "MT": (35.9, 14.5), "NL": (52.4, 4.9), "NO": (59.9, 10.8), "PL": (52.2, 21.0),
    "PT": (38.7, -9.1), "SA": (24.7, 46.7), "SE": (59.3, 18.1), "SG": (1.4, 103.8), "US": (38.9, -77.0),
    "ZA": (-25.7, 28.2),
}  # fmt: skip


def _kilometres(country: str, nodes: Sequence[str]) -> Floats:
    latitude, longitude = _CAPITALS[country]
    places = np.array([_NODES[node] for node in nodes])
    km: Floats = great_circle(np.array([latitude]), np.array([longitude]), places[:, 0], places[:, 1])[0]
    return km


def great_circle(latitude: Floats, longitude: Floats, to_latitude: Floats, to_longitude: Floats) -> Floats:
    """Kilometres (A, B) along the earth from each of A places to each of B, degrees in (haversine, radius 6,371 km)."""
    a, b, to_a, to_b = (np.radians(one) for one in (latitude, longitude, to_latitude, to_longitude))
    across = np.sin((a[:, None] - to_a) / 2) ** 2
    along = np.cos(a)[:, None] * np.cos(to_a) * np.sin((b[:, None] - to_b) / 2) ** 2
    km: Floats = 2 * 6371 * np.arcsin(np.sqrt(across + along))
    return km
