"""What every handler works with, made once per application."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from fastapi import Depends, Request

from activities.store.carriers import CarrierExperience
from activities.store.store import Store
from apps.api.backtests import Backtests
from apps.api.courier import Pace
from apps.api.invariants import Invariants
from apps.api.metrics import Metrics
from apps.api.outbox import Outbox
from apps.api.readiness import PartsHealth
from apps.api.runs import Runs
from apps.api.streams import Streams
from workers.settings import Settings


@dataclass(frozen=True)
class Parts:
    """The store, the runs, the counters and the settings of one application."""

    settings: Settings
    store: Store
    runs: Runs
    metrics: Metrics

    @cached_property
    def invariants(self) -> Invariants:
        """The invariant job: one, for it bounds how many connections decisions take at once."""
        return Invariants(self.store, self.runs)

    @cached_property
    def outbox(self) -> Outbox:
        """What tells others: one, for streams follow it."""
        settings = self.settings
        pace = Pace(
            send_seconds=settings.outbox_send_seconds,
            at_once=settings.outbox_at_once,
            attempts=settings.outbox_attempts,
        )
        return Outbox(settings.database_url, self.metrics, pace=pace)

    @cached_property
    def streams(self) -> Streams:
        """Who follows availability: one, for all of them are told together."""
        return Streams(self.store, self.outbox, self.metrics, most=self.settings.api_max_streams)

    @cached_property
    def carriers(self) -> CarrierExperience:
        """What carriers did so far: one, for it is read once for all."""
        return CarrierExperience(self.store)

    @cached_property
    def backtests(self) -> Backtests:
        """Back tests: one, for they take turns."""
        return Backtests()

    @cached_property
    def health(self) -> PartsHealth:
        """Whether store and runs answer."""
        return PartsHealth(self.store, self.runs)


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


PartsOf = Annotated[Parts, Depends(_parts)]
