"""Where goods are and how they travel: fulfilment nodes and carrier services."""

from typing import Annotated

from pydantic import Field, StringConstraints

from models.base import Document
from models.identifiers import NodeId
from models.money import Currency

Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]


class Node(Document):
    """A place that holds stock and ships. ``handling_minor`` is what opening it for one shipment costs."""

    node_id: NodeId
    name: str
    country: Country
    time_zone: str
    handling_minor: int = Field(ge=0)
    active: bool = True


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
    """One service of one carrier, e.g. ``parcelforce/express48``."""

    carrier: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,32}$")]
    service: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,32}$")]
    max_weight_g: int = Field(gt=0)
    zones: tuple[ServiceZone, ...] = Field(min_length=1)
    active: bool = True


class Network(Document):
    """All nodes and services, with the assumptions that the public data does not tell."""

    currency: Currency
    unit_weight_g: int = Field(gt=0)
    split_penalty_minor: int = Field(ge=0)
    processing_days: int = Field(ge=0, le=30)
    nodes: tuple[Node, ...] = Field(min_length=1)
    services: tuple[CarrierService, ...] = Field(min_length=1)
