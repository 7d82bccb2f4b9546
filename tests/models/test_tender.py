from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import PayLinkExpired, PayLinkUnknown
from models.tender import MAX_PAY_TOKEN, PayLink, read_pay_token

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
SECRETS = ("a secret", "the one before")
orders = st.from_regex(r"\A[a-z][a-z0-9_-]{0,31}:[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
moments = st.integers(1, 7_226_582_400).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
links = st.builds(PayLink, orders, st.integers(0, 999_999), moments)


@given(links, st.sampled_from(SECRETS))
def test_a_link_is_read_as_it_was_made_under_any_secret_that_is_in_use(link: PayLink, secret: str) -> None:
    token = link.token(secret)
    assert read_pay_token(SECRETS, token, link.until - timedelta(seconds=1)) == link
    assert token == link.token(secret), "the same order, number and moment give the same link"
    assert len(token) <= MAX_PAY_TOKEN
    assert set(token) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@given(links)
def test_a_link_ends_with_its_time(link: PayLink) -> None:
    with pytest.raises(PayLinkExpired):
        read_pay_token(SECRETS, link.token(SECRETS[0]), link.until)


@given(links, st.data())
def test_a_link_with_any_character_changed_is_none_of_ours(link: PayLink, data: st.DataObject) -> None:
    token = link.token(SECRETS[0])
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from(sorted(set("abcXYZ019-_.|=") - {token[at]})))
    with pytest.raises(PayLinkUnknown):
        read_pay_token(SECRETS, token[:at] + other + token[at + 1 :], NOW)


@given(links, links)
def test_a_signature_vouches_for_its_own_link_alone(link: PayLink, other: PayLink) -> None:
    mixed = f"{link.token(SECRETS[0]).partition('.')[0]}.{other.token(SECRETS[0]).partition('.')[2]}"
    if link == other:
        return
    with pytest.raises(PayLinkUnknown):
        read_pay_token(SECRETS, mixed, NOW)


@given(st.text(max_size=600))
def test_what_a_stranger_makes_up_is_unknown_and_breaks_nothing(token: str) -> None:
    with pytest.raises(PayLinkUnknown):
        read_pay_token(SECRETS, token, NOW)


@pytest.mark.parametrize("secrets", [(), ("another secret",)])
def test_without_the_secret_no_link_is_good(secrets: tuple[str, ...]) -> None:
    token = PayLink("web:1001", 0, NOW + timedelta(days=1)).token(SECRETS[0])
    with pytest.raises(PayLinkUnknown):
        read_pay_token(secrets, token, NOW)


def test_the_signature_of_a_webhook_is_no_signature_of_a_link() -> None:
    # Both may be under one secret, if somebody sets it so.
    from models.webhooks import sign

    content = PayLink("web:1001", 0, NOW + timedelta(days=1)).token("s").partition(".")[0]
    forged = sign("s", 1, content.encode()).removeprefix("v1=")
    with pytest.raises(PayLinkUnknown):
        read_pay_token(("s",), f"{content}.{forged}", NOW)
