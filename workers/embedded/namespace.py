"""What a Temporal namespace needs before the first workflow: search attributes, retention, the current version."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.namespace.v1 import NamespaceConfig
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    RegisterNamespaceRequest,
    SetWorkerDeploymentCurrentVersionRequest,
    UpdateNamespaceRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from models.errors import NotReachable
from models.search import SEARCH_ATTRIBUTES
from workers.schedules import schedule_reconciliation, schedule_stock_values
from workers.versioning import DEPLOYMENT_NAME

# How long closed runs stay visible. Deduplication never relies on it: the intake table remembers for good.
RETENTION = timedelta(days=30)

_TYPES: Mapping[str, IndexedValueType.ValueType] = {
    "Text": IndexedValueType.INDEXED_VALUE_TYPE_TEXT,
    "Keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "Int": IndexedValueType.INDEXED_VALUE_TYPE_INT,
    "Double": IndexedValueType.INDEXED_VALUE_TYPE_DOUBLE,
    "Bool": IndexedValueType.INDEXED_VALUE_TYPE_BOOL,
    "Datetime": IndexedValueType.INDEXED_VALUE_TYPE_DATETIME,
    "KeywordList": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD_LIST,
}


_PASSING = {
    RPCStatusCode.CANCELLED,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.RESOURCE_EXHAUSTED,
    RPCStatusCode.ABORTED,
    RPCStatusCode.INTERNAL,
}


async def create_if_missing(client: Client, *, patience: float = 60.0) -> bool:
    """Register the client's namespace unless it exists, and wait until the server knows it; whether it was missing.

    A server of one's own starts without any namespace. A hosted one may refuse: then its administrator makes it.

    Raises:
        NotReachable: the server refused, or kept failing for ``patience`` seconds.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience
    missing = False
    while True:
        try:
            if await _exists(client):
                return missing
            if not missing:
                await _register(client)
            missing = True
        except RPCError as failed:
            if failed.status not in _PASSING or clock() >= deadline:
                raise NotReachable(
                    f"the Temporal namespace {client.namespace!r} is missing and could not be created"
                    f" ({failed.message}): let its administrator create it"
                ) from failed
        if clock() >= deadline:
            raise NotReachable(
                f"Temporal does not know its new namespace {client.namespace!r} yet: try again"
            )
        await asyncio.sleep(0.5)


async def _exists(client: Client) -> bool:
    try:
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except RPCError as failed:
        if failed.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


async def _register(client: Client) -> None:
    try:
        await client.workflow_service.register_namespace(
            RegisterNamespaceRequest(
                namespace=client.namespace,
                description="Orderwright: orders, one workflow each",
                workflow_execution_retention_period=_duration(RETENTION),
            )
        )
    except RPCError as failed:
        if failed.status is not RPCStatusCode.ALREADY_EXISTS:  # somebody else was as quick
            raise


async def prepare(
    client: Client,
    build_id: str,
    *,
    ours: bool,
    patience: float = 60.0,
    reconcile_every: timedelta | None = None,
    values_every: timedelta | None = None,
) -> None:
    """Do all of the below, again while a server that has only just come up stumbles.

    Args:
        client: connected to the namespace.
        build_id: the build whose workers are about to start.
        ours: whether we made the namespace, so that its retention is ours to set.
        patience: seconds after which a failure is final.
        reconcile_every: how often the reconciliation runs by itself, zero for never; None leaves that as it is.
        values_every: the same of the values of stock.

    Raises:
        NotReachable: the server refused, or kept failing.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience
    # Each part of a server learns of a new namespace in its own time; a wrong name of somebody else's stays wrong.
    passing = _PASSING | {RPCStatusCode.NOT_FOUND} if ours else _PASSING
    while True:
        try:
            await reconcile_search_attributes(client)
            if ours:
                await keep_for(client)
            await make_current(client, build_id)
            if reconcile_every is not None:
                await schedule_reconciliation(client, reconcile_every)
            if values_every is not None:
                await schedule_stock_values(client, values_every)
        except RPCError as failed:
            if failed.status not in passing or clock() >= deadline:
                raise NotReachable(
                    f"the Temporal namespace {client.namespace!r} could not be prepared: {failed.message}"
                ) from failed
            await asyncio.sleep(0.5)
        else:
            return


async def reconcile_search_attributes(
    client: Client, wanted: Mapping[str, str] = SEARCH_ATTRIBUTES
) -> list[str]:
    """Create the search attributes that are missing and give their names.

    ``wanted`` maps a name to Temporal's type name. A start that sets an unregistered attribute is refused, and the
    dev server ignores attributes on its command line once its file exists: so they are compared, not assumed.

    Raises:
        NotReachable: an attribute exists with another type, or may not be created by this client.
    """
    listed = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    existing = dict(listed.custom_attributes)
    clashes = [name for name, kind in wanted.items() if name in existing and existing[name] != _TYPES[kind]]
    if clashes:
        raise NotReachable(
            f"the Temporal namespace {client.namespace!r} has search attributes of another type than ours:"
            f" {', '.join(sorted(clashes))}. Remove them, or use another namespace"
        )
    missing = {name: _TYPES[kind] for name, kind in wanted.items() if name not in existing}
    if missing:
        try:
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing)
            )
        except RPCError as refused:
            if refused.status in _PASSING:
                raise
            raise NotReachable(
                f"the search attributes {', '.join(sorted(missing))} are missing in the Temporal namespace"
                f" {client.namespace!r} and could not be created ({refused.message}):"
                " let its administrator create them"
            ) from refused
    return sorted(missing)


async def keep_for(client: Client, retention: timedelta = RETENTION) -> None:
    """Set how long closed runs are kept in the client's namespace."""
    described = await client.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace=client.namespace)
    )
    if described.config.workflow_execution_retention_ttl.ToTimedelta() == retention:
        return
    await client.workflow_service.update_namespace(
        UpdateNamespaceRequest(
            namespace=client.namespace,
            config=NamespaceConfig(workflow_execution_retention_ttl=_duration(retention)),
        )
    )


def _duration(time: timedelta) -> Duration:
    made = Duration()
    made.FromTimedelta(time)
    return made


async def make_current(client: Client, build_id: str) -> None:
    """Route new and running workflows to ``build_id``, before any worker of it polls.

    Without a current version no versioned worker is given a task and workflows wait for ever.
    """
    try:
        await client.workflow_service.set_worker_deployment_current_version(
            SetWorkerDeploymentCurrentVersionRequest(
                namespace=client.namespace,
                deployment_name=DEPLOYMENT_NAME,
                build_id=build_id,
                identity="orderwright-stack",
                ignore_missing_task_queues=True,
                allow_no_pollers=True,
            )
        )
    except RPCError as refused:
        if refused.status == RPCStatusCode.ALREADY_EXISTS:
            return
        raise
