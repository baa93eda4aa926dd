"""``popserv doctor``: looks for what is wrong with a server, before clients find it.

Its exit code is

* 0 if nothing is wrong;
* 1 if there are warnings;
* 2 if there are errors, or if the command line is invalid.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from os import geteuid
from typing import Any

from twisted.python import usage

from popserv.commandline.doctor_options import DoctorOptions
from popserv.commandline.doctor_report import Report
from popserv.commandline.logged_warnings import logged_warnings
from popserv.commandline.reacting import run_in_reactor
from popserv.core.findings import Finding, Severity, error, hint, unchecked, warning
from popserv.core.printable import one_line, printable
from popserv.doctor.clients import CLIENTS
from popserv.doctor.host import check_clock, check_files, clock_state, hard_limit
from popserv.doctor.logins import LoginCheck
from popserv.doctor.maildrops import MaildropCheck, users_of_checkers
from popserv.doctor.ports import check_exposure, check_socket, check_twice, target_of
from popserv.doctor.serving_user import acting_as
from popserv.doctor.sockets import Socket, sockets_of
from popserv.doctor.targets import Target
from popserv.interfaces import IDiagnosed, IMaildropFactory, IUserNames
from popserv.maildrops.owners.store import acts_as_owners
from popserv.maildrops.stopping import stop_with_reactor
from popserv.options.server import Options
from popserv.options.values import split_proxy_prefix
from popserv.runtime.threads import BoundedThreadPool
from popserv.wiring.factories import warn_about_short_timeout

_threads = BoundedThreadPool("popserv-doctor", threads=1, wait_at_shutdown=False)


def main(arguments: Sequence[str]) -> int:
    """Run the checks, print what they find, and return the exit code."""
    options = DoctorOptions()
    report = Report(as_json="--json" in arguments)
    try:
        with logged_warnings() as logged:
            options.parseOptions(arguments)
            if options.checks_server():
                warn_about_short_timeout(options)
        doctor = _Doctor(options, report, logged)
    except usage.UsageError as problem:
        what, _, remedy = one_line(str(problem)).rpartition("; ")
        report.add(
            error("options", "options", what or remedy, remedy if what else "correct the option")
        )
        return report.end()
    try:
        run_in_reactor(doctor.check())
    except KeyboardInterrupt:
        report.progress("")
        print("popserv: interrupted; nothing was changed", file=sys.stderr)
        return 1
    return report.end()


class _Doctor:
    """The checks of the options, in the order in which a server needs what they check.

    :raises UsageError: an option is invalid.
    """

    def __init__(self, options: DoctorOptions, report: Report, logged: Sequence[str]) -> None:
        self._options = options
        self._report = report
        self._logged = logged
        self._told: list[str] = []
        self._user = options.serving_user()
        self._password = options.password() if options["login"] is not None else b""
        self._sockets: list[Socket] = []
        self._target = self._address_target()

    def _address_target(self) -> Target | None:
        address = self._options["address"]
        if address is None:
            return None
        try:
            context = self._options.security().context()
        except ValueError as problem:
            raise usage.UsageError(str(problem)) from problem
        return Target(
            (address.host, address.port), str(address), address.host, context, address.implicit_tls
        )

    async def check(self) -> None:
        """Run all checks."""
        if self._options.checks_server():
            await self._check_server()
        if self._options["login"] is not None:
            for target in [self._target] if self._target else self._own_targets():
                await self._check_logins(target)

    async def _check_server(self) -> None:
        options = self._options
        stop_with_reactor(options.store)
        if geteuid() == 0 and options["uid"] is None:
            self._add(_as_whom(options.store))
        self._sockets = list(_sockets(options))
        self._run("ports", self._ports())
        self._run("clock", check_clock(clock_state()))
        limit = hard_limit()
        workers = options["workers"]
        self._run("open files", check_files(options["max-connections"], workers, limit))
        with acting_as(self._user, as_owners=bool(options["as-owners"])):
            if options.certificates is not None:
                self._run("certificates", _certificates(options))
            checkers = list(options.get("credCheckers") or ())
            await self._run_async("checkers", self._checkers(checkers))
            await self._maildrops(checkers)
        self._run("log", self._warnings())

    def _ports(self) -> Iterator[Finding]:
        for each in self._sockets:
            yield from check_socket(each)
        yield from check_twice(self._sockets)
        options = self._options
        has_stls = options["dialect"].has(b"STLS") and b"STLS" not in options["without"]
        yield from check_exposure(
            [each for each in self._sockets if each.option.startswith("--listen")],
            has_certificate=options.certificates is not None,
            has_stls=has_stls,
            allows_plaintext=bool(options["allow-plaintext"]),
            proxies=bool(options["proxies"]),
        )

    async def _checkers(self, checkers: Iterable[Any]) -> AsyncIterator[Finding]:
        for checker in checkers:
            if not IDiagnosed.providedBy(checker):
                name = type(checker).__name__
                what = f"the checker {name} has no checks of its own"
                yield unchecked("checker", "--auth", what, "try a login")
                continue
            for finding in await checker.diagnose():
                yield finding

    async def _maildrops(self, checkers: list[Any]) -> None:
        options = self._options
        found: list[Finding] = []
        users = users_of_checkers(checkers, options["default-domain"], found)
        check = MaildropCheck(
            options.store_option(),
            options.store,
            users,
            _threads.run,
            self._show,
            knows_all=bool(checkers) and all(map(IUserNames.providedBy, checkers)),
        )

        async def findings() -> AsyncIterator[Finding]:
            for finding in found:
                yield finding
            async for finding in check.findings():
                yield finding

        count = await self._run_async("", findings())
        if not count and check.examined:
            self._report.passed(f"{check.examined} maildrops")

    def _show(self, user: bytes, done: int, count: int) -> None:
        self._report.progress(f"{done + 1} of {count} maildrops: {printable(user)}")

    def _warnings(self) -> Iterator[Finding]:
        """Yield what was logged, unless a check has told it of the same place."""
        for line in self._logged:
            if not any(line.startswith(f"{place}: ") for place in self._told):
                what, _, remedy = line.rpartition("; ")
                yield warning("log", "log", what or line, remedy if what else "correct it")

    def _own_targets(self) -> Iterator[Target]:
        """Yield a target for each port of this machine."""
        seen = set()
        for each in self._sockets:
            if each.option.startswith("--listen") and each.port and each.port not in seen:
                seen.add(each.port)
                yield target_of(each, "localhost")

    async def _check_logins(self, target: Target) -> None:
        address = self._options["address"]
        is_local = address is None or address.is_loopback
        has_tls_port = any(each.starts_tls for each in self._sockets)
        clients = {
            name: client
            for name, client in CLIENTS.items()
            # It uses a port for TLS if there is one.
            if name != "Gmail" or target.starts_tls or not has_tls_port
        }
        check = LoginCheck(
            target,
            self._options["login"],
            self._password,
            allows_cleartext=is_local or bool(self._options["insecure"]),
            clients=clients,
            report=lambda name: self._report.progress(f"{target.shown}: {name}"),
        )
        found = await _threads.run(lambda: list(check.findings()))
        for finding in found:
            self._add(finding)
        if check.passed:
            self._report.passed(f"{target.shown}: {', '.join(check.passed)}")

    def _add(self, finding: Finding) -> bool:
        """Report a finding; return whether something is wrong."""
        self._told.append(finding.where)
        self._report.add(finding)
        return finding.severity in (Severity.ERROR, Severity.WARNING)

    def _run(self, name: str, findings: Iterable[Finding]) -> None:
        if not sum(map(self._add, findings)):
            self._report.passed(name)

    async def _run_async(self, name: str, findings: AsyncIterator[Finding]) -> int:
        count = 0
        async for finding in findings:
            count += self._add(finding)
        if name and not count:
            self._report.passed(name)
        return count


def _as_whom(store: IMaildropFactory) -> Finding:
    """Return as whom root examines files, if it is not told who the server runs as."""
    if acts_as_owners(store):
        return hint(
            "uid",
            "--uid",
            "each maildrop is examined as the user whom it belongs to, as by a server that is "
            "started as root",
            "if the server runs as another user, name that user",
        )
    what = "files were examined as root, who may do everything"
    return unchecked("uid", "--uid", what, "name the user that the server runs as")


def _sockets(options: Options) -> Iterator[Socket]:
    for option in ("listen", "listen-tls", "preauth"):
        for endpoint in options[option]:
            is_proxied, inner = split_proxy_prefix(endpoint)
            like = Socket(
                f"--{option} {endpoint}",
                starts_tls=option == "listen-tls",
                is_proxied=is_proxied,
            )
            yield from sockets_of(inner, like)
    others = [("lmtp", endpoint) for endpoint in options["lmtp"]]
    others += [(option, options[option]) for option in ("control", "metrics") if options[option]]
    for option, endpoint in others:
        yield from sockets_of(endpoint, Socket(f"--{option} {endpoint}", is_pop3=False))


def _certificates(options: Options) -> Iterator[Finding]:
    # TLS is an extra.
    from popserv.doctor.certificates import (  # noqa: PLC0415
        check_certificate,
        check_hostname,
        check_key_files,
        system_store,
    )

    certificates: Any = options.certificates
    trusted = system_store()
    for each in certificates.server_certificates:
        yield from check_certificate(each, trusted)
        yield from check_key_files(each)
    if options["hostname"] is not None:
        hostname = options["hostname"].decode("ascii")
        yield from check_hostname(hostname, certificates.server_certificates)
