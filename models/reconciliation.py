"""Reconciliation: what is compared with what, what can differ, and what a run of it takes and leaves behind."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from pydantic import AwareDatetime, Field

from models.base import Contract, StorableText
from models.money import Money


class Area(StrEnum):
    """What one run reconciles."""

    MONEY = "money"
    STOCK = "stock"
    LABELS = "labels"


class Comparison(StrEnum):
    """Two sides that have to agree.

    MONEY: our movements and the provider's statement. LABELS: our labels and shipments, and the carrier's statement.
    RESERVATIONS: reserved units and orders. STOCK: the counts of each stock row, and what is held of it and moved
    it; the counters of rules that say what belongs to whom, and the units that they count.
    """

    MONEY = "money"
    LABELS = "labels"
    RESERVATIONS = "reservations"
    STOCK = "stock"


COMPARISONS: Mapping[Area, tuple[Comparison, ...]] = MappingProxyType(
    {
        Area.MONEY: (Comparison.MONEY,),
        Area.STOCK: (Comparison.RESERVATIONS, Comparison.STOCK),
        Area.LABELS: (Comparison.LABELS,),
    }
)


class DifferenceKind(StrEnum):
    """How two sides differ. ``docs/operate.md`` says of each what it means and what to do."""

    OURS_ONLY = "ours_only"
    THEIRS_ONLY = "theirs_only"
    AMOUNT_DIFFERS = "amount_differs"
    LEDGER_DIFFERS = "ledger_differs"
    TWICE_THEIRS = "twice_theirs"
    HELD_AFTER_END = "held_after_end"
    HELD_ONLY_OURS = "held_only_ours"
    ANSWER_LOST = "answer_lost"
    LABEL_OF_CANCELLED = "label_of_cancelled"
    LABEL_UNKNOWN = "label_unknown"
    LABEL_ANSWER_LOST = "label_answer_lost"
    LABEL_COST_DIFFERS = "label_cost_differs"
    LEFT_WITHOUT_LABEL = "left_without_label"
    HELD_FOR_ENDED = "held_for_ended"
    HELD_FOR_UNKNOWN = "held_for_unknown"
    OPEN_WITHOUT_RESERVATION = "open_without_reservation"
    PAID_WITHOUT_STOCK = "paid_without_stock"
    RESERVED_DIFFERS = "reserved_differs"
    EXPIRED = "expired"
    MOVEMENTS_DIFFER = "movements_differ"
    ALLOCATION_DIFFERS = "allocation_differs"


class DifferenceState(StrEnum):
    """What became of a difference. HEALED: a rule mended it, or it has gone by itself.

    ACCEPTED: a person leaves it as it is; it counts again only if one of its sides changes. RESOLVED: a person says
    that it was looked after; it counts again if the next run still finds it.
    """

    OPEN = "open"
    HEALED = "healed"
    ACCEPTED = "accepted"
    RESOLVED = "resolved"


class Rule(StrEnum):
    """What mends a difference without a person, within limits that people set. GONE: it was not there any more."""

    RELEASE_UNITS = "release_units"
    VOID_LABEL = "void_label"
    VOID_HOLD = "void_hold"
    WRITE_DOWN_ANSWER = "write_down_answer"
    GONE = "gone"


class Side(Contract):
    """One side of a difference, as it was found: what stands there, or ``nothing``."""

    of: str = Field(description="whose books: ours, or those of the payment provider or the carrier")
    found: tuple[dict[str, Any], ...] = Field(default=(), description="what stands there; empty: nothing")


class Difference(Contract):
    """Two sides that do not agree. ``key`` is the same for the same difference in every run.

    ``amount`` and ``units`` are what is at stake, for the limits of the rules. ``about`` names what a rule acts on.
    """

    key: str
    comparison: Comparison
    kind: DifferenceKind
    subject: str
    order_id: str | None = None
    what: StorableText
    ours: Side
    theirs: Side
    amount: Money | None = None
    units: int | None = None
    about: str = ""


class Compared(Contract):
    """What comparing one subject gave. ``under_way``: left for the next run, for somebody is still at it."""

    checked: int = 0
    under_way: int = 0
    differences: tuple[Difference, ...] = ()


class RunState(StrEnum):
    """Whether a run of the reconciliation got to its end."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Tally(Contract):
    """What a run, or a part of it, has counted. ``opened``: put before a person now; ``healed``: by a rule now."""

    checked: int = 0
    differing: int = 0
    under_way: int = 0
    healed: int = 0
    opened: int = 0
    gone: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            checked=self.checked + other.checked,
            differing=self.differing + other.differing,
            under_way=self.under_way + other.under_way,
            healed=self.healed + other.healed,
            opened=self.opened + other.opened,
            gone=self.gone + other.gone,
        )


class Progress(Contract):
    """How far a run has come, for the run that continues it. ``part`` counts imports first, comparisons then."""

    since: AwareDatetime
    part: int = 0
    cursor: str = ""
    tally: Tally = Tally()


class ReconciliationRun(Contract):
    """Input of ReconciliationWorkflow. ``everything``: all there ever was, not what moved since the last run."""

    area: Area
    everything: bool = False
    # Ours alone, set when a run continues as new.
    progress: Progress | None = None


class ReconciliationResult(Contract):
    """Result of ReconciliationWorkflow. ``open``: differences of the area that wait for a person."""

    run_id: str
    area: Area
    tally: Tally
    open: int = 0


# --- steps ---
class BeginReconciliation(Contract):
    """Note that a run begins, and say from when on it has to look."""

    run_id: str
    area: Area
    everything: bool = False


class Begun(Contract):
    """``since``: what moved before was compared by a run that got to its end."""

    since: AwareDatetime


class ReadStatement(Contract):
    """Copy a piece of a neighbour's statement into our tables: from ``since``, going on after ``cursor``."""

    run_id: str
    since: AwareDatetime
    cursor: str = ""


class StatementRead(Contract):
    """How many lines came; ``cursor`` None: that was all."""

    lines: int = 0
    cursor: str | None = None


class Compare(Contract):
    """Compare a piece: what moved since ``since`` and follows ``cursor``."""

    run_id: str
    since: AwareDatetime
    cursor: str = ""


class PieceCompared(Contract):
    """What a piece came to; ``cursor`` None: that was all."""

    tally: Tally = Tally()
    cursor: str | None = None


class FinishReconciliation(Contract):
    """Note that a run has come to its end, or why it could not."""

    run_id: str
    area: Area
    tally: Tally
    failure: StorableText | None = None


class Finished(Contract):
    """``open``: differences of the area that wait for a person."""

    open: int = 0


# --- statements of neighbours ---
class LineState(StrEnum):
    """DONE: it happened and stands. UNDONE: it was taken back. DECLINED: it was asked for and refused."""

    DONE = "done"
    UNDONE = "undone"
    DECLINED = "declined"


class StatementLine(Contract):
    """One line of a neighbour's statement, in our words.

    ``kind``: a ``PaymentKind``, or ``label``. ``key``: the idempotency key that we sent, None for what was not asked
    for by us. ``reference``: the order or the shipment it is said to belong to. ``held``: what an authorisation still
    holds. ``in_use``: a label whose parcel the carrier has.
    """

    line_id: str
    kind: str
    key: str | None = None
    reference: str
    parent_id: str | None = None
    state: LineState
    amount: Money | None = None
    held: Money | None = None
    in_use: bool = False
    at: AwareDatetime
    changed_at: AwareDatetime


class StatementPage(Contract):
    """A piece of a statement, in the order of change; ``next_cursor`` None: that was all."""

    lines: tuple[StatementLine, ...] = ()
    next_cursor: str | None = None
