"""Templates, and how values are written in them."""

from __future__ import annotations

from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

SHORT_UID = 14
SECOND_STEPS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def environment() -> Environment:
    """Every value is escaped, and a name that is not there is an error rather than nothing."""
    found = Environment(
        loader=PackageLoader("dicomnode.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for filtered in (when, duration, size, number, figures, unit, code, tail):
        found.filters[filtered.__name__] = filtered
    return found


def when(moment: datetime | None) -> Markup:
    """A time in UTC, which the browser turns into local time."""
    if moment is None:
        return Markup("<span class=none>never</span>")
    utc = moment.astimezone(UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(
        utc.isoformat(timespec="milliseconds").replace("+00:00", "Z"), f"{utc:%Y-%m-%d %H:%M:%S}"
    )


def duration(seconds: float | None) -> str:
    """A length of time that a person can read: 0.42 s, 12 s, 3.5 min, 2.0 h, 4.1 d."""
    if seconds is None:
        return "-"
    for step, unit in SECOND_STEPS:
        if seconds >= step:
            return f"{seconds / step:.1f} {unit}"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def size(count: float) -> str:
    """A number of bytes in kB, MB, GB (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def number(count: float) -> str:
    """A count with thin spaces between thousands."""
    return f"{count:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def figures(value: float) -> str:
    """A measured value: one decimal, or none from 1000 on."""
    return number(value) if abs(value) >= 1000 else f"{value:.1f}"


def unit(words: str) -> str:
    """A unit as it is printed."""
    return {"mm2": "mm\N{SUPERSCRIPT TWO}", "mm3": "mm\N{SUPERSCRIPT THREE}"}.get(words, words)


def code(sentence: str) -> Markup:
    """A sentence whose `quoted` parts are commands."""
    parts = sentence.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts)
    )


def tail(uid: str) -> str:
    """The end of a UID, which is where UIDs differ."""
    return uid if len(uid) <= SHORT_UID else f"\N{HORIZONTAL ELLIPSIS}{uid[-SHORT_UID:]}"
