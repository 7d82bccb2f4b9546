"""A closed loop: so many runs under way at any time, each awaited, the next one started when one ends."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from models.errors import OrderwrightError

# With 200 in flight on a small machine an order takes five minutes, most of it waiting for its turn.
_PATIENCE_SECONDS = 1_200.0


class RunWentWrong(OrderwrightError):
    """A run of the load did not end as it has to: the figures would count something else than was meant."""

    code = "run_went_wrong"


@dataclass(frozen=True)
class Started:
    """A run under way. ``ended`` waits for its end, and raises ``RunWentWrong`` if that is a bad one."""

    workflow_ids: tuple[str, ...]
    ended: Awaitable[None]


class Shape(StrEnum):
    """What a window holds.

    STEADY: the middle of a loop. It opens once as many runs have ended as are in flight, for all of them start together
    and only then stand at different steps; and it stays open until as many have ended within it.
    WHOLE: one run per place, from the first one's start to the last one's end, all of their lives and nothing else.
    With many in flight a life takes minutes, and a steady window three of them. That the machine is not busy to the
    very end counts against us.
    """

    STEADY = "steady"
    WHOLE = "whole"


@dataclass
class Driven:
    """What a loop did. Times are Unix seconds; the window lies between ``begin`` and ``end``."""

    begin: float = 0.0
    end: float = 0.0
    submitted: dict[tuple[str, ...], float] = field(default_factory=dict)
    closed: dict[tuple[str, ...], float] = field(default_factory=dict)


def _nothing() -> None:
    """Nobody asked to be told."""


async def drive(
    start: Callable[[], Awaitable[Started]],
    *,
    in_flight: int,
    warm_seconds: float,
    seconds: float,
    shape: Shape = Shape.STEADY,
    opened: Callable[[], None] = _nothing,
    shut: Callable[[], None] = _nothing,
) -> Driven:
    """Keep ``in_flight`` runs under way through a window of at least ``seconds``, then let all of them end.

    ``opened`` and ``shut`` are called when the window begins and ends.

    Raises ``RunWentWrong``, or what ``start`` raises.
    """
    driven = Driven()
    steady = shape is Shape.STEADY
    over = asyncio.Event()
    one_ended = asyncio.Condition()

    async def lane() -> None:
        while not over.is_set():
            asked = time.time()
            run = await start()
            driven.submitted[run.workflow_ids] = asked
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await run.ended
            except TimeoutError:
                raise RunWentWrong(
                    f"{run.workflow_ids[0]} did not end within {_PATIENCE_SECONDS:.0f} s: see its history"
                ) from None
            driven.closed[run.workflow_ids] = time.time()
            async with one_ended:
                one_ended.notify_all()
            if not steady:
                return

    async def ended(wanted: int, at_least: float) -> None:
        """Until so many more runs have ended, and so many seconds have passed."""
        wanted += len(driven.closed)
        until = time.time() + at_least
        async with one_ended:
            await one_ended.wait_for(lambda: len(driven.closed) >= wanted)
        await asyncio.sleep(max(until - time.time(), 0.0))

    async def window() -> None:
        if steady:
            await ended(in_flight, warm_seconds)
        opened()
        driven.begin = time.time()
        await ended(in_flight, seconds if steady else 0.0)
        driven.end = time.time()
        shut()
        over.set()

    tasks = [asyncio.create_task(window()), *(asyncio.create_task(lane()) for _ in range(in_flight))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return driven
