"""The one settings object. Everything is read from the environment, as ``ORDERWRIGHT_*``; empty is not set.

Three things have their standard names instead: ``DATABASE_URL``; the Temporal connection, which the SDK
reads itself (``TEMPORAL_ADDRESS``, ``TEMPORAL_NAMESPACE``, ``TEMPORAL_PROFILE`` …; see ``workers.client``); and
``OTEL_EXPORTER_OTLP_ENDPOINT``, whose relatives (``OTEL_EXPORTER_OTLP_HEADERS``, ``OTEL_TRACES_SAMPLER`` …)
OpenTelemetry reads itself.
"""

import logging
import os
from functools import lru_cache
from ipaddress import ip_network
from pathlib import Path

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.clock import FASTEST, SLOWEST
from models.errors import InvalidDocument, Problem

REPOSITORY = Path(__file__).resolve().parent.parent


def default_routing_processes() -> int:
    """Half of the cores that this process may use, for the rest of it works, too; at least one and at most four.

    Each takes about 250 MB.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(usable // 2, 1), 4)


def default_data_dir() -> Path:
    """Where the embedded stack keeps its state unless told otherwise.

    Root gets a system directory: PostgreSQL refuses to run as root, and the user it then runs as cannot enter
    root's home.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/orderwright")
    shared = os.environ.get("XDG_DATA_HOME")
    return (Path(shared) if shared else Path.home() / ".local" / "share") / "orderwright"


class Settings(BaseSettings):
    """What a process of ours needs to know to run. ``speed`` is business seconds per wall second."""

    # A line such as ORDERWRIGHT_API_RATE= in an environment file sets nothing.
    model_config = SettingsConfigDict(
        env_prefix="ORDERWRIGHT_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    data_dir: Path = Field(default_factory=default_data_dir)
    network_file: Path = REPOSITORY / "examples" / "network.toml"
    speed: float = Field(default=1.0, ge=SLOWEST, le=FASTEST)

    api_host: str = "127.0.0.1"
    api_port: int = Field(default=8080, ge=1, le=65535)
    api_token: str = Field(default="", repr=False)
    webhook_secret: str = Field(default="", repr=False)
    # Opens GET /metrics and nothing else; empty: only the API token does.
    metrics_token: str = Field(default="", repr=False)
    # While a secret is exchanged for a new one, the old one still opens; empty otherwise.
    api_token_previous: str = Field(default="", repr=False)
    webhook_secret_previous: str = Field(default="", repr=False)
    # A neighbour with a secret of its own signs with that and no other, so that none can sign for another.
    webhook_secret_payment: str = Field(default="", repr=False)
    webhook_secret_payment_previous: str = Field(default="", repr=False)
    webhook_secret_warehouse: str = Field(default="", repr=False)
    webhook_secret_warehouse_previous: str = Field(default="", repr=False)
    webhook_secret_carrier: str = Field(default="", repr=False)
    webhook_secret_carrier_previous: str = Field(default="", repr=False)

    # What a customer whose payment was declined is sent: an address to which the link's token is added, usually a page
    # of the shop's; empty: our own API's. Without a secret no links are made, and none is taken.
    pay_link: str = ""
    pay_link_secret: str = Field(default="", repr=False)
    pay_link_secret_previous: str = Field(default="", repr=False)
    # At most; it ends with the time that the order has, should that be sooner.
    pay_link_hours: float = Field(default=72.0, gt=0, le=24 * 365)

    # What one caller may ask of one API process: so many requests a second in the long run, so many at once. Callers
    # with the token by address; strangers (no or a wrong token or signature, /docs) by address; neighbours, once their
    # signature has shown who they are, by address and kind.
    api_rate: float = Field(default=200.0, gt=0)
    api_burst: int = Field(default=2_000, ge=1)
    stranger_rate: float = Field(default=5.0, gt=0)
    stranger_burst: int = Field(default=100, ge=1)
    webhook_rate: float = Field(default=400.0, gt=0)
    webhook_burst: int = Field(default=4_000, ge=1)

    # The proxies whose X-Forwarded-For and X-Forwarded-Proto are believed: addresses and networks with commas between
    # them, or * for whoever connects. Empty: nobody.
    forwarded_allow_ips: str = ""

    # So many connections at once, and the share of them that one address may have (a proxy named above: all).
    api_max_connections: int = Field(default=500, ge=1)
    api_connection_share: float = Field(default=0.25, gt=0, le=1)
    api_max_header_bytes: int = Field(default=16 * 1024, ge=1024, le=64 * 1024)
    # Seconds that a caller may take for sending the header of a request, and its body or reading what was sent to it.
    api_header_seconds: float = Field(default=10.0, gt=0)
    api_body_seconds: float = Field(default=30.0, gt=0)
    # For so long a connection is kept for the next request: longer than callers and proxies keep theirs.
    api_keep_alive_seconds: int = Field(default=75, ge=1)
    # How long it is known which webhooks were answered for.
    webhook_receipt_days: int = Field(default=30, ge=1)

    # What subscribers are told (docs/integrate.md): how long events are kept for a replay; for how many seconds an
    # answer is waited for, how many requests a subscriber gets at once, and how often an event is tried.
    outbox_days: int = Field(default=7, ge=1)
    outbox_send_seconds: float = Field(default=10.0, gt=0, le=60)
    outbox_at_once: int = Field(default=8, ge=1, le=100)
    outbox_attempts: int = Field(default=20, ge=1, le=1000)
    # Streams of availability that one API process serves at once; each is one of its connections.
    api_max_streams: int = Field(default=100, ge=0)

    database_url: str = Field(
        default="postgresql+psycopg://postgres@127.0.0.1:5432/orderwright",
        validation_alias=AliasChoices("DATABASE_URL", "ORDERWRIGHT_DATABASE_URL", "database_url"),
        repr=False,
    )

    # Where the neighbours are. A worker that calls one does not start without its address: see workers.running.
    payment_url: str = ""
    warehouse_url: str = ""
    carrier_url: str = ""
    message_url: str = ""
    # Ours at the neighbour, sent with every request to it (Authorization: Bearer). Statements are mostly not given
    # without one.
    payment_token: str = Field(default="", repr=False)
    carrier_token: str = Field(default="", repr=False)

    # Every so many minutes our books are compared with the neighbours' and with each other; 0: only when asked.
    reconcile_minutes: int = Field(default=60, ge=0, le=7 * 24 * 60)
    # Every so many minutes what stock is worth where it lies is worked out, where the policy uses it; 0: only when
    # asked.
    values_minutes: int = Field(default=60, ge=0, le=7 * 24 * 60)
    # An effect without an answer for so long is looked up in the statement by the reconciliation.
    reconcile_grace_seconds: float = Field(default=300.0, ge=0)
    # What it may mend without a person, and up to how much; 0 leaves it to people.
    reconcile_release_units: int = Field(default=1_000, ge=0)
    reconcile_void_minor: int = Field(default=100_000, ge=0)
    reconcile_void_labels: bool = True
    reconcile_write_answers: bool = True

    # Addresses as the message gateway understands them: who decides reviews, and who hears of one left unanswered.
    reviewers: str = Field(default="reviewers@localhost", min_length=1)
    escalation: str = Field(default="review-lead@localhost", min_length=1)

    # How many processes a worker of oms-routing has for the optimiser; 0: it runs in the worker's own, and takes that
    # along when it crashes.
    routing_processes: int = Field(default_factory=default_routing_processes, ge=0, le=64)

    # Where a worker answers /healthz and /readyz, and where it shows its metrics; 0 does neither.
    monitoring_host: str = "127.0.0.1"
    health_port: int = Field(default=0, ge=0, le=65535)
    metrics_port: int = Field(default=0, ge=0, le=65535)
    # The base URL of an OpenTelemetry collector (OTLP over HTTP); without one nothing is traced.
    otlp_endpoint: str = Field(
        default="", validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint")
    )

    deployment_build_id: str = ""
    log_level: str = "INFO"
    log_json: bool = False

    @property
    def api_tokens(self) -> tuple[str, ...]:
        """Every token that opens the API."""
        return tuple(token for token in (self.api_token, self.api_token_previous) if token.strip())

    def webhook_secrets(self, neighbour: str) -> tuple[str, ...]:
        """Every secret that a webhook of ``payment``, ``warehouse`` or ``carrier`` may be signed with."""
        own, own_previous = {
            "payment": (self.webhook_secret_payment, self.webhook_secret_payment_previous),
            "warehouse": (self.webhook_secret_warehouse, self.webhook_secret_warehouse_previous),
            "carrier": (self.webhook_secret_carrier, self.webhook_secret_carrier_previous),
        }[neighbour]
        both = (own, own_previous) if own.strip() else (self.webhook_secret, self.webhook_secret_previous)
        return tuple(secret for secret in both if secret.strip())

    @property
    def pay_link_secrets(self) -> tuple[str, ...]:
        """Every secret that a pay link may be signed with."""
        both = (self.pay_link_secret, self.pay_link_secret_previous)
        return tuple(secret for secret in both if secret.strip())

    @property
    def pay_link_base(self) -> str:
        """The address to which a pay link's token is added."""
        return self.pay_link or f"http://{self.api_host}:{self.api_port}/v1/pay/"

    @property
    def proxies(self) -> tuple[str, ...]:
        """The proxies that are believed, one by one."""
        named = tuple(proxy for part in self.forwarded_allow_ips.split(",") if (proxy := part.strip()))
        # A network of all addresses is another way to write it, and must not mean anything else.
        everybody = any(proxy == "*" or proxy.endswith("/0") for proxy in named)
        return ("*",) if everybody else named

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _addresses(cls, proxies: str) -> str:
        """One that cannot be read would never be believed, and nobody would know why."""
        for proxy in filter(None, map(str.strip, proxies.split(","))):
            if proxy != "*":
                ip_network(proxy)
        return proxies

    @field_validator("database_url")
    @classmethod
    def _name_the_driver(cls, url: str) -> str:
        """``postgres://`` and ``postgresql://`` are what hosting providers hand out; we speak psycopg 3."""
        for scheme in ("postgres://", "postgresql://"):
            if url.startswith(scheme):
                return "postgresql+psycopg://" + url.removeprefix(scheme)
        return url

    @field_validator("otlp_endpoint", "payment_url", "warehouse_url", "carrier_url", "message_url")
    @classmethod
    def _a_web_address(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("is no http(s) URL such as http://some-host:4318")
        return url.rstrip("/")

    @field_validator("pay_link")
    @classmethod
    def _an_address_to_go_on(cls, url: str) -> str:
        # Not stripped at its end: "/pay/" and "?token=" are what the token is added to.
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("is no http(s) URL to add a token to, such as https://shop.example/pay?token=")
        return url

    @field_validator("data_dir", "network_file")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @field_validator("log_level")
    @classmethod
    def _a_level(cls, level: str) -> str:
        named = level.strip().upper()
        if named not in logging.getLevelNamesMapping():
            raise ValueError("is no level of logging: take DEBUG, INFO, WARNING, ERROR or CRITICAL")
        return named


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        InvalidDocument: a variable has a value that cannot be used; every one of them is named.
    """
    try:
        return Settings()
    except ValidationError as invalid:
        raise InvalidDocument(
            tuple(
                Problem(
                    path=_variable(str(error["loc"][0]) if error["loc"] else ""),
                    code="bad_setting",
                    message=error["msg"],
                )
                for error in invalid.errors()
            )
        ) from None


def _variable(field: str) -> str:
    standard = field in ("DATABASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return field if standard else f"ORDERWRIGHT_{field.upper()}"
