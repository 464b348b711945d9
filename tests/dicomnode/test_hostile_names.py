"""No name of a file comes from the network as it is: hostile UIDs, put into the bytes of a data set.

Not covered: names that a file system of another kind would find special; ours are digits and dots.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dicomnode.errors import PermanentError
from dicomnode.receive.intake import Intake
from dicomnode.spool import Spool
from tests.dicomnode.parts import arrival, image

PLACE = "1.2.840.9999.777.888.55.1234"
HOSTILE = [
    b"../../../../../../etc/passwd",
    b"/etc/passwd/aaaaaaaaaaaaaaaa",
    b"1.2.3/../../../../../tmp/x12",
    b"1.2.840.9999\x00.777.888.55.12",
    b"1.2.840.9999.777.888.55.12\n4",
    b"1.2.840.9999.777.888.5.\xef\xbc\x92",  # a digit, but not one of ASCII
    b"1.2.840.9999.777.888.55.12 4",
    b"1.2.840.9999.777.888..551234",
    b"-rf.2.840.9999.777.888.55.12",
]


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
@pytest.mark.parametrize("uid", HOSTILE, ids=repr)
def test_a_hostile_uid_makes_no_file_and_no_row(
    intake: Intake, spool: Spool, tmp_path: Path, keyword: str, uid: bytes
) -> None:
    sent = arrival(image(**{keyword: PLACE}))
    padded = uid.ljust(len(PLACE), b"\0")
    assert len(padded) == len(PLACE)
    sent = replace(sent, encoded=bytes(sent.encoded).replace(PLACE.encode(), padded))
    if keyword == "SOPInstanceUID":
        sent = replace(sent, sop_instance_uid=uid.decode())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PermanentError):
        intake.take(sent)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_uid_of_more_than_64_characters_makes_no_file(intake: Intake, spool: Spool) -> None:
    sent = arrival(image(StudyInstanceUID="1." * 40 + "1"))
    with pytest.raises(PermanentError, match="not a UID"):
        intake.take(sent)
    assert [path for path in spool.folder.rglob("*") if path.is_file()] == []
