"""A network drawn from the Olist marketplace: real purchases, places and freight; stock and capacity are assumed.

The files are not part of this repository: they are read from a folder with ``orders``, ``order_items``, ``customers``,
``sellers``, ``products`` and ``geo_zip_prefix`` as ``.parquet``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from benchmarks.routing_worlds import UNFILLED, Floats, Past, World, great_circle, spread
from models.base import Contract
from models.errors import Refused
from policies.routing.held_orders import HeldOrders

# What is routed begins here; freight, days and where stock lies are learnt from before.
ROUTED_FROM = datetime(2018, 1, 1)  # noqa: DTZ001 - the file's own times have no zone
NODES = 12
_NEAR_KM = 60.0
# Assumed: what opening a node for a parcel and a second parcel cost, in mills of a real's hundredths.
_HANDLING, _SPLIT = 200_000, 500_000
_CLASSES_G = (500, 2000, 5000)
_FILES = ("orders", "order_items", "customers", "sellers", "products", "geo_zip_prefix")


class Month(Contract):
    """How well a formula tells one month later than it was fitted on."""

    month: str
    told: int
    mean: float
    mean_error: float
    bias: float


class Fit(Contract):
    """How well a formula, fitted on the months before, tells the later ones; errors in ``unit``."""

    what: str
    unit: str
    formula: str
    fitted_on: int
    told: int
    r2_fitted: float
    r2_later: float
    mean_later: float
    mean_error_later: float
    bias_later: float
    months: tuple[Month, ...] = ()


@dataclass(frozen=True)
class Olist:
    """The world, and how its freight and its days were fitted."""

    world: World
    fits: tuple[Fit, ...]


def read(folder: Path, orders: int | None = None) -> Olist:
    """The stream from ``ROUTED_FROM`` on. Raises ``Refused`` for a folder that lacks a file."""
    lacking = [f"{name}.parquet" for name in _FILES if not (folder / f"{name}.parquet").is_file()]
    if lacking:
        raise Refused(f"{folder} has no {', '.join(lacking)}: --data names the folder of the Olist files")
    tables = {name: pyarrow.parquet.read_table(folder / f"{name}.parquet").to_pydict() for name in _FILES}
    return _drawn(_purchases(tables), _selling_places(tables), orders)


# --- reading ---
@dataclass(frozen=True)
class _Purchase:
    at: datetime
    latitude: float
    longitude: float
    lines: dict[str, int]  # units per SKU
    worth: dict[str, float]  # reais per SKU
    grams: dict[str, float]  # of a unit of each SKU
    seller: tuple[float, float] | None  # where its only item came from
    freight: float | None  # of its only item, reais
    carried_days: float | None


def _purchases(tables: dict[str, dict[str, list[Any]]]) -> list[_Purchase]:
    """Every order with items whose customer's place is known, in time order."""
    places = _places(tables)
    product = tables["products"]
    skus = {
        key: (f"{category or 'none'}/{sum(grams > limit for limit in _CLASSES_G)}", float(grams))
        for key, category, grams in zip(
            product["product_id"], product["product_category_name"], product["product_weight_g"], strict=True
        )
        if grams
    }
    customers = dict(
        zip(tables["customers"]["customer_id"], tables["customers"]["customer_zip_code_prefix"], strict=True)
    )
    sellers = dict(
        zip(tables["sellers"]["seller_id"], tables["sellers"]["seller_zip_code_prefix"], strict=True)
    )
    items: dict[str, list[tuple[str, str, float, float]]] = {}
    sold = tables["order_items"]
    for order, key, seller, freight, paid in zip(
        sold["order_id"],
        sold["product_id"],
        sold["seller_id"],
        sold["freight_value"],
        sold["price"],
        strict=True,
    ):
        if key in skus:
            items.setdefault(order, []).append((key, seller, freight, paid))
    found = []
    orders = tables["orders"]
    for order, customer, at, carried, delivered in zip(
        orders["order_id"],
        orders["customer_id"],
        orders["order_purchase_timestamp"],
        orders["order_delivered_carrier_date"],
        orders["order_delivered_customer_date"],
        strict=True,
    ):
        place = places.get(customers[customer])
        if place is None or order not in items:
            continue
        lines: dict[str, int] = {}
        worth: dict[str, float] = {}
        for key, _, _, paid in items[order]:
            lines[skus[key][0]] = lines.get(skus[key][0], 0) + 1
            worth[skus[key][0]] = worth.get(skus[key][0], 0.0) + paid
        only = items[order][0] if len(items[order]) == 1 else None
        days = (delivered - carried).total_seconds() / 86400 if delivered and carried else None
        found.append(
            _Purchase(
                at=at,
                latitude=place[0],
                longitude=place[1],
                lines=lines,
                worth=worth,
                grams={skus[key][0]: skus[key][1] for key, *_ in items[order]},
                seller=places.get(sellers[only[1]]) if only else None,
                freight=only[2] if only else None,
                carried_days=days if days is not None and days > 0 else None,
            )
        )
    return sorted(found, key=lambda one: one.at)


def _places(tables: dict[str, dict[str, list[Any]]]) -> dict[str, tuple[float, float]]:
    geo = tables["geo_zip_prefix"]
    return {
        prefix: (latitude, longitude)
        for prefix, latitude, longitude, suspect in zip(
            geo["zip_prefix"], geo["lat"], geo["lng"], geo["suspect"], strict=True
        )
        if not suspect
    }


def _selling_places(tables: dict[str, dict[str, list[Any]]]) -> dict[tuple[float, float], dict[str, int]]:
    """Items that were sold before ``ROUTED_FROM`` from each place, per category."""
    places = _places(tables)
    sellers = dict(
        zip(tables["sellers"]["seller_id"], tables["sellers"]["seller_zip_code_prefix"], strict=True)
    )
    at = dict(zip(tables["orders"]["order_id"], tables["orders"]["order_purchase_timestamp"], strict=True))
    category = dict(
        zip(tables["products"]["product_id"], tables["products"]["product_category_name"], strict=True)
    )
    sold: dict[tuple[float, float], dict[str, int]] = {}
    items = tables["order_items"]
    for order, product, seller in zip(
        items["order_id"], items["product_id"], items["seller_id"], strict=True
    ):
        place = places.get(sellers[seller])
        if place is not None and at[order] < ROUTED_FROM:
            of_place = sold.setdefault(place, {})
            name = category.get(product) or "none"
            of_place[name] = of_place.get(name, 0) + 1
    return sold


# --- drawing ---
def _drawn(
    purchases: list[_Purchase], selling: dict[tuple[float, float], dict[str, int]], most: int | None
) -> Olist:
    before = [one for one in purchases if one.at < ROUTED_FROM]
    routed = [one for one in purchases if one.at >= ROUTED_FROM][:most]
    freight, freight_fit = _freight(before, routed)
    days, days_fit = _days(before, routed)
    nodes = _clusters(selling)
    names = sorted({sku for one in routed for sku in one.lines})
    skus = {name: row for row, name in enumerate(names)}
    unit_weight = _unit_weights(purchases, names)
    km = _km(routed, nodes)
    counts = np.array([len(one.lines) for one in routed])
    sku = np.array([skus[name] for one in routed for name in one.lines])
    units = np.array([many for one in routed for many in one.lines.values()])
    base, per_kg, per_root, per_kg_root = freight
    root = np.sqrt(km)
    # Reais × 100,000 are mills; kilograms ÷ 1,000 are grams.
    opening = np.maximum((base + per_root * root) * 100_000, 0).astype(np.int64) + _HANDLING
    rate = np.maximum((per_kg + per_kg_root * root) * 100, 0)
    order = np.repeat(np.arange(len(routed)), counts)
    chance = np.random.default_rng(1)
    stock = spread(np.bincount(sku, units, len(skus)) * 1.05, _shares(names, nodes, selling), chance)
    span = (routed[-1].at - routed[0].at).days + 1
    part = stock.sum(axis=0) / stock.sum()
    region_before = _km(before, nodes).argmin(axis=1)
    known = [
        (skus[name], region, many)
        for one, region in zip(before, region_before.tolist(), strict=True)
        for name, many in one.lines.items()
        if name in skus
    ]
    past = np.array(known, np.int64).reshape(-1, 3)
    world = World(
        name=f"Olist, {len(routed):,} orders × {len(nodes)} nodes",
        about=(
            "Real: purchases from January 2018 on with their times, customers' and sellers' places (centre of the zip"
            " prefix), freight and days on the road as fitted on the months before. Nodes are the largest clusters of"
            " sellers. Assumed: an article stands for its category and weight class; stock is 1.05 × the demand of"
            " each, half laid where its category's sellers sold from, half evenly; a node sends up to thrice its part"
            " of the orders a day; handling, split and unfilled charges."
        ),
        held=HeldOrders(
            first_line=np.concatenate([[0], np.cumsum(counts)]),
            sku=sku,
            quantity=units,
            opening=opening,
            split=np.full(len(routed), _SPLIT),
            line=(rate[order] * (unit_weight[sku] * units)[:, None]).astype(np.int64),
            unfilled=np.array(
                [UNFILLED + round(paid * 100_000) for one in routed for paid in one.worth.values()]
            ),
            stock=stock,
            capacity=np.ceil(3 * part * len(routed) / span).astype(np.int64),
        ),
        km=km,
        days=1 + days[0] + days[1] * km,
        region=km.argmin(axis=1),
        regions=len(nodes),
        unit_weight=unit_weight,
        rate=rate,
        at=tuple(one.at.replace(tzinfo=UTC) for one in routed),
        past=Past(past[:, 0], past[:, 1], past[:, 2], len(before)),
        per_day=True,
    )
    return Olist(world, (freight_fit, days_fit))


def _km(purchases: list[_Purchase], nodes: Floats) -> Floats:
    return great_circle(
        np.array([one.latitude for one in purchases]),
        np.array([one.longitude for one in purchases]),
        nodes[:, 0],
        nodes[:, 1],
    )


def _clusters(selling: dict[tuple[float, float], dict[str, int]]) -> Floats:
    """The centres (N, 2) of the largest clusters: again and again the place with most sales within ``_NEAR_KM``."""
    places = np.array(sorted(selling))
    sales = np.array([sum(selling[latitude, longitude].values()) for latitude, longitude in places.tolist()])
    near = great_circle(places[:, 0], places[:, 1], places[:, 0], places[:, 1]) <= _NEAR_KM
    left = sales.astype(np.float64)
    centres = []
    for _ in range(NODES):
        middle = int((near * left).sum(axis=1).argmax())
        weights = np.where(near[middle], left, 0)
        centres.append(np.average(places, axis=0, weights=weights))
        left = left - weights
    return np.array(centres)


def _shares(names: list[str], nodes: Floats, selling: dict[tuple[float, float], dict[str, int]]) -> Floats:
    """How the stock of each SKU is laid out (S, N)."""
    places = np.array(sorted(selling))
    nearest = great_circle(places[:, 0], places[:, 1], nodes[:, 0], nodes[:, 1]).argmin(axis=1)
    of_category: dict[str, Floats] = {}
    for (latitude, longitude), node in zip(places.tolist(), nearest.tolist(), strict=True):
        for category, items in selling[latitude, longitude].items():
            of_category.setdefault(category, np.zeros(len(nodes)))[node] += items
    everywhere = sum(of_category.values(), np.zeros(len(nodes)))
    shares = np.array([of_category.get(name.rpartition("/")[0], everywhere) for name in names])
    shares = 0.5 * shares / shares.sum(axis=1, keepdims=True) + 0.5 / len(nodes)
    normed: Floats = shares / shares.sum(axis=1, keepdims=True)
    return normed


def _unit_weights(purchases: list[_Purchase], names: list[str]) -> Floats:
    """The mean weight of a unit of each SKU, grams."""
    grams: dict[str, list[float]] = {name: [] for name in names}
    for one in purchases:
        for name, weight in one.grams.items():
            if name in grams:
                grams[name].append(weight)
    return np.array([float(np.mean(grams[name])) for name in names])


# --- fitting ---
def _freight(before: list[_Purchase], later: list[_Purchase]) -> tuple[Floats, Fit]:
    """Reais of one item: base, per kilogram, per root of the kilometres, per kilogram and root.

    Each further kilometre costs less: with the root the formula fits the months before better than with kilometres.
    """
    x, y = _freight_rows(before)
    later_x, later_y = _freight_rows(later)
    return _fit(
        "freight of an item",
        "BRL",
        ("{:.2f}", "{:+.3f}·kg", "{:+.4f}·√km", "{:+.5f}·kg·√km"),
        x,
        y,
        later_x,
        later_y,
        _months(later, lambda one: one.seller is not None and one.freight is not None),
    )


def _freight_rows(purchases: list[_Purchase]) -> tuple[Floats, Floats]:
    rows, freight = [], []
    for one in purchases:
        if one.seller is not None and one.freight is not None:
            (km,) = _distance(one)
            root, kg = km**0.5, next(iter(one.grams.values())) / 1000
            rows.append((1.0, kg, root, kg * root))
            freight.append(one.freight)
    return np.array(rows), np.array(freight)


def _days(before: list[_Purchase], later: list[_Purchase]) -> tuple[Floats, Fit]:
    """Days on the road: base, per kilometre."""
    x, y = _days_rows(before)
    later_x, later_y = _days_rows(later)
    months = _months(later, lambda one: one.seller is not None and one.carried_days is not None)
    return _fit(
        "days from carrier to customer", "days", ("{:.2f}", "{:+.5f}·km"), x, y, later_x, later_y, months
    )


def _months(purchases: list[_Purchase], told: Callable[[_Purchase], bool]) -> list[str]:
    """The month of each purchase that can be held against the formula."""
    return [f"{one.at:%Y-%m}" for one in purchases if told(one)]


def _days_rows(purchases: list[_Purchase]) -> tuple[Floats, Floats]:
    known = [one for one in purchases if one.seller is not None and one.carried_days is not None]
    return np.array([(1.0, *_distance(one)) for one in known]), np.array(
        [one.carried_days or 0.0 for one in known]
    )


def _distance(one: _Purchase) -> tuple[float]:
    latitude, longitude = one.seller or (0.0, 0.0)
    found = great_circle(
        np.array([one.latitude]), np.array([one.longitude]), np.array([latitude]), np.array([longitude])
    )
    return (float(found[0, 0]),)


def _fit(  # noqa: PLR0917
    what: str,
    unit: str,
    formula: tuple[str, ...],
    x: Floats,
    y: Floats,
    later_x: Floats,
    later_y: Floats,
    months: list[str],
) -> tuple[Floats, Fit]:
    """Least squares; what it is worth is judged on the later months."""
    weights = np.linalg.lstsq(x, y, rcond=None)[0].astype(np.float64)
    errors = later_x @ weights - later_y
    return weights, Fit(
        what=what,
        unit=unit,
        formula=" ".join(part.format(weight) for part, weight in zip(formula, weights, strict=True)),
        fitted_on=len(y),
        told=len(later_y),
        r2_fitted=round(_r2(x @ weights - y, y), 3),
        r2_later=round(_r2(errors, later_y), 3),
        mean_later=round(float(later_y.mean()), 2),
        mean_error_later=round(float(np.abs(errors).mean()), 2),
        bias_later=round(float(errors.mean()), 2),
        months=tuple(
            Month(
                month=month,
                told=int(of_month.sum()),
                mean=round(float(later_y[of_month].mean()), 2),
                mean_error=round(float(np.abs(errors[of_month]).mean()), 2),
                bias=round(float(errors[of_month].mean()), 2),
            )
            for month in sorted(set(months))
            for of_month in [np.array(months) == month]
        ),
    )


def _r2(errors: Floats, truth: Floats) -> float:
    return 1 - float((errors**2).sum()) / float(((truth - truth.mean()) ** 2).sum())
