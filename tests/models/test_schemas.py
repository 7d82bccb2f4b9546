import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from models.schemas import PUBLIC_CONTRACTS, main, schemas

COMMITTED = Path(__file__).resolve().parents[2] / "docs" / "schemas"

DRAFT: dict[str, Any] = {
    "channel": "web",
    "external_id": "1001",
    "placed_at": "2011-09-01T10:00:00Z",
    "currency": "GBP",
    "customer": {"name": "A. Customer"},
    "ship_to": {"lines": ["1 High Street"], "city": "London", "country": "GB"},
    "lines": [{"line_id": "1", "sku": "85123A", "quantity": 2, "unit_price_minor": 255}],
    "tenders": [{"token": "tok_ok", "amount_minor": 510}],
    "totals": {"lines_minor": 510, "charges_minor": 0, "total_minor": 510},
}


def test_committed_schemas_are_current() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in COMMITTED.glob("*.json")}
    assert committed == dict(schemas()), "run: python -m models.schemas docs/schemas"


@pytest.mark.parametrize("contract", PUBLIC_CONTRACTS, ids=lambda contract: contract.__name__)
def test_every_schema_is_valid_and_explains_itself(contract: type[Any]) -> None:
    schema = json.loads(schemas()[f"{contract.__name__}.json"])
    Draft202012Validator.check_schema(schema)
    assert schema["$id"].endswith(contract.__name__)
    assert schema["description"]


def test_draft_schema_accepts_an_order_and_refuses_a_misspelt_key() -> None:
    validator = Draft202012Validator(json.loads(schemas()["OrderDraft.json"]))
    assert not list(validator.iter_errors(DRAFT))
    assert list(validator.iter_errors(DRAFT | {"chanel": "web"}))


def test_export_writes_the_schemas_and_removes_those_that_are_gone(tmp_path: Path) -> None:
    (tmp_path / "Gone.json").write_text("{}")
    assert main([str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(schemas())


def test_export_without_a_folder_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
