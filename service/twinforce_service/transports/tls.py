"""The certificates of the service, the same for REST and gRPC, and their rotation."""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from twinforce_service.rotation import WatchedFiles

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The certificates as they were in the files at one time, for either transport."""

    context: ssl.SSLContext
    for_grpc: Any


class Certificates:
    """The certificate of the service, and that of those who sign the certificates of clients.

    Connections that begin after a rotation use the new files; others stay open.

    Args:
        certificate: File of the certificate, followed by those in between, in PEM.
        key: File of its private key.
        client_ca: File of certificates that sign those of clients, which need one then; None means
            that they need none.

    Raises:
        OSError: A file cannot be read, or the files do not belong together.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        paths = [path for path in (certificate, key, client_ca) if path is not None]
        self._names = ", ".join(str(path) for path in paths)
        self._files = WatchedFiles(paths)
        self._loaded = self._load()
        self.context = _context(certificate, key, client_ca)
        """Settings of TLS for REST, which turn to the newest files at each connection."""
        self.context.sni_callback = self._use_newest

    def reload_if_changed(self) -> None:
        """Read the files again if they have changed; bad files are logged, and the old stay."""
        if not self._files.have_changed():
            return
        try:
            self._loaded = self._load()
        except OSError as error:
            self._files.note_failure()
            logger.error("the certificates stay as they were: %s", error)
        else:
            logger.info("the certificates were read again", extra={"files": self._names})

    def grpc_credentials(self) -> Any:
        """Return the credentials of one port of a gRPC server, which asks for changes itself."""
        used = self._loaded

        def fetch() -> Any:
            """Return the newest certificates; None if the port uses them already."""
            nonlocal used
            if used is self._loaded:
                return None
            used = self._loaded
            return used.for_grpc

        needs_client = self._client_ca is not None
        return grpc.dynamic_ssl_server_credentials(used.for_grpc, fetch, needs_client)

    def _use_newest(self, connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        """Let a connection use the newest certificates; called before any is chosen."""
        connection.context = self._loaded.context

    def _load(self) -> _Loaded:
        try:
            context = _context(self._certificate, self._key, self._client_ca)
            pair = self._key.read_bytes(), self._certificate.read_bytes()
            roots = None if self._client_ca is None else self._client_ca.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise OSError(f"cannot use the certificates in {self._names}: {reason}") from error
        return _Loaded(context, grpc.ssl_server_certificate_configuration([pair], roots))


def _context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # An encrypted key is refused instead of asking for its password.
    context.load_cert_chain(certificate, key, password="")
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
