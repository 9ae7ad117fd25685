"""TLS for gRPC's port, with certificates that are replaced while it is open; knows no service and no token.

gRPC takes TLS 1.2 and 1.3 only, with forward secrecy and HTTP/2 (ALPN), and every client certificate that it asks for
must be there and be good.
"""

from __future__ import annotations

import logging
from typing import Any

import grpc

from whylight.security.certificates import Certificates, Identity

log = logging.getLogger(__name__)


def tls_server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Return credentials that look at the files again for every connection; those that are open stay as they are."""

    def refresh() -> Any:  # None means that nothing is new, which the stubs of grpc do not know
        before = certificates.failed
        identity = certificates.refresh()
        if identity is not None:
            log.info("the new certificate is in use")
            return _configuration(identity)
        if certificates.failed and certificates.failed != before:
            log.error("the former certificate stays in use: %s", certificates.failed)
        return None

    identity = certificates.identity
    return grpc.dynamic_ssl_server_credentials(
        _configuration(identity), refresh, require_client_authentication=identity.client_ca is not None
    )


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(identity.key, identity.chain)], identity.client_ca)
