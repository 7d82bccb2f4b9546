"""``docker-compose.yml`` against the specification, and against what our code really offers.

There is no Docker where this runs. So whatever the file names is looked up: commands, settings, queues, paths, ports.
"""

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import temporalio.bridge
import yaml
from compose_spec import PyCompose
from pydantic import AliasChoices

from apps.api.application import routes_only
from apps.api.openapi import describe
from apps.api.webhooks import Neighbour
from apps.simulators.__main__ import _parser
from tests.apps.cli.test_readme import command_of
from workers.embedded.stack import simulators_dir
from workers.embedded.temporal import BOUNDS, POLLING
from workers.settings import REPOSITORY, Settings
from workflows.steps import QUEUES

TEXT = (REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8")
SECRETS = {
    "POSTGRES_PASSWORD",
    "TEMPORAL_POSTGRES_PASSWORD",
    "ORDERWRIGHT_API_TOKEN",
    "ORDERWRIGHT_WEBHOOK_SECRET",
}
ADDRESSES = (REPOSITORY / "simulators.env").read_text(encoding="utf-8")
SIMULATED = dict(line.split("=", 1) for line in ADDRESSES.splitlines() if line.startswith("ORDERWRIGHT_"))
# Read by Temporal's SDK itself (workers.client).
OF_TEMPORAL = {
    "TEMPORAL_ADDRESS",
    "TEMPORAL_NAMESPACE",
    "TEMPORAL_PROFILE",
    "TEMPORAL_CONFIG_FILE",
    "TEMPORAL_API_KEY",
    "TEMPORAL_TLS",
    "TEMPORAL_TLS_SERVER_NAME",
    *(
        f"TEMPORAL_TLS_{what}_{how}"
        for what in ("SERVER_CA_CERT", "CLIENT_CERT", "CLIENT_KEY")
        for how in ("PATH", "DATA")
    ),
}
# Read by OpenTelemetry (workers.telemetry), or by the command line (--api-url).
NOT_OURS_TO_READ = OF_TEMPORAL | {
    "ORDERWRIGHT_API_URL",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
}
# Named by the pages and of no process of ours: Compose reads them itself.
NOT_FOR_OURS = {
    "POSTGRES_PASSWORD",
    "TEMPORAL_POSTGRES_PASSWORD",
    "ORDERWRIGHT_IMAGE",
    "ORDERWRIGHT_BIND",
}
# Said by the file, for other parts of it count on them; the page names them.
SAID_BY_THE_FILE = {
    "ORDERWRIGHT_API_HOST",
    "ORDERWRIGHT_API_PORT",
    "ORDERWRIGHT_MONITORING_HOST",
    "ORDERWRIGHT_HEALTH_PORT",
    "ORDERWRIGHT_METRICS_PORT",
}
# The image says it.
OF_THE_IMAGE = {"ORDERWRIGHT_DATA_DIR"}

# A default may have a variable in it.
_VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?:(:[-?])((?:[^{}]|\$\{[^{}]*\})*))?\}")


def interpolated(environment: Mapping[str, str]) -> str:
    """The file's text as Compose reads it; ``KeyError`` for a variable that is required and missing."""

    def value(found: re.Match[str]) -> str:
        name, operator, default = found.groups()
        if environment.get(name):
            return environment[name]
        if operator != ":-":
            raise KeyError(name)
        return _VARIABLE.sub(value, default or "")

    return _VARIABLE.sub(value, TEXT).replace("$$", "$")


def loaded(**more: str) -> dict[str, Any]:
    """What Compose makes of the file with an ``.env`` of made-up secrets, simulated neighbours, and ``more``."""
    environment = SIMULATED | {name: f"made-up-{name.lower()}" for name in SECRETS} | more
    read = yaml.safe_load(interpolated(environment))
    for service in read["services"].values():
        given = service.get("environment") or {}
        service["environment"] = {
            variable: environment.get(variable) if value is None else value
            for variable, value in given.items()
        }
    return {key: value for key, value in read.items() if not key.startswith("x-")}


FILE = loaded()
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
WORKERS = {name: service for name, service in OURS.items() if name.startswith("worker-")}
SIMULATORS = {name: service for name, service in OURS.items() if name.startswith("simulator-")}


def test_the_file_keeps_to_the_compose_specification() -> None:
    PyCompose.from_yaml(yaml.safe_dump(FILE))


def test_the_specification_is_really_looked_at() -> None:
    with pytest.raises(ValueError, match="helthcheck"):
        PyCompose.from_yaml(yaml.safe_dump({"services": {"api": {"image": "x", "helthcheck": {}}}}))


@pytest.mark.parametrize("missing", sorted(SECRETS | SIMULATED.keys()))
def test_neither_a_secret_nor_a_neighbours_address_has_a_default(missing: str) -> None:
    with pytest.raises(KeyError, match=missing):
        interpolated(dict.fromkeys((SECRETS | SIMULATED.keys()) - {missing}, "made-up"))


def test_no_other_value_is_a_secret() -> None:
    secret = re.compile(r"PASSWORD|SECRET|TOKEN|PWD")
    for name, service in SERVICES.items():
        for variable, value in (service.get("environment") or {}).items():
            if secret.search(variable) and value:
                assert str(value).startswith("made-up-"), f"{name}: {variable} is written in the file"


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_variable_is_a_setting_and_its_value_can_be_used(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = OURS[name]["environment"]
    assert given.keys() - settings_variables() - NOT_OURS_TO_READ == set()
    for variable, value in given.items():
        # Passed on without a value, it may be an empty line of the environment file.
        monkeypatch.setenv(variable, "" if value is None else str(value))
    settings = Settings()
    if "DATABASE_URL" in given:
        assert urlsplit(settings.database_url).hostname in SERVICES


def settings_variables() -> set[str]:
    aliases = [field.validation_alias for field in Settings.model_fields.values()]
    standard = {str(alias.choices[0]) for alias in aliases if isinstance(alias, AliasChoices)}
    plain = {name for name, field in Settings.model_fields.items() if field.validation_alias is None}
    return standard | {f"ORDERWRIGHT_{name.upper()}" for name in plain}


def named_by_pages() -> set[str]:
    pages = [(REPOSITORY / "docs" / name).read_text(encoding="utf-8") for name in PAGES]
    return set(_NAMED.findall("\n".join(pages)))


PAGES = ("operate.md", "integrate.md")
_NAMED = re.compile(r"\b(?:ORDERWRIGHT|OTEL|TEMPORAL|POSTGRES|DATABASE)_[A-Z_]*[A-Z]\b")
_OF_THE_API = re.compile(r"ORDERWRIGHT_(?:API|OUTBOX|WEBHOOK|STRANGER|FORWARDED|METRICS_TOKEN)")
_OF_NEIGHBOURS = re.compile(r"ORDERWRIGHT_WEBHOOK_SECRET(?:_PAYMENT|_WAREHOUSE|_CARRIER)?")
_OF_STATEMENTS = re.compile(r"ORDERWRIGHT_(?:PAYMENT|CARRIER)_TOKEN")
_OF_WORKERS = re.compile(
    r"ORDERWRIGHT_(?:\w+_URL|REVIEWERS|ESCALATION|ROUTING_PROCESSES|MONITORING_HOST|HEALTH_PORT|METRICS_PORT)"
)


def concerned_by(variable: str) -> list[str]:
    """The services whose processes read it: those of the API, every worker, or both with what prepares for them."""
    if _OF_NEIGHBOURS.fullmatch(variable):
        # Who signs, and who verifies.
        return ["api", "simulator-payment", "simulator-warehouse", "simulator-carrier"]
    if variable.startswith("ORDERWRIGHT_PAY_LINK"):
        return ["api", *WORKERS]
    if _OF_STATEMENTS.fullmatch(variable):
        # Who shows it, and who asks for it.
        return [*WORKERS, "simulator-payment", "simulator-carrier"]
    if _OF_THE_API.match(variable):
        return ["api"]
    return [*WORKERS] if _OF_WORKERS.fullmatch(variable) else ["prepare", "api", *WORKERS]


@pytest.mark.parametrize(
    "variable",
    sorted((named_by_pages() | settings_variables()) - NOT_FOR_OURS - OF_THE_IMAGE - SAID_BY_THE_FILE),
)
def test_a_variable_reaches_every_container_that_it_concerns(variable: str) -> None:
    said = loaded(**{variable: "what-env-says"})["services"]
    lacking = [
        name for name in concerned_by(variable) if said[name]["environment"].get(variable) != "what-env-says"
    ]
    assert lacking == [], f"what .env says of {variable} never arrives there"


def test_the_page_names_what_env_cannot_say() -> None:
    page = (REPOSITORY / "docs" / "operate.md").read_text(encoding="utf-8")
    exceptions = page.partition("The exceptions are said by the file")[2].partition(" (The address")[0]
    assert set(_NAMED.findall(exceptions)) == SAID_BY_THE_FILE


def test_a_database_of_ones_own_is_the_only_one_that_our_containers_know() -> None:
    own = "postgresql://shop:secret@db.example:5432/orders"
    said = loaded(DATABASE_URL=own)["services"]
    for name in ("prepare", "api", *WORKERS):
        assert said[name]["environment"]["DATABASE_URL"] == own
    assert SERVICES["api"]["environment"]["DATABASE_URL"] == (
        "postgresql://orderwright:made-up-postgres_password@postgresql:5432/orderwright"
    )


def test_the_sdk_reads_what_the_file_passes_on_to_it() -> None:
    (library,) = Path(temporalio.bridge.__path__[0]).glob("temporal_sdk_bridge*")
    known = library.read_bytes()
    assert {name for name in OF_TEMPORAL if name.encode() not in known} == set()
    assert {name for name in SERVICES["api"]["environment"] if name.startswith("TEMPORAL_")} == OF_TEMPORAL


def test_no_log_grows_without_bound() -> None:
    for name, service in SERVICES.items():
        assert service.get("logging") == {
            "driver": "json-file",
            "options": {"max-size": "20m", "max-file": "5"},
        }, f"the log of {name} grows until the disk is full"


def test_no_default_of_a_setting_is_written_down_twice() -> None:
    written = set(re.findall(r"\$\{(\w+):-[^}]+\}", TEXT)) & settings_variables()
    # The simulators get the speed as an option, which has to have a value. The others are not the settings' defaults.
    assert written == {"ORDERWRIGHT_SPEED", "DATABASE_URL", "ORDERWRIGHT_LOG_JSON", "ORDERWRIGHT_PAY_LINK"}
    said = SERVICES["api"]["environment"]
    assert Settings.model_fields["database_url"].default != said["DATABASE_URL"]
    assert Settings.model_fields["log_json"].default is False
    assert said["ORDERWRIGHT_LOG_JSON"] == "true"


def command_lines() -> Iterator[tuple[str, list[str]]]:
    for name, service in OURS.items():
        yield name, [*service.get("entrypoint", ["orderwright"]), *service["command"]]


@pytest.mark.parametrize(("name", "line"), list(command_lines()))
def test_every_command_is_one_that_we_have(name: str, line: list[str]) -> None:
    if line[0] == "orderwright":
        command, arguments = command_of(line[1:])
        command.make_context(name, arguments)  # raises what the user would be told
    else:
        assert line[:3] == ["python", "-m", "apps.simulators"]
        asked = _parser().parse_args(line[3:])
        assert f"simulator-{asked.what}" == name


def queues_of(service: Mapping[str, Any]) -> list[str]:
    line = service["command"]
    return str(line[line.index("--queues") + 1]).split(",")


def test_every_queue_is_served_by_exactly_one_service() -> None:
    assert sorted(queue for service in WORKERS.values() for queue in queues_of(service)) == sorted(QUEUES)
    for name, service in WORKERS.items():
        assert queues_of(service) == [name.replace("worker-", "oms-")]


def test_workers_can_be_scaled() -> None:
    for service in WORKERS.values():
        # A second container cannot have the same name, or the same port of this machine.
        assert service.keys().isdisjoint({"container_name", "ports", "deploy"})


def test_services_wait_for_what_they_need_and_what_they_wait_for_can_come_true() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            other = SERVICES[needed]
            if how["condition"] == "service_healthy":
                assert "healthcheck" in other, f"{name} waits for the health of {needed}, which has none"
            else:
                assert how["condition"] == "service_completed_successfully"
                assert other["restart"] == "on-failure", f"{needed} must be able to come to an end"
            assert "profiles" not in other or other["profiles"] == service.get("profiles")
    for name in ("api", *WORKERS):
        assert "prepare" in SERVICES[name]["depends_on"]


def test_every_service_of_ours_that_stays_says_whether_it_is_well() -> None:
    for name, service in OURS.items():
        if name != "prepare":
            *program, module, url = service["healthcheck"]["test"]
            assert (program, module) == (["CMD", "python", "-m"], "workers.probe")
            assert find_spec(module) is not None
            assert urlsplit(url).port == listens_on(name), f"{name} is asked where it does not answer"
            assert urlsplit(url).path == ("/healthz" if name in SIMULATORS else "/readyz")


def listens_on(name: str) -> int:
    service = SERVICES[name]
    if name in SIMULATORS:
        return int(service["command"][service["command"].index("--port") + 1])
    setting = "ORDERWRIGHT_HEALTH_PORT" if name in WORKERS else "ORDERWRIGHT_API_PORT"
    return int(service["environment"][setting])


def test_neighbours_and_webhooks_are_where_the_others_look_for_them() -> None:
    given = SERVICES["worker-payments"]["environment"]
    assert {name: value for name, value in given.items() if name.endswith("_URL") and value} == SIMULATED | {
        "DATABASE_URL": given["DATABASE_URL"]
    }
    for value in SIMULATED.values():
        url = urlsplit(value)
        assert url.hostname in SIMULATORS
        assert url.port == listens_on(url.hostname)
    assert "COMPOSE_PROFILES=simulators" in ADDRESSES.splitlines()
    assert "/v1/webhooks/{neighbour}" in describe(routes_only())["paths"]
    for name, service in SIMULATORS.items():
        line = service["command"]
        if "--webhook-url" in line:
            url = urlsplit(line[line.index("--webhook-url") + 1])
            assert (url.hostname, url.port) == ("api", listens_on("api"))
            neighbour = Neighbour(url.path.removeprefix("/v1/webhooks/"))
            assert name == f"simulator-{neighbour}"
        assert service["profiles"] == ["simulators"]


def test_nothing_is_open_to_other_machines_unless_asked_for() -> None:
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_containers_of_ours_have_no_rights_that_they_do_not_need() -> None:
    for service in OURS.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


def test_data_outlive_containers() -> None:
    for name in ("postgresql", "temporal-postgresql", *SIMULATORS):
        (volume,) = SERVICES[name]["volumes"]
        assert volume.partition(":")[0] in FILE["volumes"]


def test_every_simulator_keeps_its_state_where_the_commands_in_its_container_look_for_it() -> None:
    (kept_in,) = re.findall(
        r"ORDERWRIGHT_DATA_DIR=(\S+)", (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    )
    for service in SIMULATORS.values():
        line = service["command"]
        assert line[line.index("--data-dir") + 1] == str(simulators_dir(Path(kept_in)))
        # One volume for all of them: a script of faults that is put in force in one of them is heard by each.
        assert service["volumes"] == [f"simulators:{kept_in}"]


def test_temporal_is_told_what_the_embedded_one_is_told() -> None:
    told = yaml.safe_load(FILE["configs"]["temporal-dynamic-config"]["content"])
    assert {key: str(values[0]["value"]) for key, values in told.items()} == {**POLLING, **BOUNDS}
