"""What a stack would start and how, without starting it."""

from pathlib import Path

from workers.embedded.children import Child
from workers.embedded.stack import SIMULATORS, Stack, StackOptions


class Recording:
    """Stands where the supervisor is, and keeps what it was given to start."""

    def __init__(self) -> None:
        self.children: dict[str, Child] = {}

    async def start(self, child: Child) -> None:
        self.children[child.name] = child


async def simulators_of(data_dir: Path) -> dict[str, tuple[str, ...]]:
    stack, recording = Stack(StackOptions(data_dir=data_dir)), Recording()
    stack._supervisor = recording  # type: ignore[assignment]
    plan = stack._plan()
    for name, url in plan.simulators.items():
        await stack._start_simulator(name, url, plan, {})
    return {name: tuple(child.argv) for name, child in recording.children.items()}


async def test_every_simulator_is_told_where_to_call_back_and_the_payment_provider_to_do_so(
    data_dir: Path,
) -> None:
    started = await simulators_of(data_dir)
    assert set(started) == set(SIMULATORS)
    for name, argv in started.items():
        assert argv[argv.index("--webhook-url") + 1].endswith(f"/v1/webhooks/{name}")
    assert [name for name, argv in started.items() if "--notify" in argv] == ["payment"]
