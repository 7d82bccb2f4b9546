"""Which process is meant: a process id alone is soon somebody else's."""

from collections.abc import Iterable
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

# Start times are derived from the boot time, which the kernel corrects by up to a second with the clock.
_CLOCK_SLACK_SECONDS = 2.0


class ProcessIdentity(BaseModel):
    """A process by id, start time (Unix seconds) and, where known, command line."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: float
    command: tuple[str, ...] = ()

    @classmethod
    def of(cls, pid: int, command: Iterable[str] = ()) -> "ProcessIdentity":
        """The identity of a process that lives now. ``psutil.NoSuchProcess`` if it does not."""
        return cls(pid=pid, started=psutil.Process(pid).create_time(), command=tuple(command))

    def process(self) -> psutil.Process | None:
        """The live process that this names, or None: gone, a zombie, or another process with its id."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) <= _CLOCK_SLACK_SECONDS
            if not same or process.status() == psutil.STATUS_ZOMBIE:
                return None
            if self.command and tuple(process.cmdline()) != self.command:
                return None
        except psutil.Error:
            return None
        return process


def processes_with_open(path: Path) -> list[psutil.Process]:
    """The processes, other than this one, that have the file ``path`` open, as far as this user may see."""
    try:
        wanted = path.stat()
    except FileNotFoundError:
        return []
    own = psutil.Process().pid
    return [p for p in psutil.process_iter() if p.pid != own and _has_open(p.pid, path, wanted.st_ino)]


def _has_open(pid: int, path: Path, inode: int) -> bool:
    descriptors = Path(f"/proc/{pid}/fd")
    if not descriptors.exists():
        return _lists_open(pid, path)
    try:
        links = list(descriptors.iterdir())
    except OSError:
        return False
    return any(_leads_to(link, path, inode) for link in links)


def _leads_to(link: Path, path: Path, inode: int) -> bool:
    try:
        # stat() follows the link to the open file itself, so a renamed or removed path makes no difference.
        return link.stat().st_ino == inode and link.readlink() == path
    except OSError:
        return (
            False  # closed meanwhile, as a process that is starting does all the time; the others still count
        )


def _lists_open(pid: int, path: Path) -> bool:
    try:
        return any(Path(opened.path) == path for opened in psutil.Process(pid).open_files())
    except psutil.Error:
        return False
