"""TLS by BCP 195 (RFC 9325), mutual always: contexts that follow their files, and handshakes with an end.

TLS 1.2 with forward secrecy and authenticated encryption only, or TLS 1.3. DICOM's profile of it is
PS3.15 B.12 (Modified BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile).
"""

from __future__ import annotations

import select
import ssl
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from socket import MSG_PEEK, socket
from typing import Any

import structlog

from dicomnode.errors import ConfigurationError
from dicomnode.settings.network import TlsSettings

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of TLS 1.3 are all of this kind."""
SETTLING_S = 1.0
"""Files that are younger may still be being written, one after the other."""

log = structlog.get_logger()


def new_context(files: TlsSettings, *, server: bool) -> ssl.SSLContext:
    """Read the files. Raises ConfigurationError that names the file and what is wrong with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(files.authorities)
    except (OSError, ssl.SSLError) as error:
        raise _unusable(f"authorities {files.authorities}", error) from error
    # Without an answer to the question for a password OpenSSL would ask at the terminal.
    password = key_password(files) or b""
    try:
        context.load_cert_chain(files.certificate, files.key, lambda: password)
    except (OSError, ssl.SSLError) as error:
        raise _unusable(f"certificate {files.certificate} with key {files.key}", error) from error
    return context


def key_password(files: TlsSettings) -> bytes | None:
    """The password of the key, if there is a file of it. Raises ConfigurationError."""
    if files.key_password_file is None:
        return None
    try:
        return files.key_password_file.read_bytes().split(b"\n")[0].strip()
    except OSError as error:
        raise _unusable(f"key password {files.key_password_file}", error) from error


def _unusable(what: str, error: OSError) -> ConfigurationError:
    reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else error.strerror
    return ConfigurationError(f"TLS {what} cannot be used ({reason}); correct section [tls] or the file")


class Credentials:
    """One context for many connections, made anew when its files change.

    When what is in the files cannot be used, the earlier context stays.
    """

    def __init__(self, files: TlsSettings, *, server: bool, changed: Callable[[str | None], None]) -> None:
        """`changed` is told of every change: None when it is used, else why it is not.

        Raises ConfigurationError when there is nothing usable to begin with.
        """
        self._files = files
        self._server = server
        self._changed = changed
        self._lock = threading.Lock()
        self._stamps = self._read_stamps()
        self._context = new_context(files, server=server)

    def context(self) -> ssl.SSLContext:
        """The context for the next connection."""
        with self._lock:
            stamps = self._read_stamps()
            if stamps == self._stamps or _is_fresh(stamps):
                return self._context
            self._stamps = stamps
            try:
                self._context = new_context(self._files, server=self._server)
                problem = None
            except ConfigurationError as error:
                problem = str(error)
            context = self._context
        self._changed(problem)
        return context

    def _read_stamps(self) -> tuple[tuple[int, int, int], ...]:
        files = self._files
        paths = (files.certificate, files.key, files.key_password_file, files.authorities)
        return tuple(_stamp(path) for path in paths if path is not None)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _is_fresh(stamps: tuple[tuple[int, int, int], ...]) -> bool:
    now_ns = time.time_ns()
    return any(0 <= now_ns - mtime_ns < SETTLING_S * 1e9 for mtime_ns, _, _ in stamps)


@cache
def _client_credentials(files: TlsSettings) -> Credentials:
    return Credentials(files, server=False, changed=_log_change)


def _log_change(problem: str | None) -> None:
    if problem is None:
        log.info("certificate_reloaded")
    else:
        log.error("certificate_not_reloaded", reason=problem)


def client_context(files: TlsSettings) -> ssl.SSLContext:
    """The context for calling a peer. Raises ConfigurationError when there never was a usable one."""
    return _client_credentials(files).context()


def says_something(channel: socket, timeout_s: float) -> bool:
    """Whether a caller speaks, or hangs up without a word. Raises TimeoutError when it does neither."""
    channel.settimeout(timeout_s)
    try:
        return bool(channel.recv(1, MSG_PEEK))
    except ConnectionError:
        return False


def shake_hands(channel: socket, context: ssl.SSLContext, timeout_s: float) -> ssl.SSLSocket:
    """Become the server of a TLS connection, within `timeout_s` in all. Takes `channel` over.

    Raises OSError (of which ssl.SSLError is one); the connection is closed then.
    """
    deadline = time.monotonic() + timeout_s
    channel.setblocking(False)
    secured = context.wrap_socket(channel, server_side=True, do_handshake_on_connect=False)
    try:
        while True:
            try:
                secured.do_handshake()
                break
            except ssl.SSLWantReadError:
                _wait(secured, select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                _wait(secured, select.POLLOUT, deadline)
        secured.setblocking(True)
    except BaseException:
        secured.close()
        raise
    return secured


def _wait(channel: socket, what: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(channel, what)
    left_s = deadline - time.monotonic()
    if left_s <= 0 or not poll.poll(left_s * 1000):
        raise TimeoutError("not finished in time")


def reason_of(error: OSError) -> str:
    """Why a handshake failed, in the words of OpenSSL, without anything that the peer could choose."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate of the peer: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return "not finished in time" if isinstance(error, TimeoutError) else "connection lost"


def names_of(channel: ssl.SSLSocket) -> tuple[str, ...]:
    """Names that the peer's certificate bears: subjectAltName, else the common name."""
    certificate: Any = channel.getpeercert() or {}
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind != "DirName"]
    if not names:
        parts = [part for attributes in certificate.get("subject", ()) for part in attributes]
        names = [value for keyword, value in parts if keyword == "commonName"]
    return tuple(name.lower() for name in names)
