"""The speed of a data directory's business clock. An order keeps the clock that it was started with.

The simulators deliver, and new deadlines run, at the speed of the stack. On another one than the open orders' every
parcel would be hours early or late for them, so the speed is kept with the data and changed only between orders.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from temporalio.client import Client
from temporalio.service import RPCError

from models.errors import NotReachable, Refused
from workers.embedded.children import write_private

_CLOCK = "clock.json"
_OPEN_ORDERS = "WorkflowType = 'OrderWorkflow' AND ExecutionStatus = 'Running'"


class OrdersRunAtAnotherSpeed(Refused):
    """The stack was asked to run at another speed than the orders that are open on its data."""

    code = "orders_run_at_another_speed"


class _Clock(BaseModel):
    model_config = ConfigDict(frozen=True)

    speed: float


def kept_speed(data_dir: Path) -> float | None:
    """Business seconds per wall second of the last stack on ``data_dir``; None when there was none."""
    try:
        return _Clock.model_validate_json((data_dir / _CLOCK).read_bytes()).speed
    except (OSError, ValidationError):
        return None


def keep_speed(data_dir: Path, speed: float) -> None:
    """Remember ``speed`` for the next stack on ``data_dir``."""
    write_private(data_dir / _CLOCK, _Clock(speed=speed).model_dump_json().encode())


async def refuse_another_speed_for_open_orders(client: Client, *, kept: float, asked: float) -> None:
    """Raise ``OrdersRunAtAnotherSpeed`` if orders are open, which run at ``kept`` and not at ``asked``."""
    try:
        found = await client.count_workflows(_OPEN_ORDERS)
    except RPCError as error:
        raise NotReachable(f"Temporal did not say how many orders are open: {error.message}") from error
    if found.count:
        raise OrdersRunAtAnotherSpeed(
            f"orders are open on these data ({found.count}) and their clocks run at speed {kept:.12g}: at speed"
            f" {asked:.12g} the simulated warehouse and carriers would be out of step with all their deadlines."
            f" Go on with 'orderwright up --speed {kept:.12g}', or name other data with --data-dir"
        )
