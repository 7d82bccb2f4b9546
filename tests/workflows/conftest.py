import re
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from temporalio.client import Client

from tests.replay.recording import FINGERPRINTS, fingerprint, keep
from tests.workflows.engine import Case, serving
from tests.workflows.scripted import Script
from workers.client import connect
from workers.embedded.namespace import reconcile_search_attributes
from workers.embedded.temporal import EmbeddedTemporal


@pytest.fixture(scope="package")
def engine_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedTemporal(
        tmp_path_factory.mktemp("engine"),
        in_memory=True,
        dynamic_config={"frontend.WorkflowTimeSkippingEnabled": "true"},
    ) as server:
        yield server.address


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def client(engine_address: str) -> Client:
    client = await connect(engine_address, "default", from_environment=False)
    await reconcile_search_attributes(client)
    return client


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def scripts(client: Client) -> AsyncIterator[dict[str, Script]]:
    """The scripts of the orders under test; one set of workers plays them all."""
    playing: dict[str, Script] = {}
    async with serving(client, playing):
        yield playing


@pytest.fixture
async def case(
    client: Client, scripts: dict[str, Script], request: pytest.FixtureRequest
) -> AsyncIterator[Case]:
    case = Case(client, Script())
    scripts[case.order_id] = case.script
    yield case
    for held in case.script.holds.values():
        held.set()
    name, recording = _file_name(request.node.name), request.config.getoption("--record-histories")
    if recording:
        await keep(client, case.order_id, name)
    if request.node.get_closest_marker("fingerprint"):
        file = FINGERPRINTS / f"{name}.txt"
        commanded = await fingerprint(client, case.order_id)
        if recording:
            file.write_text(commanded)
        assert file.is_file() and commanded == file.read_text(), (
            f"the workflows command something else than {file.name} says:\n{commanded}\n"
            "Old runs may not replay: docs/change-a-workflow.md says what to do."
        )


def _file_name(test: str) -> str:
    """``test_x[a-b]`` as ``test_x-a_b``: what stands before the first hyphen is the function."""
    function, _, parameters = test.partition("[")
    return f"{function}-{re.sub(r'[^a-z0-9]+', '_', parameters.rstrip(']'))}" if parameters else function
