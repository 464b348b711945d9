"""Makes bad input out of good: bytes changed as faults and attackers change them, by a seeded chance."""

from __future__ import annotations

import random
import struct

LENGTHS = (0, 1, 2**16 - 1, 2**24, 2**30, 2**31 - 1, 2**32 - 2, 2**32 - 1)
TOKENS = (
    *(struct.pack("<I", length) for length in LENGTHS),
    *(struct.pack(">I", length) for length in LENGTHS),
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff",  # item
    b"\xfe\xff\x0d\xe0\x00\x00\x00\x00",  # end of an item
    b"\xfe\xff\xdd\xe0\x00\x00\x00\x00",  # end of a sequence
    b"\x40\x00\x30\xa7SQ\x00\x00\xff\xff\xff\xff",
    b"\xe0\x7f\x10\x00OW\x00\x00\xff\xff\xff\xff",
    b"UN", b"SQ", b"OB", b"DS", b"..\\..\\/etc", b"\x00" * 16, b"9" * 70, b"NaN\\inf\\1e999",
)  # fmt: skip
HEAD_BYTES = 2048
"""Where most of what is parsed lies."""


def mutate(content: bytes, chance: random.Random) -> bytes:
    """One to eight changes."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        chance.choice((_flip, _overwrite, _insert, _remove, _repeat, _cut))(changed, chance)
    return bytes(changed)


def _place(content: bytearray, chance: random.Random) -> int:
    end = len(content) if chance.random() < 0.2 else min(len(content), HEAD_BYTES)
    return chance.randrange(end) if end else 0


def _flip(content: bytearray, chance: random.Random) -> None:
    if content:
        content[_place(content, chance)] ^= 1 << chance.randrange(8)


def _overwrite(content: bytearray, chance: random.Random) -> None:
    token, place = chance.choice(TOKENS), _place(content, chance)
    content[place : place + len(token)] = token


def _insert(content: bytearray, chance: random.Random) -> None:
    place = _place(content, chance)
    content[place:place] = chance.choice(TOKENS) * chance.choice((1, 1, 1, 100))


def _remove(content: bytearray, chance: random.Random) -> None:
    place = _place(content, chance)
    del content[place : place + chance.randint(1, 64)]


def _repeat(content: bytearray, chance: random.Random) -> None:
    place = _place(content, chance)
    piece = bytes(content[place : place + chance.randint(1, 256)])
    content[place:place] = piece * chance.choice((1, 2, 500))


def _cut(content: bytearray, chance: random.Random) -> None:
    if chance.random() < 0.3:
        del content[_place(content, chance) :]
