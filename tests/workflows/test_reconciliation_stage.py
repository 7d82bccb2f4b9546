"""The reconciliation with everything real around it: running orders, killed workers, a provider in trouble."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from activities.adapters.neighbours import open_neighbours
from apps.simulators.faults import OFF, Fault, FaultKind, FaultScript
from models.money import Money
from models.reconciliation import Area, DifferenceKind, RunState
from models.states import OrderState
from tests.activities.shop import Shop
from tests.apps.simulators.running import NEIGHBOUR_TOKEN
from tests.builders import a_draft, gbp, order_id_of, skus_of, stocked
from tests.workflows.saboteur import Trouble, mark
from tests.workflows.stage import Stage, set_up

SABOTEUR = "tests.workflows.saboteur"
MOMENTS = {"before": Trouble.HOLD_BEFORE, "after": Trouble.HOLD_AFTER}
COMPARE = "reconciliation.compare_money"

pytestmark = pytest.mark.timeout(900)


class Played:
    """What the stage's story left behind, for each test to look at its part."""

    healthy: dict[Area, dict[str, Any]]
    killed: dict[str, dict[str, Any]]
    troubled: dict[str, Any]
    voids: list[Money | None]
    healed_entries: int
    open_tasks: list[str]
    open_kinds: list[str]


async def until(there: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 300
    while not there():
        assert time.monotonic() < deadline, f"waited for {what}"
        await asyncio.sleep(0.1)


async def start(stage: Stage, area: Area, name: str) -> str:
    answer = await stage.api.post("/v1/reconciliation/runs", json={"area": area, "request_id": name})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["run_id"])


async def ended(stage: Stage, run_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 300
    while True:
        answer = await stage.api.get(f"/v1/reconciliation/runs/{run_id}")
        if answer.status_code == 200 and answer.json()["state"] != RunState.RUNNING:
            found: dict[str, Any] = answer.json()
            return found
        assert time.monotonic() < deadline, f"{run_id} does not end: {answer.text}"
        await asyncio.sleep(0.2)


@asynccontextmanager
async def shop_on(stage: Stage) -> AsyncIterator[Shop]:
    urls = [stage.simulators[name].url for name in ("payment", "warehouse", "carrier", "messages")]
    async with open_neighbours(*urls, payment_token=NEIGHBOUR_TOKEN, carrier_token=NEIGHBOUR_TOKEN) as near:
        yield Shop(stage.store, near.payments, near.carrier)


@pytest.fixture(scope="module")
async def played(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Played:
    """Healthy orders first; then money that differs, three runs that are killed at it, and one with a bad line."""
    told, folder = Played(), tmp_path_factory.mktemp("stage")
    plan = {f"money:{moment}": {COMPARE: trouble} for moment, trouble in MOMENTS.items()}
    (folder / "plan.json").write_text(json.dumps(plan))
    async with set_up(folder, database_url) as stage, shop_on(stage) as shop:
        drafts = [a_draft() for _ in range(4)]
        await stocked(stage.store, north={sku: 100 for draft in drafts for sku in skus_of(draft)})
        async with stage.worker(SABOTEUR) as worker:
            for draft in drafts:
                await stage.submit(draft)
            # Once while they run, and once after.
            during = [await ended(stage, await start(stage, area, "during")) for area in Area]
            await _closed(stage, [order_id_of(draft) for draft in drafts])
            told.healthy = {area: await ended(stage, await start(stage, area, "after-all")) for area in Area}
            assert [run["left_open"] for run in during] == [0] * len(Area)

            over, _ = await shop.authorised()
            await shop.is_now(over, OrderState.CANCELLED)
            _, held = await shop.authorised()
            await shop.payments.capture(key="somebody", authorisation_id=held, amount=gbp(300))
            runs = {moment: await start(stage, Area.MONEY, moment) for moment in MOMENTS}
            for moment in MOMENTS:
                struck = mark(folder, "struck", f"money:{moment}", COMPARE)
                await until(struck.exists, f"the run to come to {moment}")
            worker.kill()
        for moment in MOMENTS:
            mark(folder, "let_go", f"money:{moment}", COMPARE).touch()
        async with stage.worker(SABOTEUR):
            told.killed = {moment: await ended(stage, run_id) for moment, run_id in runs.items()}
            stage.misbehave(
                FaultScript(
                    fault=(
                        Fault(do=FaultKind.STATUS, at="payment", endpoint="GET /statement/lines", times=2),
                        Fault(do=FaultKind.RESET_AFTER, at="payment", endpoint="GET /statement/lines"),
                    )
                )
            )
            told.troubled = await ended(stage, await start(stage, Area.MONEY, "troubled"))
            stage.misbehave(OFF)
        lines = (await shop.payments.statement(reference=over)).lines
        told.voids = [line.amount for line in lines if line.kind == "void"]
        told.healed_entries = len(await shop.timeline(over))
        tasks = await stage.rows("SELECT task_id FROM review_tasks WHERE state = 'open'")
        told.open_tasks = [task["task_id"] for task in tasks]
        listed = (await stage.api.get("/v1/reconciliation/differences")).json()
        told.open_kinds = [one["kind"] for one in listed["differences"]]
    return told


async def _closed(stage: Stage, order_ids: list[str]) -> None:
    deadline = time.monotonic() + 300
    while True:
        rows = await stage.rows(
            "SELECT order_id FROM orders WHERE state = 'closed' AND order_id = ANY (:ids)", ids=order_ids
        )
        if len(rows) == len(order_ids):
            return
        assert time.monotonic() < deadline, "the orders do not close"
        await asyncio.sleep(0.5)


async def test_a_healthy_shop_has_no_difference_while_orders_run_nor_after(played: Played) -> None:
    for area, run in played.healthy.items():
        assert (run["state"], run["differing"], run["left_open"]) == ("done", 0, 0), area
    assert played.healthy[Area.MONEY]["checked"] >= 8, "a hold and a capture for each of four orders"
    assert played.healthy[Area.LABELS]["checked"] >= 4
    assert played.healthy[Area.STOCK]["checked"] >= 4


async def test_runs_whose_worker_was_killed_in_the_middle_come_to_their_end(played: Played) -> None:
    assert {moment: run["state"] for moment, run in played.killed.items()} == dict.fromkeys(MOMENTS, "done")


async def test_what_is_mended_is_mended_once_whoever_dies_over_it(played: Played) -> None:
    assert played.voids == [gbp(1395)]
    assert played.healed_entries == 1


async def test_a_person_is_asked_once_however_many_runs_find_it(played: Played) -> None:
    assert len(played.open_tasks) == 1
    assert played.open_kinds == [DifferenceKind.THEIRS_ONLY]


async def test_a_statement_that_breaks_off_is_asked_for_again(played: Played) -> None:
    assert (played.troubled["state"], played.troubled["left_open"]) == ("done", 1)
