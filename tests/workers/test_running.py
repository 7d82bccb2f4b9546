"""What a worker process gives its activities to work with."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from itertools import chain

import pytest
from pydantic import ValidationError

from activities.notify import NotifyActivities, PayLinks, ReviewDesk
from models.errors import InvalidDocument
from workers.running import open_activities, serve
from workers.settings import REPOSITORY, Settings, get_settings
from workflows import steps

NEIGHBOURS = {
    steps.PAYMENTS: ["ORDERWRIGHT_PAYMENT_URL"],
    steps.SHIPPING: ["ORDERWRIGHT_WAREHOUSE_URL", "ORDERWRIGHT_CARRIER_URL"],
    steps.NOTIFY_QUEUE: ["ORDERWRIGHT_MESSAGE_URL"],
}


@pytest.fixture
def nobody_named(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As Compose passes on empty lines of an environment file."""
    for variable in chain.from_iterable(NEIGHBOURS.values()):
        monkeypatch.setenv(variable, "")
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.mark.usefixtures("nobody_named")
@pytest.mark.parametrize("queue", NEIGHBOURS)
async def test_a_worker_does_not_start_without_the_addresses_that_its_steps_call(queue: str) -> None:
    with pytest.raises(InvalidDocument) as refused:
        await serve([steps.ORDERS, queue], asyncio.Event())
    assert [problem.path for problem in refused.value.problems] == NEIGHBOURS[queue]


@pytest.mark.usefixtures("nobody_named")
def test_a_missing_address_is_a_setting_to_mend_and_named() -> None:
    started = subprocess.run(
        [sys.executable, "-m", "apps.cli", "worker", "run", "--queues", ",".join(steps.QUEUES)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert started.returncode == 2, started.stderr
    for queue, variables in NEIGHBOURS.items():
        for variable in variables:
            assert f"{variable}: is not set: the steps of {queue}" in started.stderr


@pytest.mark.parametrize(
    "command",
    [("apps.cli", "worker", "run", "--queues", steps.NOTIFY_QUEUE), ("apps.api",), ("workers.prepare",)],
)
def test_a_misspelt_level_of_logging_is_a_setting_to_mend_and_named(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERWRIGHT_LOG_LEVEL", "INFOO")
    started = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert started.returncode == 2, started.stderr
    assert "ORDERWRIGHT_LOG_LEVEL" in started.stderr
    assert "is no level of logging" in started.stderr
    assert "Traceback" not in started.stderr


@pytest.mark.parametrize("level", ["debug", " WARNING ", "Critical"])
def test_a_level_of_logging_is_read_in_any_case(level: str) -> None:
    assert Settings(log_level=level).log_level == level.strip().upper()


@pytest.mark.parametrize(("cores", "processes"), [(1, 1), (2, 1), (3, 1), (6, 3), (64, 4)])
def test_routing_has_half_of_the_cores_unless_told_otherwise(
    cores: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(cores)), raising=False)
    assert Settings().routing_processes == processes
    monkeypatch.setenv("ORDERWRIGHT_ROUTING_PROCESSES", "0")
    assert Settings().routing_processes == 0
    monkeypatch.setenv("ORDERWRIGHT_ROUTING_PROCESSES", "-1")
    with pytest.raises(ValidationError, match="routing_processes"):
        Settings()


async def test_reminders_and_escalations_go_where_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERWRIGHT_REVIEWERS", "#reviews")
    monkeypatch.setenv("ORDERWRIGHT_ESCALATION", "dana@shop.test")
    async with open_activities([steps.NOTIFY_QUEUE], Settings()) as (activities, _):
        (notify,) = activities[steps.NOTIFY_QUEUE]
        told = getattr(notify, "__self__", None)
        assert isinstance(told, NotifyActivities)
        assert told._desk == ReviewDesk(reviewers="#reviews", escalation="dana@shop.test")


async def test_pay_links_lead_where_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERWRIGHT_PAY_LINK", "https://shop.test/pay?token=")
    monkeypatch.setenv("ORDERWRIGHT_PAY_LINK_SECRET", "a-secret")
    monkeypatch.setenv("ORDERWRIGHT_PAY_LINK_HOURS", "24")
    async with open_activities([steps.NOTIFY_QUEUE], Settings()) as (activities, _):
        (notify,) = activities[steps.NOTIFY_QUEUE]
        told = getattr(notify, "__self__", None)
        assert isinstance(told, NotifyActivities)
        assert told._pay_links == PayLinks("https://shop.test/pay?token=", "a-secret", timedelta(hours=24))


def test_a_pay_link_leads_to_our_own_api_unless_told_otherwise() -> None:
    assert Settings(api_port=8099).pay_link_base == "http://127.0.0.1:8099/v1/pay/"
    with pytest.raises(ValidationError, match="add a token to"):
        Settings(pay_link="shop.test/pay")
