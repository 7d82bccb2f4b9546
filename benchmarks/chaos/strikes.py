"""The plan carried out: each strike when its moment has come, and a record of what it met."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
from temporalio.client import Client
from temporalio.service import RPCError

from activities.channels.online_retail import ImportedInvoice
from activities.store.store import Store
from apps.cli.replay import Tally
from benchmarks.chaos.evidence import working_orders, working_shipments
from benchmarks.chaos.plan import Action, FaultPlan, Kind, Strike
from benchmarks.chaos.victim import Victim
from models.base import Contract
from models.errors import NotReachable, OrderwrightError
from models.identifiers import order_workflow_id, shipment_workflow_id
from workers.client import connect

_POLL_SECONDS = 0.1
_TRIES = 40
_BETWEEN_TRIES = 1.5
Candidate = TypeVar("Candidate")
ACTOR = "chaos"
REASON = "the chaos harness does it on purpose"


class Struck(Contract):
    """A strike that was carried out. ``at``: seconds since the start; ``rested``: orders that had come to rest."""

    strike: Strike
    at: float
    rested: int
    pid: int | None = None
    subject: str | None = None
    came_to_nothing: str | None = None


@dataclass
class Gate:
    """Holds orders back while strikes that belong to earlier ones are outstanding: else there is no load to strike."""

    plan: FaultPlan
    ahead: int
    _done: int = 0
    _open: bool = False
    _moved: threading.Condition = field(default_factory=threading.Condition)

    def through(self, invoices: Iterator[ImportedInvoice]) -> Iterator[ImportedInvoice]:
        """The same invoices, each when it may come. Blocks; iterate in a thread."""
        orders = 0
        for invoice in invoices:
            orders += invoice.draft is not None
            with self._moved:
                while not self._open and self._outstanding(orders - self.ahead):
                    self._moved.wait()
            yield invoice

    def carried_out(self) -> None:
        """One more strike is done with."""
        with self._moved:
            self._done += 1
            self._moved.notify_all()

    def one_more(self) -> None:
        """Let another order through: a strike finds none that it could meet."""
        with self._moved:
            self.ahead += 1
            self._moved.notify_all()

    def open(self) -> None:
        """Hold nothing back any more."""
        with self._moved:
            self._open = True
            self._moved.notify_all()

    def _outstanding(self, orders: int) -> bool:
        return any(strike.rested <= orders for strike in self.plan.strikes[self._done :])


class Striker:
    """Carries out a plan against a victim while ``tally`` tells how far the orders are."""

    def __init__(
        self, plan: FaultPlan, victim: Victim, store: Store, api: httpx.AsyncClient, gate: Gate
    ) -> None:
        self._plan = plan
        self._victim = victim
        self._store = store
        self._api = api
        self._gate = gate
        self._began = time.monotonic()
        self.struck: list[Struck] = []

    async def run(self, tally: Tally, *, ended: Callable[[], bool]) -> None:
        """Strike until the plan is through, or ``ended`` while the next moment has not come.

        Raises ``StackDown`` when something does not come back.
        """
        self._began = time.monotonic()
        for strike in self._plan.strikes:
            while rested(tally) < strike.rested:
                if ended():
                    return
                await asyncio.sleep(_POLL_SECONDS)
            await asyncio.sleep(strike.then_seconds)
            at, at_rest = time.monotonic() - self._began, rested(tally)
            pid, subject, nothing = await self._carry_out(strike)
            self.struck.append(
                Struck(
                    strike=strike,
                    at=round(at, 1),
                    rested=at_rest,
                    pid=pid,
                    subject=subject,
                    came_to_nothing=nothing,
                )
            )
            self._gate.carried_out()

    async def _carry_out(self, strike: Strike) -> tuple[int | None, str | None, str | None]:
        """Process id, the order or run that was met, and why nothing came of it."""
        if strike.action is Action.FREEZE:
            return await self._victim.freeze(strike.target, strike.seconds), None, None
        if strike.action is Action.KILL and strike.kind is Kind.SUPERVISOR:
            return await self._victim.kill_supervisor(strike.seconds), None, None
        if strike.action is Action.KILL:
            return await self._victim.kill(strike.target), None, None
        for _ in range(_TRIES):
            try:
                subject = await (
                    self._terminate(strike) if strike.action is Action.TERMINATE else self._cancel(strike)
                )
            except (OrderwrightError, RPCError, httpx.HTTPError):
                # What it needs was itself just killed.
                subject = None
            if subject is not None:
                return None, subject, None
            self._gate.one_more()
            await asyncio.sleep(_BETWEEN_TRIES)
        return None, None, f"no {strike.target} to {strike.action} was found"

    async def _terminate(self, strike: Strike) -> str | None:
        """End a run from outside; which, as it is called in Temporal."""
        if strike.target == "order":
            chosen = drawn(await working_orders(self._store), strike.draw)
            workflow_id = None if chosen is None else order_workflow_id(chosen)
        else:
            chosen = drawn(await working_shipments(self._store), strike.draw)
            workflow_id = None if chosen is None else shipment_workflow_id(chosen)
        if workflow_id is None:
            return None
        stack = self._victim.published
        client = await _temporal(stack.temporal_address, stack.temporal_namespace)
        # One that has just come to its end by itself cannot be ended: another one is drawn.
        await client.get_workflow_handle(workflow_id).terminate(reason=REASON)
        return workflow_id

    async def _cancel(self, strike: Strike) -> str | None:
        """Call an order off as its customer would; which."""
        order_id = drawn(await working_orders(self._store), strike.draw)
        if order_id is None:
            return None
        answer = await self._api.post(
            f"/v1/orders/{order_id}/cancel",
            json={"actor": ACTOR, "reason": REASON, "request_id": f"chaos-{strike.number}"},
        )
        if answer.status_code >= 500:
            raise NotReachable(f"HTTP {answer.status_code}")
        return order_id if answer.is_success else None


async def _temporal(address: str, namespace: str) -> Client:
    return await connect(address, namespace, from_environment=False, wait=5)


def drawn(candidates: Sequence[Candidate], draw: float) -> Candidate | None:
    """The one that a draw in [0, 1) means; None of none."""
    return candidates[int(draw * len(candidates))] if candidates else None


def rested(tally: Tally) -> int:
    """How many orders have come to rest."""
    return tally.submitted - tally.in_flight
