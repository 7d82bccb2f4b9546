"""The two kinds of contract: tolerant ones that travel between our own parts, strict ones that strangers send us."""

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError


def storable(value: Any) -> Any:
    """Text without what no database can store (NUL and lone surrogates); anything else as it is.

    A stranger's stray byte in a reason must not make every later write of an order fail.
    """
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return value


# Text that may quote a stranger: it is cleaned, never refused, for a fact that happened must be kept.
StorableText = Annotated[str, BeforeValidator(storable)]


def _written_out(value: Any) -> Any:
    """A number would be taken for seconds or, if it is large, for milliseconds: whoever sends one meant only one."""
    if isinstance(value, int | float) or (isinstance(value, str) and _is_number(value)):
        raise PydanticCustomError("datetime_type", "must be a time, e.g. 2026-03-01T09:30:00Z")
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# A point in time that a stranger sends: RFC 3339, with a zone.
SentMoment = Annotated[AwareDatetime, BeforeValidator(_written_out)]


class Contract(BaseModel):
    """Frozen and tolerant: an old reader ignores what a newer writer added, so code can be upgraded in flight."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Document(BaseModel):
    """Frozen and strict: what a stranger sends. A misspelt key is reported instead of being silently dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)
