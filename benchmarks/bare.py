"""The engine's limit: workflows that hold nothing but commands, and activities that do nothing.

``Bare`` runs no-op activities in sequence. ``Skeleton`` commands what a happy order and its shipment command
(activities, a child, upserts, signals, timers), and does none of their work: what lies between the two is the price of
an order's shape, and what lies between ``Skeleton`` and an order is the price of our own code.

    python -m benchmarks.bare --address HOST:PORT --namespace N --serve workflows|activities --ready-file F

Unversioned workers with the SDK's usual settings, and more pollers and slots than ours: a limit must not be a setting.
"""

import argparse
import asyncio
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import PollerBehaviorSimpleMaximum, Worker

with workflow.unsafe.imports_passed_through():
    from models import search
    from models.base import Contract
    from workers import exit as process_exit
    from workers.client import connect
    from workers.embedded.signals import on_stop_signal
    from workers.loop import run_serving

WORKFLOW_QUEUE = "bench-workflows"
ACTIVITY_QUEUE = "bench-activities"
_AT_ONCE = 100
_POLLERS = 10
_CACHED_WORKFLOWS = 1000


class BareRun(Contract):
    """Input of ``Bare``: how many activities, one after the other."""

    activities: int


class SkeletonRun(Contract):
    """Input of ``Skeleton``: how many signals its neighbours send to its child."""

    shipment_signals: int


class Nudge(Contract):
    """What ``tell`` sends: so many signals to ``workflow_id``."""

    workflow_id: str
    signals: int


@activity.defn
async def no_op() -> None:
    """Do nothing."""


class Neighbours:
    """The activity that has an effect in the skeleton: somebody answers by signal."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @activity.defn
    async def tell(self, nudge: Nudge) -> None:
        """Signal as the API does when a neighbour's webhook comes in."""
        handle = self._client.get_workflow_handle(nudge.workflow_id)
        for _ in range(nudge.signals):
            await handle.signal("told")


@workflow.defn
class Bare:
    """No-op activities in sequence, and nothing else."""

    @workflow.run
    async def run(self, run: BareRun) -> None:
        """Ends after the last of them."""
        for _ in range(run.activities):
            await _step()


class _Told:
    """A workflow that counts the signals it gets."""

    def __init__(self) -> None:
        self._signals = 0

    @workflow.signal
    def told(self) -> None:
        """A fact from somewhere else; its content does not matter here."""
        self._signals += 1

    async def _heard(self, signals: int) -> None:
        # A deadline is set while waiting, as an order's is, and is never met.
        await workflow.wait_condition(lambda: self._signals >= signals, timeout=timedelta(days=7))


@workflow.defn
class Skeleton(_Told):
    """The commands of a happy order."""

    @workflow.run
    async def run(self, run: SkeletonRun) -> None:
        """Ends when its child has reported and the two messages are sent."""
        me = workflow.info().workflow_id
        for _ in range(5):  # validate, assess, authorise, route, reserve
            await _step()
        await workflow.start_child_workflow(
            SkeletonShipment.run,
            run,
            id=f"{me}/1",
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
        )
        _show("released")
        confirmed = asyncio.create_task(_step())
        await self._heard(1)
        _show("shipped")
        await self._heard(2)
        await _step()
        _show("closed")
        await confirmed
        await _step()


@workflow.defn
class SkeletonShipment(_Told):
    """The commands of a happy shipment."""

    @workflow.run
    async def run(self, run: SkeletonRun) -> None:
        """Ends when it has heard of its delivery."""
        me = workflow.info().workflow_id
        order = workflow.get_external_workflow_handle(me.rpartition("/")[0])
        _show("pick")
        await _step(Nudge(workflow_id=me, signals=1))
        await self._heard(1)
        await _step(Nudge(workflow_id=me, signals=run.shipment_signals - 1))
        _show("label")
        await self._heard(2)
        _show("handed over")
        await _step()
        await order.signal("told")
        await self._heard(run.shipment_signals)
        _show("delivered")
        await _step()
        await order.signal("told")


def _show(state: str) -> None:
    workflow.upsert_search_attributes([search.STATE.value_set(state)])


async def _step(nudge: Nudge | None = None) -> None:
    if nudge is None or not nudge.signals:
        await workflow.execute_activity(
            no_op, task_queue=ACTIVITY_QUEUE, start_to_close_timeout=timedelta(seconds=20)
        )
    else:
        await workflow.execute_activity_method(
            Neighbours.tell, nudge, task_queue=ACTIVITY_QUEUE, start_to_close_timeout=timedelta(seconds=20)
        )


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare")
    parser.add_argument("--address", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--serve", choices=("workflows", "activities"), required=True)
    parser.add_argument("--ready-file", type=Path, required=True)
    asked = parser.parse_args()
    run_serving(_serve(asked.address, asked.namespace, asked.serve, asked.ready_file))


async def _serve(address: str, namespace: str, what: str, ready_file: Path) -> None:
    stopped = asyncio.Event()
    with on_stop_signal(stopped.set):
        client = await connect(address, namespace)
        async with _worker(client, what):
            await asyncio.to_thread(ready_file.touch)
            await stopped.wait()


def _worker(client: Client, what: str) -> Worker:
    if what == "workflows":
        return Worker(
            client,
            task_queue=WORKFLOW_QUEUE,
            workflows=[Bare, Skeleton, SkeletonShipment],
            max_cached_workflows=_CACHED_WORKFLOWS,
            workflow_task_poller_behavior=PollerBehaviorSimpleMaximum(_POLLERS),
        )
    return Worker(
        client,
        task_queue=ACTIVITY_QUEUE,
        activities=[no_op, Neighbours(client).tell],
        max_concurrent_activities=_AT_ONCE,
        activity_task_poller_behavior=PollerBehaviorSimpleMaximum(_POLLERS),
    )


if __name__ == "__main__":
    process_exit.run(main)
