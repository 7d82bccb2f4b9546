"""Query strings: a misspelt filter is reported instead of silently giving everything."""

from collections import Counter
from typing import get_origin

from fastapi import Request
from fastapi.routing import APIRoute

from apps.api.problems import InvalidRequest
from models.errors import Problem


def only_known_parameters(request: Request) -> None:
    """Raise ``InvalidRequest`` for a parameter that the route does not have, and for one that is given twice."""
    route = request.scope["route"]
    fields = route.dependant.query_params if isinstance(route, APIRoute) else []
    known = {field.alias for field in fields}
    several = {field.alias for field in fields if get_origin(field.field_info.annotation) is list}
    problems = [
        _problem(name, times, known)
        for name, times in Counter(name for name, _ in request.query_params.multi_items()).items()
        if name not in known or (times > 1 and name not in several)
    ]
    if problems:
        raise InvalidRequest(problems)


def _problem(name: str, times: int, known: set[str]) -> Problem:
    if name in known:
        return Problem(path=name, code="repeated_parameter", message=f"is given {times} times")
    there_are = f"there are {', '.join(sorted(known))}" if known else "there are none here"
    return Problem(path=name[:100], code="unknown_parameter", message=f"is not a parameter: {there_are}")
