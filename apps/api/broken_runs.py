"""What can be wrong with a run from outside, or with goods that no run follows any more, and how a person is asked."""

from datetime import UTC, datetime
from enum import StrEnum

from activities.store.astray import Astray
from activities.store.broken import Asked, Holdings
from models.base import Contract
from models.identifiers import shipment_workflow_id
from models.operations import ShippingKind
from models.review import Flag, ReviewKind, ReviewTask, Verdict
from models.states import ShipmentState
from policies.approval import ApprovalPolicy

_POLICY = ApprovalPolicy()
# Signals that a task names; Temporal Web shows all of them.
_SHOWN = 20


class Trouble(StrEnum):
    """What is wrong with a run, as the code of the task's flag.

    LEFT_THOUGH_CANCELLED and ARRIVED_THOUGH_PAID_BACK: nothing is wrong with the run, which has ended; its goods move.
    """

    NEVER_STARTED = "never_started"
    RUN_MISSING = "run_missing"
    RUN_ENDED = "run_ended"
    RUN_HANGS = "run_hangs"
    NOBODY_ASKED = "nobody_asked"
    NOTHING_UNDER_WAY = "nothing_under_way"
    NOT_OURS = "not_ours"
    ID_TAKEN = "id_taken"
    AFTER_ITS_END = "after_its_end"
    PASSED_OVER = "passed_over"
    NOBODY_SERVES = "nobody_serves"
    LEFT_THOUGH_CANCELLED = "left_though_cancelled"
    ARRIVED_THOUGH_PAID_BACK = "arrived_though_paid_back"


# Runs that no order needs: they can only be ended.
NEEDLESS = frozenset({Trouble.NOT_OURS, Trouble.AFTER_ITS_END})
# What people settle among themselves: no answer moves anything, and it does not heal by itself.
ASTRAY = frozenset({Trouble.LEFT_THOUGH_CANCELLED, Trouble.ARRIVED_THOUGH_PAID_BACK})


class Finding(Contract):
    """A run that is not as it has to be. ``task_id``: the open review task about it.

    ``forgets``: signals that it may hang on, and does not hear again when it is let go on.
    """

    workflow_id: str
    order_id: str
    trouble: Trouble
    why: str
    task_id: str | None = None
    forgets: tuple[str, ...] = ()


def task_about(finding: Finding, held: Holdings | None) -> ReviewTask:
    """The question to a person: what happened, what is held, what each answer does. The store gives it its id."""
    options, recommended, recommendation = _choices(finding, held)
    return ReviewTask(
        task_id="",
        order_id=finding.order_id,
        workflow_id=finding.workflow_id,
        kind=ReviewKind.RUN_BROKEN,
        what_happened=_what_happened(finding, held),
        why_flagged=(Flag(code=finding.trouble, reason=finding.why),),
        recommended=recommended,
        recommendation=recommendation,
        options=options,
        opened_at=datetime.now(UTC),
        policy_version=_POLICY.version,
    )


def gone_astray(parcel: Astray) -> Finding:
    """The finding about a parcel that moves although our books have given it up."""
    cancelled = parcel.state is ShipmentState.CANCELLED
    given_up = "was called off" if cancelled else "was given up as lost and paid back"
    tracking = f", tracking {parcel.tracking}" if parcel.tracking else ""
    return Finding(
        workflow_id=shipment_workflow_id(parcel.shipment_id),
        order_id=parcel.order_id,
        trouble=Trouble.LEFT_THOUGH_CANCELLED if cancelled else Trouble.ARRIVED_THOUGH_PAID_BACK,
        why=f"it {given_up}, and {parcel.carrier} reports {', '.join(parcel.seen)}: {parcel.units:,} units worth "
        f"{parcel.amount} from {parcel.node}{tracking}",
    )


def _what_happened(finding: Finding, held: Holdings | None) -> str:
    name = "Shipment" if is_shipment(finding.workflow_id) else "Order"
    run = finding.workflow_id[:200]
    if held is not None and finding.trouble in NEEDLESS:
        stands = f"has ended as {held.ended}" if held.ended else "goes on without it"
        return f"{run!r} does nothing more in Temporal. Order {finding.order_id} {stands}: {_money(held)}."
    if held is None:
        return f"{run!r} does nothing more in Temporal. It is no run of an order of ours: nothing is held for it."
    if finding.trouble in ASTRAY:
        moves = (
            "left although it is cancelled"
            if finding.trouble is Trouble.LEFT_THOUGH_CANCELLED
            else "arrived although it was paid back as lost"
        )
        return (
            f"The goods of shipment {finding.workflow_id.partition(':')[2]} {moves}, and no run follows them. Of its "
            f"order {_money(held)}."
        )
    parts = [
        _money(held),
        f"{held.units_reserved:,} units reserved",
        f"{held.handed_over} of {held.shipments} shipments with the carrier"
        if held.shipments
        else "nothing shipped",
    ]
    unclear = f" {held.unclear} movements of money have no answer yet." if held.unclear else ""
    ended = f" Its order has ended as {held.ended}, and this goes on." if held.ended else ""
    asked = f" In force: {'; '.join(map(_named, held.asked))}." if held.asked else ""
    subject = finding.workflow_id.partition(":")[2]
    return f"{name} {subject} stands still: {', '.join(parts)}.{asked}{ended}{unclear}"


def _money(held: Holdings) -> str:
    on_hold = f"{held.held} held" if held.held.minor else "no money held"
    moved = f"{held.captured} taken, {held.refunded} given back" if held.captured.minor else "none taken"
    return f"{on_hold}, {moved}"


def _choices(  # noqa: PLR0911 - a table: each trouble has its own
    finding: Finding, held: Holdings | None
) -> tuple[dict[Verdict, str], Verdict, str]:
    """The options of a task, what is recommended, and how to go about it."""
    trouble = finding.trouble
    if held is not None and trouble in NEEDLESS:
        return (
            {Verdict.APPROVE: "end it: its order, with money and goods, stays as it is"},
            Verdict.APPROVE,
            "See in Temporal Web who started or reset it, and whether something was left to do; then approve.",
        )
    if held is None:
        return (
            {Verdict.APPROVE: "end it: no order is touched"},
            Verdict.APPROVE,
            "See in Temporal Web who started it; then approve.",
        )
    if trouble in ASTRAY:
        return _SETTLED, Verdict.APPROVE, _TO_SETTLE[trouble]
    finish = {Verdict.FINISH: _by_hand(held)}
    if trouble is Trouble.NEVER_STARTED:
        return (
            {Verdict.APPROVE: "start its run now"} | finish,
            Verdict.APPROVE,
            "Look in the API's log for why it could not be started; approve once that is mended.",
        )
    if trouble is Trouble.RUN_MISSING:
        if held.shipments or held.undoing or is_shipment(finding.workflow_id):
            return (
                finish,
                Verdict.FINISH,
                "Its history is gone. See at the provider, the warehouse and the carrier what is left to do, do it, "
                "then close the order by hand.",
            )
        return (
            {
                Verdict.APPROVE: "start it again: money and stock that are held are found by their keys, not held twice"
            }
            | finish,
            Verdict.APPROVE,
            "Its history is gone, and nothing has left. Approve; call the order off afterwards if nobody wants it.",
        )
    if trouble is Trouble.NOBODY_ASKED:
        return (
            {Verdict.APPROVE: "fetch the question from the run and put it on the list"} | finish,
            Verdict.APPROVE,
            "Approve, then answer the question that appears on the list.",
        )
    if trouble is Trouble.NOTHING_UNDER_WAY:
        return (
            {Verdict.APPROVE: "wake it"} | finish,
            Verdict.APPROVE,
            "Approve. If it comes back, our code has a fault: keep its history for whoever mends it.",
        )
    if trouble is Trouble.ID_TAKEN:
        return (
            {
                Verdict.APPROVE: "end what runs under its id, and let the shipment's own run take its place: what was "
                "done is found by its key, and not done twice"
            }
            | finish,
            Verdict.APPROVE,
            "See in Temporal Web who started it, and have that stopped. Then approve.",
        )
    go_on = "go on from its last completed step: what was done since is found by its key, and not done twice"
    options = {
        Verdict.APPROVE: go_on,
        Verdict.REJECT: "go on only to call it off: what is held is given back, what has left goes on",
    }
    if trouble is Trouble.RUN_HANGS:
        return (
            _forgetting(options, finding.forgets) | finish,
            Verdict.APPROVE,
            _ABOUT_CODE + _about_sent(finding.forgets),
        )
    if trouble is Trouble.PASSED_OVER:
        return (
            options | finish,
            Verdict.APPROVE,
            "See in Temporal Web which workers it waits for (its versioning). If they come back it goes on by itself, "
            "and this task falls away. Approve to have it taken up by those that are there.",
        )
    return (
        options | finish,
        Verdict.APPROVE,
        "See in Temporal Web who ended it and why. Approve if the order is still wanted, reject if not.",
    )


_ABOUT_CODE = (
    "See in Temporal Web what its workflow task fails with. If it is our code, deploy a mended one: then it goes on by "
    "itself and this task falls away. "
)


def _forgetting(options: dict[Verdict, str], forgets: tuple[str, ...]) -> dict[Verdict, str]:
    if not forgets:
        return options
    forgotten = f"; it does not hear again: {_some(forgets)}"
    return {verdict: meaning + forgotten for verdict, meaning in options.items()}


def _about_sent(forgets: tuple[str, ...]) -> str:
    if not forgets:
        return (
            "Approve if somebody else's start took its id. Else it would hang again: nothing that it was sent is the "
            "cause."
        )
    return (
        f"Approve if it was what somebody sent it: {_some(forgets)}. That is forgotten, what came later is kept. If it "
        "was a fact, such as a scan, it is asked for again when it is overdue; a decision or a cancellation send anew."
    )


def _some(signals: tuple[str, ...]) -> str:
    more = f" and {len(signals) - _SHOWN:,} more" if len(signals) > _SHOWN else ""
    return ", ".join(repr(signal) for signal in signals[:_SHOWN]) + more


def _named(asked: Asked) -> str:
    reference = asked.reference or "without an answer yet"
    whose = "at" if asked.kind is ShippingKind.PICK else "of"
    return f"{asked.kind} {reference} {whose} {asked.where} (key {asked.key})"


def _by_hand(held: Holdings) -> str:
    # First, for the units that this frees are on sale at once.
    goods = (
        f"; before that have these called off yourself, or what is freed may be sold and picked twice: "
        f"{'; '.join(map(_named, held.asked))}"
        if held.asked
        else ""
    )
    money = f"; void the {held.held} at the provider yourself" if held.held.minor else ""
    unclear = "; look up the movements without an answer" if held.unclear else ""
    if held.ended:
        return (
            "end its shipments here and now, without their runs: reserved units are freed, parcels that left count as "
            f"delivered, no money is moved{goods}{money}{unclear}; the order stays {held.ended}"
        )
    return (
        "end the order here and now, without its run: reserved units are freed, parcels that left count as delivered, "
        f"no money is moved{goods}{money}{unclear}"
    )


_SETTLED = {
    Verdict.APPROVE: "it is settled, as the reason says: close this; no run is started and no money is moved",
    Verdict.REJECT: "goods and money stay where they are: close this; no run is started and no money is moved",
}
_TO_SETTLE = {
    Trouble.LEFT_THOUGH_CANCELLED: "Customer service asks the carrier to bring it back, or agrees with the customer on "
    "its return or its price: nobody has paid for these goods, and nothing takes the money by itself. The warehouse "
    "corrects its stock: our books count these units as there. Then approve, saying what came of it.",
    Trouble.ARRIVED_THOUGH_PAID_BACK: "The customer has the goods and their money. Customer service agrees on a "
    "payment or a return, or lets it be; whoever claimed the parcel from the carrier withdraws that. Then approve, "
    "saying what came of it.",
}


def is_shipment(workflow_id: str) -> bool:
    """Whether a workflow id is that of a shipment."""
    return workflow_id.startswith("shipment:")
