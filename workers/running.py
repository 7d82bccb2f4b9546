"""A worker process: connects, serves its queues until told to stop, finishes what it has begun."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import MetricMeter
from temporalio.service import RPCError
from temporalio.worker import PollerBehaviorSimpleMaximum, Worker

from models.errors import InvalidDocument, NotReachable, Problem
from workers.client import connect
from workers.health import Check, answering
from workers.logging import get_logger
from workers.observing import Observing
from workers.registry import ACTIVITY_CLASSES, PROFILES, WORKFLOW_CLASSES, activity_methods, load
from workers.settings import Settings, get_settings
from workers.shared_code import share_code_of
from workers.telemetry import tracing, worker_runtime
from workers.versioning import worker_deployment
from workflows import steps

log = get_logger(__name__)

# What the steps of a queue call, by the setting that says where it is.
_NEIGHBOURS: Mapping[str, tuple[str, ...]] = {
    steps.PAYMENTS: ("payment_url",),
    steps.SHIPPING: ("warehouse_url", "carrier_url"),
    steps.NOTIFY_QUEUE: ("message_url",),
}
# Long enough for an attempt that is under way: no step may take longer (see workflows/steps.py).
_GRACE = timedelta(seconds=25)
_CACHED_WORKFLOWS = 500
# They share one interpreter: more at once only take turns, and each comes nearer to the two seconds after which it
# counts as a deadlock.
_WORKFLOW_TASKS_AT_ONCE = 8


async def serve(queues: Sequence[str], stopped: asyncio.Event, ready_file: Path | None = None) -> None:
    """Serve ``queues`` until ``stopped`` is set. ``ready_file`` is made once every queue is polled.

    Raises:
        InvalidDocument: a queue that does not exist, or a neighbour that its steps call and no setting names.
        NotReachable: no Temporal server.
        Refused: a port of the settings cannot be listened on.
    """
    settings = get_settings()
    _check(queues)
    _check_neighbours(queues, settings)
    # The log has these as fields of their own; see workers.logging.
    workflow.logger.workflow_info_on_message = activity.logger.activity_info_on_message = False
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(tracing("worker", settings))
        runtime = worker_runtime(settings)
        client = await connect(wait=30.0, runtime=runtime)
        activities, checks = await stack.enter_async_context(
            open_activities(queues, settings, runtime.metric_meter)
        )
        workers = [
            await stack.enter_async_context(_worker(client, queue, activities, settings)) for queue in queues
        ]
        checks |= {"temporal": lambda: _temporal_answers(client), "workers": lambda: _all_run(workers)}
        await stack.enter_async_context(answering(settings.monitoring_host, settings.health_port, checks))
        if ready_file is not None:
            await asyncio.to_thread(ready_file.touch)
        log.info("serving", queues=list(queues))
        await stopped.wait()
        log.info("stopping", queues=list(queues))


Activities = dict[str, list[Callable[..., Any]]]


async def _temporal_answers(client: Client) -> None:
    try:
        healthy = await client.service_client.check_health(timeout=timedelta(seconds=3))
    except RPCError as error:
        raise NotReachable(f"Temporal does not answer: {error.message}") from error
    if not healthy:
        raise NotReachable("Temporal answers, but says that it is not healthy")


async def _all_run(workers: Sequence[Worker]) -> None:
    stopped = [worker.task_queue for worker in workers if not worker.is_running]
    if stopped:
        raise NotReachable(f"nobody polls {', '.join(stopped)} any more")


def _check(queues: Sequence[str]) -> None:
    unknown = [queue for queue in queues if queue not in steps.QUEUES]
    if unknown or not queues:
        raise InvalidDocument(
            (
                Problem(
                    path="--queues",
                    code="unknown_queue",
                    message=f"{', '.join(unknown) or 'nothing'} is no task queue; there are {', '.join(steps.QUEUES)}",
                ),
            )
        )


def _check_neighbours(queues: Sequence[str], settings: Settings) -> None:
    """Told at the start: with an address that nobody gave, every order would hang in retries of a healthy worker."""
    missing = tuple(
        Problem(
            path=f"ORDERWRIGHT_{setting.upper()}",
            code="missing_setting",
            message=f"is not set: the steps of {queue} call what answers there",
        )
        for queue in queues
        for setting in _NEIGHBOURS.get(queue, ())
        if not getattr(settings, setting).strip()
    )
    if missing:
        raise InvalidDocument(missing)


@asynccontextmanager
async def _routing(
    queues: Sequence[str], settings: Settings, meter: MetricMeter
) -> AsyncIterator[tuple[tuple[Any, ...], dict[str, Check]]]:
    """The router, for a process that routes, and how to see that it does; both are ready."""
    if steps.ROUTING not in queues:
        yield (), {}
        return
    from activities.store import problems  # noqa: PLC0415

    await asyncio.to_thread(problems.warm_up)
    if settings.routing_processes == 0:
        yield (await asyncio.to_thread(_own_router),), {}
        return
    from workers.routing_pool import routing_pool  # noqa: PLC0415

    async with routing_pool(settings.routing_processes, meter=meter) as pool:
        yield (pool,), {"routing": pool.ping}


def _own_router() -> Any:
    """The optimiser in this process; its libraries take seconds and 200 MB that others do without."""
    from policies.routing.exact import ExactRouter  # noqa: PLC0415

    router = ExactRouter()
    router.warm_up()
    return router


@asynccontextmanager
async def open_activities(
    queues: Sequence[str], settings: Settings, meter: MetricMeter = MetricMeter.noop
) -> AsyncIterator[tuple[Activities, dict[str, Check]]]:
    """Build the activities of ``queues``, and open only what they need; with it, how to see that this answers."""
    wanted = [queue for queue in queues if queue in ACTIVITY_CLASSES]
    if not wanted:
        yield {}, {}
        return
    # Imported here, so that a process that only runs workflows carries neither SQLAlchemy nor httpx.
    from activities.adapters.neighbours import open_neighbours  # noqa: PLC0415
    from activities.notify import PayLinks, ReviewDesk  # noqa: PLC0415
    from activities.reconciliation import Terms  # noqa: PLC0415
    from activities.store.store import Store  # noqa: PLC0415

    store = Store.at(settings.database_url, pool_size=10, max_overflow=10)
    try:
        async with (
            open_neighbours(
                settings.payment_url,
                settings.warehouse_url,
                settings.carrier_url,
                settings.message_url,
                payment_token=settings.payment_token,
                carrier_token=settings.carrier_token,
            ) as near,
            _routing(wanted, settings, meter) as (router, routes),
        ):
            terms = Terms(
                grace=timedelta(seconds=settings.reconcile_grace_seconds),
                release_up_to_units=settings.reconcile_release_units,
                void_hold_up_to_minor=settings.reconcile_void_minor,
                void_labels=settings.reconcile_void_labels,
                write_down_answers=settings.reconcile_write_answers,
            )
            # What each class of the registry is made of, in the order in which a queue names them.
            needs: dict[str, tuple[tuple[Any, ...], ...]] = {
                steps.ORDERS: ((store,), (store,)),
                steps.INVENTORY: ((store,), (store, terms)),
                steps.PAYMENTS: ((store, near.payments), (store, near.payments, terms)),
                steps.ROUTING: ((store, *router), (store,)),
                steps.CLASSIFY: ((store,),),
                steps.SHIPPING: (
                    (store, near.warehouse, near.carrier),
                    (store, near.carrier, terms),
                ),
                steps.NOTIFY_QUEUE: (
                    (
                        store,
                        near.messages,
                        ReviewDesk(settings.reviewers, settings.escalation),
                        PayLinks(
                            settings.pay_link_base,
                            settings.pay_link_secret,
                            timedelta(hours=settings.pay_link_hours),
                        ),
                    ),
                ),
            }
            activities = {
                queue: [
                    method
                    for host, made_of in zip(ACTIVITY_CLASSES[queue], needs[queue], strict=True)
                    for method in activity_methods(load(host)(*made_of))
                ]
                for queue in wanted
            }
            yield activities, {"database": store.ping, **routes}
    finally:
        await store.close()


def _worker(client: Client, queue: str, activities: Activities, settings: Settings) -> Worker:
    if queue == steps.WORKFLOWS:
        share_code_of(name.partition(":")[0] for name in WORKFLOW_CLASSES)
        return Worker(
            client,
            task_queue=queue,
            workflows=[load(name) for name in WORKFLOW_CLASSES],
            deployment_config=worker_deployment(),
            max_cached_workflows=_CACHED_WORKFLOWS,
            max_concurrent_workflow_tasks=_WORKFLOW_TASKS_AT_ONCE,
            graceful_shutdown_timeout=_GRACE,
        )
    profile = PROFILES[queue]
    return Worker(
        client,
        task_queue=queue,
        activities=activities[queue],
        deployment_config=worker_deployment(),
        interceptors=[Observing()],
        max_concurrent_activities=_at_once(queue, settings),
        activity_task_poller_behavior=PollerBehaviorSimpleMaximum(profile.pollers),
        graceful_shutdown_timeout=_GRACE,
    )


def _at_once(queue: str, settings: Settings) -> int:
    """Of orders that are routed half are with the database; the other half is what the processes are there for."""
    at_once = PROFILES[queue].concurrent_activities
    return max(at_once, 2 * settings.routing_processes) if queue == steps.ROUTING else at_once
