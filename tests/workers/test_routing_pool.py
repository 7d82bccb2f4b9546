"""Routing in processes of its own, with real ones that are killed, hang, and are left alone."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
from structlog.testing import capture_logs
from temporalio.common import MetricMeter

from models.errors import NotReachable
from models.plan import Plan, Unfillable
from policies.routing.exact import ExactRouter
from policies.routing.problem import RoutingProblem
from policies.routing.router import CheapestNodeRouter
from policies.routing.weights import RoutingWeights
from tests.policies.test_router import a_node, a_problem, a_service
from tests.workers.processes import until
from workers.routing_pool import (
    LOST_PROCESSES,
    SIMPLE_PLANS,
    RoutingPool,
    RoutingPoolFailed,
    routing_pool,
)
from workers.running import open_activities
from workers.settings import REPOSITORY, Settings
from workflows import steps

OBEDIENT = "tests.workers.routers:Obedient"
PATIENT = 60.0


class Counted:
    """Stands for a meter: counts what is counted, by name and what is said of it."""

    def __init__(self) -> None:
        self.counts = Counter[tuple[str, str]]()

    def create_counter(self, name: str, _description: str) -> Any:
        return SimpleNamespace(add=lambda value, said: self.counts.update({(name, *said.values()): value}))


def told_to(deed: str, path: Path | str = "", **changes: object) -> RoutingProblem:
    problem = a_problem({"a": 2}, {("n1", "a"): 5, ("n2", "a"): 5}, order_id=f"web:{deed}:{path}", **changes)
    return problem.model_copy(update={"nodes": (a_node("n1", 300), a_node("n2", 200))})


def by_rule(problem: RoutingProblem, why: str) -> Plan | Unfillable:
    plan = CheapestNodeRouter().route(problem)
    assert isinstance(plan, Plan)
    return plan.model_copy(
        update={"reasons": (f"the optimiser failed ({why}): by a simple rule", *plan.reasons)}
    )


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def ready(pool: RoutingPool, processes: int = 1) -> None:
    await until(lambda: len(pool.pids) == processes, within=PATIENT, what="another process")


@pytest.fixture
async def pool() -> AsyncIterator[RoutingPool]:
    async with routing_pool(1, OBEDIENT, answer_seconds=1.0) as one:
        yield one
        pids = one.pids
    assert all(gone(pid) for pid in pids), "left running"


# --- answers ---
async def test_a_pool_decides_just_what_the_router_decides_in_this_process() -> None:
    drawn = random.Random(7)
    problems = [a_drawn_problem(drawn) for _ in range(40)]
    here = ExactRouter()
    here.warm_up()
    async with routing_pool(1) as pool:
        answers = [await pool.route(problem, within=PATIENT) for problem in problems]
    assert answers == [here.route(problem) for problem in problems]
    assert {type(answer) for answer in answers} == {Plan, Unfillable}


def a_drawn_problem(drawn: random.Random) -> RoutingProblem:
    skus = [f"s{number}" for number in range(drawn.randint(1, 6))]
    stock = {(f"n{node}", sku): drawn.randint(0, 9) for node in range(4) for sku in skus}
    services = (a_service(max_weight_g=1_500), a_service("express", base=900, days=1))
    demand = {sku: drawn.randint(1, 8) for sku in skus}
    # Enough time for all: a plan that time ran out on may be another one each time.
    return a_problem(demand, stock, services=services, weights=RoutingWeights(budget_seconds=5.0))


async def test_problems_are_solved_side_by_side(tmp_path: Path) -> None:
    async with routing_pool(2, OBEDIENT, answer_seconds=PATIENT) as pool:
        answers = await asyncio.gather(
            # Each is answered only once the other one is under way.
            *(pool.route(told_to("meet", tmp_path / name), within=PATIENT) for name in ("one", "other"))
        )
    assert answers == [CheapestNodeRouter().route(told_to("meet"))] * 2


async def test_what_the_router_raises_costs_the_best_plan_and_no_process(pool: RoutingPool) -> None:
    before = pool.pids
    problem = told_to("raise")
    answer = await pool.route(problem, within=PATIENT)
    assert answer == by_rule(problem, "ZeroDivisionError: by nothing")
    assert pool.pids == before


# --- processes that are lost ---
@pytest.mark.parametrize(("deed", "signalled"), [("die", "SIGKILL"), ("crash", "SIGSEGV")])
async def test_a_problem_that_ends_two_processes_is_routed_by_the_simple_rule_and_says_so(
    deed: str, signalled: str
) -> None:
    meter = Counted()
    problem = told_to(deed)
    with capture_logs() as lines:
        async with routing_pool(1, OBEDIENT, meter=cast(MetricMeter, meter)) as pool:
            answer = await pool.route(problem, within=PATIENT)
            await ready(pool)
            after = await pool.route(told_to("nothing"), within=PATIENT)
    assert answer == by_rule(problem, f"its process ended twice, by signal {signalled}")
    assert after == CheapestNodeRouter().route(told_to("nothing"))
    assert +meter.counts == {(LOST_PROCESSES, "ended"): 2, (SIMPLE_PLANS, "ended"): 1}
    lost = [line for line in lines if line["event"] == "routing process lost, starting another"]
    assert [(line["order_id"], line["ended"]) for line in lost] == [
        (problem.order_id, f"signal {signalled}")
    ] * 2
    (simple,) = [line for line in lines if line["event"] == "routed by the simple rule"]
    assert simple["order_id"] == problem.order_id


async def test_a_process_killed_in_the_middle_of_a_problem_is_replaced_and_the_problem_tried_again(
    pool: RoutingPool, tmp_path: Path
) -> None:
    problem = told_to("wait", tmp_path / "begun")
    routing = asyncio.create_task(pool.route(problem, within=PATIENT))
    await until((tmp_path / "begun").exists)
    (victim,) = pool.pids
    (tmp_path / "begun.go").touch()
    os.kill(victim, signal.SIGKILL)
    assert await routing == CheapestNodeRouter().route(problem)
    assert pool.pids != [victim]


async def test_an_idle_process_that_is_killed_is_replaced_before_anybody_needs_it(pool: RoutingPool) -> None:
    (victim,) = pool.pids
    os.kill(victim, signal.SIGKILL)
    await until(lambda: pool.pids not in ([], [victim]), within=PATIENT)
    assert await pool.route(told_to("nothing"), within=PATIENT) == CheapestNodeRouter().route(
        told_to("nothing")
    )


@pytest.mark.parametrize("deed", ["hang", "freeze"])
async def test_a_problem_without_an_answer_in_time_is_routed_by_the_simple_rule_and_says_so(
    pool: RoutingPool, tmp_path: Path, deed: str
) -> None:
    (hung,) = pool.pids
    problem = told_to(deed, tmp_path / "begun")
    assert await pool.route(problem, within=PATIENT) == by_rule(problem, "no answer within 1 s")
    assert gone(hung)
    await ready(pool)
    assert await pool.route(told_to("nothing"), within=PATIENT) == CheapestNodeRouter().route(
        told_to("nothing")
    )


async def test_others_have_their_answers_while_some_problems_end_every_process_they_are_given_to(
    tmp_path: Path,
) -> None:
    bad = [told_to("die"), told_to("hang", tmp_path / "begun"), told_to("crash")]
    good = [told_to("nothing", str(number)) for number in range(30)]
    async with routing_pool(2, OBEDIENT, answer_seconds=1.0) as pool:
        answers = await asyncio.gather(*(pool.route(one, within=PATIENT) for one in (*bad, *good)))
        await ready(pool, 2)
    assert all(answer.reasons[0].startswith("the optimiser failed") for answer in answers[: len(bad)])
    assert answers[len(bad) :] == [CheapestNodeRouter().route(one) for one in good]


async def test_without_a_free_process_in_time_the_simple_rule_routes(
    pool: RoutingPool, tmp_path: Path
) -> None:
    busy = asyncio.create_task(pool.route(told_to("hang", tmp_path / "begun"), within=PATIENT))
    await until((tmp_path / "begun").exists)
    problem = told_to("nothing")
    assert await pool.route(problem, within=0.2) == by_rule(
        problem, "no process was free for it within 0.2 s"
    )
    await busy


async def test_while_no_process_comes_up_any_more_orders_are_routed_and_the_worker_says_it_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERWRIGHT_TEST_CAME_UP", str(tmp_path / "came-up"))
    async with routing_pool(1, "tests.workers.routers:ComesUpOnce") as pool:
        await pool.ping()
        os.kill(pool.pids[0], signal.SIGKILL)
        await until(lambda: pool.pids == [])
        with pytest.raises(NotReachable, match="no routing process runs"):
            await pool.ping()
        problem = told_to("nothing")
        assert await pool.route(problem, within=0.5) == by_rule(
            problem, "no process was free for it within 0.5 s"
        )


# --- who asks, and who stops ---
async def test_whoever_is_cancelled_leaves_the_process_to_the_others(
    pool: RoutingPool, tmp_path: Path
) -> None:
    before = pool.pids
    given_up = asyncio.create_task(pool.route(told_to("wait", tmp_path / "begun"), within=PATIENT))
    await until((tmp_path / "begun").exists)
    waiting = asyncio.create_task(pool.route(told_to("die"), within=PATIENT))
    await asyncio.sleep(0)
    for task in (given_up, waiting):
        task.cancel()
    await asyncio.gather(given_up, waiting, return_exceptions=True)
    (tmp_path / "begun.go").touch()
    problem = told_to("nothing")
    # Nor is that tried which nobody waits for any more: it would have ended the process.
    assert await pool.route(problem, within=PATIENT) == CheapestNodeRouter().route(problem)
    assert pool.pids == before


async def test_a_signal_that_is_meant_for_the_worker_does_not_end_its_processes(
    pool: RoutingPool, tmp_path: Path
) -> None:
    before = pool.pids
    problem = told_to("wait", tmp_path / "begun")
    routing = asyncio.create_task(pool.route(problem, within=PATIENT))
    await until((tmp_path / "begun").exists)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(before[0], number)
    (tmp_path / "begun.go").touch()
    assert await routing == CheapestNodeRouter().route(problem)
    assert pool.pids == before


async def test_a_stop_ends_processes_that_are_in_the_middle_of_something(tmp_path: Path) -> None:
    async with routing_pool(2, OBEDIENT, answer_seconds=PATIENT) as pool:
        pids = pool.pids
        problem = told_to("hang", tmp_path / "begun")
        routing = asyncio.create_task(pool.route(problem, within=PATIENT))
        await until((tmp_path / "begun").exists)
    assert all(gone(pid) for pid in pids)
    assert (await routing).reasons[0] == "the optimiser failed (its process was given up): by a simple rule"


@pytest.mark.parametrize(
    ("router", "why"),
    [
        ("Unready", "ModuleNotFoundError: No module named 'ortools'"),
        ("DiesWhileLoading", r"it ended \(signal SIGKILL\)"),
    ],
)
async def test_a_pool_that_cannot_start_says_why_and_leaves_nothing_running(router: str, why: str) -> None:
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(RoutingPoolFailed, match=f"does not start: {why}.*ORDERWRIGHT_ROUTING_PROCESSES=0"):
        async with routing_pool(2, f"tests.workers.routers:{router}"):
            pass
    left = set(psutil.Process().children(recursive=True)) - before
    assert not left, left


# A worker in the middle of a problem, real or told, that says which processes it has.
_WORKER = """
import asyncio, sys
from tests.workers.test_routing_pool import a_hard_problem, told_to
from workers.logging import configure_logging
from workers.routing_pool import routing_pool

async def main(router, path):
    problem = a_hard_problem() if path is None else told_to("hang", path)
    async with routing_pool(2, router, answer_seconds=600.0) as pool:
        routing = asyncio.create_task(pool.route(problem, within=600.0))
        await asyncio.sleep(1.0)
        assert not routing.done(), routing
        print(*pool.pids, flush=True)
        await routing

configure_logging()
asyncio.run(main(sys.argv[1], *(sys.argv[2:] or [None])))
"""


def a_hard_problem() -> RoutingProblem:
    """One that the optimiser is busy with for minutes, if it may."""
    drawn = random.Random(3)
    services = [
        a_service(f"service-{number}", base=150 + 70 * number, max_weight_g=900 + 250 * number)
        for number in range(3)
    ]
    stepped = tuple(
        service.model_copy(
            update={"zones": tuple(zone.model_copy(update={"weight_step_g": 700}) for zone in service.zones)}
        )
        for service in services
    )
    stock = {
        (f"n{node}", f"s{sku}"): drawn.randint(0, 9) * drawn.randint(0, 1)
        for node in range(12)
        for sku in range(40)
    }
    demand = {f"s{sku}": drawn.randint(3, 12) for sku in range(40)}
    for sku, units in demand.items():
        stock["n0", sku] = units
    return a_problem(demand, stock, services=stepped, weights=RoutingWeights(budget_seconds=300.0))


@pytest.mark.parametrize("hard", [False, True], ids=["python", "optimiser"])
def test_nothing_is_left_of_a_worker_that_is_killed(hard: bool, tmp_path: Path) -> None:
    told = ["policies.routing.exact:ExactRouter"] if hard else [OBEDIENT, str(tmp_path / "begun")]
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER, *told], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    with worker:
        assert worker.stdout is not None
        pids = [int(pid) for pid in worker.stdout.readline().split()]
        assert len(pids) == 2
        assert not any(gone(pid) for pid in pids)
        worker.kill()
    deadline = time.monotonic() + 20
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline, f"{pids} outlive their worker"
        time.sleep(0.05)


# --- the worker ---
async def test_a_worker_routes_in_processes_unless_told_otherwise() -> None:
    async with open_activities([steps.ROUTING], Settings(routing_processes=1)) as (_, checks):
        assert list(checks) == ["database", "routing"]
        await checks["routing"]()
    async with open_activities([steps.ROUTING], Settings(routing_processes=0)) as (_, checks):
        assert list(checks) == ["database"]


def test_a_worker_with_processes_loads_no_optimiser_itself() -> None:
    program = (
        "import asyncio, sys\n"
        "from workers.logging import configure_logging\n"
        "from workers.running import open_activities\n"
        "from workers.settings import Settings\n"
        "from workflows import steps\n"
        "async def main():\n"
        "    async with open_activities([steps.ROUTING, steps.CLASSIFY], Settings(routing_processes=1)):\n"
        "        print(*sorted({'ortools', 'numpy', 'pandas', 'numba'} & sys.modules.keys()))\n"
        "        print('holidays' in sys.modules)\n"
        "configure_logging()\n"
        "asyncio.run(main())"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert said == ["", "True"]
