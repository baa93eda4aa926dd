"""TLS: server certificates, client certificates and channel bindings; requires the extra ``tls``.

This package may import core, interfaces, errors and texts.  Other packages import it only
where TLS is used, because its libraries are optional.
"""

from popserv.tls.certificates import Certificates
from popserv.tls.files import CertificateError
from popserv.tls.state import OpenSSLConnectionState

__all__ = ["CertificateError", "Certificates", "OpenSSLConnectionState"]
