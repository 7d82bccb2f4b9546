"""How our errors reach Temporal: with their stable code as type, and the word on whether trying again helps."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from pydantic import ValidationError
from temporalio import activity
from temporalio.exceptions import ApplicationError

from models.base import Contract
from models.errors import NeighbourUnavailable, OrderwrightError, OutcomeUnknown

In = TypeVar("In", bound=Contract)
Out = TypeVar("Out", bound=Contract)
Host = TypeVar("Host")

# An attempt with several exchanges in it (ask, look up) may take this share of the step's start_to_close. It has then
# ended before Temporal gives it up and starts the next one, so that no two attempts at one effect run side by side.
_SHARE_OF_START_TO_CLOSE = 0.9


def speaks_temporal(
    method: Callable[[Host, In], Awaitable[Out]],
) -> Callable[[Host, In], Awaitable[Out]]:
    """Let an activity raise ``models.errors``; Temporal sees ``ApplicationError`` with the error's code as type.

    A neighbour's Retry-After becomes the delay of the next attempt, as far as the step's own pauses go: what is tried
    "for half an hour" is so many attempts, and an hour between each two would be days. Other exceptions pass: Temporal
    retries them.

    An attempt that would outlast the step's ``start_to_close`` is broken off before, as ``OutcomeUnknown``.
    """

    @functools.wraps(method)
    async def run(host: Host, effect: In) -> Out:
        attempt = asyncio.timeout(_seconds_for_an_attempt())
        try:
            async with attempt:
                return await method(host, effect)
        except TimeoutError:
            if not attempt.expired():
                raise
            name = activity.info().activity_type
            raise application_error(
                OutcomeUnknown(f"{name}: the attempt took too long and was broken off")
            ) from None
        except OrderwrightError as error:
            raise application_error(error, pause_at_most=_longest_pause()) from error
        except ValidationError as error:
            # Its text quotes the input, which may be somebody's name: say where, not what.
            places = ", ".join(".".join(map(str, item["loc"])) for item in error.errors()[:5])
            raise ApplicationError(
                f"stored content does not fit {error.title}, at: {places}", type="contract_broken"
            ) from None

    return run


def _seconds_for_an_attempt() -> float | None:
    whole = activity.info().start_to_close_timeout
    return None if whole is None else whole.total_seconds() * _SHARE_OF_START_TO_CLOSE


def _longest_pause() -> timedelta | None:
    policy = activity.info().retry_policy
    return None if policy is None else policy.maximum_interval


def application_error(error: OrderwrightError, *, pause_at_most: timedelta | None = None) -> ApplicationError:
    """The same error as Temporal carries it."""
    seconds = error.retry_after_seconds if isinstance(error, NeighbourUnavailable) else None
    if seconds is not None and pause_at_most is not None:
        seconds = min(seconds, pause_at_most.total_seconds())
    return ApplicationError(
        error.message,
        type=error.code,
        non_retryable=not error.retryable,
        next_retry_delay=None if seconds is None else timedelta(seconds=seconds),
    )
