"""What of the stock belongs to whom: the rules of channels and tiers, as a shop sets them."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from models.base import Contract, Document, SentMoment
from models.identifiers import Channel, Sku
from models.messages import Actor, Reason
from models.order import CustomerTier
from models.stock import DocumentId, Units


class AllocationKind(StrEnum):
    """What a rule does with units of a SKU.

    PROTECT: so many of those that lie there are for the group; others leave them alone. LIMIT: of those that lie there
    the group may hold at most so many. CAP: in the time of the rule, the group is promised at most so many in all, as
    in a sale.
    """

    PROTECT = "protect"
    LIMIT = "limit"
    CAP = "cap"


EACH_NODE = "*"
RuleId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
MOST_RULES = 1_000
MAX_POLICY_BYTES = 1024 * 1024


class AllocationRule(Document):
    """One rule. The group is who orders by one of ``channels`` and is of one of ``tiers``; an empty list is anybody.

    ``sku`` None: each SKU by itself. ``node`` None: all nodes together; ``*``: each node by itself. The amount is
    ``units``, or ``percent`` of what is on hand less safety stock. It holds from ``valid_from`` to before
    ``valid_until``, in real time.
    """

    rule_id: RuleId
    kind: AllocationKind
    sku: Sku | None = None
    node: Annotated[str, StringConstraints(pattern=r"^(\*|[A-Za-z0-9][A-Za-z0-9._-]{0,31})$")] | None = None
    channels: tuple[Channel, ...] = Field(default=(), max_length=100)
    tiers: tuple[CustomerTier, ...] = Field(default=(), max_length=100)
    units: Units | None = None
    percent: Annotated[int, Field(strict=True, ge=0, le=100)] | None = None
    valid_from: SentMoment | None = None
    valid_until: SentMoment | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if (self.units is None) == (self.percent is None):
            raise PydanticCustomError("amount", "say either units or percent")
        if self.kind is AllocationKind.CAP and self.units is None:
            raise PydanticCustomError(
                "amount", "a cap is a number of units: a share has nothing to be a share of"
            )
        if self.kind is AllocationKind.PROTECT and not self.channels and not self.tiers:
            raise PydanticCustomError("group", "say for which channels or tiers the units are protected")
        if self.valid_from and self.valid_until and self.valid_from >= self.valid_until:
            raise PydanticCustomError("valid", "valid_until must be later than valid_from")
        return self


class AllocationPolicy(Document):
    """All rules there are: what is not in here does not hold any more. Sent twice it happens once.

    ``replaces`` is the version that the author knew, 0 for none; another one in force means that somebody was faster.
    """

    document_id: DocumentId
    actor: Actor
    reason: Reason | None = None
    replaces: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] | None = None
    rules: tuple[AllocationRule, ...] = Field(max_length=MOST_RULES)


class AllocationUse(Contract):
    """What a rule has counted of a SKU: what its group holds now or, of a cap, was promised in its time.

    ``node`` None: at all nodes together.
    """

    sku: str
    node: str | None = None
    used: int


class AllocationState(Contract):
    """A rule, whether it is in force, and what it counted: of the SKUs with the most, at most a hundred."""

    rule: AllocationRule
    in_force: bool
    uses: tuple[AllocationUse, ...] = ()


class AllocationView(Contract):
    """The rules that stand. ``version`` 0: there never were any."""

    version: int
    document_id: str | None = None
    actor: str | None = None
    reason: str | None = None
    rules: tuple[AllocationState, ...] = ()
