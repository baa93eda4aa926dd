"""The packages that optional features require, and the command that installs them."""

from __future__ import annotations

import shlex
import sys

EXTRAS = {
    "tls": ("Twisted[tls]>=26.4", "cryptography>=49", "pyOpenSSL>=26.3"),
    "argon2": ("argon2-cffi>=21.1",),
    "config": ("tomli>=2",),
    "zstd": ("backports.zstd>=1",),
    "ldap": ("python-ldap>=3.4", "tomli>=2"),
    "sql": ("SQLAlchemy>=2", "psycopg[binary]>=3.2.1", "obstore>=0.11", "tomli>=2"),
    "pam": ("pamela>=1.2",),
    "metrics": ("prometheus_client>=0.20",),
    "oauth": ("Twisted[tls]>=26.4", "cryptography>=49", "pyOpenSSL>=26.3", "PyJWT[crypto]>=2.6"),
}
"""The requirements of the extras of setup.cfg that error messages name."""


def how_to_install(extra: str) -> str:
    """Return the command that installs the requirements of an extra.

    It names them, because an extra could be installed only from the source directory, and the
    Python that runs, because pip in the PATH may belong to another one.
    """
    return shlex.join([sys.executable or "python3", "-m", "pip", "install", *EXTRAS[extra]])
