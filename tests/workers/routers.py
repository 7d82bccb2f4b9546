"""Routers that do to their process what the order's id says. Loaded by name in the processes of a routing pool."""

import os
import signal
import time
from pathlib import Path

from models.plan import Plan, Unfillable
from policies.routing.problem import RoutingProblem
from policies.routing.router import CheapestNodeRouter

WITHIN = 60.0


class Obedient(CheapestNodeRouter):
    """Does what the id says (``web:die``), with the path that comes after it, and then routes as its parent does."""

    def warm_up(self) -> None:
        """There is nothing to load."""

    def route(self, problem: RoutingProblem) -> Plan | Unfillable:
        """See ``Router.route``."""
        _, deed, *rest = problem.order_id.split(":")
        path = Path(*rest)
        match deed:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "die-once":
                if not path.exists():
                    path.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                path.touch()
                while True:
                    pass
            case "freeze":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "raise":
                raise ZeroDivisionError("by nothing")
            case "wait":
                self._wait_for(path.with_suffix(".go"), told_by=path)
            case "meet":
                self._wait_for(path.parent / {"one": "other", "other": "one"}[path.name], told_by=path)
        return super().route(problem)

    @staticmethod
    def _wait_for(sign: Path, *, told_by: Path) -> None:
        told_by.touch()
        until = time.monotonic() + WITHIN
        while not sign.exists() and time.monotonic() < until:
            time.sleep(0.01)


class Unready(Obedient):
    """Does not come up."""

    def warm_up(self) -> None:
        """As where a library is missing."""
        raise ModuleNotFoundError("No module named 'ortools'")


class DiesWhileLoading(Obedient):
    """Is ended while it comes up, as for want of memory."""

    def warm_up(self) -> None:
        """Never returns."""
        os.kill(os.getpid(), signal.SIGKILL)


class ComesUpOnce(Obedient):
    """Comes up once; its path is in the environment, which the processes inherit."""

    def warm_up(self) -> None:
        """As where a library was removed since."""
        path = Path(os.environ["ORDERWRIGHT_TEST_CAME_UP"])
        if path.exists():
            raise ModuleNotFoundError("No module named 'ortools'")
        path.touch()
