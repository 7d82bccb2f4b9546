import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.workers.processes import SERVES_FOR_EVER, a_child
from workers.embedded.children import ChildRecord, ChildRecords, end, spawn
from workers.embedded.identity import ProcessIdentity, processes_with_open
from workers.embedded.locks import DataDirectoryHeld, hold, live_holder
from workers.embedded.postgres import EmbeddedPostgres
from workers.settings import REPOSITORY


@contextmanager
def a_small_stack(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, int]]]:
    """A supervisor process with PostgreSQL and Temporal; killed, not asked, at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.workers.small_stack", str(data_dir)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready, "the small stack did not start"
        yield process, json.loads(ready)["pids"]
    finally:
        process.kill()
        process.communicate()


def connect(data_dir: Path) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(EmbeddedPostgres(data_dir).url().replace("+psycopg", ""))


def end_what_is_left(data_dir: Path) -> None:
    records = ChildRecords(data_dir / "children.json")
    hold(data_dir, end_orphans=records.end_orphans).release()


def test_a_second_start_on_a_live_directory_is_refused_and_names_the_holder(
    data_dir_with_cluster: Path,
) -> None:
    with a_small_stack(data_dir_with_cluster) as (holder, pids):
        with pytest.raises(DataDirectoryHeld) as refused:
            hold(
                data_dir_with_cluster,
                end_orphans=lambda: pytest.fail("a live stack's children are no orphans"),
            )
        assert f"pid {holder.pid}" in refused.value.message
        assert all(psutil.pid_exists(pid) for pid in pids.values())
        assert EmbeddedPostgres(data_dir_with_cluster).answers()

    end_what_is_left(data_dir_with_cluster)


def test_after_a_killed_supervisor_the_next_start_ends_its_orphans_and_finds_the_same_data(
    data_dir_with_cluster: Path,
) -> None:
    with a_small_stack(data_dir_with_cluster) as (_, orphans), connect(data_dir_with_cluster) as connection:
        connection.execute("create table kept (n int)")
        connection.execute("insert into kept values (7)")
        connection.commit()
    assert all(psutil.pid_exists(pid) for pid in orphans.values())
    assert live_holder(data_dir_with_cluster) is None

    with a_small_stack(data_dir_with_cluster) as (_, again):
        assert set(again) == set(orphans)
        assert not any(psutil.pid_exists(pid) for pid in orphans.values())
        with connect(data_dir_with_cluster) as connection:
            assert connection.execute("select n from kept").fetchall() == [(7,)]

    end_what_is_left(data_dir_with_cluster)


def test_a_child_that_its_supervisor_had_no_time_to_record_is_ended_too(data_dir: Path) -> None:
    lock = hold(data_dir, end_orphans=lambda: None)
    orphan = spawn(a_child(data_dir, "unrecorded", SERVES_FOR_EVER), lock_fd=lock.fd)
    lock.release()
    dead_supervisor = ProcessIdentity(pid=os.getpid(), started=0.0)
    lock.path.write_bytes(dead_supervisor.model_dump_json().encode())

    hold(data_dir, end_orphans=lambda: None).release()

    assert orphan.poll() is not None


def test_a_recorded_process_id_that_now_belongs_to_somebody_else_is_left_alone(data_dir: Path) -> None:
    child = a_child(data_dir, "somebody", SERVES_FOR_EVER)
    somebody = spawn(child)
    born = psutil.Process(somebody.pid).create_time()
    other_command = ProcessIdentity(pid=somebody.pid, started=born, command=("postgres", "-D", "elsewhere"))
    other_time = ProcessIdentity(pid=somebody.pid, started=born - 3600, command=tuple(child.argv))
    path = data_dir / "children.json"
    for stranger in (other_command, other_time):
        record = ChildRecord(name="postgres", identity=stranger, stop_signal=signal.SIGINT)
        path.write_text(f"[{record.model_dump_json()}]")

        assert ChildRecords(path).end_orphans() == []

    assert somebody.poll() is None
    end(somebody, signal.SIGTERM, 5)


def test_a_lock_that_was_given_free_can_be_taken_again(data_dir: Path) -> None:
    hold(data_dir, end_orphans=lambda: None).release()
    lock = hold(data_dir, end_orphans=lambda: pytest.fail("nobody is left"))
    holder = live_holder(data_dir)
    assert holder is not None
    assert holder.pid == os.getpid()
    lock.release()


# Its descriptor of the file is looked at after the one that comes and goes.
OPENS_AND_CLOSES = """
import os, sys
kept = os.open(sys.argv[1], os.O_RDONLY)
os.dup2(kept, 60)
os.close(kept)
print(flush=True)
while True:
    open("/dev/null").close()
"""


def test_who_holds_a_file_is_found_whatever_else_it_opens_and_closes_meanwhile(data_dir: Path) -> None:
    held = data_dir / "held"
    held.touch()
    with subprocess.Popen(
        [sys.executable, "-c", OPENS_AND_CLOSES, str(held)], stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline()
            looks = [[p.pid for p in processes_with_open(held)] for _ in range(100)]
        finally:
            holder.kill()
    assert looks == [[holder.pid]] * 100
