import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, DescribeWorkerDeploymentRequest
from temporalio.client import Client

from models.errors import NotReachable
from models.search import SEARCH_ATTRIBUTES
from tests.workers.conftest import processes_of
from workers.client import connect
from workers.embedded import namespace
from workers.embedded.ports import accepts, any_port
from workers.embedded.temporal import EmbeddedTemporal
from workers.versioning import DEPLOYMENT_NAME


async def client_of(temporal: EmbeddedTemporal) -> Client:
    return await connect(temporal.address, from_environment=False)


async def custom_attributes(client: Client) -> set[str]:
    listed = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    return set(listed.custom_attributes)


async def test_it_serves_its_web_ui_and_leaves_nothing_running(data_dir: Path) -> None:
    async with EmbeddedTemporal(data_dir, ui_port=0) as temporal:
        assert temporal.answers()
        assert temporal.ui_port is not None
        assert accepts(temporal.ui_port)

    assert processes_of(data_dir) == []


async def test_what_a_namespace_needs_is_there_also_on_a_file_that_existed_and_after_a_kill(
    data_dir: Path,
) -> None:
    temporal = EmbeddedTemporal(data_dir)
    temporal.start()
    client = await client_of(temporal)
    assert await namespace.reconcile_search_attributes(client, {"OwOlder": "Keyword"}) == ["OwOlder"]
    assert temporal.pid is not None
    os.kill(temporal.pid, signal.SIGKILL)
    temporal.stop()

    async with EmbeddedTemporal(data_dir) as again:
        client = await client_of(again)
        assert await namespace.reconcile_search_attributes(client) == sorted(SEARCH_ATTRIBUTES)
        assert await namespace.reconcile_search_attributes(client) == []
        assert await custom_attributes(client) >= {"OwOlder", *SEARCH_ATTRIBUTES}

        await namespace.keep_for(client)
        described = await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace="default")
        )
        assert described.config.workflow_execution_retention_ttl.ToTimedelta() == timedelta(days=30)


async def test_a_build_is_made_current_before_any_worker_polls_and_the_next_one_after_it(
    data_dir: Path,
) -> None:
    async with EmbeddedTemporal(data_dir, in_memory=True) as temporal:
        client = await client_of(temporal)
        for build_id in ("one", "one", "two"):
            await namespace.make_current(client, build_id)
            described = await client.workflow_service.describe_worker_deployment(
                DescribeWorkerDeploymentRequest(namespace="default", deployment_name=DEPLOYMENT_NAME)
            )
            current = described.worker_deployment_info.routing_config.current_deployment_version
            assert current.build_id == build_id


async def test_an_attribute_of_another_type_is_refused_by_name(data_dir: Path) -> None:
    async with EmbeddedTemporal(data_dir, in_memory=True) as temporal:
        client = await client_of(temporal)
        await namespace.reconcile_search_attributes(client, {"OwThing": "Keyword"})
        with pytest.raises(NotReachable, match="OwThing"):
            await namespace.reconcile_search_attributes(client, {"OwThing": "Int"})


async def test_a_server_that_does_not_answer_is_named_in_the_error() -> None:
    address = f"127.0.0.1:{any_port()}"
    with pytest.raises(NotReachable, match=f"Temporal does not answer at {address}"):
        await connect(address, from_environment=False, wait=0.2)
