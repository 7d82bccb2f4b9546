"""What a stack would start and how, without starting it."""

import json
from pathlib import Path

import psycopg.conninfo
import pytest

from workers.embedded.children import Child
from workers.embedded.published import PublishedStack, load_secrets
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
    stack._supervisor = None
    await stack.stop()
    return {name: tuple(child.argv) for name, child in recording.children.items()}


async def test_every_simulator_is_told_where_to_call_back_and_the_payment_provider_to_do_so(
    data_dir: Path,
) -> None:
    started = await simulators_of(data_dir)
    assert set(started) == set(SIMULATORS)
    for name, argv in started.items():
        assert argv[argv.index("--webhook-url") + 1].endswith(f"/v1/webhooks/{name}")
    assert [name for name, argv in started.items() if "--notify" in argv] == ["payment"]


async def test_two_stacks_that_choose_their_ports_before_either_serves_choose_different_ones(
    data_dir: Path,
) -> None:
    stacks = [Stack(StackOptions(data_dir=data_dir / name)) for name in ("one", "other")]
    for stack in stacks:
        stack._make_data_dir()
    one, other = (ports_of(stack._plan()) for stack in stacks)
    for stack in stacks:
        await stack.stop()

    assert len(one) == len(other) == len(SIMULATORS) + 3
    assert one.isdisjoint(other)


def ports_of(plan: PublishedStack) -> set[int]:
    addresses = [plan.api_url, plan.temporal_address, plan.temporal_ui_url or "", *plan.simulators.values()]
    return {int(address.rpartition(":")[2]) for address in addresses}


@pytest.mark.parametrize(
    ("database_url", "shown", "host"),
    [
        (
            "postgresql+psycopg://postgres@/orderwright?host=/tmp/ow/postgres&port=5432",
            "postgresql://postgres@/orderwright?host=/tmp/ow/postgres&port=5432",
            "/tmp/ow/postgres",
        ),
        ("postgresql+psycopg://me:p%40w@db.test:6543/oms", "postgresql://me@db.test:6543/oms", "db.test"),
        ("postgresql+psycopg://db.test/oms", "postgresql://db.test/oms", "db.test"),
    ],
)
async def test_the_database_is_shown_as_psql_takes_it_and_without_a_password(
    data_dir: Path, database_url: str, shown: str, host: str
) -> None:
    stack = Stack(StackOptions(data_dir=data_dir))
    stack.published = stack._plan().model_copy(update={"database_url": database_url})
    assert stack.urls["PostgreSQL"] == shown
    await stack.stop()
    assert psycopg.conninfo.conninfo_to_dict(shown)["host"] == host


def test_a_secret_that_a_version_before_did_not_have_is_made_once(data_dir: Path) -> None:
    before = load_secrets(data_dir)
    file = data_dir / "secrets.json"
    kept = json.loads(file.read_bytes())
    del kept["pay_link_secret"]
    file.write_text(json.dumps(kept))
    after = load_secrets(data_dir)
    assert (after.api_token, after.webhook_secret) == (before.api_token, before.webhook_secret)
    assert after.pay_link_secret != before.pay_link_secret
    assert load_secrets(data_dir) == after
    assert file.stat().st_mode & 0o077 == 0
