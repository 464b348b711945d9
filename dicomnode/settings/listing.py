"""The settings as lines of key and value for people: what may be a secret is never among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel


@dataclass(frozen=True)
class Line:
    """One key."""

    key: str
    value: str
    default: str

    @property
    def is_default(self) -> bool:
        """Whether the file need not name it."""
        return self.value == self.default


def lines_of(name: str, value: Any) -> Iterator[Line]:
    """A section, or a list of tables, each by its name where it has one."""
    if isinstance(value, BaseModel):
        for key, found in value:
            field = type(value).model_fields[key]
            if isinstance(found, BaseModel) or (_are_tables(found) and found != field.default):
                yield from lines_of(f"{name}.{key}", found)
            else:
                default = "required" if field.is_required() else shown(field.default)
                yield Line(f"{name}.{key}", shown(found), default)
    elif isinstance(value, tuple):
        for number, found in enumerate(value, 1):
            yield from lines_of(f"{name}[{getattr(found, 'name', number)}]", found)


def _are_tables(value: Any) -> bool:
    return isinstance(value, tuple) and any(isinstance(found, BaseModel) for found in value)


def shown(value: Any) -> str:
    """A value as the file writes it. Of an address with a path only the host: the path may be a secret."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and "://" in value:
        parts = urlsplit(value)
        return f"{parts.scheme}://{parts.hostname or ''}/… (rest not shown)"
    if isinstance(value, tuple | frozenset | list):
        return ", ".join(sorted(map(shown, value)) if isinstance(value, frozenset) else map(shown, value))
    if isinstance(value, BaseModel):
        return str(getattr(value, "name", type(value).__name__))
    if isinstance(value, dict):
        return ", ".join(f"{key} = {shown(found)}" for key, found in value.items())
    return str(value)
