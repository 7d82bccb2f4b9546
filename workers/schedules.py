"""What runs by itself: one Temporal Schedule per area of the reconciliation, and one for the values of stock."""

from collections.abc import Callable
from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)

from models.reconciliation import Area, ReconciliationRun
from models.values import StockValuesRun
from workflows import steps

_OFF = "switched off by ORDERWRIGHT_RECONCILE_MINUTES=0"
_VALUES_OFF = "switched off by ORDERWRIGHT_VALUES_MINUTES=0"
STOCK_VALUES = "stock-values"
# A run that takes longer hangs, and would keep every later one from starting.
_AT_MOST = timedelta(hours=12)
# After an outage one run makes up for all that were missed.
_MAKE_UP = timedelta(minutes=1)


async def schedule_reconciliation(client: Client, every: timedelta) -> None:
    """Let each area be reconciled ``every`` so often, zero for never. Safe to repeat; a pause made by hand stays.

    The areas take turns, so that they do not all fall upon the database at once. Raises ``RPCError``.
    """
    for number, area in enumerate(Area):
        wanted = _schedule(area, every, every * number / len(Area))
        try:
            await client.create_schedule(schedule_id(area), wanted)
        except ScheduleAlreadyRunningError:
            await client.get_schedule_handle(schedule_id(area)).update(_unless_paused(wanted))


async def schedule_stock_values(client: Client, every: timedelta) -> None:
    """Let values of stock be worked out ``every`` so often, zero for never; as above. Raises ``RPCError``."""
    wanted = Schedule(
        action=ScheduleActionStartWorkflow(
            "StockValuesWorkflow",
            StockValuesRun(),
            id=STOCK_VALUES,
            task_queue=steps.WORKFLOWS,
            execution_timeout=_AT_MOST,
            static_summary="what stock is worth where it lies",
        ),
        spec=ScheduleSpec(
            intervals=[ScheduleIntervalSpec(every=every or timedelta(days=1), offset=every / 6)]
        ),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=_MAKE_UP),
        state=ScheduleState(paused=not every, note=None if every else _VALUES_OFF),
    )
    try:
        await client.create_schedule(STOCK_VALUES, wanted)
    except ScheduleAlreadyRunningError:
        await client.get_schedule_handle(STOCK_VALUES).update(_unless_paused(wanted))


def schedule_id(area: Area) -> str:
    """The Schedule of an area; its runs have this id and the time they were due."""
    return f"reconciliation:{area}"


def _unless_paused(wanted: Schedule) -> Callable[[ScheduleUpdateInput], ScheduleUpdate]:
    """Bring a Schedule to what is wanted, and leave it paused where somebody has paused it."""

    def update(found: ScheduleUpdateInput) -> ScheduleUpdate:
        state = found.description.schedule.state
        if state.paused and state.note not in (_OFF, _VALUES_OFF):
            wanted.state = ScheduleState(paused=True, note=state.note)
        return ScheduleUpdate(schedule=wanted)

    return update


def _schedule(area: Area, every: timedelta, offset: timedelta) -> Schedule:
    # One that is switched off has to have some interval, too.
    spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every or timedelta(days=1), offset=offset)])
    return Schedule(
        action=ScheduleActionStartWorkflow(
            "ReconciliationWorkflow",
            ReconciliationRun(area=area),
            id=schedule_id(area),
            task_queue=steps.WORKFLOWS,
            execution_timeout=_AT_MOST,
            static_summary=f"reconciliation of {area}",
        ),
        spec=spec,
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=_MAKE_UP),
        state=ScheduleState(paused=not every, note=None if every else _OFF),
    )
