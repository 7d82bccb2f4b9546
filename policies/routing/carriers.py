"""What is believed of carriers: how long a parcel is on its way, and how likely it is late.

A model says it of a leg, from a node by a service. What it says of an order's legs is kept with the problem in whole
numbers, so that a plan is made again by what was believed when it was made.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import NamedTuple, Protocol

from pydantic import Field

from models.base import Contract
from models.plan import PlannedShipment
from policies.routing.problem import CarrierBeliefs, LegBelief, RoutingProblem

# Below that, what was seen of a leg itself counts for less than what was seen of others.
FEW_PARCELS = 20
_PER_MILLION = 1_000_000
_PER_THOUSAND = 1_000


class Leg(NamedTuple):
    """From a node by a carrier's service."""

    node: str
    carrier: str
    service: str


class Belief(NamedTuple):
    """``late``: the probability that a parcel comes after its promise; ``days_late``: by how many days begun, if so.

    ``transit_days``: from hand-over to delivery; None if nobody knows. ``parcels`` of this very leg were seen.
    """

    late: float
    days_late: float
    transit_days: float | None
    parcels: int


class CarrierModel(Protocol):
    """Says what to expect of carriers. Until ``needed`` parcels were seen it says nothing."""

    name: str
    parcels: int
    needed: int

    def belief(self, leg: Leg, destination: str, weight_g: int, on: date) -> Belief | None:
        """What to expect of a parcel of ``weight_g`` to the country ``destination`` that is asked for ``on`` a day."""
        ...

    def delivered_from(self, node: str) -> int:
        """How many parcels from ``node`` were seen."""
        ...


class LegRecord(Contract):
    """Parcels of a leg that were delivered: how many, how many late, and the sum of days begun that those were late by.

    Of ``handed_over`` it is known when the carrier got them; they were on their way for ``transit_days`` together.
    """

    node: str
    carrier: str
    service: str
    parcels: int = Field(ge=1)
    late: int = Field(ge=0)
    days_late: int = Field(ge=0)
    handed_over: int = Field(default=0, ge=0)
    transit_days: float = Field(default=0.0, ge=0)


class FrequencyTable:
    """How often it happened, shrunk to what is common where little was seen (empirical Bayes).

    P(late) of a leg with n parcels of which L were late is (L + k·p) / (n + k), where p is the service's own,
    (L_service + k·P) / (n_service + k), and P the share of late ones of all parcels. That is the mean of a beta
    distribution after n parcels whose prior has the mean p and the strength of k = 20 parcels. The days late of a late
    parcel and the days in transit are means that are shrunk alike, with k = 5 late parcels and k = 20 parcels.

    Where a parcel goes, what it weighs and the day make no difference here. Lost parcels are not counted as late.
    """

    name = "frequency/1"
    needed = 100
    prior_parcels = FEW_PARCELS
    prior_late_parcels = 5

    def __init__(self, records: Iterable[LegRecord]) -> None:
        self._legs: dict[Leg, _Sums] = {}
        self._services: dict[tuple[str, str], _Sums] = {}
        self._all = _Sums()
        self._nodes = Counter[str]()
        for one in records:
            leg, sums = Leg(one.node, one.carrier, one.service), _Sums.of(one)
            service = (one.carrier, one.service)
            self._legs[leg] = self._legs.get(leg, _Sums()).plus(sums)
            self._services[service] = self._services.get(service, _Sums()).plus(sums)
            self._all = self._all.plus(sums)
            self._nodes[one.node] += one.parcels
        self.parcels = self._all.parcels

    def belief(self, leg: Leg, destination: str, weight_g: int, on: date) -> Belief | None:
        """See ``CarrierModel.belief``; every leg has one, also a new one, once enough parcels were seen."""
        if self.parcels < self.needed:
            return None
        own = self._legs.get(leg, _Sums())
        levels = (self._services.get((leg.carrier, leg.service), _Sums()), own)
        late = self._all.late / self._all.parcels
        days_late = self._all.days_late / self._all.late if self._all.late else 0.0
        transit = self._all.transit_days / self._all.handed_over if self._all.handed_over else None
        for sums in levels:
            late = _shrunk(sums.late, sums.parcels, late, self.prior_parcels)
            days_late = _shrunk(sums.days_late, sums.late, days_late, self.prior_late_parcels)
            if transit is not None:
                transit = _shrunk(sums.transit_days, sums.handed_over, transit, self.prior_parcels)
        return Belief(late, days_late, transit, own.parcels)

    def delivered_from(self, node: str) -> int:
        """See ``CarrierModel.delivered_from``."""
        return self._nodes[node]


def beliefs_of(model: CarrierModel, problem: RoutingProblem) -> CarrierBeliefs:
    """What ``model`` says of each leg that ``problem`` may be served by: from nodes that have something of it."""
    stocked = {row.node for row in problem.stock if row.available > 0}
    weight_g = sum(line.quantity for line in problem.lines) * problem.unit_weight_g
    legs = (
        Leg(node.node_id, service.carrier, service.service)
        for node in problem.nodes
        if node.active and node.node_id in stocked
        for service in problem.usable_services()
    )
    said = [
        (leg, model.belief(leg, problem.ship_country, weight_g, problem.business_now.date())) for leg in legs
    ]
    return CarrierBeliefs(
        model=model.name,
        parcels=model.parcels,
        needed=model.needed,
        legs=tuple(
            LegBelief(
                **leg._asdict(),
                parcels=belief.parcels,
                late_per_million=round(belief.late * _PER_MILLION),
                late_day_thousandths=round(belief.days_late * _PER_THOUSAND),
                transit_day_thousandths=(
                    None if belief.transit_days is None else round(belief.transit_days * _PER_THOUSAND)
                ),
            )
            for leg, belief in said
            if belief is not None
        ),
    )


def late_risks(problem: RoutingProblem, late_day_minor: int) -> Counter[Leg]:
    """What each leg's lateness weighs, in minor units: P(late) · days late · ``late_day_minor``, to the nearest; 0 for
    those of which nothing is believed.
    """
    scale = _PER_MILLION * _PER_THOUSAND
    return Counter(
        {
            Leg(one.node, one.carrier, one.service): (
                one.late_per_million * one.late_day_thousandths * late_day_minor + scale // 2
            )
            // scale
            for one in (() if problem.carriers is None else problem.carriers.legs)
        }
    )


def notes_on_carriers(problem: RoutingProblem, shipments: Sequence[PlannedShipment]) -> Iterator[str]:
    """What a person should know of what carriers were expected to do: that nothing was, or by how little."""
    known = problem.carriers
    if known is None:
        return
    if known.parcels < known.needed:
        yield (
            f"carriers are taken at their word until {known.needed} parcels were delivered ({known.parcels} so far)"
        )
        return
    few = {
        Leg(one.node, one.carrier, one.service): one.parcels
        for one in known.legs
        if one.parcels < FEW_PARCELS
    }
    for leg in dict.fromkeys(Leg(one.node, one.carrier, one.service) for one in shipments):
        if leg in few:
            seen = "1 parcel" if few[leg] == 1 else f"{few[leg]} parcels"
            yield (
                f"{leg.node} by {leg.carrier}/{leg.service}: {seen} delivered so far, so expected to be late mostly as"
                " others are"
            )


class _Sums(NamedTuple):
    parcels: int = 0
    late: int = 0
    days_late: int = 0
    handed_over: int = 0
    transit_days: float = 0.0

    @classmethod
    def of(cls, record: LegRecord) -> "_Sums":
        return cls(record.parcels, record.late, record.days_late, record.handed_over, record.transit_days)

    def plus(self, other: "_Sums") -> "_Sums":
        return _Sums(
            self.parcels + other.parcels,
            self.late + other.late,
            self.days_late + other.days_late,
            self.handed_over + other.handed_over,
            self.transit_days + other.transit_days,
        )


def _shrunk(total: float, count: int, towards: float, strength: int) -> float:
    return (total + strength * towards) / (count + strength)
