"""The two kinds of contract: tolerant ones that travel between our own parts, strict ones that strangers send us."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def storable(value: Any) -> Any:
    """Text without what no database can store (NUL and lone surrogates); anything else as it is.

    A stranger's stray byte in a reason must not make every later write of an order fail.
    """
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return value


# Text that may quote a stranger: it is cleaned, never refused, for a fact that happened must be kept.
StorableText = Annotated[str, BeforeValidator(storable)]


class Contract(BaseModel):
    """Frozen and tolerant: an old reader ignores what a newer writer added, so code can be upgraded in flight."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Document(BaseModel):
    """Frozen and strict: what a stranger sends. A misspelt key is reported instead of being silently dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)
