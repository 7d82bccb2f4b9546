"""Where the live stack of a data directory is reached: written by the stack, read by the command line and others."""

import secrets
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workers.embedded.children import write_private
from workers.embedded.locks import live_holder

_STACK = "stack.json"
_SECRETS = "secrets.json"


class PublishedStack(BaseModel):
    """The addresses of a running stack. ``speed`` is business seconds per wall second; ``started`` Unix seconds."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pid: int
    started: float
    data_dir: Path
    speed: float
    api_url: str
    api_token: str = Field(repr=False)
    database_url: str = Field(repr=False)
    temporal_address: str
    temporal_namespace: str
    temporal_ui_url: str | None
    build_id: str
    simulators: dict[str, str] = {}

    @property
    def psql_url(self) -> str:
        """The database's URL as ``psql`` takes it. A password is left out: psql asks for it."""
        url = urlsplit(self.database_url.replace("+psycopg", "", 1))
        user, at, host = url.netloc.rpartition("@")
        return url._replace(netloc=f"{user.partition(':')[0]}{at}{host}").geturl()


class StackSecrets(BaseModel):
    """Made once for a data directory."""

    model_config = ConfigDict(frozen=True)

    api_token: str = Field(default_factory=lambda: secrets.token_urlsafe(24))
    webhook_secret: str = Field(default_factory=lambda: secrets.token_hex(32))
    pay_link_secret: str = Field(default_factory=lambda: secrets.token_hex(32))
    # By which the workers are known at the simulated payment provider and carrier.
    neighbour_token: str = Field(default_factory=lambda: secrets.token_urlsafe(24))


def read_stack(data_dir: Path) -> PublishedStack | None:
    """The live stack of ``data_dir``, or None when none runs. What a killed stack left behind does not count."""
    holder = live_holder(data_dir)
    if holder is None:
        return None
    try:
        stack = PublishedStack.model_validate_json((data_dir / _STACK).read_bytes())
    except (OSError, ValidationError):
        return None
    return stack if stack.pid == holder.pid else None


def publish(stack: PublishedStack) -> None:
    """Write where ``stack`` is reached; only its owner can read the token."""
    write_private(stack.data_dir / _STACK, stack.model_dump_json(indent=1).encode())


def withdraw(data_dir: Path) -> None:
    """Remove what was published."""
    (data_dir / _STACK).unlink(missing_ok=True)


def load_secrets(data_dir: Path) -> StackSecrets:
    """The tokens and the webhook secret of ``data_dir``, made on first use; what an older version lacks is added."""
    path = data_dir / _SECRETS
    try:
        kept = StackSecrets.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        kept = StackSecrets()
    else:
        if kept.model_fields_set == set(StackSecrets.model_fields):
            return kept
    write_private(path, kept.model_dump_json(indent=1).encode())
    return kept
