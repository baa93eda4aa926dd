"""SASL mechanisms for the command AUTH (RFC 4422, RFC 5034).

This package may import :mod:`popserv.auth.passwords`, the module credentials of
:mod:`popserv.auth`, and the packages that auth may import.
"""

from popserv.auth.sasl.mechanisms import DEFAULT_MECHANISMS, MECHANISMS, Exchange, Mechanism
from popserv.auth.sasl.oauthbearer import TokenCredentials
from popserv.auth.sasl.scram import ScramSHA1Credentials, ScramSHA256Credentials

__all__ = [
    "DEFAULT_MECHANISMS",
    "MECHANISMS",
    "Exchange",
    "Mechanism",
    "ScramSHA1Credentials",
    "ScramSHA256Credentials",
    "TokenCredentials",
]
