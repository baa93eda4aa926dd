"""Whether the server can open its sockets, and who has them if it cannot."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator, Sequence

from twisted.internet.abstract import isIPv6Address

from popserv.core.findings import Finding, error, hint, unchecked, warning
from popserv.doctor.conversation import ServerFailed
from popserv.doctor.sockets import Socket
from popserv.doctor.targets import PROXY_HEADER, Answer, Target, ask, trusting_context
from popserv.listening.unix_locks import is_stale
from popserv.runtime.permissions import describe, this_user
from popserv.runtime.unix_paths import MAX_PATH, is_too_long

_ALL = ("", "0.0.0.0", "::")  # noqa: S104 - they are compared
"""The interfaces that stand for all addresses."""


def target_of(listening: Socket, name: str) -> Target:
    """Return the target for a socket of this machine; ``name`` is the server's."""
    return Target(
        listening.path or (listening.host, listening.port),
        listening.option,
        name,
        trusting_context(),
        listening.starts_tls,
        PROXY_HEADER if listening.is_proxied else b"",
    )


def check_socket(
    listening: Socket, question: Callable[[Target], Answer] = ask
) -> Iterator[Finding]:
    """Yield why the server could not open a socket; nothing if popserv has opened it."""
    if listening.path:
        yield from _check_path(listening)
        return
    if not listening.port:
        yield unchecked(
            "port", listening.option, "the system chooses a port", "name one, and try again"
        )
        return
    try:
        _bind(listening)
    except OSError as problem:
        if problem.errno == errno.EACCES:
            yield error(
                "port-privileged",
                listening.option,
                f"{this_user()} cannot open port {listening.port}",
                "start the server as root with --uid, or give it the capability "
                "CAP_NET_BIND_SERVICE",
            )
        elif problem.errno == errno.EADDRINUSE and listening.is_pop3:
            yield from _check_owner(listening, question)
        elif problem.errno == errno.EADDRINUSE:
            what = "the port is in use, by the server itself if it runs"
            remedy = "if it does not run, stop the other program, or use another port"
            yield unchecked("port-in-use", listening.option, what, remedy)
        else:
            what = f"it cannot be opened: {describe(problem)}"
            remedy = "name an address of this machine"
            yield error("port-address", listening.option, what, remedy)


def _bind(listening: Socket) -> None:
    family = socket.AF_INET6 if isIPv6Address(listening.interface) else socket.AF_INET
    with socket.socket(family) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind((listening.interface, listening.port))
        opened.listen(1)


def _check_owner(listening: Socket, question: Callable[[Target], Answer]) -> Iterator[Finding]:
    try:
        answer = question(target_of(listening, "localhost"))
    except ServerFailed as problem:
        who = f"another program, which is no POP3 server ({problem})"
    else:
        if answer.is_popserv:
            return
        who = f"another POP3 server, which greets with {answer}"
    remedy = "stop it, or use another port"
    yield error("port-in-use", listening.option, f"the port is in use by {who}", remedy)


def _check_path(listening: Socket) -> Iterator[Finding]:
    path, directory = listening.path, os.path.dirname(os.path.abspath(listening.path))
    if is_too_long(path):
        what = f"the path has more than {MAX_PATH} octets"
        yield error("socket-path", listening.option, what, "use a shorter path")
    elif not os.path.isdir(directory):
        what = f"the directory {directory} does not exist"
        yield error("socket-path", listening.option, what, "create it")
    elif not os.path.lexists(path):
        if not os.access(directory, os.W_OK | os.X_OK):
            what = f"{this_user()} cannot create files in {directory}"
            yield error("socket-path", listening.option, what, "correct its owner or its mode")
    else:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(path)
            except PermissionError:
                what = f"{this_user()} cannot connect to {path}"
                yield unchecked("socket-path", listening.option, what, "run the command as root")
            except OSError as problem:
                if not _is_removed(path):
                    what = f"{path} exists, and no server answers there ({problem.strerror})"
                    yield error("socket-path", listening.option, what, "remove it")


def _is_removed(path: str) -> bool:
    """Return whether a server that starts removes a socket, because its process was killed."""
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode) and is_stale(path)
    except OSError:
        return False


def check_twice(listening: Sequence[Socket]) -> Iterator[Finding]:
    """Yield which sockets the server could not open, because it has them already."""
    for number, each in enumerate(listening):
        before = next((other for other in listening[:number] if _overlap(each, other)), None)
        if before is not None:
            what = f"{before.option} names it as well"
            code = "socket-path" if each.path else "port-in-use"
            yield error(code, each.option, what, "remove one of them")


def _overlap(one: Socket, other: Socket) -> bool:
    if one.path:
        return one.path == other.path
    if not one.port or one.port != other.port:
        return False
    if isIPv6Address(one.interface) != isIPv6Address(other.interface):
        return False
    return one.interface == other.interface or not {one.interface, other.interface}.isdisjoint(_ALL)


def check_exposure(
    listening: list[Socket],
    *,
    has_certificate: bool,
    has_stls: bool,
    allows_plaintext: bool,
    proxies: bool,
) -> Iterator[Finding]:
    """Yield whether clients on other machines can log in, and whether others could listen.

    ``has_stls`` tells whether the dialect has STLS, and ``proxies`` whether ``--proxies`` is given.
    """
    exposed = [each for each in listening if not each.is_local and not each.is_proxied]
    plain = [each for each in exposed if not each.starts_tls]
    offers_tls = has_certificate and has_stls
    for each in plain:
        if allows_plaintext:
            yield warning(
                "cleartext-passwords",
                each.option,
                "--allow-plaintext accepts passwords that everybody on the way can read",
                "remove --allow-plaintext, and have clients use TLS",
            )
        elif not offers_tls:
            yield warning(
                "no-tls",
                each.option,
                "without TLS, passwords are accepted from this machine only",
                "add --certificate, or listen on 127.0.0.1 only",
            )
    if plain and offers_tls and not any(each.starts_tls for each in exposed):
        yield hint(
            "no-tls-port",
            plain[0].option,
            "no port starts TLS at once, and Gmail's fetcher does not use STLS",
            "add --listen-tls tcp:995 and --listen-tls tcp6:995",
        )
    for each in listening:
        if each.is_proxied and not each.is_local and not proxies:
            yield hint(
                "proxies",
                each.option,
                "only a proxy on this machine can connect",
                "name other proxies by --proxies, or listen on 127.0.0.1",
            )
