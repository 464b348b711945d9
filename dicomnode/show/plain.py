"""Foreign words for a terminal or a file: what would steer it is shown instead of obeyed."""

from __future__ import annotations

import re

_STEERING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)
"""Control characters, line breaks, marks that turn the direction of text, and halves of characters."""


def plain(value: object) -> str:
    """`value` as one line of visible text: an escape character shows as \\x1b, a line break as \\x0a."""
    return _STEERING.sub(_shown, str(value))


def _shown(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
