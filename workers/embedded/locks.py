"""One live stack per data directory.

The lock is an ``flock`` on an open file that every child inherits, so it stays held until the last of them is gone,
even when the supervisor was killed. Who holds it is written into the file: while that supervisor lives, a second one
is refused; when it is dead, what it left behind is ended first.
"""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from pydantic import ValidationError

from models.errors import Refused
from workers.embedded.identity import ProcessIdentity, processes_with_open

_LOCK = "stack.lock"
_STARTING = "starting.lock"
_WAIT_SECONDS = 20.0


class DataDirectoryHeld(Refused):
    """Another live stack works on the data directory."""

    code = "data_directory_held"


class DataDirectoryLock:
    """Held from before the first child starts until after the last has ended. ``fd`` is for the children."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    def release(self) -> None:
        """Give the directory free. Children that still live keep it held."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def hold(
    data_dir: Path, *, end_orphans: Callable[[], object], describe: Callable[[], str] = lambda: ""
) -> DataDirectoryLock:
    """Take the lock of ``data_dir``, ending first what a killed supervisor left behind.

    Args:
        data_dir: an existing directory.
        end_orphans: ends the recorded children of the last supervisor; called only when that supervisor is dead.
        describe: says where the live stack is reached, for the message to the person who is refused.

    Raises:
        DataDirectoryHeld: a live stack has it, or processes that cannot be ended from here.
    """
    path = data_dir / _LOCK
    # Of two that start at once only one may judge who is an orphan: the other would see the winner as one.
    with (data_dir / _STARTING).open("w") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _try_lock(fd):
                holder = live_holder(data_dir)
                if holder is not None:
                    raise DataDirectoryHeld(_refusal(data_dir, f"pid {holder.pid}", describe()))
                end_orphans()
                _end_unrecorded(path)
                _wait_for_lock(fd, data_dir)
            os.ftruncate(fd, 0)
            os.write(fd, ProcessIdentity.of(os.getpid()).model_dump_json().encode())
        except BaseException:
            os.close(fd)
            raise
    return DataDirectoryLock(path, fd)


def live_holder(data_dir: Path) -> ProcessIdentity | None:
    """The supervisor that works on ``data_dir`` now, or None. Does not touch the lock itself."""
    try:
        holder = ProcessIdentity.model_validate_json((data_dir / _LOCK).read_bytes())
    except (OSError, ValidationError):
        return None
    return holder if holder.process() is not None else None


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end_unrecorded(path: Path) -> None:
    """End who still holds the lock file open: started in the instant before its supervisor could record it."""
    holders = processes_with_open(path)
    for process in holders:
        _quietly(process.terminate)
    _, alive = psutil.wait_procs(holders, timeout=5)
    for process in alive:
        _quietly(process.kill)


def _quietly(end: Callable[[], None]) -> None:
    try:
        end()
    except psutil.Error:
        return  # already gone, or not ours to end: the lock will tell


def _wait_for_lock(fd: int, data_dir: Path) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while not _try_lock(fd):
        if time.monotonic() >= deadline:
            who = ", ".join(str(p.pid) for p in processes_with_open(data_dir / _LOCK))
            raise DataDirectoryHeld(
                _refusal(data_dir, f"pid {who}" if who else "not visible from here: another container?", "")
            )
        time.sleep(0.05)


def _refusal(data_dir: Path, who: str, where: str) -> str:
    reached = f" It is reached at {where}." if where else ""
    return (
        f"the data directory {data_dir} is in use by a running stack ({who}).{reached}"
        " Stop that one first, or choose another directory with --data-dir."
    )
