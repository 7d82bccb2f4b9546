"""Where goods are and how they travel: fulfilment nodes and carrier services."""

import re
from collections.abc import Callable, Collection
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from models.base import Contract, Document
from models.identifiers import NodeId
from models.money import Currency

Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]


class Known(NamedTuple):
    """What a network file may name: give it as ``context`` to ``Network.model_validate``.

    Without it nothing is looked up, so that what was stored can be read whatever a library does not know any more.
    """

    time_zones: Collection[str]
    has_holidays: Callable[[str], bool]


class Weekday(StrEnum):
    """A day of the week, in ISO order."""

    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


def _some_days(days: tuple[Weekday, ...]) -> tuple[Weekday, ...]:
    if not days:
        raise PydanticCustomError("weekdays", "name at least one weekday, of mon tue wed thu fri sat sun")
    if len(set(days)) < len(days):
        raise PydanticCustomError("weekdays", "name each weekday once")
    return days


def _hours_and_minutes(value: Any) -> Any:
    if not isinstance(value, str) or re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", value.strip()) is None:
        raise PydanticCustomError("cut_off", 'must be a time of the day as HH:MM in quotes, e.g. "14:30"')
    return value


def _known_zone(value: str, info: ValidationInfo) -> str:
    if isinstance(info.context, Known) and value not in info.context.time_zones:
        raise PydanticCustomError(
            "time_zone", "{zone} is no time zone: say one like Europe/London", {"zone": value}
        )
    return value


def _known_region(value: str, info: ValidationInfo) -> str:
    if isinstance(info.context, Known) and not info.context.has_holidays(value):
        raise PydanticCustomError(
            "holidays",
            "no public holidays are known of {region}: say a country, or one of its parts, like DE or DE-NW",
            {"region": value},
        )
    return value


Weekdays = Annotated[
    tuple[Weekday, ...],
    AfterValidator(_some_days),
    Field(json_schema_extra={"minItems": 1, "uniqueItems": True}),
]
TimeOfDay = Annotated[
    str,
    BeforeValidator(_hours_and_minutes),
    Field(json_schema_extra={"pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"}),
]
TimeZone = Annotated[str, AfterValidator(_known_zone)]
HolidayRegion = Annotated[str, AfterValidator(_known_region)]


class Closure(Document):
    """Days on which a node does not work, from ``first`` to ``last`` with both; without ``last`` it is one day."""

    first: date
    last: date | None = None
    reason: str = Field(min_length=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.last is not None and self.last < self.first:
            raise PydanticCustomError("closure", "ends before it begins")
        return self

    def covers(self, day: date) -> bool:
        """Whether ``day`` is one of its days."""
        return self.first <= day <= (self.last or self.first)


class Calendar(Document):
    """When a node works, in its own time zone.

    What comes after ``cut_off`` is prepared on the next working day; without one, what comes on a day is prepared on
    it. ``holidays`` is a country or a part of one (``GB-ENG``), whose public holidays the node does not work on.
    After ``maintained_until`` nobody has said what holds: only weekdays count then, and plans say so.
    """

    working_days: Weekdays
    cut_off: TimeOfDay | None = None
    holidays: HolidayRegion | None = None
    closures: tuple[Closure, ...] = ()
    maintained_until: date | None = None

    @model_validator(mode="after")
    def _closed_while_maintained(self) -> Self:
        until = self.maintained_until
        if until is not None and any((one.last or one.first) > until for one in self.closures):
            raise PydanticCustomError(
                "calendar", "has a closure after {until}, until which it is maintained", {"until": until}
            )
        return self


Latitude = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
Longitude = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]


class Point(Contract):
    """A place on earth, in degrees."""

    latitude: Latitude
    longitude: Longitude


class Centroid(Document):
    """The middle of where the postcodes of a country that begin with ``prefix`` are; ``""``: of the country."""

    country: Country
    prefix: Annotated[str, StringConstraints(max_length=20)]
    latitude: Latitude
    longitude: Longitude


class Node(Document):
    """A place that holds stock and ships. ``handling_minor`` is what opening it for one shipment costs.

    Without ``calendar`` it works every day round the clock. Where it is, is said by both ``latitude`` and
    ``longitude`` or not at all.
    """

    node_id: NodeId
    name: str
    country: Country
    time_zone: TimeZone
    handling_minor: int = Field(ge=0)
    active: bool = True
    calendar: Calendar | None = None
    latitude: Latitude | None = None
    longitude: Longitude | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if (self.latitude is None) != (self.longitude is None):
            raise PydanticCustomError("place", "say both latitude and longitude, or neither")
        return self

    @property
    def point(self) -> Point | None:
        """Where it is, if that is known."""
        if self.latitude is None or self.longitude is None:
            return None
        return Point(latitude=self.latitude, longitude=self.longitude)


class ServiceZone(Document):
    """A carrier service's price and speed from one country to a set of countries; ``*`` is anywhere else.

    Freight is ``base_minor`` and ``per_kg_minor`` for each kilogram, where each ``weight_step_g`` begun counts in full:
    1000 is by the kilogram, 1 by the gram, rounded up to a minor unit.
    """

    origin: str
    destinations: tuple[str, ...]
    base_minor: int = Field(ge=0)
    per_kg_minor: int = Field(ge=0)
    transit_days: int = Field(ge=0, le=60)
    weight_step_g: int = Field(default=1000, ge=1, le=1_000_000)

    def freight_minor(self, weight_g: int) -> int:
        """What a parcel of so many grams costs."""
        mills = -(-weight_g // self.weight_step_g) * self.weight_step_g * self.per_kg_minor
        return self.base_minor - (-mills // 1000)


class CarrierService(Document):
    """One service of one carrier, e.g. ``parcelforce/express48``.

    It collects on ``pickup_days`` and delivers on ``delivery_days``, each any day if not said. ``holiday_delivery``
    False: not on public holidays of the country that the parcel goes to. Days in transit are days on which it delivers.
    """

    carrier: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,32}$")]
    service: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,32}$")]
    max_weight_g: int = Field(gt=0)
    zones: tuple[ServiceZone, ...] = Field(min_length=1)
    active: bool = True
    pickup_days: Weekdays | None = None
    delivery_days: Weekdays | None = None
    holiday_delivery: bool = True


class Network(Document):
    """All nodes and services, with the assumptions that the public data does not tell.

    ``centroids`` names a CSV file beside the network's own, with the columns of ``Centroid``.
    """

    currency: Currency
    unit_weight_g: int = Field(gt=0)
    split_penalty_minor: int = Field(ge=0)
    processing_days: int = Field(ge=0, le=30)
    nodes: tuple[Node, ...] = Field(min_length=1)
    services: tuple[CarrierService, ...] = Field(min_length=1)
    centroids: str | None = Field(default=None, min_length=1)
