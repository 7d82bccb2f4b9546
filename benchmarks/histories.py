"""What really happened, read from the histories themselves: every event with its time, not an estimate of them."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client

_AT_ONCE = 8


@dataclass(frozen=True)
class RunHistory:
    """One run's history, from its first event to its last.

    Attributes:
        times: Unix seconds of each event, in order.
        kinds: how many events there are of each kind, by Temporal's short name (``ActivityTaskScheduled`` …).
        done: step or activity -> Unix seconds at which the first of its name completed.
        activities_at, tasks_at: Unix seconds at which each activity and each workflow task was completed.
    """

    workflow_id: str
    times: tuple[float, ...]
    kinds: Mapping[str, int]
    done: Mapping[str, float]
    activities_at: tuple[float, ...]
    tasks_at: tuple[float, ...]

    @property
    def events(self) -> int:
        """The length of the history."""
        return len(self.times)

    @property
    def activities(self) -> int:
        """Activities scheduled; a retry of one is not another."""
        return self.kinds.get("ActivityTaskScheduled", 0)


@dataclass(frozen=True)
class Written:
    """What the server wrote down for a run: how often it changed its state, and the size of its history in bytes."""

    transitions: int
    history_bytes: int


async def read_histories(client: Client, workflow_ids: Sequence[str]) -> list[RunHistory]:
    """The history of the last run of each workflow."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def read(workflow_id: str) -> RunHistory:
        async with at_once:
            events = [event async for event in client.get_workflow_handle(workflow_id).fetch_history_events()]
        return summary_of(workflow_id, events)

    return list(await asyncio.gather(*map(read, workflow_ids)))


async def read_written(client: Client, workflow_ids: Sequence[str]) -> list[Written]:
    """What the server says about the last run of each workflow."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def read(workflow_id: str) -> Written:
        async with at_once:
            description = await client.get_workflow_handle(workflow_id).describe()
        info = description.raw_description.workflow_execution_info
        return Written(transitions=info.state_transition_count, history_bytes=info.history_size_bytes)

    return list(await asyncio.gather(*map(read, workflow_ids)))


def summary_of(workflow_id: str, events: Iterable[HistoryEvent]) -> RunHistory:
    """Condense a history to what is counted here."""
    times: list[float] = []
    kinds: Counter[str] = Counter()
    scheduled: dict[int, str] = {}
    done: dict[str, float] = {}
    activities_at: list[float] = []
    tasks_at: list[float] = []
    for event in events:
        moment = event.event_time.seconds + event.event_time.nanos / 1e9
        times.append(moment)
        kinds[_short_name(event)] += 1
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            attributes = event.activity_task_scheduled_event_attributes
            scheduled[event.event_id] = attributes.activity_type.name
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            completed = event.activity_task_completed_event_attributes
            activities_at.append(moment)
            done.setdefault(scheduled[completed.scheduled_event_id], moment)
        elif event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
            tasks_at.append(moment)
    return RunHistory(
        workflow_id=workflow_id,
        times=tuple(times),
        kinds=kinds,
        done=done,
        activities_at=tuple(activities_at),
        tasks_at=tuple(tasks_at),
    )


def within(times: Iterable[float], begin: float, end: float) -> int:
    """How many of the times lie in [begin, end)."""
    return sum(begin <= moment < end for moment in times)


def _short_name(event: HistoryEvent) -> str:
    name = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")
    return "".join(part.capitalize() for part in name.split("_"))
