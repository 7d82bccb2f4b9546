import json

import pytest

from models.errors import InvalidDocument
from policies.intake import check_document
from tests.builders import a_draft


@pytest.mark.parametrize(
    ("party", "field", "value", "code"),
    [
        ("customer", "email", "Wilhelmina at home", "not_an_email"),
        ("customer", "name", "Wilhelmina " * 50, "string_too_long"),
        ("customer", "phone", "Wilhelmina " * 50, "string_too_long"),
        ("ship_to", "country", "Wilhelmina", "not_a_country"),
        ("ship_to", "lines", ["Wilhelmina " * 50], "string_too_long"),
        ("bill_to", "postcode", "Wilhelmina " * 50, "string_too_long"),
    ],
)
def test_what_is_wrong_with_a_person_is_said_without_quoting_them(
    party: str, field: str, value: object, code: str
) -> None:
    document = a_draft().model_dump(mode="json")
    document["bill_to"] = dict(document["ship_to"])
    document[party][field] = value
    with pytest.raises(InvalidDocument) as refused:
        check_document(json.dumps(document).encode())
    (problem,) = refused.value.problems
    assert problem.path.startswith(f"{party}.{field}")
    assert problem.code == code
    assert "Wilhelmina" not in str(refused.value)
    assert "^" not in problem.message, "a sentence, not a pattern"
