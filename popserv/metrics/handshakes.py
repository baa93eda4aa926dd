"""Why TLS handshakes have failed, as a label of few values."""

from __future__ import annotations

from collections.abc import Mapping

from popserv.metrics.catalogue import OTHER

REASONS: Mapping[str, str] = {
    # Alerts of clients, RFC 8446 section 6, as OpenSSL names them.
    "alert unknown ca": "certificate",
    "alert bad certificate": "certificate",
    "alert certificate": "certificate",
    "alert unsupported certificate": "certificate",
    "unsupported protocol": "version",
    "alert protocol version": "version",
    "version too low": "version",
    "inappropriate fallback": "version",
    "no shared cipher": "algorithms",
    "no suitable": "algorithms",
    "no shared group": "algorithms",
    "alert handshake failure": "algorithms",
    "alert insufficient security": "algorithms",
    "no application protocol": "alpn",
    "certificate verify failed": "client-certificate",
    "peer did not return a certificate": "client-certificate",
    "http request": "no-tls",
    "https proxy request": "no-tls",
    "wrong version number": "no-tls",
    "packet length too long": "no-tls",
}
"""What a text of OpenSSL contains, and the value of the label."""


def handshake_label(text: str) -> str:
    """Return the value of the label for the text of an error."""
    return next((label for part, label in REASONS.items() if part in text), OTHER)
