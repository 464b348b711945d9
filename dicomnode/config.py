"""Reads `node.toml`: checked as a whole, every problem reported at once."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from dicomnode.errors import ConfigurationError
from dicomnode.settings.node import Settings
from dicomnode.settings.secret import SECRET

T = TypeVar("T")


def load_settings(path: Path) -> Settings:
    """Read and check `node.toml`; relative paths in it start at its folder.

    Raises ConfigurationError naming file, key and remedy of every problem.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"configuration {path} cannot be read ({error.strerror}); name another with --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"configuration {path} is not valid TOML: {error}") from error
    contradictions = list(_contradictions(content))
    try:
        settings = Settings.model_validate(content)
    except ValidationError as error:
        problems = [*(_sentence(problem) for problem in error.errors()), *contradictions]
        raise _all_problems(path, problems) from error
    if contradictions:
        raise _all_problems(path, contradictions)
    settings = _rooted(settings, path.resolve().parent)
    for peer in settings.peer:
        peer.give(settings.tls)
    _ = settings.wanted, settings.database_url  # a broken profile or secret is found before anything starts
    return settings


def _rooted(value: T, base: Path) -> T:
    """The same settings with every relative path in them below `base`."""
    rooted: Any = value
    if isinstance(value, Path):
        rooted = base / value
    elif isinstance(value, BaseModel):
        fields = type(value).model_fields
        rooted = value.model_copy(update={name: _rooted(getattr(value, name), base) for name in fields})
    elif isinstance(value, tuple):
        rooted = tuple(_rooted(item, base) for item in value)
    return cast(T, rooted)


def _all_problems(path: Path, problems: list[str]) -> ConfigurationError:
    lines = [f"  {problem}" for problem in problems]
    return ConfigurationError(f"configuration {path} has {len(lines)} problem(s):\n" + "\n".join(lines))


def _sentence(problem: Any) -> str:
    """One pydantic problem as `key: what is wrong and what to do`."""
    key = ""
    for part in problem["loc"]:
        key += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if key else str(part)
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; remove it or correct its spelling"
    if problem["type"] == "missing":
        return f"{key}: missing; add it"
    if problem["type"] == SECRET:
        return f"{key}: {problem['msg']}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key or 'file'}: {message}; got {problem['input']!r}"


def _contradictions(content: dict[str, Any]) -> Iterable[str]:
    """What no single key shows: names used twice or never defined.

    Works on the plain content, so that a mistake elsewhere does not hide these.
    """
    peers, routes = (_tables(content, kind) for kind in ("peer", "route"))
    for kind, tables in (("peer", peers), ("route", routes)):
        for name, count in Counter(str(table.get("name")) for table in tables if "name" in table).items():
            if count > 1:
                yield f"{kind}: the name {name!r} is used {count} times; rename one"
    known = [str(peer.get("name")) for peer in peers]
    for number, route in enumerate(routes, 1):
        for problem in _destination_problems(route.get("destinations"), known):
            yield f"route[{number}].destinations: {problem}"
    for peer in peers:
        if peer.get("tls") and "tls" not in content:
            yield f"peer {peer.get('name')!r}: tls = true, but the node has no certificate; add section [tls]"
        if peer.get("tls_name") and not peer.get("tls"):
            yield f"peer {peer.get('name')!r}: tls_name without tls = true; add it"
    if peers and not any(peer.get("may_send") for peer in peers):
        yield "peer: nobody may send; set may_send = true for at least one"


def _destination_problems(destinations: Any, known: list[str]) -> Iterable[str]:
    names = [name for name in destinations if isinstance(name, str)] if isinstance(destinations, list) else []
    for name, count in Counter(names).items():
        if count > 1:
            yield f"names {name!r} more than once; remove one"
        if name not in known:
            yield (
                f"no peer is called {name!r} (known: {', '.join(known) or 'none'}); "
                "add a [[peer]] or correct the name"
            )


def _tables(content: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    found = content.get(kind)
    return [table for table in found if isinstance(table, dict)] if isinstance(found, list) else []
