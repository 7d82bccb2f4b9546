import socket

import pytest

from workers.embedded import ports
from workers.embedded.ports import LOOPBACK, NoFreePort, accepts, any_port, free_port, is_free


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


@pytest.mark.parametrize("preferred", [80, 65535])
def test_running_out_of_ports_says_which_were_tried_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, preferred: int
) -> None:
    monkeypatch.setattr(ports, "is_free", lambda _: False)  # as for a user who is not root, or with all taken
    with pytest.raises(NoFreePort) as refused:
        free_port(preferred)
    assert f"from {preferred} to {min(preferred + 199, 65535)} on 127.0.0.1" in refused.value.message
    assert "--port 8080" in refused.value.message
