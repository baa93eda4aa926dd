"""Authentication by OAuth bearer tokens; requires the extra ``oauth``.

This package may import the module files of :mod:`popserv.auth`, and the packages that auth may
import.
"""

from popserv.auth.oauth.checker import TokenChecker
from popserv.auth.oauth.config import OAuthFileError
from popserv.auth.oauth.introspection import IntrospectionVerifier
from popserv.auth.oauth.jwks import JWKSURL, JWKSFile
from popserv.auth.oauth.jwt_verifier import JWTVerifier
from popserv.auth.oauth.provider import ProviderError
from popserv.auth.oauth.verifier import InsufficientScope, InvalidToken, ITokenVerifier

__all__ = [
    "JWKSURL",
    "ITokenVerifier",
    "InsufficientScope",
    "IntrospectionVerifier",
    "InvalidToken",
    "JWKSFile",
    "JWTVerifier",
    "OAuthFileError",
    "ProviderError",
    "TokenChecker",
]
