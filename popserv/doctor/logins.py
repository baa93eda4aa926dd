"""Logs in to a running server as mail programs do, and says which of them fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from popserv.core.findings import Finding, error, unchecked, warning
from popserv.doctor.client_session import TLS, ClientSession, LoginRefused, Trip
from popserv.doctor.clients import CLIENTS, Client
from popserv.doctor.conversation import REPLY_TIMEOUT, ServerFailed
from popserv.doctor.targets import PROBE_TIMEOUT, Answer, Target, ask, explain_silence

MAX_DELAY = 10
"""The greatest LOGIN-DELAY, in seconds, that is waited for between two logins."""

MAX_ATTEMPTS = 20
"""Attempts to log in while the session before is ending, a quarter of a second apart."""

LESSER = ("client-tls", "client-nul")
"""The codes of findings that concern some users or messages only."""


def _quit(session: ClientSession) -> None:
    session.secure()
    session.user_pass()
    session.stat()
    session.quit()


class LoginCheck:
    """The check of one server with one user.

    ``passed`` has the names of the programs that can use it.  Without ``allows_cleartext``, the
    password is sent over TLS only.  ``report`` is called with what is going on.
    """

    def __init__(
        self,
        target: Target,
        user: bytes,
        password: bytes,
        *,
        allows_cleartext: bool,
        clients: Mapping[str, Client] = CLIENTS,
        report: Callable[[str], object] = lambda text: None,
        timeouts: tuple[float, float] = (PROBE_TIMEOUT, REPLY_TIMEOUT),
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.passed: list[str] = []
        self._target = target
        self._user = user
        self._password = password
        self._allows_cleartext = allows_cleartext
        self._clients = {**clients, "QUIT": _quit}
        self._report = report
        self._probe_timeout, self._reply_timeout = timeouts
        self._sleep = sleep

    def findings(self) -> Iterator[Finding]:
        """Yield what is wrong; it waits for the server."""
        where = self._target.shown
        self._report("greeting")
        try:
            answer = ask(self._target, self._probe_timeout)
        except ServerFailed as problem:
            what, remedy = explain_silence(self._target, problem, self._probe_timeout)
            yield error("server", where, what, remedy)
            return
        delay = answer.parameter_of(b"LOGIN-DELAY") or b"0"
        # More digits than Python converts, perhaps.
        seconds = int(delay[:18]) if delay.isdigit() else 0
        failures = 0
        for name, client in self._clients.items():
            if self.passed and seconds > MAX_DELAY:
                yield unchecked(
                    "login-delay",
                    where,
                    f"the server has a LOGIN-DELAY of {seconds} seconds, so that only "
                    f"{self.passed[0]} was tried",
                    "run the command with a server that has none",
                )
                return
            if self.passed:
                self._sleep(seconds)
            self._report(name)
            finding = self._try(name, client, answer)
            if finding is None:
                self.passed.append(name)
                continue
            yield finding
            failures += finding.code in ("server", "client-login")
            if failures and not self.passed:
                # The others would fail in the same way, or the account would be locked.
                yield unchecked(
                    "clients", where, "other mail programs were not tried", "correct this first"
                )
                return

    def _try(self, name: str, client: Client, answer: Answer) -> Finding | None:
        """Return why a program fails, or None."""
        where = self._target.shown
        try:
            self._run(client, answer)
        except Trip as trip:
            make = warning if trip.code in LESSER else error
            return make(trip.code, where, f"{name}: {trip.what}", trip.remedy)
        except LoginRefused as refused:
            remedy = "correct the name or the password; the server's log has the reason"
            return error("client-login", where, f"{name}: {refused}", remedy)
        except ServerFailed as problem:
            remedy = "see the log of the server; for a certificate, use --ca-file or --insecure"
            return error("server", where, f"{name}: {problem}", remedy)
        return None

    def _run(self, client: Client, answer: Answer) -> None:
        tls = TLS(
            self._target.context,
            self._target.name,
            self._allows_cleartext,
            answer.parameter_of(b"STLS") is not None,
        )
        attempt = 0
        while True:
            attempt += 1
            conversation = self._target.connect(self._reply_timeout)
            try:
                session = ClientSession(conversation, tls, self._user, self._password)
                client(session)
                session.end()
                return
            except LoginRefused as refused:
                # The server may not have noticed yet that the session before has ended.
                if refused.code != b"IN-USE" or attempt == MAX_ATTEMPTS:
                    raise
            finally:
                conversation.abandon()
            self._sleep(0.25)
