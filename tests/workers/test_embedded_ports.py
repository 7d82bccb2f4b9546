import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from workers.embedded import ports
from workers.embedded.ports import LOOPBACK, NoFreePort, accepts, any_port, hold_port, is_free
from workers.settings import REPOSITORY


def test_the_preferred_port_is_taken_when_it_is_free() -> None:
    preferred = any_port()
    with holding(preferred) as port:
        assert port == preferred


def test_a_port_on_which_somebody_listens_gives_the_next_free_one() -> None:
    with socket.create_server((LOOPBACK, 0)) as somebody:
        taken = somebody.getsockname()[1]
        with holding(taken) as chosen:
            assert chosen > taken
            assert is_free(chosen)
            assert not is_free(taken)
            assert accepts(taken)


def test_a_promised_port_on_which_nobody_listens_yet_is_not_given_twice() -> None:
    preferred = any_port()
    with holding(preferred) as first, holding(preferred) as second:
        assert first == preferred < second


def test_a_promised_port_is_kept_from_other_processes_until_its_holder_is_killed() -> None:
    preferred = any_port()
    with another_process_holding(preferred) as (holder, its_port):
        assert its_port == preferred
        with holding(preferred) as ours:
            assert ours > preferred
        holder.kill()
        holder.wait()
        with holding(preferred) as ours:
            assert ours == preferred


def test_a_child_can_listen_on_the_port_that_is_held_for_it() -> None:
    with holding(any_port()) as port, socket.create_server((LOOPBACK, port)):
        assert accepts(port)


def test_a_released_port_can_be_had_again() -> None:
    held = hold_port(any_port())
    held.release()
    held.release()
    with holding(held.port) as again:
        assert again == held.port


@pytest.mark.parametrize("preferred", [80, 65535])
def test_running_out_of_ports_says_which_were_tried_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, preferred: int
) -> None:
    monkeypatch.setattr(ports, "is_free", lambda _: False)  # as for a user who is not root, or with all taken
    with pytest.raises(NoFreePort) as refused:
        hold_port(preferred)
    assert f"from {preferred} to {min(preferred + 199, 65535)} on 127.0.0.1" in refused.value.message
    assert "--port 8080" in refused.value.message


@contextmanager
def holding(preferred: int) -> Iterator[int]:
    held = hold_port(preferred)
    try:
        yield held.port
    finally:
        held.release()


@contextmanager
def another_process_holding(preferred: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    program = (
        "import sys; from workers.embedded.ports import hold_port\n"
        f"held = hold_port({preferred}); print(held.port, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()
