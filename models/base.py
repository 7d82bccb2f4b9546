"""The two kinds of contract: tolerant ones that travel between our own parts, strict ones that strangers send us."""

from pydantic import BaseModel, ConfigDict


class Contract(BaseModel):
    """Frozen and tolerant: an old reader ignores what a newer writer added, so code can be upgraded in flight."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Document(BaseModel):
    """Frozen and strict: what a stranger sends. A misspelt key is reported instead of being silently dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)
