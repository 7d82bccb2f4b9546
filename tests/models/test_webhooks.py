"""Webhooks: only what was signed with our secret, a short while ago and unchanged, is taken."""

import hashlib
import hmac

import pytest
from pydantic import ValidationError

from models.errors import Unauthorised
from models.webhooks import WebhookEnvelope, sign, verify

SECRET = "a-secret"
BODY = b'{"event_id": "e1"}'
NOW = 1_767_225_600.0


def test_the_signature_is_the_documented_one() -> None:
    expected = hmac.new(b"a-secret", b"1767225600." + BODY, hashlib.sha256).hexdigest()

    assert sign(SECRET, 1_767_225_600, BODY) == f"v1={expected}"


@pytest.mark.parametrize("signed_at", [1_767_225_600, 1_767_225_300, 1_767_225_900])
def test_a_fresh_signature_is_taken(signed_at: int) -> None:
    verify((SECRET,), sign(SECRET, signed_at, BODY), str(signed_at), BODY, NOW)


@pytest.mark.parametrize("signed_at", [1_767_225_299, 1_767_225_901, 0])
def test_a_stale_or_future_signature_is_refused(signed_at: int) -> None:
    with pytest.raises(Unauthorised, match="away from our clock"):
        verify((SECRET,), sign(SECRET, signed_at, BODY), str(signed_at), BODY, NOW)


@pytest.mark.parametrize("secret", ["the-new-one", "the-old-one"])
def test_either_of_two_secrets_will_do(secret: str) -> None:
    verify(("the-new-one", "the-old-one"), sign(secret, int(NOW), BODY), str(int(NOW)), BODY, NOW)


def test_without_a_secret_nothing_is_taken() -> None:
    with pytest.raises(Unauthorised):
        verify((), sign("", int(NOW), BODY), str(int(NOW)), BODY, NOW)


@pytest.mark.parametrize(
    ("signature", "timestamp", "body"),
    [
        (sign(SECRET, 1_767_225_600, BODY), "1767225600", BODY + b" "),
        (sign(SECRET, 1_767_225_600, BODY), "1767225601", BODY),
        (sign("another", 1_767_225_600, BODY), "1767225600", BODY),
        (sign(SECRET, 1_767_225_600, BODY).removeprefix("v1="), "1767225600", BODY),
        (sign(SECRET, 1_767_225_600, BODY).upper(), "1767225600", BODY),
        ("v1=", "1767225600", BODY),
        ("v1=ü", "1767225600", BODY),
        ("", "1767225600", BODY),
        (None, "1767225600", BODY),
        (sign(SECRET, 1_767_225_600, BODY), None, BODY),
        (sign(SECRET, 1_767_225_600, BODY), "", BODY),
        (sign(SECRET, 1_767_225_600, BODY), "soon", BODY),
        (sign(SECRET, 1_767_225_600, BODY), "1767225600.0", BODY),
        (sign(SECRET, 1_767_225_600, BODY), "١٧٦٧٢٢٥٦٠٠", BODY),
        (sign(SECRET, 1_767_225_600, BODY), "9" * 5000, BODY),
    ],
)
def test_anything_tampered_with_or_missing_is_refused(
    signature: str | None, timestamp: str | None, body: bytes
) -> None:
    with pytest.raises(Unauthorised):
        verify((SECRET,), signature, timestamp, body, NOW)


SCAN = {
    "event_id": "e1",
    "kind": "collected",
    "occurred_at": "2026-03-02T12:00:00Z",
    "tracking": "T1",
}
PICKED = {"event_id": "e1", "kind": "picked", "occurred_at": "2026-03-02T12:00:00Z", "pick_id": "p"}


def test_an_envelope_carries_the_event_of_its_kind() -> None:
    envelope = WebhookEnvelope.model_validate(
        {"event_id": "e1", "kind": "carrier_event", "shipment_id": "web:1:1", "event": SCAN}
    )

    assert WebhookEnvelope.model_validate_json(envelope.model_dump_json()) == envelope


def test_a_fingerprint_is_of_what_is_said_and_not_of_how() -> None:
    said = {"event_id": "e1", "kind": "carrier_event", "shipment_id": "web:1:1", "event": SCAN}
    envelope = WebhookEnvelope.model_validate(said)
    again = WebhookEnvelope.model_validate(dict(reversed(said.items())) | {"unknown": 1, "order_id": None})
    other = WebhookEnvelope.model_validate(said | {"event": {**SCAN, "kind": "lost"}})

    assert envelope.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    "wrong",
    [
        {"event": PICKED},
        {"event": {**SCAN, "event_id": "e2"}},
        {"shipment_id": None},
        {"shipment_id": "web:1"},
        {"kind": "payment_event"},
        {"kind": "gossip"},
        {"event": {**SCAN, "kind": "picked"}},
    ],
)
def test_an_envelope_that_contradicts_itself_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WebhookEnvelope.model_validate(
            {"event_id": "e1", "kind": "carrier_event", "shipment_id": "web:1:1", "event": SCAN, **wrong}
        )
