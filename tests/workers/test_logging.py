"""What a log line says, and what it never does."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from models.errors import InvalidDocument, NeighbourRefused, Problem
from workers.logging import configure_logging, get_logger

NAME = "Marple"


class Person(BaseModel):
    age: int


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level


def logged(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(capsys.readouterr().err.strip().splitlines()[-1])
    return line


def break_on(name: str) -> None:
    customer = {"age": name}
    try:
        Person.model_validate(customer)
    except ValueError as cause:
        raise RuntimeError(f"{name} could not be read") from cause


@pytest.mark.parametrize("json_lines", [True, False])
def test_an_exception_is_told_by_type_and_place_and_not_in_its_words(
    json_lines: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO", json=json_lines)
    try:
        break_on(NAME)
    except RuntimeError:
        get_logger("tests").exception("it_broke")
    written = capsys.readouterr().err
    # Neither the message, nor the input that pydantic quotes, nor the variables of a frame.
    assert NAME not in written
    for told in ("it_broke", "RuntimeError", "ValidationError", "break_on", "test_logging.py"):
        assert told in written


def test_an_error_of_ours_is_told_in_its_words_unless_it_quotes_a_document(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("INFO", json=True)
    log = get_logger("tests")
    log.error("refused", exc_info=NeighbourRefused("carrier: no such address"))
    assert logged(capsys)["exception"] == [
        {"type": "NeighbourRefused", "message": "carrier: no such address", "at": []}
    ]
    problem = Problem(path="customer.name", code="odd", message=f"{NAME} is odd")
    log.error("invalid", exc_info=InvalidDocument((problem,)))
    assert logged(capsys)["exception"] == [{"type": "InvalidDocument", "at": []}]


@pytest.mark.parametrize(
    ("attached", "workflow_id", "order_id"),
    [
        ("temporal_workflow", "order:web:1001", "web:1001"),
        ("temporal_activity", "shipment:web:1001:2", "web:1001"),
        ("temporal_workflow", "somebody-elses", None),
        ("temporal_workflow", "shipment:web:1001", None),
    ],
)
def test_lines_of_the_sdk_are_told_what_they_are_about(
    attached: str, workflow_id: str, order_id: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO", json=True)
    about = {"workflow_id": workflow_id, "attempt": 3, "activity_type": "notify"}
    logging.getLogger("temporalio.activity").warning("failed", extra={attached: about})
    line = logged(capsys)
    assert (line["workflow_id"], line.get("order_id")) == (workflow_id, order_id)
    assert (line["attempt"], line["step"]) == (3, "notify")
    assert attached not in line
