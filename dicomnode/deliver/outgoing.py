"""Files on their way out: what they are offered as, and their data sets as the peer accepted them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info, read_partial
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import encode

from dicomnode.elements import find_file_meta
from dicomnode.header_index import HeaderIndex

UNCOMPRESSED = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
META_BYTES = 4096
"""More than file meta information has; where it has more, pydicom reads it."""

SOP_INSTANCE_UID = 0x00080018

Offer = tuple[str, tuple[str, ...]]
"""A SOP Class UID and the transfer syntaxes offered for it in one presentation context."""


class NotAccepted(Exception):
    """The peer accepted no presentation context in which a file can be sent."""


@dataclass(frozen=True)
class OutgoingFile:
    """What its file meta information says of a file."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_start: int | None
    """Where its data set begins; None where only pydicom can tell."""

    @property
    def offers(self) -> tuple[Offer, ...]:
        """Its own transfer syntax alone when compressed, else any that needs no decoding.

        Implicit VR is offered alone as well: of two, many peers choose the explicit one, which holds no
        value beyond 64 KB of most VRs.
        """
        own = self.sop_class_uid, (self.transfer_syntax_uid,)
        if self._is_fixed:
            return (own,)
        plain = self.sop_class_uid, UNCOMPRESSED
        return (own, plain) if self.transfer_syntax_uid == ImplicitVRLittleEndian else (plain,)

    @property
    def _is_fixed(self) -> bool:
        return _is_fixed(self.transfer_syntax_uid)

    def context(self, accepted: Iterable[Any]) -> Any:
        """The accepted presentation context to send it in, its own transfer syntax first.

        Raises NotAccepted when there is none.
        """
        own = [context for context in accepted if context.abstract_syntax == self.sop_class_uid]
        syntaxes = {str(context.transfer_syntax[0]): context for context in own}
        if self.transfer_syntax_uid in syntaxes:
            return syntaxes[self.transfer_syntax_uid]
        others = [] if self._is_fixed else [c for syntax, c in syntaxes.items() if not _is_fixed(syntax)]
        if not others:
            raise NotAccepted(
                f"no presentation context accepted for {UID(self.sop_class_uid).name} "
                f"with {UID(self.transfer_syntax_uid).name}"
            )
        return others[0]

    def open_data_set(self, transfer_syntax_uid: str) -> tuple[BinaryIO, int]:
        """Its data set, encoded in the transfer syntax, from its first byte on; and how many bytes it has.

        Raises OSError where the file cannot be read, ValueError where it cannot be encoded so.
        """
        if self.data_set_start is None or transfer_syntax_uid != self.transfer_syntax_uid:
            return self._converted(UID(transfer_syntax_uid))
        file = self.path.open("rb")
        size_bytes = file.seek(0, 2) - self.data_set_start
        file.seek(self.data_set_start)
        return file, size_bytes

    def _converted(self, syntax: UID) -> tuple[BinaryIO, int]:
        dataset = dcmread(self.path)
        encoded = encode(dataset, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        if encoded is None:
            raise ValueError(f"it cannot be encoded in {syntax.name}")
        return BytesIO(encoded), len(encoded)


def _is_fixed(transfer_syntax_uid: str) -> bool:
    """Whether data sets in this transfer syntax go in no other, or do not begin as a plain one does."""
    syntax = UID(transfer_syntax_uid)
    return (syntax.is_compressed and not syntax.is_deflated) or not syntax.is_little_endian


def read_outgoing(path: Path) -> OutgoingFile:
    """What a file is. Raises OSError, and InvalidDicomError for what is no DICOM file."""
    with path.open("rb") as file:
        content = file.read(META_BYTES)
    found = find_file_meta(content)
    meta = read_file_meta_info(path) if found is None else HeaderIndex(content, found, explicit=True)
    sop_class_uid, sop_instance_uid, transfer_syntax_uid = (
        str(meta.get(keyword) or "")
        for keyword in ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
    )
    if not (sop_class_uid and sop_instance_uid and transfer_syntax_uid):
        raise InvalidDicomError("the file meta information does not say what the file is")
    start = found.end if found else None
    if start is None or sop_instance_uid.encode() not in content[start:]:
        sop_instance_uid = _instance_uid_within(path) or sop_instance_uid
    return OutgoingFile(path, sop_class_uid, sop_instance_uid, transfer_syntax_uid, start)


def _instance_uid_within(path: Path) -> str:
    """What the data set says: programs that anonymise leave other UIDs in front of it."""
    with path.open("rb") as file:
        begun = read_partial(file, lambda tag, _vr, _length: tag > SOP_INSTANCE_UID, force=True)
    return str(begun.get("SOPInstanceUID") or "")
