"""How far it is from a node to where an order goes, and what a postcode says of that."""

import math
import re

from models.network import Node, Point
from policies.routing.problem import RoutingProblem

# Mean radius of the earth (IUGG).
_EARTH_KM = 6371.0088
# Countries whose postcodes are in two parts of which the first varies in length: ``L1 1AA``, ``L11 1AA``.
_BRITISH = frozenset({"GB", "GG", "IM", "JE"})
_BRITISH_POSTCODE = re.compile(r"([A-Z]{1,2}[0-9][A-Z0-9]?)([0-9][A-Z]{2})")


def distance_km(problem: RoutingProblem, node: Node) -> int | None:
    """Whole kilometres from ``node`` to the order's destination; None where either is not known."""
    here = node.point
    return None if here is None or problem.destination is None else great_circle_km(here, problem.destination)


def great_circle_km(one: Point, other: Point) -> int:
    """The shortest way over the ground of a round earth, in whole kilometres (haversine formula)."""
    from_latitude, to_latitude = math.radians(one.latitude), math.radians(other.latitude)
    across = math.radians(other.longitude - one.longitude)
    half = (
        math.sin((to_latitude - from_latitude) / 2) ** 2
        + math.cos(from_latitude) * math.cos(to_latitude) * math.sin(across / 2) ** 2
    )
    # Of two points on opposite sides of the earth it may come out a hair above 1.
    return round(2 * _EARTH_KM * math.asin(min(1.0, math.sqrt(half))))


def written_alike(country: str, postcode: str) -> str:
    """A postcode, or the beginning of one, as it is compared: ``l1 1aa`` is ``L1 1AA``, ``D-50 667`` is ``50667``."""
    text = postcode.upper().strip()
    if country not in _BRITISH:
        return re.sub(r"[^A-Z0-9]", "", re.sub(r"^[A-Z]{1,3}-(?=[0-9])", "", text))
    whole = _BRITISH_POSTCODE.fullmatch(re.sub(r"[^A-Z0-9]", "", text))
    if whole is not None:
        return f"{whole[1]} {whole[2]}"
    return re.sub(r"[^A-Z0-9]+", " ", text).strip()


def beginnings(country: str, postcode: str) -> tuple[str, ...]:
    """What a postcode begins with, the longest first, down to nothing.

    A British number is not cut in two: ``E1`` is another district than ``E14``.
    """
    text = written_alike(country, postcode)
    cuts = [
        text[:length].rstrip()
        for length in range(len(text), 0, -1)
        if country not in _BRITISH or not re.fullmatch(r"[0-9]{2}", text[length - 1 : length + 1])
    ]
    return (*dict.fromkeys(cuts), "")
