"""Reservations of many orders in one transaction, as a busy process makes them.

A row that everybody wants is locked from when it is changed until the commit is on disk. Orders that come one by one
therefore wait for as many commits as there are orders before them; those that have come meanwhile are served together.
Each is all or nothing by itself.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from activities.store.driver import only
from activities.store.stock import RESERVE, Claim, reservation, reserve_values
from activities.store.store import Store
from models.effects import Reservation
from models.errors import NotReachable, Refused

# Enough to share one commit; a batch holds what it locks until its last one is served.
_MOST = 64


class _Waiting(NamedTuple):
    claim: Claim
    answer: "asyncio.Future[Reservation]"


class Reserver:
    """Reserves for one process and one event loop: a batch at a time, and beside it what is asked for alone."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[_Waiting] = deque()
        self._serving: asyncio.Task[None] | None = None
        self._alone: set[asyncio.Task[None]] = set()

    async def reserve(self, claim: Claim) -> Reservation:
        """As ``stock.reserve``, in a transaction that ends before this answers. Raises also ``NotReachable``."""
        waiting = _Waiting(claim, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve(), name="reserve stock")
        return await waiting.answer

    async def _serve(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST))]
                if len(batch) == 1:
                    await self._ask(batch, alone=True)
                    continue
                for one in await self._ask(batch, alone=False):
                    # It may have to wait for somebody, which is nothing to the others.
                    task = asyncio.create_task(self._ask_alone(one), name="reserve stock for one order")
                    self._alone.add(task)
                    task.add_done_callback(self._alone.discard)
        finally:
            self._serving = None
            # Only when this loop is being ended: who waits is told, and asks again.
            for one in self._waiting:
                one.answer.cancel()

    async def _ask_alone(self, one: _Waiting) -> None:
        await self._ask([one], alone=True)

    async def _ask(self, batch: Sequence[_Waiting], *, alone: bool) -> list[_Waiting]:
        """Answer all of ``batch`` that can be answered; those that want to be asked for alone come back."""
        try:
            values = reserve_values([one.claim for one in batch], alone=alone)
            async with self._store.statements() as connection:
                answers = await only(connection, RESERVE, values)
        except Exception as error:
            if not alone and not isinstance(error, NotReachable):
                # Whose fault it was, each hears when it is asked for alone.
                return list(batch)
            for one in batch:
                _tell(one, error)
            return []
        again = []
        for one, answer in zip(batch, answers, strict=True):
            if answer["outcome"] == "again":
                again.append(one)
                continue
            try:
                _tell(one, reservation(one.claim, answer))
            except Refused as refused:
                _tell(one, refused)
        return again


def _tell(one: _Waiting, answer: Reservation | Exception) -> None:
    # Whoever asked may have been cancelled meanwhile.
    if one.answer.done():
        return
    if isinstance(answer, Exception):
        one.answer.set_exception(answer)
    else:
        one.answer.set_result(answer)
