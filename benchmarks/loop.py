"""A closed loop: so many runs under way at any time, each awaited, the next one started when one ends."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

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


@dataclass
class Driven:
    """What a loop did. Times are Unix seconds; the window lies between ``begin`` and ``end``."""

    begin: float = 0.0
    end: float = 0.0
    submitted: dict[tuple[str, ...], float] = field(default_factory=dict)
    closed: dict[tuple[str, ...], float] = field(default_factory=dict)


async def drive(
    start: Callable[[], Awaitable[Started]], *, in_flight: int, warm_seconds: float, seconds: float
) -> Driven:
    """Keep ``in_flight`` runs under way for a warm-up and a window, then let all of them end.

    Raises ``RunWentWrong``, or what ``start`` raises.
    """
    driven = Driven()
    driven.begin = time.time() + warm_seconds
    driven.end = driven.begin + seconds

    async def lane() -> None:
        while time.time() < driven.end:
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

    lanes = [asyncio.create_task(lane()) for _ in range(in_flight)]
    try:
        await asyncio.gather(*lanes)
    finally:
        for task in lanes:
            task.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)
    return driven
