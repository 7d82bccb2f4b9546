"""A child process: how to start it, when it is ready, how to end it; and the record by which it is found again."""

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pydantic import BaseModel, TypeAdapter, ValidationError

from models.errors import OrderwrightError
from workers.embedded.identity import ProcessIdentity

_KEEP_LOG_BYTES = 10_000_000
_TAIL_BYTES = 1_500
_FIRST_POLL_SECONDS = 0.02
_LONGEST_POLL_SECONDS = 0.25


class ChildFailed(OrderwrightError):
    """A child process ended, or did not become ready in time. The message carries the end of its log."""

    code = "child_failed"
    http_status = 503


@dataclass(frozen=True)
class Child:
    """One process of the stack.

    Attributes:
        name: unique in a stack; also names its log.
        argv: program and arguments.
        log: the file that takes its stdout and stderr.
        env: its whole environment.
        ready: answers whether it serves; None means ready once started. May block for a second, may not raise.
        prepare: run before each start, also before a restart, e.g. to remove a stale ready file.
        user: the user it runs as, when we are root.
        stop_signal: what asks it to end; after ``grace`` seconds it is killed.
        ready_within: seconds it may take to become ready. Generous: it bounds a hang, and a busy machine is slow.
    """

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    cwd: Path = Path("/")
    ready: Callable[[], bool] | None = None
    prepare: Callable[[], None] | None = None
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 10.0
    ready_within: float = 180.0


def spawn(child: Child, *, lock_fd: int | None = None) -> subprocess.Popen[bytes]:
    """Start ``child`` in a session of its own, so that a Ctrl-C at the terminal reaches only us."""
    if child.prepare:
        child.prepare()
    child.log.parent.mkdir(parents=True, exist_ok=True)
    account = _account(child.user)
    with child.log.open("ab") as log:
        try:
            return subprocess.Popen(
                list(child.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=child.cwd,
                env=dict(child.env),
                start_new_session=True,
                pass_fds=() if lock_fd is None else (lock_fd,),
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
            )
        except OSError as refused:
            raise ChildFailed(f"{child.name} could not be started: {refused}") from refused


def start_and_wait(child: Child) -> subprocess.Popen[bytes]:
    """Start ``child`` and block until it is ready.

    Raises:
        ChildFailed: it ended first, or took too long; it is not left running.
    """
    process = spawn(child)
    deadline = time.monotonic() + child.ready_within
    pauses = poll_pauses()
    try:
        while not (child.ready is None or child.ready()):
            check_starting(child, process, deadline)
            time.sleep(next(pauses))
    except BaseException:
        end(process, signal.SIGKILL, 5.0)
        raise
    return process


def poll_pauses() -> Iterator[float]:
    """Seconds between looks at a starting child: short at first, longer for one that takes its time."""
    pause = _FIRST_POLL_SECONDS
    while True:
        yield pause
        pause = min(pause * 1.3, _LONGEST_POLL_SECONDS)


def check_starting(child: Child, process: subprocess.Popen[bytes], deadline: float) -> None:
    """Raise ``ChildFailed`` if a starting child ended or is past its ``deadline`` (monotonic seconds)."""
    code = process.poll()
    if code is not None:
        raise ChildFailed(f"{child.name} ended while starting ({_ended_how(code)}).{log_tail(child.log)}")
    if time.monotonic() > deadline:
        raise ChildFailed(
            f"{child.name} was not ready after {child.ready_within:.0f} s.{log_tail(child.log)}"
        )


def end(process: subprocess.Popen[bytes], stop_signal: signal.Signals, grace: float) -> None:
    """Ask the process to end, kill it and its process group after ``grace`` seconds, and reap it."""
    if process.poll() is None:
        _signal(process.pid, stop_signal)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            kill_group(process.pid)
    process.wait()


def kill_group(pid: int) -> None:
    """Kill the process group that ``pid`` leads."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        _signal(pid, signal.SIGKILL)


def log_tail(log: Path) -> str:
    """The end of a log as an indented block for an error message, or a pointer to the empty file."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _TAIL_BYTES))
            lines = stream.read().decode(errors="replace").strip().splitlines()[-12:]
    except OSError:
        lines = []
    return f" Its log is {log}" + (":\n  " + "\n  ".join(lines) if lines else " (empty).")


def rotate_log(log: Path) -> None:
    """Keep one older log beside a log that has grown large."""
    if log.exists() and log.stat().st_size > _KEEP_LOG_BYTES:
        log.replace(log.with_suffix(log.suffix + ".1"))


class ChildRecord(BaseModel):
    """What is written down about a running child."""

    name: str
    identity: ProcessIdentity
    stop_signal: int


_RECORDS = TypeAdapter(list[ChildRecord])


class ChildRecords:
    """The running children in start order, in a file that survives us, so that the next start can end orphans."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[str, ChildRecord] = {}

    def add(self, child: Child, pid: int) -> None:
        """Record a child that was just started. One that is gone already needs no record."""
        try:
            identity = ProcessIdentity.of(pid, child.argv)
        except psutil.Error:
            return
        self._records[child.name] = ChildRecord(
            name=child.name, identity=identity, stop_signal=child.stop_signal
        )
        self._write()

    def remove(self, names: Iterable[str]) -> None:
        """Forget children that were ended."""
        for name in names:
            self._records.pop(name, None)
        self._write()

    def end_orphans(self) -> list[str]:
        """End every recorded process that still lives and is surely ours, last started first; give their names."""
        try:
            records = _RECORDS.validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return []
        orphans = [(r, p) for r in reversed(records) if (p := r.identity.process()) is not None]
        for record, process in orphans:
            _signal(process.pid, signal.Signals(record.stop_signal))
        _, stubborn = psutil.wait_procs([process for _, process in orphans], timeout=10)
        for process in stubborn:
            kill_group(process.pid)
        psutil.wait_procs(stubborn, timeout=5)
        return [record.name for record, _ in orphans]

    def _write(self) -> None:
        write_private(self._path, _RECORDS.dump_json(list(self._records.values()), indent=1))


def write_private(path: Path, content: bytes) -> None:
    """Replace ``path`` in one step with a file that only its owner can read."""
    part = path.with_name(path.name + ".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(content)
    part.replace(path)


def _account(user: str | None) -> pwd.struct_passwd | None:
    """Only root can become somebody else; everybody else runs their children as themselves."""
    return pwd.getpwnam(user) if user is not None and os.geteuid() == 0 else None


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended by itself


def _ended_how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def describe_end(process: subprocess.Popen[bytes]) -> str:
    """How a process that was reaped came to its end."""
    return _ended_how(process.returncode)
