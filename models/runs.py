"""What starts an order's or a shipment's workflow, and what it leaves behind when it ends."""

from collections.abc import Iterator
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, Field, ValidationError, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from models.base import Contract
from models.clock import EARLIEST, LATEST, SLOWEST, BusinessClock, ClockStart
from models.errors import Problem
from models.memory import OrderMemory, ShipmentMemory
from models.money import Money
from models.states import OrderState, ShipmentState

# Whatever was sent is taken: validation says what is wrong with it. The schema says what to send.
AnyDraft = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [{"type": "object", "additionalProperties": True}, {"type": "null"}],
            "description": "An order document: OrderDraft.json",
        }
    ),
]


class OrderRun(Contract):
    """Input of OrderWorkflow: a stored document by id and hash, or (from a foreign client only) a draft inline.

    A foreign client sends ``{"draft": {...}}`` with workflow id ``order:{channel}:{external_id}``.
    """

    order_id: str | None = None
    document_hash: str | None = None
    draft: AnyDraft = None
    clock: ClockStart = Field(default_factory=ClockStart)
    # Ours alone, and left out of the published schema: what ``understood`` found, and what a run that continues as new
    # hands on. (From anybody else, of the latter, only the numbers count that an earlier run of the id has used up.)
    problems: SkipJsonSchema[tuple[Problem, ...]] = ()
    memory: SkipJsonSchema[OrderMemory | None] = None

    @classmethod
    def understood(cls, payload: Any = None, *, continued: bool = False) -> Self:
        """Whatever JSON a client started the run with. What cannot be used is named in ``problems``.

        A run that could not read its input would be tried again for ever, seen by nobody; this one can be rejected.
        ``continued``: it continues another, whose memory it is given. Only then is there more than counts in it, and
        only then ``ValidationError`` is raised for one that cannot be read: it is our own, handed on by other code of
        ours, and a run that forgot it would leave money and stock held. It waits for code that can.
        """
        if payload is None:
            return cls()
        if not isinstance(payload, dict):
            message = 'the input of OrderWorkflow must be an object: {"draft": {…}}'
            return cls(problems=(Problem(path="", code="not_an_object", message=message),))
        try:
            run = cls.model_validate(payload)
        except ValidationError as invalid:
            if continued and payload.get("memory") is not None:
                raise
            return cls(draft=payload.get("draft"), problems=_unusable(invalid))
        if not continued and _made_up(run.memory):
            message = "is handed on by our own runs: start the order without it"
            forged = Problem(path="memory", code="made_up", message=message)
            run = run.model_copy(update={"memory": None, "problems": (*run.problems, forged)})
        impossible = tuple(_impossible(run.clock))
        if not impossible:
            return run
        return run.model_copy(update={"clock": ClockStart(), "problems": run.problems + impossible})


_COUNTS = frozenset({"entry_count", "review_count", "attempts"})


def _made_up(memory: OrderMemory | None) -> bool:
    """Whether a memory claims more than numbers that were used: money that is held, say, or a gate that was passed."""
    if memory is None:
        return False
    fresh = OrderMemory(order_id=memory.order_id)
    return memory.model_dump(exclude=set(_COUNTS)) != fresh.model_dump(exclude=set(_COUNTS))


def _unusable(invalid: ValidationError) -> tuple[Problem, ...]:
    return tuple(
        Problem(
            path=".".join(map(str, error["loc"])),
            code=error["type"],
            message=error["msg"][:1].lower() + error["msg"][1:],
        )
        for error in invalid.errors(include_url=False, include_input=False)
    )


def _impossible(clock: ClockStart) -> Iterator[Problem]:
    """What no business clock can be reckoned with."""
    if clock.business_start is not None and not EARLIEST <= clock.business_start <= LATEST:
        yield Problem(
            path="clock.business_start",
            code="impossible_time",
            message=f"must lie between the years {EARLIEST.year} and {LATEST.year}",
        )
    if clock.speed < SLOWEST:
        yield Problem(path="clock.speed", code="impossible_speed", message=f"must be at least {SLOWEST}")


class OrderResult(Contract):
    """Result of OrderWorkflow."""

    order_id: str
    state: OrderState
    captured: Money | None = None
    refunded: Money | None = None
    shipments: int = 0


class ShipmentRun(Contract):
    """Input of ShipmentWorkflow. ``held_until``: nothing is picked before, by the business clock."""

    shipment_id: str
    order_id: str
    number: int
    plan_id: str
    node: str
    carrier: str
    service: str
    units: int
    amount: Money
    authorisation_id: str
    reservation_key: str
    planned_at: AwareDatetime
    promised_at: AwareDatetime
    held_until: AwareDatetime | None = None
    clock: BusinessClock
    # Whether its order plans it anew of itself where a neighbour refuses it.
    plan_again: bool = False
    # Ours alone, set when a run continues as new; left out of the published schema.
    memory: SkipJsonSchema[ShipmentMemory | None] = None


class ShipmentResult(Contract):
    """Result of ShipmentWorkflow."""

    shipment_id: str
    state: ShipmentState
    captured: Money | None = None
    refunded: Money | None = None
