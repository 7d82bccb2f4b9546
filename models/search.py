"""The search attributes of our workflows: what operations can filter by in Temporal Web. No personal data here."""

from datetime import datetime

from temporalio.common import SearchAttributeKey

STATE = SearchAttributeKey.for_keyword("OwState")
CHANNEL = SearchAttributeKey.for_keyword("OwChannel")
CUSTOMER_TYPE = SearchAttributeKey.for_keyword("OwCustomerType")
NEEDS_REVIEW = SearchAttributeKey.for_bool("OwNeedsReview")
PROMISE_TIME: SearchAttributeKey[datetime] = SearchAttributeKey.for_datetime("OwPromiseTime")
TOTAL_MINOR = SearchAttributeKey.for_int("OwTotalMinor")
NODE = SearchAttributeKey.for_keyword("OwNode")
CARRIER = SearchAttributeKey.for_keyword("OwCarrier")

# Name -> Temporal type, as `temporal operator search-attribute create --type` spells it.
SEARCH_ATTRIBUTES: dict[str, str] = {
    STATE.name: "Keyword",
    CHANNEL.name: "Keyword",
    CUSTOMER_TYPE.name: "Keyword",
    NEEDS_REVIEW.name: "Bool",
    PROMISE_TIME.name: "Datetime",
    TOTAL_MINOR.name: "Int",
    NODE.name: "Keyword",
    CARRIER.name: "Keyword",
}
