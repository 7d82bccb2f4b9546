"""The routing problem of one order: everything a router may look at, and nothing it would have to fetch."""

from datetime import date
from typing import Annotated, Self

from pydantic import AwareDatetime, Field

from models.base import Contract
from models.network import CarrierService, Node, Point
from policies.cold_start import ColdStartPolicy, Seen
from policies.routing.weights import RoutingWeights


class DemandLine(Contract):
    """``quantity`` units of a SKU asked for by an order line."""

    line_id: str
    sku: str
    quantity: int = Field(ge=1)


# A unit is weighed with no more than that: a thousand orders of the largest kind still add up in 64 bits.
MOST_MILLS = 1_000_000_000
Mills = Annotated[int, Field(ge=0, le=MOST_MILLS)]


class StockRow(Contract):
    """``available`` units of a SKU that a node can promise now; ``kept_back`` more lie there, but not for it.

    In mills, thousandths of a minor unit, for each unit taken from here: ``look_ahead_mills`` is what it is worth to
    orders that are still to come, ``markdown_mills`` what the policy credits because too much lies here. Neither is
    money of anybody's.
    """

    node: str
    sku: str
    available: int = Field(ge=0)
    kept_back: int = 0
    look_ahead_mills: Mills = 0
    markdown_mills: Mills = 0


class StockFigures(Contract):
    """What was found of a SKU at a node when values were last worked out.

    ``price_mills``: what a unit of it was worth there to orders to come; None: too little was sold to know.
    ``sold`` units within the window, of ``on_hand``; None: it has not been there that long.
    """

    node: str
    sku: str
    price_mills: int | None = None
    sold: int | None = None
    on_hand: int = Field(default=0, ge=0)


class KnownValues(Contract):
    """What was known of an order's SKUs by the last run (``run_id``) that worked values out before it was routed.

    As it was found: what becomes of it in ``RoutingProblem.stock`` is the policy's.
    """

    run_id: str
    worked_out_at: AwareDatetime
    method: str
    window_days: int = Field(ge=1)
    least_lines: int = Field(ge=1)
    figures: tuple[StockFigures, ...] = ()


class ValueTerms(Contract):
    """By which terms of the policy the rows of stock have their values: ``percent`` of the prices, half of it after
    ``half_life_days``; a credit at the ``overstocked`` nodes, where there is too much.
    """

    percent: int = Field(default=0, ge=0, le=100)
    half_life_days: int = Field(default=7, ge=1)
    overstocked: tuple[str, ...] = ()


class PublicHolidays(Contract):
    """The public holidays of a country or a part of it (``GB-ENG``) by date, from the order's day to ``until``.

    They come from a library that changes its mind, so they are kept as they were known when the order was routed.
    """

    region: str
    until: date
    days: dict[date, str]


class LegBelief(Contract):
    """What was expected of parcels from a node by a service, of which ``parcels`` had been seen.

    Late are ``late_per_million`` of a million, each by so many thousandths of a day; they travel for so many.
    """

    node: str
    carrier: str
    service: str
    parcels: int = Field(ge=0)
    late_per_million: int = Field(ge=0, le=1_000_000)
    late_day_thousandths: int = Field(ge=0)
    transit_day_thousandths: int | None = Field(default=None, ge=0)


class CarrierBeliefs(Contract):
    """What the carrier model ``model`` had seen and expected; nothing before it had seen ``needed`` parcels."""

    model: str
    parcels: int = Field(ge=0)
    needed: int = Field(ge=0)
    legs: tuple[LegBelief, ...] = ()


class RoutingProblem(Contract):
    """One order to be routed. Amounts are minor units of ``currency``, the network's own; weights are grams.

    ``carrier_service`` (``carrier/service``): the only one that will do. ``sequence``: nodes that are tried alone
    before the next ones are added. ``weights`` and ``max_parcels`` are the policy's, whose version is ``policy``; None
    of ``weights`` are those built in. ``rule``: the policy's rule by which nodes are ``barred`` from the plan.
    Nothing is to arrive before the day of ``deliver_from``. ``kept_parcels`` of earlier plans go on, and count among
    ``max_parcels``. ``sequence_in_time``: of a sequence a plan that is late does only where none of the next steps has
    one that is not.

    ``notes``: what it is planned without at present, which the plan says.

    ``holidays`` are those of the nodes' calendars and, where a service does not deliver on them, of the country that
    the order goes to; ``destination`` is about where. ``carriers`` None: nobody asked what to expect of them.

    ``values`` None: none were worked out yet. ``value_terms`` None: the policy wants none.
    ``history``: what of the network and the order was seen seldom; ``cold_start``: what the policy makes of that.
    """

    order_id: str
    currency: str
    business_now: AwareDatetime
    lines: tuple[DemandLine, ...] = Field(min_length=1)
    ship_country: str
    nodes: tuple[Node, ...]
    services: tuple[CarrierService, ...]
    stock: tuple[StockRow, ...]
    unit_weight_g: int = Field(gt=0)
    split_penalty_minor: int = Field(ge=0)
    processing_days: int = Field(ge=0)
    promise_by: AwareDatetime | None = None
    deliver_from: AwareDatetime | None = None
    ship_complete: bool = False
    carrier_service: str | None = None
    policy: str | None = None
    weights: RoutingWeights | None = None
    max_parcels: int | None = None
    kept_parcels: int = Field(default=0, ge=0)
    sequence: tuple[tuple[str, ...], ...] = ()
    sequence_in_time: bool = False
    rule: str | None = None
    barred: tuple[str, ...] = ()
    holidays: tuple[PublicHolidays, ...] = ()
    destination: Point | None = None
    carriers: CarrierBeliefs | None = None
    notes: tuple[str, ...] = ()
    values: KnownValues | None = None
    value_terms: ValueTerms | None = None
    history: tuple[Seen, ...] = ()
    cold_start: ColdStartPolicy | None = None

    def within_rules(self) -> Self:
        """The problem with the nodes alone that may be planned with."""
        if not self.barred:
            return self
        nodes = tuple(node for node in self.nodes if node.node_id not in self.barred)
        return self.model_copy(update={"nodes": nodes, "barred": ()})

    @property
    def parcels_left(self) -> int | None:
        """How many parcels the plan may have; None: any number."""
        return None if self.max_parcels is None else max(self.max_parcels - self.kept_parcels, 0)

    def usable_services(self) -> tuple[CarrierService, ...]:
        """The active services that will do."""
        return tuple(
            service
            for service in self.services
            if service.active and self.carrier_service in (None, f"{service.carrier}/{service.service}")
        )

    def holidays_of(self, region: str | None) -> PublicHolidays | None:
        """Those of ``region``; None when it is none, or they are not known."""
        return next((known for known in self.holidays if known.region == region), None)
