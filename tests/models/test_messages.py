from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from models.journal import TimelineEntry
from models.messages import CancelOrder, CarrierEvent, CarrierEventKind, WmsEvent, WmsEventKind
from models.review import Flag

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
UNSTORABLE = "a\x00b\ud800c"

any_text = st.text(st.characters(exclude_categories=()), min_size=1, max_size=40)


def can_be_stored(text: str) -> bool:
    """What PostgreSQL takes: UTF-8 without NUL."""
    return "\x00" not in text and text.encode("utf-8") is not None


@given(any_text)
def test_whatever_a_stranger_writes_can_be_stored(text: str) -> None:
    entry = TimelineEntry(
        entry_id="order:web:1/0",
        order_id="web:1",
        at=NOON,
        business_at=NOON,
        actor=text,
        kind="x",
        what=text,
        why=text,
        details={"said": text},
    )
    cancel = CancelOrder(request_id="c", actor=text, reason=text)
    said = (entry.actor, entry.what, entry.why, entry.details["said"], cancel.actor, cancel.reason)
    assert all(can_be_stored(str(part)) for part in (*said, Flag(code="x", reason=text).reason))


def test_what_can_be_kept_is_kept() -> None:
    assert CancelOrder(request_id="c", actor="ana", reason=UNSTORABLE).reason == "a\ufffdb?c"


def test_an_event_that_says_too_much_is_cut_and_never_refused() -> None:
    carrier = CarrierEvent(
        event_id="e",
        kind=CarrierEventKind.LOST,
        occurred_at=NOON,
        tracking="T" * 9_000,
        detail="\x00" * 9_000,
    )
    wms = WmsEvent(event_id="e", kind=WmsEventKind.SHORT, occurred_at=NOON, pick_id="p", detail="y" * 9_000)
    assert len(carrier.tracking) == len(carrier.detail) == len(wms.detail) == 500
    assert can_be_stored(carrier.detail)
