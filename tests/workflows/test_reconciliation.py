"""The reconciliation's workflow on the real engine: what it asks for, when it goes on, and how it ends."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from models import reconciliation as r
from models.base import Contract
from tests.replay.recording import commands, keep_runs
from tests.workflows.scripted import PLACED, Script
from workflows import steps


class Run:
    """One run under test, with what its steps answer."""

    def __init__(self, client: Client, area: r.Area) -> None:
        self.client = client
        self.area = area
        self.id = f"reconciliation:{area}:{uuid4().hex[:12]}"
        self.script = Script()
        self.script.answers |= {
            "begin_reconciliation": lambda _: r.Begun(since=PLACED),
            "read_payment_statement": self.pages("read_payment_statement", 3, r.StatementRead(lines=200)),
            "read_carrier_statement": self.pages("read_carrier_statement", 1, r.StatementRead(lines=1)),
            **{
                name: self.pages(name, 2, r.PieceCompared(tally=r.Tally(checked=10, differing=1, opened=1)))
                for name in ("compare_money", "compare_labels", "compare_reservations", "compare_stock")
            },
            "finish_reconciliation": lambda _: r.Finished(open=1),
        }

    @staticmethod
    def pages(name: str, count: int, answer: Contract) -> Callable[[Any], Contract]:
        """Answers for ``count`` pieces, each with the cursor of the next but for the last."""

        def piece(asked: Any) -> Contract:
            number = int(asked.cursor.partition("-")[2] or 1)
            cursor = f"{name}-{number + 1}" if number < count else None
            return answer.model_copy(update={"cursor": cursor})

        return piece

    async def start(self, given: Any = None) -> WorkflowHandle[Any, r.ReconciliationResult]:
        return await self.client.start_workflow(
            "ReconciliationWorkflow",
            given or r.ReconciliationRun(area=self.area),
            id=self.id,
            task_queue=steps.WORKFLOWS,
            result_type=r.ReconciliationResult,
            execution_timeout=timedelta(minutes=5),
        )

    def asked(self, name: str) -> list[Any]:
        return self.script.requests(name, self.id)


@pytest.fixture
async def of_area(
    client: Client, scripts: dict[str, Script], request: pytest.FixtureRequest
) -> AsyncIterator[Callable[[r.Area], Run]]:
    runs: dict[str, Run] = {}

    def a_run(area: r.Area) -> Run:
        run = Run(client, area)
        scripts[run.id] = run.script
        runs[f"reconciliation-{len(runs)}"] = run
        return run

    yield a_run
    if request.config.getoption("--record-histories"):
        await keep_runs(client, {name: run.id for name, run in runs.items()}, request.node.originalname)


async def test_reconciling_reads_all_of_the_statement_before_it_compares(
    of_area: Callable[[r.Area], Run],
) -> None:
    run = of_area(r.Area.MONEY)
    result = await (await run.start()).result()
    assert run.script.names(run.id) == [
        "begin_reconciliation",
        *["read_payment_statement"] * 3,
        *["compare_money"] * 2,
        "finish_reconciliation",
    ]
    assert [one.cursor for one in run.asked("compare_money")] == ["", "compare_money-2"]
    assert {one.since for one in run.asked("compare_money")} == {PLACED}
    assert (result.area, result.tally.checked, result.open) == (r.Area.MONEY, 20, 1)
    (finish,) = run.asked("finish_reconciliation")
    assert (finish.run_id, finish.tally.opened, finish.failure) == (run.id, 2, None)
    assert await commands(run.client, run.id) == [
        "activity begin_reconciliation",
        *["activity read_payment_statement"] * 3,
        *["activity compare_money"] * 2,
        "activity finish_reconciliation",
        "complete",
    ]


async def test_reconciling_stock_and_labels_compares_what_belongs_to_them(
    of_area: Callable[[r.Area], Run],
) -> None:
    stock, labels = of_area(r.Area.STOCK), of_area(r.Area.LABELS)
    await (await stock.start()).result()
    await (await labels.start()).result()
    assert stock.script.names(stock.id)[1:-1] == [*["compare_reservations"] * 2, *["compare_stock"] * 2]
    assert labels.script.names(labels.id)[1:-1] == ["read_carrier_statement", *["compare_labels"] * 2]


async def test_reconciling_with_half_a_statement_compares_nothing_and_says_why(
    of_area: Callable[[r.Area], Run],
) -> None:
    run = of_area(r.Area.MONEY)
    usual = run.script.answers["read_payment_statement"]

    def breaks_off(asked: r.ReadStatement) -> Contract:
        if asked.cursor:
            raise ApplicationError(
                "payment provider: GET /statement/lines was answered 401",
                type="neighbour_refused",
                non_retryable=True,
            )
        return usual(asked)

    run.script.answers["read_payment_statement"] = breaks_off
    handle = await run.start()
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "reconciliation_failed"
    assert "compare_money" not in run.script.names(run.id)
    (finish,) = run.asked("finish_reconciliation")
    assert "answered 401" in finish.failure


async def test_reconciling_continues_as_new_before_its_history_is_long_and_forgets_nothing(
    of_area: Callable[[r.Area], Run],
) -> None:
    run = of_area(r.Area.STOCK)
    pieces = 230
    run.script.answers["compare_reservations"] = Run.pages(
        "compare_reservations", pieces, r.PieceCompared(tally=r.Tally(checked=1))
    )
    handle = await run.start()
    result = await handle.result()
    assert result.tally.checked == pieces + 20
    assert len(run.asked("compare_reservations")) == pieces
    assert len(run.asked("begin_reconciliation")) == len(run.asked("finish_reconciliation")) == 1
    assert "continue as new" in await commands(run.client, run.id)


async def test_reconciling_what_is_no_area_fails_at_once_and_asks_for_nothing(
    of_area: Callable[[r.Area], Run],
) -> None:
    run = of_area(r.Area.MONEY)
    handle = await run.start({"area": "everything"})
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "refused"
    assert run.script.calls == []


async def test_reconciling_that_is_cancelled_in_temporal_is_noted_as_failed(
    of_area: Callable[[r.Area], Run],
) -> None:
    run = of_area(r.Area.MONEY)
    held = run.script.hold("compare_money")
    handle = await run.start()
    await run.script.reached["compare_money"].wait()
    await handle.cancel()
    await run.script.reached["finish_reconciliation"].wait()
    held.set()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    (finish,) = run.asked("finish_reconciliation")
    assert finish.failure == "it was cancelled in Temporal"
