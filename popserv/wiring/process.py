"""Prepares the process that serves, before it gives up its privileges."""

from __future__ import annotations

import sys
from contextlib import suppress
from io import TextIOWrapper
from os import getuid
from pwd import getpwuid
from resource import RLIM_INFINITY, RLIMIT_CORE, RLIMIT_NOFILE, getrlimit, setrlimit
from socket import getaddrinfo

from twisted.logger import Logger

from popserv.interfaces import IMaildropFactory
from popserv.maildrops.owners.store import OwnersStore
from popserv.runtime.file_credentials import obstacle
from popserv.runtime.open_files import connections_for
from popserv.runtime.permissions import this_uid, this_user

_log = Logger()


def prepare_process() -> None:
    """Load what is needed later, forbid cores, and set up standard output and threads."""
    forbid_cores()
    _load_name_service()
    if isinstance(sys.__stdout__, TextIOWrapper):
        # If its encoding lacked a character, a line of the log would be lost.
        sys.__stdout__.reconfigure(errors="backslashreplace")
    # With Python's default, a thread that reads a large directory blocks the reactor for 5 ms.
    sys.setswitchinterval(0.0005)


def _load_name_service() -> None:
    """Load the C library's modules for host names and users, and Python's codec for host names.

    Later, the process may not be able to read their files, because of twistd's --uid or --chroot.
    """
    with suppress(OSError):
        getaddrinfo("localhost", None)
    with suppress(KeyError):
        getpwuid(getuid())


def forbid_cores() -> None:
    """Let the kernel write no core of this process and its children, which would have passwords.

    Linux ignores a limit of 0 if another program takes the cores, but not 1 (fs/coredump.c); for a
    file both are too little.  The hard limit stays, so that an administrator can have a core:
    ``prlimit --pid PID --core=unlimited``.
    """
    _, hard = getrlimit(RLIMIT_CORE)
    setrlimit(RLIMIT_CORE, (0 if hard == 0 else 1, hard))


def log_user(store: IMaildropFactory) -> None:
    """Log as whom the server runs and accesses maildrops, once it has its final user."""
    user, reason = this_user(), obstacle()
    is_root, has_owners = this_uid() == 0, isinstance(store, OwnersStore)
    if has_owners and not reason:
        if is_root:
            _log.warn(
                "running as {user}; each maildrop is accessed as the user whom it belongs to, but "
                "{user} reads from the network: use twistd's --uid with --as-owners",
                user=user,
            )
        else:
            _log.info(
                "running as {user}; each maildrop is accessed as the user whom it belongs to",
                user=user,
            )
    elif not is_root:
        _log.info("running as {user}, who also accesses the maildrops", user=user)
    elif has_owners:
        _log.warn(
            "running as {user}, who also accesses the maildrops, because {reason}: links and files "
            "that users make may lead to what only {user} may read; use twistd's --uid",
            user=user,
            reason=reason,
        )
    else:
        _log.warn(
            "running as {user}, who also accesses the maildrops, and reads from the network: "
            "use twistd's --uid",
            user=user,
        )


def default_max_connections() -> int:
    """Raise the limit of open files; return the number of connections that it allows."""
    _, hard = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (hard, hard))
    return connections_for(1 << 20 if hard == RLIM_INFINITY else hard)
