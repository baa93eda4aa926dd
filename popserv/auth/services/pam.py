"""The checker that asks PAM, the authentication modules of the operating system (Linux-PAM).

Modules may block for as long as they like, and cannot be interrupted; therefore they run in threads
of their own.  A name whose modules hang occupies at most two of them.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

import pamela  # type: ignore[import-untyped]
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from popserv.auth.users.look_ups import LookUps
from popserv.auth.users.outages import ServerUnavailable
from popserv.auth.users.records import service_user
from popserv.auth.users.service import PasswordService
from popserv.auth.users.user import User
from popserv.core.connection_details import connection_details
from popserv.core.findings import Finding, warning
from popserv.errors import TryLater
from popserv.interfaces import IDiagnosed
from popserv.runtime.permissions import this_user

TIMEOUT = 30.0
"""Seconds that a login waits for the modules."""

MAX_CHECKS_OF_NAME = 2
"""The checks of one name that run at a time."""

DIRECTORIES = ("/etc/pam.d", "/usr/lib/pam.d")
"""Where the files of services are; one that has none is refused by the service "other"."""

SHADOW = "/etc/shadow"
"""Where pam_unix finds passwords."""

# From security/_pam_types.h of Linux-PAM.
_FLAGS = 0x8000 | 0x0001  # PAM_SILENT, PAM_DISALLOW_NULL_AUTHTOK
_REFUSALS = {
    6: "permission denied",
    7: "unknown user or wrong password",
    8: "unknown user or wrong password",
    10: "unknown user or wrong password",
    11: "too many attempts",
    12: "the password has expired",
    13: "the account has expired",
    16: "the password has expired",
    27: "the password has expired",
}
_SYSTEM_ERROR = 4
"""The results that refuse a user; with any other one, PAM cannot tell."""

THREADS = 20
BACKLOG = 200
"""The threads in which modules run, and the logins that run or wait for one."""


@implementer(IDiagnosed)
class PAMChecker(PasswordService):
    """Asks a service of PAM whether a password is right, and whether the account may be used.

    ``run`` and ``reactor`` are as for :class:`popserv.auth.users.look_ups.LookUps`.
    """

    def __init__(
        self,
        service: str,
        run: Callable[..., Deferred[Any]] | None = None,
        reactor: Any = None,
    ) -> None:
        super().__init__(f"the service {service} of PAM")
        self._service = service
        self._look_ups = LookUps(
            "popserv-pam", TIMEOUT, THREADS, backlog=BACKLOG, reactor=reactor, run=run
        )
        self._running: Counter[bytes] = Counter()
        self._lock = Lock()

    @classmethod
    def from_service(cls, service: str) -> PAMChecker:
        """Return a checker for a service, whose file must exist.

        :raises ValueError: it does not exist.
        """
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", service):
            raise ValueError("the name of the service is missing or invalid; use pam:pop3")
        if not any(os.path.isfile(f"{directory}/{service}") for directory in DIRECTORIES):
            raise ValueError(
                f"there is no file {DIRECTORIES[0]}/{service}, so that PAM would refuse everybody; "
                "create it"
            )
        return cls(service)

    async def diagnose(self) -> Iterable[Finding]:
        """See :class:`popserv.interfaces.IDiagnosed`."""
        if os.access(SHADOW, os.R_OK):
            return []
        what = f"{this_user()} cannot read {SHADOW}: pam_unix verifies its own password only"
        remedy = "if users are those of the system, add it to the group shadow, or run as root"
        return [warning("pam", f"pam:{self._service}", what, remedy)]

    async def verify(self, name: bytes, password: bytes) -> User:
        """See :class:`PasswordService`."""
        address = connection_details.get()().address
        user = await self._look_ups.run(self._check, name, password, address)
        return service_user(user, {})

    def _check(self, name: bytes, password: bytes, address: str | None) -> bytes:
        """Ask PAM, in a thread, unless too many threads do so for this name."""
        with self._lock:
            if self._running[name] >= MAX_CHECKS_OF_NAME:
                raise TryLater from TimeoutError("the modules of PAM do not answer for this name")
            self._running[name] += 1
        try:
            return _authenticate(self._service, name, password, address)
        finally:
            with self._lock:
                self._running[name] -= 1
                # A Counter keeps what is zero.
                self._running += Counter()


def _authenticate(service: str, name: bytes, password: bytes, address: str | None) -> bytes:
    """Return the name of the user, which a module may have changed.

    :raises UnauthorizedLogin: PAM refuses the user.
    :raises ServerUnavailable: PAM cannot tell.
    """
    # The library keeps no reference to it.
    conversation = pamela.new_simple_password_conv((password,), "utf-8")
    try:
        handle = pamela.pam_start(service, name, conv_func=conversation)
    except pamela.PAMError as error:
        raise ServerUnavailable(f"PAM cannot be started: {error}") from None
    status = 0
    try:
        if address is not None:
            handle.set_item(pamela.PAM_RHOST, address)
        status = pamela.PAM_AUTHENTICATE(handle, _FLAGS)
        if status == _SYSTEM_ERROR:
            # Also pam_exec's word for a refusal; guesses of passwords must be throttled.
            raise UnauthorizedLogin("refused by PAM: a module or its program has failed")
        if status == 0:
            status = pamela.PAM_ACCT_MGMT(handle, _FLAGS)
        if status in _REFUSALS:
            raise UnauthorizedLogin(f"refused by PAM: {_REFUSALS[status]}")
        if status != 0:
            raise ServerUnavailable(str(pamela.pam_strerror(handle, status)))
        user: str = handle.get_item(pamela.PAM_USER, "latin-1")
        return user.encode("latin-1")
    finally:
        pamela.PAM_END(handle, status)
