"""What processes use of which machine: CPU time and memory, as the operating system counts them."""

import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.figures import Computer, ProcessUse


def computer() -> Computer:
    """The machine that this runs on."""
    return Computer(
        cores=psutil.cpu_count() or 1,
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        processor=_processor(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def _processor() -> str:
    """The processor's own name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Account:
    """CPU seconds used so far by each process with its children, by this one, and by the whole machine (not idle).

    This process is the load generator: it stands for the clients of a shop.
    """

    at: float
    processes: Mapping[str, float]
    myself: float
    machine: float


def account(pids: Mapping[str, int]) -> Account:
    """The state of affairs now. A process that is gone is left out."""
    used: dict[str, float] = {}
    for name, pid in pids.items():
        with suppress(psutil.NoSuchProcess):
            used[name] = sum(_cpu(process) for process in _family(pid))
    times = psutil.cpu_times()
    busy = sum(times) - times.idle - getattr(times, "iowait", 0.0)
    # The guests' time is part of the user's already.
    busy -= getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return Account(at=time.monotonic(), processes=used, myself=time.process_time(), machine=busy)


def used_between(
    begin: Account,
    end: Account,
    pids: Mapping[str, int],
    runs: float,
    idle_percent: Mapping[str, float],
) -> tuple[dict[str, ProcessUse], float]:
    """What each process used per run of the load, and the share of all cores, in percent, that others used.

    What a process uses when there is nothing to do (``idle_percent`` of a core) is no run's cost, and taken off.
    """
    spent = {
        name: end.processes[name] - before
        for name, before in begin.processes.items()
        if name in end.processes
    }
    seconds = end.at - begin.at
    uses = {
        name: ProcessUse(
            cpu_ms_per_run=round(max(used - idle_percent.get(name, 0.0) / 100 * seconds, 0.0) * 1000 / runs, 2),
            rss_mb=round(_rss(pids[name]), 1),
        )
        for name, used in spent.items()
    }  # fmt: skip
    available = seconds * (psutil.cpu_count() or 1)
    ours = sum(spent.values()) + end.myself - begin.myself
    others = max(end.machine - begin.machine - ours, 0.0)
    return uses, round(100 * others / available, 1)


@dataclass
class Others:
    """What programs outside of this one and its children used in a ``with`` block, in percent of all cores."""

    percent: float = 0.0

    def __enter__(self) -> "Others":
        self._begin = account({"ours": os.getpid()})
        return self

    def __exit__(self, *_raised: object) -> None:
        begin, end = self._begin, account({"ours": os.getpid()})
        ours = end.processes["ours"] - begin.processes["ours"]
        available = (end.at - begin.at) * (psutil.cpu_count() or 1)
        self.percent = round(100 * max(end.machine - begin.machine - ours, 0.0) / available, 1)


def percent_of_a_core(begin: Account, end: Account) -> dict[str, float]:
    """What each process used between the two, in percent of one core."""
    return {
        name: round(100 * (end.processes[name] - before) / (end.at - begin.at), 1)
        for name, before in begin.processes.items()
        if name in end.processes
    }


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _cpu(process: psutil.Process) -> float:
    try:
        # A child that has ended is in its parent's account.
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def _rss(pid: int) -> float:
    """Resident MB of a process with its children; memory that they share is counted once where the system tells."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        family = _family(pid)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                shared = len(family) > 1
                total += _proportional(process) if shared else process.memory_info().rss
    return total / 1e6


def _proportional(process: psutil.Process) -> float:
    try:
        full = process.memory_full_info()
    except psutil.AccessDenied:
        return float(process.memory_info().rss)
    return float(getattr(full, "pss", process.memory_info().rss))
