"""Sockets that systemd, or another program in its place, has passed to this process.

Twisted reads the variables when it imports its endpoints, and removes LISTEN_PID and LISTEN_FDS
from ``os.environ``.  It ignores the sockets if LISTEN_FDNAMES is missing or empty, as it is with
systemd-socket-activate by default.
"""

from __future__ import annotations

import os

from twisted.plugins.twisted_core import systemdEndpointParser
from twisted.python.systemd import ListenFDs

_UNKNOWN = "unknown"
"""The name that systemd's own library gives sockets without names (sd_listen_fds(3))."""


def systemd_variables() -> dict[str, str]:
    """Return the variables with which systemd passed sockets to this process, with names."""
    try:
        with open("/proc/self/environ", "rb") as file:
            lines = os.fsdecode(file.read()).split("\0")
    except OSError:
        return {}
    found = dict(line.partition("=")[::2] for line in lines if line.startswith("LISTEN_"))
    number = found.get("LISTEN_FDS", "")
    count = int(number) if number.isdecimal() else 0
    if found.get("LISTEN_PID") != str(os.getpid()) or not count:
        return {}
    names = [each or _UNKNOWN for each in found.get("LISTEN_FDNAMES", "").split(":")]
    if len(names) != count:
        names = [_UNKNOWN] * count
    return {**found, "LISTEN_FDNAMES": ":".join(names)}


def accept_unnamed_sockets() -> None:
    """Let Twisted's endpoint ``systemd:`` use sockets that were passed without names."""
    # Where Twisted keeps what it has found is private, but the same since Twisted 12.1.
    if not systemdEndpointParser._sddaemon.inheritedDescriptors():
        systemdEndpointParser._sddaemon = ListenFDs.fromEnvironment(systemd_variables())


def passed_sockets() -> str:
    """Return in words which sockets were passed, for an error message."""
    names = systemd_variables().get("LISTEN_FDNAMES")
    if names is None:
        return "systemd has passed no sockets to this process"
    listed = ", ".join(f"index={at} (name={name})" for at, name in enumerate(names.split(":")))
    return f"systemd has passed these sockets: {listed}"
