"""A policy document as somebody wrote it: all that is wrong with it at once, as far as it can be read.

What is wrong with its shape is taken out of a copy, and the sense of what is left is looked at: a key that is misspelt
must not hide a node that there is not, for whoever mends one would be told of the other only then.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from models.errors import Problem
from models.policy import PolicyDocument
from policies.document import problems_of

# What may only follow of that something else could not be read, by the sections that it comes of.
_MAY_FOLLOW = frozenset({"no_active_node", "empty_group", "empty_step", "never_applies", "unknown_sku"})
_COMES_OF = {
    "node_groups": ("node_groups",),
    "routing_rules": ("node_groups", "routing_rules"),
    "priorities": ("priorities",),
    "safety_stock": ("node_groups",),
}
_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)")

_Place = tuple[int | str, ...]


class Reading(NamedTuple):
    """``document``: what could be read. ``shape``: what is wrong with the rest. ``left``: the rest taken out."""

    document: PolicyDocument
    shape: tuple[Problem, ...]
    left: dict[str, Any]
    places: dict[int, list[int]]
    groups: frozenset[str]
    cut: frozenset[str]


def read(raw: Mapping[str, Any]) -> Reading:
    """Whatever makes a policy of ``raw``, and all that is wrong with the shape of the rest."""
    left: dict[str, Any] = copy.deepcopy(dict(raw))
    places: dict[int, list[int]] = {}
    shape: tuple[Problem, ...] | None = None
    cut: set[str] = set()
    while True:
        try:
            document = PolicyDocument.model_validate(left)
            break
        except ValidationError as invalid:
            errors = invalid.errors(include_url=False, include_input=False, include_context=False)
            # What is wrong only because something was taken out is nobody's mistake.
            shape = _said(errors) if shape is None else shape
            cut |= {str(error["loc"][0]) for error in errors if error["loc"]}
            _take_out(left, errors, places)
    groups = raw.get("node_groups")
    return Reading(
        document,
        shape or (),
        left,
        places,
        frozenset(map(str, groups)) if isinstance(groups, Mapping) else frozenset(),
        frozenset(cut),
    )


def problems_in(
    reading: Reading, *, nodes: Mapping[str, bool], stocked: frozenset[tuple[str, str]]
) -> tuple[Problem, ...]:
    """All that is wrong with its shape, and all that makes no sense in what could be read. See ``problems_of``."""
    sense = problems_of(reading.document, nodes=nodes, stocked=stocked, groups=reading.groups)
    return (
        *reading.shape,
        *(
            problem.model_copy(update={"path": _as_written(reading, problem.path)})
            for problem in sense
            if not _follows(reading, problem)
        ),
    )


def _follows(reading: Reading, problem: Problem) -> bool:
    section = re.split(r"[.\[]", problem.path, maxsplit=1)[0]
    return problem.code in _MAY_FOLLOW and any(of in reading.cut for of in _COMES_OF.get(section, ()))


def _said(errors: Sequence[Any]) -> tuple[Problem, ...]:
    within = {error["loc"][:length] for error in errors for length in range(len(error["loc"]))}
    # A list whose every item is wrong is also said to have none, which is not what was written.
    return tuple(
        Problem(
            path=_path(error["loc"]), code=error["type"], message=error["msg"][:1].lower() + error["msg"][1:]
        )
        for error in errors
        if not (error["type"] == "too_short" and error["loc"] in within)
    )


def _path(place: _Place) -> str:
    path = ""
    for part in place:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _take_out(left: dict[str, Any], errors: Sequence[Any], places: dict[int, list[int]]) -> None:
    broken = {_broken(error["type"], error["loc"]) for error in errors}
    # From the back, so that what is still to be taken out stays where it is.
    ordered = sorted(
        broken, key=lambda place: [(part, "") if isinstance(part, int) else (-1, part) for part in place]
    )
    gone = [_drop(left, place, places) for place in reversed(ordered)]
    if not any(gone):
        # Something has to go each time, or it would never end.
        left.clear()


def _broken(code: str, place: _Place) -> _Place:
    if place and (code == "missing" or place[-1] == "[key]"):
        return place[:-1]
    return place


def _drop(left: dict[str, Any], place: _Place, places: dict[int, list[int]]) -> bool:
    """Take out what is at ``place``; whether there was anything."""
    inner: Any = left
    try:
        for part in place[:-1]:
            inner = inner[part]
        last = place[-1]
        if isinstance(inner, list) and isinstance(last, int):
            known = places.setdefault(id(inner), list(range(len(inner))))
            del inner[last], known[last]
        else:
            del inner[last]
    except (LookupError, TypeError):
        return False
    return True


def _as_written(reading: Reading, path: str) -> str:
    """``path`` in what is left, as it is in what was written: items that were taken out count again."""
    inner: Any = reading.left
    written: list[int | str] = []
    for number, name in _PART.findall(path):
        try:
            if number:
                at = int(number)
                written.append(reading.places[id(inner)][at] if id(inner) in reading.places else at)
                inner = inner[at]
            else:
                written.append(name)
                inner = inner[name]
        except (LookupError, TypeError):
            return path
    return _path(tuple(written))
