"""How long the router takes for real wholesale orders, and how far its plans are proven.

The orders are the UCI Online Retail invoices (``online_retail.parquet`` in the folder), which this repository holds two
months of; the network and the stock are the example's, all assumed. Each order is routed as the system routes it, with
what the orders before it left in stock.
"""

import gc
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from activities.channels.assumed_stock import assumed_stock, demand_of
from activities.channels.online_retail import read_invoices
from activities.store.seed import DEFAULT_NETWORK, read_network
from benchmarks.alone import Tell, ms
from benchmarks.tables import Listing
from models.base import Contract
from models.errors import Refused
from models.network import Network
from models.order import OrderDraft
from models.plan import Plan
from policies.routing import optimiser
from policies.routing.exact import ExactRouter
from policies.routing.problem import DemandLine, RoutingProblem, StockRow

FILE = "online_retail.parquet"
ORDERS, QUICK_ORDERS = 3_000, 60
# An order of so many lines is one of the largest: every one of them is routed.
LARGE = 500
MOST_LARGE = 40
P99_BELOW_MS, LARGEST_BELOW_MS = 100.0, 250.0
_BANDS = (1, 13, 51, 201, LARGE)


class Band(Contract):
    """Orders with so many lines: how many, how many of their plans are proven, milliseconds, the largest gap."""

    lines: str
    orders: int
    proven: int
    p50_ms: float
    p99_ms: float
    longest_ms: float
    largest_gap_percent: float


class Large(Contract):
    """One of the largest orders. ``gap_percent``: by how much of its cost a cheaper plan could still undercut it."""

    lines: int
    units: int
    weight_kg: float
    shipments: int
    method: str
    proven: bool
    ms: float
    gap_percent: float


class Figures(Contract):
    """``in_file``: orders that the file holds; ``routed``: of these, every so many and all of the largest.

    ``short``: of the routed, those that the stock did not suffice for; they have no plan, and count for time alone.
    ``p50_ms``, ``p99_ms``: on the clock; ``cpu_p99_ms``: of the processor. ``methods``: plans by who found them.
    """

    in_file: int
    over_12_lines_percent: float
    routed: int
    short: int
    p50_ms: float
    p99_ms: float
    cpu_p99_ms: float
    longest_ms: float
    proven_percent: float
    mean_gap_of_the_rest_percent: float
    methods: dict[str, int]
    bands: tuple[Band, ...]
    largest: tuple[Large, ...]


@dataclass(frozen=True)
class _Routed:
    lines: int
    units: int
    seconds: float
    cpu_seconds: float
    plan: Plan | None

    @property
    def proven(self) -> bool:
        return self.plan is not None and self.plan.proof is not None and self.plan.proof.proven

    @property
    def gap_percent(self) -> float:
        if self.plan is None or self.plan.proof is None or self.proven:
            return 0.0
        proof = self.plan.proof
        return 100 * (1 - proof.bound_minor / max(proof.objective_minor, 1))


def measure(folder: Path, tell: Tell, *, quick: bool) -> Figures:
    """Route the orders of the folder's file. Raises ``Refused`` when the folder has none."""
    file = folder / FILE
    if not file.is_file():
        raise Refused(f"{folder} has no {FILE}: it is the UCI Online Retail data set as parquet")
    tell(f"wholesale orders: reading {FILE} …")
    every = [one.draft for one in read_invoices(file) if one.draft is not None]
    drafts = _chosen(every, QUICK_ORDERS if quick else ORDERS, 2 if quick else MOST_LARGE)
    network = read_network(DEFAULT_NETWORK)
    optimiser.warm_up()
    tell(f"wholesale orders: routing {len(drafts):,} of {len(every):,} …")
    # What a benchmark has read is no work for the collector, which a router in use would not have either.
    gc.collect()
    gc.freeze()
    try:
        routed = list(_routed(drafts, network))
    finally:
        gc.unfreeze()
    return _figures(every, routed, network)


def _chosen(every: Sequence[OrderDraft], orders: int, most_large: int) -> list[OrderDraft]:
    """So many orders spread over the whole time, and the largest, in the order of their coming."""
    step = max(len(every) / orders, 1.0)
    places = {int(number * step) for number in range(min(orders, len(every)))}
    large = sorted(
        (place for place, draft in enumerate(every) if len(draft.lines) >= LARGE),
        key=lambda place: (-len(every[place].lines), place),
    )
    return [every[place] for place in sorted(places | set(large[:most_large]))]


def _routed(drafts: Sequence[OrderDraft], network: Network) -> Iterator[_Routed]:
    left = {(row.node, row.sku): row.on_hand for row in assumed_stock(demand_of(drafts))}
    router = ExactRouter()
    nodes = [node.node_id for node in network.nodes]
    # What is loaded and cached at the first order is not the order's time.
    router.route(_problem(drafts[0], network, nodes, left))
    for draft in drafts:
        problem = _problem(draft, network, nodes, left)
        began, cpu = time.perf_counter(), time.process_time()
        answer = router.route(problem)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        plan = answer if isinstance(answer, Plan) else None
        for shipment in plan.shipments if plan else ():
            for line in shipment.lines:
                left[shipment.node, line.sku] -= line.quantity
        yield _Routed(
            lines=len(draft.lines),
            units=sum(line.quantity for line in draft.lines),
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            plan=plan,
        )


def _problem(
    draft: OrderDraft, network: Network, nodes: Sequence[str], left: dict[tuple[str, str], int]
) -> RoutingProblem:
    skus = sorted({line.sku for line in draft.lines})
    return RoutingProblem(
        order_id=draft.external_id,
        currency=network.currency,
        business_now=draft.placed_at,
        lines=tuple(
            DemandLine(line_id=line.line_id, sku=line.sku, quantity=line.quantity) for line in draft.lines
        ),
        ship_country=draft.ship_to.country,
        nodes=network.nodes,
        services=network.services,
        stock=tuple(
            StockRow(node=node, sku=sku, available=units)
            for node in nodes
            for sku in skus
            if (units := left.get((node, sku), 0))
        ),
        unit_weight_g=network.unit_weight_g,
        split_penalty_minor=network.split_penalty_minor,
        processing_days=network.processing_days,
    )


def _figures(every: Sequence[OrderDraft], routed: Sequence[_Routed], network: Network) -> Figures:
    planned = [one for one in routed if one.plan is not None]
    rest = [one.gap_percent for one in planned if not one.proven]
    seconds = [one.seconds for one in routed]
    methods = Counter(one.plan.proof.method for one in planned if one.plan and one.plan.proof)
    return Figures(
        in_file=len(every),
        over_12_lines_percent=round(100 * sum(len(draft.lines) > 12 for draft in every) / len(every), 1),
        routed=len(routed),
        short=len(routed) - len(planned),
        p50_ms=ms(seconds, 50),
        p99_ms=ms(seconds, 99),
        cpu_p99_ms=ms([one.cpu_seconds for one in routed], 99),
        longest_ms=round(max(seconds) * 1000, 2),
        proven_percent=round(100 * sum(one.proven for one in planned) / max(len(planned), 1), 2),
        mean_gap_of_the_rest_percent=round(sum(rest) / max(len(rest), 1), 2),
        methods=dict(methods.most_common()),
        bands=tuple(_bands(planned)),
        largest=tuple(_largest(planned, network)),
    )


def _bands(planned: Sequence[_Routed]) -> Iterator[Band]:
    for first, after in zip(_BANDS, (*_BANDS[1:], None), strict=True):
        within = [one for one in planned if first <= one.lines and (after is None or one.lines < after)]
        if within:
            seconds = [one.seconds for one in within]
            yield Band(
                lines=f"{first} or more" if after is None else f"{first}–{after - 1}",
                orders=len(within),
                proven=sum(one.proven for one in within),
                p50_ms=ms(seconds, 50),
                p99_ms=ms(seconds, 99),
                longest_ms=round(max(seconds) * 1000, 2),
                largest_gap_percent=round(max(one.gap_percent for one in within), 2),
            )


def _largest(planned: Sequence[_Routed], network: Network) -> Iterator[Large]:
    large = sorted((one for one in planned if one.lines >= LARGE), key=lambda one: -one.lines)
    for one in large:
        if one.plan is not None and one.plan.proof is not None:
            yield Large(
                lines=one.lines,
                units=one.units,
                weight_kg=round(one.units * network.unit_weight_g / 1000, 1),
                shipments=len(one.plan.shipments),
                method=one.plan.proof.method,
                proven=one.proven,
                ms=round(one.seconds * 1000, 2),
                gap_percent=round(one.gap_percent, 2),
            )


def listings(figures: Figures) -> Iterator[Listing]:
    """Both tables."""
    yield Listing(
        "wholesale",
        f"{figures.routed:,} of {figures.in_file:,} wholesale orders, {figures.proven_percent:.2f} % proven",
        ("lines", "orders", "proven", "p50, ms", "p99, ms", "longest, ms", "largest gap"),
        [
            (
                one.lines,
                f"{one.orders:,}",
                f"{one.proven:,}",
                f"{one.p50_ms:.1f}",
                f"{one.p99_ms:.1f}",
                f"{one.longest_ms:.1f}",
                f"{one.largest_gap_percent:.2f} %",
            )
            for one in figures.bands
        ],
    )
    yield Listing(
        "wholesale-largest",
        "The largest of them",
        ("lines", "units", "kg", "parcels", "by", "ms", "gap"),
        [
            (
                f"{one.lines:,}",
                f"{one.units:,}",
                f"{one.weight_kg:,.0f}",
                str(one.shipments),
                one.method,
                f"{one.ms:.0f}",
                "proven" if one.proven else f"{one.gap_percent:.2f} %",
            )
            for one in figures.largest
        ],
    )
