"""Templates, and how values are written in them."""

from __future__ import annotations

from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

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
    found.filters |= {
        "when": when,
        "duration": duration,
        "ago": ago,
        "size": size,
        "number": number,
        "figures": figures,
    }
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


def ago(moment: datetime | None) -> str:
    """How long ago something was."""
    if moment is None:
        return "never"
    return f"{duration(max(0.0, (datetime.now(UTC) - moment).total_seconds()))} ago"


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
