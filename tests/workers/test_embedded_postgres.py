import os
import signal
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.workers.conftest import processes_of
from workers.embedded.postgres import EmbeddedPostgres, PostgresUnusable


def connect(postgres: EmbeddedPostgres) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(postgres.url().replace("+psycopg", ""))


def test_it_starts_serves_and_leaves_nothing_running(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        with connect(postgres) as connection:
            version = connection.execute("show server_version_num").fetchone()
            assert version is not None
            assert str(version[0]).startswith("18")
            assert connection.execute("show listen_addresses").fetchone() == ("",)
        assert postgres.cluster.stat().st_mode & 0o777 == 0o700

    assert processes_of(data_dir) == []


async def test_it_serves_asynchronous_callers_too(data_dir_with_cluster: Path) -> None:
    async with EmbeddedPostgres(data_dir_with_cluster) as postgres:
        assert postgres.answers()


def test_what_was_committed_survives_a_kill(data_dir_with_cluster: Path) -> None:
    postgres = EmbeddedPostgres(data_dir_with_cluster)
    postgres.start()
    with connect(postgres) as connection:
        connection.execute("create table kept (n int)")
        connection.execute("insert into kept values (7)")
    assert postgres.pid is not None
    os.kill(postgres.pid, signal.SIGKILL)
    postgres.stop()

    with EmbeddedPostgres(data_dir_with_cluster) as again, connect(again) as connection:
        assert connection.execute("select n from kept").fetchall() == [(7,)]


def test_a_pid_file_that_names_a_strangers_process_does_not_stop_it_from_starting(
    data_dir_with_cluster: Path,
) -> None:
    postgres = EmbeddedPostgres(data_dir_with_cluster)
    postgres.prepare()
    note = postgres.cluster / "postmaster.pid"
    note.write_text(f"{os.getpid()}\n{postgres.cluster}\n1700000000\n5432\n{postgres.cluster}\n\n")
    status = postgres.cluster.stat()
    os.chown(note, status.st_uid, status.st_gid)

    with postgres:
        assert postgres.answers()


def test_a_postmaster_that_was_killed_and_not_reaped_does_not_stop_the_next(
    data_dir_with_cluster: Path,
) -> None:
    first = EmbeddedPostgres(data_dir_with_cluster)
    first.start()
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    while psutil.Process(first.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)
    try:
        with EmbeddedPostgres(data_dir_with_cluster) as again:
            assert again.answers()
    finally:
        first.stop()


def test_a_session_that_outlived_its_postmaster_is_ended_before_the_next_starts(
    data_dir_with_cluster: Path,
) -> None:
    first = EmbeddedPostgres(data_dir_with_cluster)
    first.start()
    assert first.pid is not None
    with connect(first) as connection:
        session = psutil.Process(connection.info.backend_pid)
        session.suspend()  # busy with something long, so that it does not notice
        os.kill(first.pid, signal.SIGKILL)
        first.stop()
        assert session.is_running()

        with EmbeddedPostgres(data_dir_with_cluster) as again:
            assert not session.is_running() or session.status() == psutil.STATUS_ZOMBIE
            assert again.answers()


def test_half_a_cluster_of_an_interrupted_start_is_made_anew(data_dir: Path) -> None:
    half = data_dir / "postgres.part"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")

    with EmbeddedPostgres(data_dir) as postgres:
        assert postgres.answers()


def test_a_directory_too_deep_for_a_socket_gets_its_socket_elsewhere(data_dir: Path) -> None:
    deep = data_dir / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    for folder in (deep, deep.parent):
        folder.chmod(0o711)
    postgres = EmbeddedPostgres(deep)

    with postgres:
        socket_dir = postgres.socket_dir
        assert not socket_dir.is_relative_to(data_dir)
        assert EmbeddedPostgres(deep).socket_dir == socket_dir
        assert connect(postgres).execute("select 1").fetchone() == (1,)
    socket_dir.rmdir()


def test_variables_of_the_users_own_postgres_change_nothing(
    data_dir_with_cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "6543")
    monkeypatch.setenv("PGDATA", "/nonexistent")
    monkeypatch.setenv("PGHOST", "db.example")
    with EmbeddedPostgres(data_dir_with_cluster) as postgres:
        assert connect(postgres).execute("select current_database()").fetchone() == ("orderwright",)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_run_by_root_it_serves_as_an_unprivileged_user(data_dir_with_cluster: Path) -> None:
    with EmbeddedPostgres(data_dir_with_cluster) as postgres:
        assert postgres.pid is not None
        assert psutil.Process(postgres.pid).uids().effective != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_a_directory_that_its_user_cannot_enter_is_refused_with_what_to_do(data_dir: Path) -> None:
    closed = data_dir / "closed"
    closed.mkdir(mode=0o700)

    with pytest.raises(PostgresUnusable, match=rf"cannot enter {closed}: choose another data directory"):
        EmbeddedPostgres(closed / "inside").prepare()
