"""Business time: the time that carriers, cut-offs and promises run on. In a demo it runs faster than the wall."""

from datetime import UTC, datetime, timedelta

from pydantic import AwareDatetime, Field

from models.base import Contract

# With a scaled clock a day may last a second; a deadline shorter than this would measure this machine, not the carrier.
SCALED_DEADLINE_FLOOR = timedelta(seconds=60)
# Outside of these a time is a typing error; near the ends of the calendar nothing more can be reckoned with it.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)
# Business seconds per wall second: below, a day lasts years; above, a day is shorter than any answer takes.
SLOWEST, FASTEST = 0.001, 1e7


class BusinessClock(Contract):
    """``speed`` business seconds pass per wall second from (``wall_start``, ``business_start``) on, pauses left out.

    Part of the workflow's input, never read from the environment: a replay computes the same times.
    """

    speed: float = Field(default=1.0, gt=0, le=FASTEST)
    wall_start: AwareDatetime
    business_start: AwareDatetime
    paused: timedelta = timedelta(0)

    def at(self, wall: datetime) -> datetime:
        """The business time at the wall-clock time ``wall``; at ``LATEST`` the clock stops."""
        passed = wall - self.wall_start - self.paused
        if passed.total_seconds() * self.speed > (LATEST - self.business_start).total_seconds():
            return LATEST
        return self.business_start + passed * self.speed

    @property
    def scaled(self) -> bool:
        """Whether business time runs at another speed than the wall."""
        return self.speed != 1

    def wall_delay(self, business: timedelta, floor: timedelta = SCALED_DEADLINE_FLOOR) -> timedelta:
        """How long to wait on the wall for ``business`` to pass; a scaled wait is never shorter than ``floor``."""
        wall = max(business, timedelta(0)) / self.speed
        return max(wall, floor) if self.scaled else wall

    def after_pause(self, pause: timedelta) -> "BusinessClock":
        """The clock after standing still for ``pause`` of wall time, e.g. while a person decided."""
        return self.model_copy(update={"paused": self.paused + pause})


class ClockStart(Contract):
    """How a run's business clock starts. ``None`` starts it at the wall clock's own time."""

    speed: float = Field(default=1.0, gt=0, le=FASTEST)
    business_start: AwareDatetime | None = None
