"""What has too little history to go by, and the rules that it goes by until it has more.

How often something was seen is kept with the problem, so that a plan is made again by what was known then, and another
policy can be tried on it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Protocol

from pydantic import Field

from models.base import Contract
from models.plan import PlannedShipment
from models.policy import Newcomers

_NAMED = 5


class Kind(StrEnum):
    """Of what it is kept how often it was seen."""

    NODE = "node"
    SKU = "sku"
    CHANNEL = "channel"


class Seen(Contract):
    """Of a node so many parcels were delivered within a year; so many orders had a SKU, or came by a channel.

    Counted up to ``MOST_SEEN``: what was seen as often is new by no policy.
    """

    kind: Kind
    name: str
    times: int = Field(ge=0)


class ColdStartPolicy(Contract):
    """Below which number something is new, and what becomes of orders with it. See ``models.policy.ColdStart``."""

    version: str = "cold-start-2026-11"
    node_parcels: int = 20
    sku_orders: int = 10
    channel_orders: int = 20
    nodes_last: bool = False
    review: tuple[Newcomers, ...] = ()

    def needed(self, kind: Kind) -> int:
        """How often something has to be seen until it is new no more."""
        return {
            Kind.NODE: self.node_parcels,
            Kind.SKU: self.sku_orders,
            Kind.CHANNEL: self.channel_orders,
        }[kind]

    def new(self, history: Iterable[Seen]) -> tuple[Seen, ...]:
        """What is new of ``history``."""
        return tuple(one for one in history if one.times < self.needed(one.kind))


class _Problem(Protocol):
    """What of a routing problem is looked at here."""

    @property
    def history(self) -> tuple[Seen, ...]: ...

    @property
    def cold_start(self) -> ColdStartPolicy | None: ...


def newcomers(problem: _Problem, shipments: Iterable[PlannedShipment]) -> tuple[Seen, ...]:
    """What is new in a plan: of nodes and SKUs those that it sends from and sends."""
    if problem.cold_start is None:
        return ()
    sent = list(shipments)
    used = {
        Kind.NODE: {shipment.node for shipment in sent},
        Kind.SKU: {line.sku for shipment in sent for line in shipment.lines},
    }
    found = problem.cold_start.new(problem.history)
    return tuple(one for one in found if one.kind is Kind.CHANNEL or one.name in used[one.kind])


def notes_on_newcomers(problem: _Problem, shipments: Iterable[PlannedShipment]) -> Iterator[str]:
    """What of a plan is new, in a sentence for each kind."""
    by_kind: dict[Kind, list[Seen]] = defaultdict(list)
    for one in newcomers(problem, shipments):
        by_kind[one.kind].append(one)
    policy = problem.cold_start
    for kind, found in by_kind.items():
        if policy is not None:
            yield _said(found, kind, policy.needed(kind))


def for_review(problem: _Problem, shipments: Iterable[PlannedShipment]) -> tuple[str, ...]:
    """Why a person is to see a plan, because of what is new in it; empty where the policy asks nobody."""
    policy = problem.cold_start
    if policy is None or not policy.review:
        return ()
    asked = {_KINDS[name] for name in policy.review}
    sent = list(shipments)
    only = tuple(one for one in newcomers(problem, sent) if one.kind in asked)
    return tuple(
        _said([one for one in only if one.kind is kind], kind, policy.needed(kind))
        for kind in Kind
        if any(one.kind is kind for one in only)
    )


def last(sequence: Iterable[tuple[str, ...]], new: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """``sequence`` with the ``new`` nodes in a last step of their own; as it is where no others are in it."""
    steps = tuple(sequence)
    apart = set(new)
    known = [kept for step in steps if (kept := tuple(node for node in step if node not in apart))]
    late = tuple(dict.fromkeys(node for step in steps for node in step if node in apart))
    return (*known, late) if known and late else steps


_KINDS = {Newcomers.NODES: Kind.NODE, Newcomers.SKUS: Kind.SKU, Newcomers.CHANNELS: Kind.CHANNEL}
_WHAT = {
    Kind.NODE: ("node", "parcels delivered"),
    Kind.SKU: ("SKU", "orders"),
    Kind.CHANNEL: ("channel", "orders"),
}


def _said(found: list[Seen], kind: Kind, needed: int) -> str:
    what, of = _WHAT[kind]
    named = ", ".join(f"{one.name} ({one.times})" for one in found[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    many = "s" if len(found) > 1 else ""
    return f"new {what}{many} {named}{more}: fewer than {needed} {of} so far"
