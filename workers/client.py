"""How a process of ours gets a Temporal client: the SDK's own connection settings, our payload types."""

import asyncio

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig, ClientConnectConfig
from temporalio.runtime import Runtime
from temporalio.service import RPCError

from models.errors import NotReachable
from workers.telemetry import client_interceptors

DEFAULT_ADDRESS = "localhost:7233"


async def connect(
    address: str | None = None,
    namespace: str | None = None,
    *,
    from_environment: bool = True,
    runtime: Runtime | None = None,
    wait: float = 10.0,
) -> Client:
    """A client for the server that ``TEMPORAL_*`` variables or the chosen profile name.

    Args:
        address: ``host:port`` that overrides the environment, e.g. the published address of a stack.
        namespace: overrides the environment's namespace.
        from_environment: False ignores variables and profiles, so that nothing of them reaches another server.
        runtime: the SDK runtime, where a process configures telemetry.
        wait: seconds to keep trying before giving up.

    Raises:
        NotReachable: no answer within ``wait`` seconds, or settings that cannot be used.
    """
    config = _configured() if from_environment else ClientConnectConfig()
    if address:
        config["target_host"] = address
    if namespace:
        config["namespace"] = namespace
    target = config.setdefault("target_host", DEFAULT_ADDRESS)

    deadline = asyncio.get_running_loop().time() + wait
    while True:
        try:
            return await Client.connect(
                **config,
                data_converter=pydantic_data_converter,
                runtime=runtime,
                interceptors=client_interceptors(),
            )
        except (RuntimeError, RPCError) as refused:
            if asyncio.get_running_loop().time() >= deadline:
                raise NotReachable(
                    f"Temporal does not answer at {target}. Is the stack running (orderwright up), and is"
                    f" TEMPORAL_ADDRESS right? ({_first_line(refused)})"
                ) from refused
        await asyncio.sleep(0.2)


def configured_address() -> str:
    """The server's ``host:port`` by the environment or the chosen profile."""
    return _configured().get("target_host") or DEFAULT_ADDRESS


def configured_namespace() -> str:
    """The namespace by the environment or the chosen profile."""
    return _configured().get("namespace") or "default"


def _configured() -> ClientConnectConfig:
    try:
        return ClientConfig.load_client_connect_config()
    except (RuntimeError, ValueError) as unusable:
        raise NotReachable(f"the Temporal connection settings cannot be used: {unusable}") from unusable


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
