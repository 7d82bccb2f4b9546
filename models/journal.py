"""What the workflow wants written down, carried by its next activity and stored in that activity's own transaction.

So a happy order needs no extra engine steps for its projection and timeline, and neither can disagree with the effect.
"""

from pydantic import AwareDatetime, Field

from models.base import Contract, StorableText
from models.money import Money
from models.order import CustomerType
from models.review import ReviewTask
from models.states import OrderState, ShipmentState

# Who acts when no person does: our own code, and Temporal when a run is cancelled there. Nobody goes by these names.
SYSTEM = "orderwright"
RESERVED_ACTORS = frozenset({SYSTEM, "temporal"})


class TimelineEntry(Contract):
    """One fact, append-only: who did what, when, why, under which policy and model.

    ``entry_id`` is ``{workflow_id}/{n}``, of a payment notice ``{workflow_id}/payment/{event_id}``: writing the same
    entry twice changes nothing.
    """

    entry_id: str
    order_id: str
    shipment_id: str | None = None
    at: AwareDatetime
    business_at: AwareDatetime
    actor: StorableText = SYSTEM
    kind: str = Field(description="stable code, e.g. order.released")
    what: StorableText
    why: StorableText | None = None
    policy_version: str | None = None
    model_version: str | None = None
    details: dict[str, StorableText | int | float | bool | None] = Field(default_factory=dict)


class OrderProjection(Contract):
    """The order's current row. ``version`` only grows: a late writer with an older version changes nothing.

    It is the wall clock's milliseconds, or one more than the last: so it grows also over a reset of the run.
    """

    version: int
    state: OrderState
    needs_review: bool = False
    promised_at: AwareDatetime | None = None
    customer_type: CustomerType | None = None
    plan_id: str | None = None
    closed_at: AwareDatetime | None = None
    exit_reason: StorableText | None = None
    first_run_id: str | None = Field(
        default=None,
        description="Temporal's first execution run id: the same after continue-as-new and reset",
    )


class ShipmentProjection(Contract):
    """The shipment's current row; ``version`` as above."""

    shipment_id: str
    order_id: str
    number: int
    version: int
    state: ShipmentState
    node: str
    carrier: str
    service: str
    units: int
    amount: Money
    promised_at: AwareDatetime
    tracking: StorableText | None = None
    handed_over_at: AwareDatetime | None = None
    delivered_at: AwareDatetime | None = None
    late: bool = False


class Carried(Contract):
    """Everything still unwritten: timeline entries, the newest projections, opened and closed reviews."""

    entries: tuple[TimelineEntry, ...] = ()
    order: OrderProjection | None = None
    shipment: ShipmentProjection | None = None
    reviews: tuple[ReviewTask, ...] = ()
