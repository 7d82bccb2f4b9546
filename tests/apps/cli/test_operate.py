"""``docs/operate.md``: its commands, alerts and metrics exist. (Those of ``orderwright`` itself: test_readme.)"""

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import temporalio.bridge
import yaml

from activities.store.measures import Measures, Waiting
from apps.api.metrics import Metrics
from tests.apps.cli.conftest import REPOSITORY
from tests.workers.test_compose import SERVICES, WORKERS
from workers.embedded.temporal import temporal_program
from workers.observing import DONE_ATTEMPTS, FAILED_ATTEMPTS
from workers.routing_pool import LOST_PROCESSES, SIMPLE_PLANS

PAGE = (REPOSITORY / "docs" / "operate.md").read_text(encoding="utf-8")
FAULTS = (REPOSITORY / "docs" / "faults.md").read_text(encoding="utf-8")
ALERTS: list[dict[str, Any]] = yaml.safe_load((REPOSITORY / "docs" / "alerts.yml").read_text())["groups"][0][
    "rules"
]


def lines() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE + FAULTS, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", PAGE)
    return [line.strip() for block in blocks for line in block.splitlines()] + [
        " ".join(s.split()) for s in spans
    ]


DOCKER = sorted({line for line in lines() if " docker compose " in f" {line}"})
TEMPORAL = sorted({line.partition(" api ")[2] for line in lines() if "exec api temporal " in line})


@pytest.mark.parametrize("line", DOCKER)
def test_a_docker_command_names_services_that_there_are(line: str) -> None:
    words = shlex.split(re.split(" [<>|] ", line)[0].partition("docker compose ")[2])
    flags_with_value = {"--profile", "--tail"}
    verb = next(
        w for n, w in enumerate(words) if not w.startswith("-") and words[n - 1] not in flags_with_value
    )
    arguments = words[words.index(verb) + 1 :]
    named = [
        w
        for n, w in enumerate(arguments)
        if not w.startswith("-") and arguments[n - 1] not in {"--tail", "--scale"}
    ]
    assert verb in {"up", "ps", "logs", "exec", "restart", "build"}
    for service in named[:1] if verb == "exec" else named:
        assert service in SERVICES
    for scaled in re.findall(r"--scale (\S+)=\d+", line):
        assert scaled in WORKERS
    for profile in re.findall(r"--profile (\S+)", line):
        assert any(profile in service.get("profiles", []) for service in SERVICES.values())


@pytest.mark.parametrize(
    "line",
    [
        line
        for line in DOCKER
        if re.search(r"orderwright (review (approve|reject|finish)|orders cancel) ", line)
    ],
)
def test_a_decision_in_a_container_says_who_takes_it(line: str) -> None:
    # Nobody is logged in there.
    assert "--actor" in shlex.split(line)


@cache
def temporal_help(*words: str) -> str:
    asked = subprocess.run([temporal_program(), *words, "--help"], capture_output=True, text=True, check=True)
    return asked.stdout


@pytest.mark.parametrize("line", TEMPORAL)
def test_a_command_of_temporal_has_these_options(line: str) -> None:
    words = shlex.split(line)[1:]
    options = [word for word in words if word.startswith("--")]
    verbs = words[: words.index(options[0])] if options else words
    told = temporal_help(*verbs)
    assert f"temporal {' '.join(verbs)}" in told
    assert [option for option in options if option not in told] == []


def shown_by_the_api() -> set[str]:
    rendered = Metrics().render(
        Measures(
            orders={}, shipments={}, reviews={}, reviews_overdue=0, effects_unclear={}, never_started=Waiting(),
            late_events=0,
        )
    ).decode()  # fmt: skip
    return set(re.findall(r"^# TYPE (\w+)", rendered, re.MULTILINE))


def counted_by_workers() -> set[str]:
    sources = (REPOSITORY / "activities" / "inventory.py").read_text()
    assert '"orderwright_stock_shortages"' in sources
    counted = (FAILED_ATTEMPTS, DONE_ATTEMPTS, "orderwright_stock_shortages", LOST_PROCESSES, SIMPLE_PLANS)
    return {f"{name}_total" for name in counted}


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:orderwright|temporal)_[a-z_]+", text))


@cache
def engine() -> bytes:
    """The SDK's compiled core, which holds the names of its metrics."""
    (library,) = Path(temporalio.bridge.__path__[0]).glob("temporal_sdk_bridge*")
    return library.read_bytes()


@pytest.mark.parametrize(
    "name", sorted(set().union(*(metrics_in(rule["expr"]) for rule in ALERTS), metrics_in(PAGE)))
)
def test_every_metric_that_is_named_is_one_that_is_shown(name: str) -> None:
    if name.startswith("orderwright_"):
        assert name in shown_by_the_api() | counted_by_workers()
    elif name != "temporal_":  # "temporal_…" stands for all of them
        bare = re.sub(r"(_seconds)?(_total|_bucket|_count|_sum)$", "", name.removeprefix("temporal_"))
        assert bare.encode() in engine()


def test_the_page_tells_of_every_alert_and_every_alert_leads_to_the_page() -> None:
    names = {rule["alert"] for rule in ALERTS}
    assert names == set(re.findall(r"\bOrderwright[A-Z]\w+", PAGE))
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for rule in ALERTS:
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/operate.md"
        assert anchor in anchors, f"{rule['alert']} leads nowhere"


def scraped() -> dict[str, dict[str, Any]]:
    text = (REPOSITORY / "docs" / "prometheus.yml").read_text(encoding="utf-8")
    return {job["job_name"]: job for job in yaml.safe_load(text)["scrape_configs"]}


def test_prometheus_finds_the_api_and_every_group_of_workers() -> None:
    jobs = scraped()
    (found,) = jobs["orderwright-workers"]["dns_sd_configs"]
    assert set(found["names"]) == set(WORKERS)
    assert {str(found["port"])} == {w["environment"]["ORDERWRIGHT_METRICS_PORT"] for w in WORKERS.values()}
    (api,) = jobs["orderwright-api"]["static_configs"]
    assert api["targets"] == ["api:8080"]
    up = re.compile(r'up\{job=~"orderwright')
    assert any(up.match(rule["expr"]) for rule in ALERTS)
    assert all(name.startswith("orderwright") for name in jobs if name != "temporal")


def test_a_group_of_which_nothing_is_left_raises_an_alarm() -> None:
    # A stopped container has no name any more, so its target vanishes: "up == 0" never comes true.
    groups = {("orderwright-workers", name) for name in WORKERS} | {("orderwright-api", "api")}
    missed = re.compile(r'(?:^|\bor )absent\(up\{job="([\w-]+)",group="([\w-]+)"\}\)')
    assert {found for rule in ALERTS for found in missed.findall(rule["expr"])} == groups
    jobs = scraped()
    assert jobs["orderwright-workers"]["relabel_configs"] == [
        {"source_labels": ["__meta_dns_name"], "target_label": "group"}
    ]
    assert jobs["orderwright-api"]["static_configs"][0]["labels"] == {"group": "api"}


def test_a_slow_queue_raises_an_alarm_whatever_waits_on_it() -> None:
    (slow,) = (rule["expr"] for rule in ALERTS if rule["alert"] == "OrderwrightQueueSlow")
    for waiting in ("activity", "workflow_task"):
        assert f"temporal_{waiting}_schedule_to_start_latency_seconds_bucket" in slow
