"""What the optimiser weighs beside money that is paid, until a policy document says it."""

from pydantic import Field

from models.base import Contract


class RoutingWeights(Contract):
    """``late_day_minor``: what each day begun after the date that the order asks for counts, for each shipment; and, as
    likely as it is, each after the promise.

    ``budget_seconds``: how long the optimiser may look for a better plan before it answers with the best one so far.
    """

    version: str = "routing-weights/1"
    late_day_minor: int = Field(default=500, ge=0)
    budget_seconds: float = Field(default=0.25, gt=0)
