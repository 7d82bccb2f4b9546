"""``docs/alerts.yml``: Prometheus can read each rule, it asks for labels that there are, and fires when it should."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import promql_parser
import pytest
from prometheus_client.metrics import MetricWrapperBase

from apps.api.metrics import Metrics
from tests.apps.cli.promql import Series, evaluated, kept_labels
from tests.apps.cli.test_operate import ALERTS, engine, scraped

MINUTE = 60.0
RULES = {rule["alert"]: rule for rule in ALERTS}
# What Prometheus itself says of a target, and docs/prometheus.yml of its group.
OF_TARGETS = {"job", "instance", "group"}
OF_WORKERS = {
    "orderwright_step_attempts_failed_total": {"step", "code"},
    "orderwright_step_attempts_done_total": {"step"},
    "orderwright_stock_shortages_total": {"node"},
    "orderwright_routing_processes_lost_total": {"how"},
    "orderwright_routed_by_simple_rule_total": {"why"},
}
# In the SDK's own metrics, as far as a rule asks for them; a test below finds them in its library.
OF_THE_SDK = {"task_queue", "le"}


def of_the_api() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for metric in vars(Metrics()).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = set(metric._labelnames)
    return found


def labels_of(name: str) -> set[str]:
    own = of_the_api() | OF_WORKERS | {"up": set()}
    return OF_TARGETS | (OF_THE_SDK if name.startswith("temporal_") else own[name])


def asked_for(rule: str) -> list[tuple[str, set[str]]]:
    """Each metric of a rule with the labels that are asked of it: those of its own selector, and of what groups it."""
    found: list[tuple[str, set[str]]] = []
    grouped: list[set[str]] = []

    def enter(expression: Any) -> None:
        if isinstance(expression, promql_parser.AggregateExpr):
            grouped.append(set(expression.modifier.labels) if expression.modifier else set())
        if isinstance(expression, promql_parser.MatrixSelector):
            enter(expression.vector_selector)
        if isinstance(expression, promql_parser.VectorSelector):
            own = {matcher.name for matcher in expression.matchers.matchers}
            found.append((expression.name or "", own | (grouped[-1] if grouped else set())))

    def leave(expression: Any) -> None:
        if isinstance(expression, promql_parser.AggregateExpr):
            grouped.pop()

    promql_parser.walk(promql_parser.parse(rule), enter, leave)
    return found


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_rule_can_be_read_and_asks_for_labels_that_there_are(name: str) -> None:
    asked = asked_for(RULES[name]["expr"])
    assert asked
    for metric, labels in asked:
        assert labels <= labels_of(metric), f"{metric} has no such labels"


@pytest.mark.parametrize("name", sorted(RULES))
def test_what_an_alert_says_it_knows(name: str) -> None:
    rule = RULES[name]
    said = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert said <= kept_labels(promql_parser.parse(rule["expr"]), labels_of)


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_rule_looks_at_jobs_and_groups_that_are_scraped(name: str) -> None:
    for job in re.findall(r'job="([^"]+)"', RULES[name]["expr"]):
        assert job in scraped()


def test_a_rule_that_is_none_is_not_taken_for_one() -> None:
    for broken in ("sum by (step", "rate(up)", "up{job=~'('}"):
        with pytest.raises(ValueError, match=r"."):
            promql_parser.parse(broken)


def test_the_labels_of_the_sdk_are_in_its_library() -> None:
    assert b"task_queue" in engine()


def fires_after(name: str, series: list[Series], *, within: float = 60 * MINUTE) -> float | None:
    """The minutes after which the alert is raised, looked at twice a minute; None if it stays silent."""
    rule = RULES[name]
    lasting = promql_parser.parse_duration(rule["for"]) if "for" in rule else timedelta()
    since: dict[frozenset[tuple[str, str]], float] = {}
    for now in range(0, int(within) + 1, 30):
        found = {frozenset(labels.items()) for labels in evaluated(rule["expr"], series, float(now))}
        since = {labels: since.get(labels, float(now)) for labels in found}
        if any(now - began >= lasting.total_seconds() for began in since.values()):
            return now / MINUTE
    return None


def scraped_series(name: str, value: Callable[[float], float], **labels: str) -> Series:
    """An hour of scrapes, every 30 s."""
    return Series(name, labels, tuple((float(at), value(float(at))) for at in range(0, 3601, 30)))


FAILED = "orderwright_step_attempts_failed_total"
DONE = "orderwright_step_attempts_done_total"


def failing_every(seconds: float, step: str = "authorise_payment") -> Series:
    return scraped_series(FAILED, lambda at: at // seconds, step=step, code="neighbour_unavailable")


@pytest.mark.parametrize("every", [30.0, 5 * MINUTE], ids=["a_step", "a_compensation"])
def test_a_shop_with_one_order_under_way_hears_of_a_neighbour_that_is_dead(every: float) -> None:
    others = scraped_series(DONE, lambda at: at // 5, step="record_progress")
    done_before = scraped_series(DONE, lambda _at: 7, step="authorise_payment")
    heard = fires_after("OrderwrightStepsFail", [failing_every(every), others, done_before])
    assert heard is not None
    assert heard <= (8 if every == 30 else 20)


def test_failures_of_a_step_that_is_also_done_are_no_alarm_in_a_small_shop() -> None:
    done = scraped_series(DONE, lambda at: at // 120, step="authorise_payment")
    assert fires_after("OrderwrightStepsFail", [failing_every(60.0), done]) is None


def test_a_single_failure_is_no_alarm() -> None:
    once = scraped_series(FAILED, lambda at: 7.0 + (at > 600), step="buy_label", code="neighbour_refused")
    assert fires_after("OrderwrightStepsFail", [once]) is None


def test_orders_that_keep_being_routed_without_the_optimiser_are_an_alarm_and_a_single_one_is_none() -> None:
    simple = "orderwright_routed_by_simple_rule_total"
    once = scraped_series(simple, lambda at: float(at > 600), why="ended")
    assert fires_after("OrderwrightRoutedBySimpleRule", [once]) is None
    each_minute = scraped_series(simple, lambda at: at // MINUTE, why="hung")
    heard = fires_after("OrderwrightRoutedBySimpleRule", [once, each_minute])
    assert heard is not None and heard <= 15


def test_many_failures_are_an_alarm_whatever_else_is_done() -> None:
    done = scraped_series(DONE, lambda at: at, step="authorise_payment")
    assert fires_after("OrderwrightStepsFail", [failing_every(5.0), done]) is not None


def test_temporal_that_is_down_is_an_alarm_of_its_own() -> None:
    down = scraped_series("up", lambda _at: 0, job="temporal", instance="temporal:8000")
    assert {name for name in RULES if "histogram_quantile" not in RULES[name]["expr"] and fires_after(name, [
        down, *everything_else_is_well()
    ])} == {"OrderwrightTemporalDown"}  # fmt: skip


def test_a_few_runs_that_wait_for_a_worker_are_an_alarm_though_each_look_sees_others() -> None:
    # Every other look at a part of the open orders meets the one that waits.
    waiting = scraped_series("orderwright_unserved_runs", lambda at: at // 60 % 2, instance="api-1")
    assert fires_after("OrderwrightRunsUnserved", [waiting]) is not None
    none = scraped_series("orderwright_unserved_runs", lambda _at: 0, instance="api-1")
    assert fires_after("OrderwrightRunsUnserved", [none]) is None


def test_a_parcel_that_moves_although_it_is_cancelled_is_an_alarm_at_once() -> None:
    astray = scraped_series("orderwright_parcels_astray", lambda _at: 1)
    assert fires_after("OrderwrightParcelsAstray", [astray]) == 0


def test_a_review_that_waits_for_hours_is_an_alarm_but_a_return_may_wait_for_days_for_its_parcel() -> None:
    def oldest(kind: str) -> Series:
        return scraped_series("orderwright_reviews_oldest_seconds", lambda at: 14_000 + at, kind=kind)

    assert fires_after("OrderwrightReviewsWait", [oldest("risk"), oldest("return")]) is not None
    assert fires_after("OrderwrightReviewsWait", [oldest("return")]) is None
    overdue = scraped_series("orderwright_reviews_overdue", lambda _at: 1)
    assert fires_after("OrderwrightReviewsOverdue", [overdue]) == 10


def test_customers_whose_payments_are_declined_are_an_alarm_when_they_are_many_or_wait_too_long() -> None:
    def awaiting(count: float) -> Series:
        return scraped_series("orderwright_orders", lambda _at: count, state="awaiting_customer")

    assert fires_after("OrderwrightCustomersAwaited", [awaiting(51)]) == 15
    assert fires_after("OrderwrightCustomersAwaited", [awaiting(50)]) is None
    oldest = scraped_series(
        "orderwright_orders_awaiting_customer_oldest_seconds", lambda at: 345_000.0 + at, instance="api-1"
    )
    assert fires_after("OrderwrightCustomersAwaitedTooLong", [oldest]) is not None
    in_time = scraped_series(
        "orderwright_orders_awaiting_customer_oldest_seconds", lambda _at: 259_200.0, instance="api-1"
    )
    assert fires_after("OrderwrightCustomersAwaitedTooLong", [in_time]) is None


def test_a_dead_letter_is_an_alarm_at_once_and_a_subscriber_that_is_behind_one_after_a_while() -> None:
    dead = scraped_series("orderwright_outbox_dead_letters", lambda _at: 1, subscriber="erp")
    assert fires_after("OrderwrightDeadLetters", [dead]) == 0
    behind = scraped_series("orderwright_outbox_oldest_seconds", lambda at: at, subscriber="erp")
    assert fires_after("OrderwrightSubscriberBehind", [behind]) == 10.5
    slow = scraped_series("orderwright_outbox_oldest_seconds", lambda at: at % 240, subscriber="erp")
    assert fires_after("OrderwrightSubscriberBehind", [slow]) is None


def everything_else_is_well() -> list[Series]:
    groups = re.findall(
        r'absent\(up\{job="([\w-]+)",group="([\w-]+)"\}\)', RULES["OrderwrightGroupGone"]["expr"]
    )
    up = [scraped_series("up", lambda _at: 1, job=job, group=group, instance=group) for job, group in groups]
    return [*up, scraped_series("orderwright_database_up", lambda _at: 1)]


def refused(reason: Callable[[float], float]) -> Series:
    return scraped_series(
        "orderwright_http_requests_total", reason, status="503", route="/readyz", method="GET"
    )


def test_answers_of_503_because_of_temporal_are_no_alarm_about_the_database() -> None:
    full = scraped_series("orderwright_database_full_total", lambda _at: 0)
    assert (
        fires_after("OrderwrightDatabaseDown", [*everything_else_is_well(), full, refused(lambda at: at)])
        is None
    )


def test_a_database_that_is_full_is_an_alarm_though_it_answers() -> None:
    full = scraped_series("orderwright_database_full_total", lambda at: at // 60)
    assert fires_after("OrderwrightDatabaseDown", [*everything_else_is_well(), full]) is not None


def test_a_database_that_does_not_answer_is_an_alarm() -> None:
    down = scraped_series("orderwright_database_up", lambda _at: 0)
    assert fires_after("OrderwrightDatabaseDown", [down]) == 3
