"""What goes wrong, and what people do meanwhile, and when: a pure function of the seed, so that it can be done again.

Moments are counted in progress and not in time: a strike falls when so many orders have come to rest, and then so many
seconds later. On a slow machine the same strikes meet the same part of the work.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

from apps.simulators.chance import fraction
from models.base import Contract
from workers.embedded.stack import SIMULATORS, WORKER_GROUPS
from workflows.steps import ALL_STEPS

# (what is drawn, about whom) -> a number in [0, 1)
_Draw = Callable[[str, object], float]


class Action(StrEnum):
    """What is done to somebody."""

    KILL = "kill"
    FREEZE = "freeze"
    TERMINATE = "terminate"
    CANCEL = "cancel"


class Kind(StrEnum):
    """Which kind of process is killed."""

    WORKER = "worker"
    SIMULATOR = "simulator"
    API = "api"
    POSTGRES = "postgres"
    TEMPORAL = "temporal"
    SUPERVISOR = "supervisor"


PROCESSES: Mapping[Kind, tuple[str, ...]] = MappingProxyType(
    {
        Kind.WORKER: tuple(f"worker-{group}" for group in WORKER_GROUPS),
        Kind.SIMULATOR: tuple(SIMULATORS),
        Kind.API: ("api",),
        Kind.POSTGRES: ("postgres",),
        Kind.TEMPORAL: ("temporal",),
        Kind.SUPERVISOR: ("supervisor",),
    }
)
# What is killed beyond the least of each kind. A supervisor takes the whole stack with it and half a minute.
_WEIGHTS: Mapping[Kind, int] = MappingProxyType(
    {
        Kind.WORKER: 4,
        Kind.SIMULATOR: 4,
        Kind.API: 3,
        Kind.POSTGRES: 3,
        Kind.TEMPORAL: 3,
        Kind.SUPERVISOR: 1,
    }
)
EACH_KIND = 2
# Longer than anybody waits for a sign of life: its heartbeat, or for want of one its whole time.
FROZEN_SECONDS = max((step.heartbeat or step.start_to_close).total_seconds() for step in ALL_STEPS) + 5.0
_LONGEST_PAUSE = 3.0
# Of all orders so many are called off by their customers while they are under way, so many amended; and so many
# documents come from warehouses.
_CANCELLED_SHARE = 0.04
_AMENDED_SHARE = 0.15
_DOCUMENTS_SHARE = 0.1
# Not every order is paid by one card: each of these is how so many pay.
_PAID_OTHERWISE_SHARE = 0.08
_LAST_ORDER_STRUCK = 0.75
TERMINATED = ("order", "shipment")


class DeedKind(StrEnum):
    """What a customer or a warehouse does over the API while everything breaks."""

    FEWER = "fewer"
    MORE = "more"
    ADDRESS = "address"
    COUNT = "count"
    DAMAGE = "damage"
    RECEIPT = "receipt"


AMENDMENTS = (DeedKind.FEWER, DeedKind.MORE, DeedKind.ADDRESS)
DOCUMENTS = (DeedKind.COUNT, DeedKind.DAMAGE, DeedKind.RECEIPT)


class Paying(StrEnum):
    """How an order is paid, other than by one card."""

    GIFT_CARD_AND_CARD = "gift card and card"
    STORE_CREDIT_AND_CARD = "store credit and card"
    STORE_CREDIT = "store credit"


class Strike(Contract):
    """One thing that is done.

    Attributes:
        number: from 1, in the order of time.
        target: the process; or whose run is ended from outside, an ``order`` or a ``shipment``; or the ``order`` that
            its customer calls off.
        rested, then_seconds: when: so many orders have come to rest, and then so many seconds later.
        seconds: how long it lasts: frozen, or without a supervisor.
        draw: in [0, 1): which of those that there are, where the target does not say.
    """

    number: int
    action: Action
    kind: Kind | None = None
    target: str
    rested: int
    then_seconds: float
    seconds: float = 0.0
    draw: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.seconds:g} s" if self.seconds else ""
        what = f"{self.target} run" if self.action is Action.TERMINATE else self.target
        moment = f"after {self.rested} orders and {self.then_seconds:g} s"
        return f"{self.number:>3}  {moment}: {self.action} {what}{lasting}"


class Deed(Contract):
    """One thing that a customer or a warehouse does.

    Attributes:
        number: from 1, in the order of time.
        rested: when: so many orders have come to rest.
        draw, size: in [0, 1): to which of those that there are, and by how much.
    """

    number: int
    kind: DeedKind
    rested: int
    draw: float
    size: float

    def __str__(self) -> str:
        what = "a customer amends:" if self.kind in AMENDMENTS else "a warehouse tells of a"
        return f"{self.number:>3}  after {self.rested} orders: {what} {self.kind}"


class PaidOtherwise(Contract):
    """How the order is paid that is sent as ``order``, from 1."""

    order: int
    how: Paying

    def __str__(self) -> str:
        return f"order {self.order} is paid by {self.how}"


class FaultPlan(Contract):
    """Everything that is done in a run with this seed, so many orders and so many kills.

    ``paid_otherwise``: the orders that are not paid by one card.
    """

    seed: int
    orders: int
    kills: int
    strikes: tuple[Strike, ...]
    deeds: tuple[Deed, ...] = ()
    paid_otherwise: tuple[PaidOtherwise, ...] = ()

    def __str__(self) -> str:
        return "\n".join(map(str, (*self.strikes, *self.deeds, *self.paid_otherwise)))


def plan_for(seed: int, *, orders: int, kills: int) -> FaultPlan:
    """The plan: each kind is killed at least twice if ``kills`` allow it, one process freezes, two runs are ended."""

    def drawn(what: str, subject: object) -> float:
        return fraction(seed, str(subject), what)

    killed = [_process(kind, turn, drawn) for kind, turn in _in_turn(_kinds(kills, drawn))]
    wanted: list[tuple[Action, Kind | None, str]] = [(Action.KILL, kind, name) for kind, name in killed]
    workers = PROCESSES[Kind.WORKER]
    wanted.append((Action.FREEZE, Kind.WORKER, workers[int(drawn("freeze", 0) * len(workers))]))
    wanted += [(Action.TERMINATE, None, what) for what in TERMINATED]
    wanted += [(Action.CANCEL, None, "order")] * round(orders * _CANCELLED_SHARE)
    shuffled = [
        one
        for _, one in sorted(enumerate(wanted), key=lambda pair: _early(pair[1][0], drawn("order", pair[0])))
    ]
    return FaultPlan(
        seed=seed,
        orders=orders,
        kills=kills,
        strikes=tuple(
            Strike(
                number=index + 1,
                action=action,
                kind=kind,
                target=target,
                # Spread over the whole, leaving the first and the last few alone.
                rested=int(orders * (0.03 + 0.89 * (index + drawn("moment", index)) / len(shuffled))),
                then_seconds=round(_LONGEST_PAUSE * drawn("pause", index), 1),
                seconds=_lasting(action, target, drawn("lasting", index)),
                draw=round(drawn("which", index), 6),
            )
            for index, (action, kind, target) in enumerate(shuffled)
        ),
        deeds=tuple(_deeds(orders, drawn)),
        paid_otherwise=tuple(_paid_otherwise(orders, drawn)),
    )


def _deeds(orders: int, drawn: _Draw) -> Iterator[Deed]:
    """The kinds in turn, each once at least, spread over the time in which there are orders under way."""
    wanted = [
        kinds[turn % len(kinds)]
        for kinds, share in ((AMENDMENTS, _AMENDED_SHARE), (DOCUMENTS, _DOCUMENTS_SHARE))
        for turn in range(max(len(kinds), round(orders * share)))
    ]
    moments = [int(orders * _LAST_ORDER_STRUCK * drawn("deed", index)) for index in range(len(wanted))]
    ordered = sorted(range(len(wanted)), key=lambda index: (moments[index], index))
    for number, index in enumerate(ordered, start=1):
        yield Deed(
            number=number,
            kind=wanted[index],
            rested=moments[index],
            draw=round(drawn("deed which", index), 6),
            size=round(drawn("deed size", index), 6),
        )


def _paid_otherwise(orders: int, drawn: _Draw) -> list[PaidOtherwise]:
    """Each way as often as its share says, once at least where there are so many orders; which, is drawn."""
    wanted = [how for how in Paying for _ in range(max(1, round(orders * _PAID_OTHERWISE_SHARE)))]
    anyhow = sorted(range(1, orders + 1), key=lambda order: drawn("paid otherwise", order))
    return sorted(
        (PaidOtherwise(order=order, how=how) for order, how in zip(anyhow, wanted, strict=False)),
        key=lambda one: one.order,
    )


def _early(action: Action, drawn: float) -> float:
    """What strikes an order comes while there are orders under way, and leaves it time to come right."""
    return drawn * _LAST_ORDER_STRUCK if action in (Action.TERMINATE, Action.CANCEL) else drawn


def _kinds(kills: int, drawn: _Draw) -> list[Kind]:
    everyone = sorted(Kind, key=lambda kind: drawn("kind", kind))
    certain = everyone * min(EACH_KIND, kills // len(everyone))
    if not certain:
        return everyone[:kills]
    by_weight = [kind for kind in Kind for _ in range(_WEIGHTS[kind])]
    return certain + [
        by_weight[int(drawn("more", number) * len(by_weight))] for number in range(kills - len(certain))
    ]


def _in_turn(kinds: Sequence[Kind]) -> list[tuple[Kind, int]]:
    """Each with how often its kind came before."""
    return [(kind, kinds[:index].count(kind)) for index, kind in enumerate(kinds)]


def _process(kind: Kind, turn: int, drawn: _Draw) -> tuple[Kind, str]:
    """The processes of a kind take turns; the seed says with which one begins."""
    names = PROCESSES[kind]
    return kind, names[(int(drawn("first", kind) * len(names)) + turn) % len(names)]


def _lasting(action: Action, target: str, drawn: float) -> float:
    if action is Action.FREEZE:
        return FROZEN_SECONDS
    return round(0.5 + 2.5 * drawn, 1) if target == Kind.SUPERVISOR else 0.0
