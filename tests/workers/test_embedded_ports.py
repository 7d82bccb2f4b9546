import socket

import pytest

from workers.embedded.ports import LOOPBACK, accepts, any_port, free_port, is_free


def test_the_preferred_port_is_taken_when_it_is_free() -> None:
    preferred = any_port()
    assert free_port(preferred) == preferred


def test_a_port_on_which_somebody_listens_gives_the_next_free_one() -> None:
    with socket.create_server((LOOPBACK, 0)) as somebody:
        taken = somebody.getsockname()[1]
        chosen = free_port(taken)
        assert chosen > taken
        assert is_free(chosen)
        assert not is_free(taken)
        assert accepts(taken)


def test_a_port_promised_to_another_component_is_not_given_twice() -> None:
    preferred = any_port()
    assert free_port(preferred, taken={preferred}) > preferred


def test_running_out_of_ports_says_which_were_tried() -> None:
    with pytest.raises(OSError, match="65535"):
        free_port(65535, taken={65535})
