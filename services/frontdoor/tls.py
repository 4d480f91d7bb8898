"""One certificate for both doors, loaded again when its files change; streams that run keep their connection."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

import grpc

from services.core.errors import ConfigError
from services.frontdoor.config import TlsConfig
from services.frontdoor.watched_files import WatchedFiles

logger = logging.getLogger(__name__)

PATH = "frontdoor.tls"


class ServerTls:
    """The certificate of one front door.

    Raises:
        ConfigError: a file cannot be read, is no certificate or key, or they do not belong together.
    """

    def __init__(self, config: TlsConfig) -> None:
        self._cert_file, self._key_file = (str(Path(f).expanduser()) for f in (config.cert_file, config.key_file))
        self._files = WatchedFiles([self._cert_file, self._key_file])
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._pair = self._load()

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Credentials that hand each new connection the certificate of that moment."""
        handed = self._pair

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """Called by gRPC for each handshake, in a thread of its own; None: as before."""
            nonlocal handed
            if handed is self._pair:
                return None
            handed = self._pair
            return as_configuration(handed)

        fetcher: Any = fetch  # its type leaves out the None that gRPC documents
        return grpc.dynamic_ssl_server_credentials(as_configuration(handed), fetcher)

    def ssl_context(self) -> ssl.SSLContext:
        """The context of the HTTP door; `reload` changes what its next handshakes use."""
        return self._context

    def reload(self) -> bool:
        """Load the certificate again if a file changed; one that is wrong is told in the log and changes nothing.

        Returns:
            Whether new connections get another certificate now.
        """
        if not self._files.changed():
            return False
        try:
            self._pair = self._load()
        except ConfigError as error:
            logger.error("the certificate stays as it was: %s", error.message)
            return False
        logger.info("new connections get the certificate of %s", self._cert_file)
        return True

    def _load(self) -> tuple[bytes, bytes]:
        """Key and certificates in PEM, checked on a context of their own before the one in use takes them."""
        files = (self._cert_file, self._key_file)
        try:
            pair = Path(files[1]).read_bytes(), Path(files[0]).read_bytes()
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files, password=refuse_passphrase)
            self._context.load_cert_chain(*files)
        except ssl.SSLError as error:
            fix = f"is not a certificate and its key in PEM without a passphrase ({error.reason or 'passphrase'})"
            raise ConfigError(PATH, ", ".join(files), fix) from None
        except (OSError, ValueError) as error:
            raise ConfigError(PATH, ", ".join(files), f"cannot be read ({type(error).__name__})") from None
        return pair


def as_configuration(pair: tuple[bytes, bytes]) -> grpc.ServerCertificateConfiguration:
    """Key and certificates as gRPC wants them."""
    return grpc.ssl_server_certificate_configuration([pair])


def refuse_passphrase() -> str:
    """Asked for a key's passphrase: there is none, and nobody must be asked on a terminal."""
    return ""
