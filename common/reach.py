"""Why a SuperLink cannot be reached: Flower itself only says that there is no connection, and tries again."""

import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
from cryptography import x509

from common.errors import FedShieldError
from common.words import in_one_line

_SECONDS = 10.0  # for each step
_EXPIRED, _NOT_YET_VALID, _OTHER_HOST, _OTHER_ADDRESS = 10, 9, 62, 64  # OpenSSL's numbers, X509_V_ERR_...
_ADDRESS = re.compile(r"[\w.-]+:\d{1,5}|\[[\da-fA-F:]+\]:\d{1,5}")
_QUESTION = b"GET /health HTTP/1.0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Place:
    """A SuperLink, as it was given on a command line.

    Attributes:
        address: HOST:PORT.
        authority: certificate of the CA that has signed the SuperLink's; None for a SuperLink without TLS.
        trust_option: how a CA is given.
        plain_option: what to do for a SuperLink without TLS.
    """

    address: str
    authority: Path | None
    trust_option: str = "--ca"
    plain_option: str = "leave out --ca"

    def __post_init__(self) -> None:
        """Look at the address.

        Raises:
            FedShieldError: it is none.
        """
        if not _ADDRESS.fullmatch(self.address) or not 0 < self._port < 2**16:
            raise FedShieldError(f"--superlink {self.address!r}: write HOST:PORT, as in localhost:8000")

    def reach(self) -> str:
        """Connect once; return "", or why it failed where waiting may help, as it does for a SuperLink that starts.

        Raises:
            FedShieldError: waiting does not help: what was given, or the SuperLink's certificate, must be changed.
        """
        try:
            return self._reach_plain() if self.authority is None else self._reach_by_tls(self.authority)
        except ssl.SSLCertVerificationError as error:
            raise self._error(self._distrust(error)) from error
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError):
            return "it closes the connection"
        except (ssl.SSLError, TimeoutError) as error:
            if self.authority is not None and self._speaks_http():
                raise self._error(
                    f"uses no TLS; start the SuperLink with its certificate (--ssl-certfile), or {self.plain_option}"
                ) from error
            if isinstance(error, ssl.SSLError):
                raise self._error(f"no SuperLink listens there (TLS: {error.reason}); give its address") from error
            return f"it does not answer within {_SECONDS:g} s"
        except OSError as error:
            return in_one_line(error.strerror or str(error))

    def _reach_by_tls(self, authority: Path) -> str:
        # No stricter than Flower: Python's default context asks more of certificates in some versions.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=authority)
        with self._connect() as raw, context.wrap_socket(raw, server_hostname=self._host) as line:
            if not _answer(line).startswith(b"HTTP/"):
                raise self._error("no SuperLink listens there, only something with TLS; give the SuperLink's address")
        return ""

    def _reach_plain(self) -> str:
        with self._connect() as line:
            try:
                answer = _answer(line)
            except ConnectionResetError:
                answer = b""
        if answer.startswith(b"HTTP/") and answer[9:12] == b"200":
            return ""
        if self._speaks_tls():
            raise self._error(f"uses TLS; give its CA with {self.trust_option} ca.crt")
        if answer and not answer.startswith(b"HTTP/"):
            raise self._error("no SuperLink listens there; give its address")
        return "" if answer else "it closes the connection"

    def _speaks_http(self) -> bool:
        try:
            with self._connect() as line:
                return _answer(line).startswith(b"HTTP/")
        except OSError:
            return False

    def _speaks_tls(self) -> bool:
        try:
            return bool(self._certificate())
        except (OSError, ValueError):
            return False

    def _certificate(self) -> x509.Certificate:
        """Return the SuperLink's certificate, without verifying it."""
        return x509.load_pem_x509_certificate(
            ssl.get_server_certificate((self._host, self._port), timeout=_SECONDS).encode()
        )

    def _distrust(self, error: ssl.SSLCertVerificationError) -> str:
        """Return why its certificate is not trusted, and what to do."""
        renew = "make a new one with fedshield certs, and restart the SuperLink with it"
        try:
            shown = self._certificate()
            names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (OSError, ValueError, x509.ExtensionNotFound):
            return f"its certificate is not trusted ({error.verify_message}); {renew}"
        if error.verify_code == _EXPIRED:
            end = shown.not_valid_after_utc
            if end > datetime.now(UTC):
                return f"the CA {self.authority} has expired; make a new one with fedshield certs in another folder"
            return f"its certificate expired on {end:%Y-%m-%d}; {renew}"
        if error.verify_code == _NOT_YET_VALID:
            begin = shown.not_valid_before_utc
            return f"its certificate is valid from {begin:%Y-%m-%d %H:%M} UTC on; check the clock of this machine"
        if error.verify_code in (_OTHER_HOST, _OTHER_ADDRESS):
            known = ", ".join(str(name.value) for name in names)
            return (
                f"its certificate is for {in_one_line(known)}, not for {self._host}; give one of these, or make one "
                f"with fedshield certs --host {self._host}"
            )
        return (
            f"its certificate was not signed by {self.authority} ({error.verify_message}); give the ca.crt from the "
            f"same fedshield certs with {self.trust_option}"
        )

    @property
    def _host(self) -> str:
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def _port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def _connect(self) -> socket.socket:
        return socket.create_connection((self._host, self._port), timeout=_SECONDS)

    def _error(self, what: str) -> FedShieldError:
        return FedShieldError(f"--superlink {self.address}: {what}")


def patient(gives_up: Callable[[Exception], bool] | None) -> Callable[[Exception], bool]:
    """Return when to give up a line to a SuperLink, from when Flower gives it up.

    Flower takes every error with "SSL" in its text for a certificate that is not trusted, also a connection that
    breaks while it is made because the SuperLink starts again.
    """

    def should_giveup(error: Exception) -> bool:
        if isinstance(error, httpx.TransportError):
            return "CERTIFICATE_VERIFY_FAILED" in str(error)
        return gives_up is not None and gives_up(error)

    return should_giveup


def _answer(line: socket.socket) -> bytes:
    """Ask for what every SuperLink has, and return how the answer begins."""
    line.sendall(_QUESTION)
    answer = b""
    while len(answer) < 12 and (more := line.recv(12)):
        answer += more
    return answer
