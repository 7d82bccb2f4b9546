"""Whatever is sent, the API answers in kind: never a 500, always a problem that can be read.

Here are bodies that no schema leads to; what the document leads to, filters and paths included, is in test_contract.py.
"""

import copy
import json
from typing import Any

import httpx
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.apps.api.builders import a_draft

MEDIA = {200: "application/json", 202: "application/json"}

quickly = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from(
        [
            10**30,
            -1,
            "\x00",
            "\ud800",
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-14:00",
            "GBP",
            1e308,
            "x" * 300,
        ]
    ),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4)
    ),
    max_leaves=8,
)


def paths(node: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a document."""
    found = [path] if path else []
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        found += paths(child, (*path, key))
    return found


@st.composite
def damaged_drafts(draw: st.DrawFn) -> Any:
    """A sound document in which up to three places were replaced or taken away."""
    document = copy.deepcopy(a_draft())
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths(document) or [("channel",)]))
        parent: Any = document
        for key in path[:-1]:
            parent = parent[key]
        if draw(st.booleans()):
            parent[path[-1]] = draw(json_values)
        else:
            del parent[path[-1]]
    return document


async def answered(api: httpx.AsyncClient, body: bytes) -> None:
    answer = await api.post("/v1/orders", content=body)
    assert answer.status_code in (200, 202, 409, 413, 422), answer.text
    if answer.status_code in MEDIA:
        shown = await api.get(answer.json()["links"]["self"])
        assert shown.status_code == 200, shown.text
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == answer.status_code
        assert problem["detail"]
        assert (answer.status_code == 422) == bool(problem["problems"])


@quickly
@given(body=st.binary(max_size=300))
@example(body=b"[" * 200_000)
@example(body=b'{"a":' * 100_000)
@example(body=b"1" * 5_000)
@example(body=b'{"a": 1, "a": 2}')
@example(body=b"NaN")
@example(body=b"\xef\xbb\xbf{}")
async def test_any_bytes_are_answered(api: httpx.AsyncClient, body: bytes) -> None:
    await answered(api, body)


@quickly
@given(document=json_values)
async def test_any_json_is_answered(api: httpx.AsyncClient, document: Any) -> None:
    await answered(api, json.dumps(document).encode())


@quickly
@given(document=damaged_drafts())
@example(document=a_draft() | {"placed_at": "0001-01-01T00:00:00+14:00"})
@example(document=a_draft() | {"placed_at": "9999-12-31T23:59:59-14:00"})
@example(document=a_draft() | {"placed_at": 1e18})
async def test_any_damaged_order_is_answered(api: httpx.AsyncClient, document: Any) -> None:
    await answered(api, json.dumps(document).encode())


@quickly
@given(
    value=st.datetimes().map(lambda moment: f"{moment.isoformat()}Z") | st.text(st.characters(codec="ascii"))
)
@example(value="0001-01-01T00:00:00+14:00")
@example(value="9999-12-31T23:59:59-14:00")
async def test_any_business_start_is_answered(api: httpx.AsyncClient, value: str) -> None:
    try:
        answer = await api.post("/v1/orders", json=a_draft(), headers={"Orderwright-Business-Start": value})
    except httpx.LocalProtocolError:
        return
    assert answer.status_code in (202, 422), answer.text
    assert (await api.get("/v1/orders")).status_code == 200
