"""The users as whom the threads of this process access files.

Linux keeps credentials for each thread, although the C library sets those of all threads together:
setfsuid(2) and setfsgid(2), and the system call setgroups(2) without its wrapper, affect the
calling thread only.  When the uid for files changes from 0 to another, the kernel also takes the
capabilities away that override permissions, and gives them back later (capabilities(7), "Effect of
user ID changes on capabilities").

Rules of this module:
 1. What cannot be verified is an error: nothing is accessed after a switch that has failed.
 2. A switch and the switch back are in one synchronous piece of code.  Between the steps of a
    coroutine, the reactor's thread has the credentials of the process.
 3. A thread inherits the credentials of the one that starts it, and so starts with those of the
    process; see :class:`~popserv.runtime.threads.BoundedThreadPool`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
from array import array
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache
from types import coroutine
from typing import Any, NamedTuple, TypeVar

from popserv.runtime.capabilities import OVERRIDING, SWITCHING, effective
from popserv.runtime.speedups import speedup

T = TypeVar("T")


class FileCredentials(NamedTuple):
    """A user's uid and group, and the other groups that the user is a member of."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


NOBODY = FileCredentials(65534, 65534)
"""A user who owns nothing: Linux shows files so whose owner it does not know."""

_UNCHANGED = 0xFFFF_FFFF

# The system call has other numbers elsewhere, and another form on 32 bits.
_SETGROUPS = {"x86_64": 116, "aarch64": 159, "riscv64": 159}


def _is_supported(platform: str, maxsize: int, machine: str) -> bool:
    return platform == "linux" and maxsize >> 32 > 0 and machine in _SETGROUPS


IS_SUPPORTED = _is_supported(sys.platform, sys.maxsize, os.uname().machine)
"""Whether threads of this system can have different credentials."""

# PyDLL keeps the lock of the interpreter, which costs less than the calls.
_libc = ctypes.PyDLL(None, use_errno=True)


class _Thread(threading.local):
    current: FileCredentials | None = None


_thread = _Thread()


@speedup
def set_file_credentials(uid: int, gid: int, groups: bytes | None) -> None:
    """Set the credentials of this thread, and verify them.

    ``groups`` are numbers of 32 bits, or None to leave the groups as they are.

    :raises OSError: they are not set, or in part.
    """
    if groups is not None:
        number = _SETGROUPS[os.uname().machine]
        if _libc.syscall(ctypes.c_long(number), ctypes.c_long(len(groups) // 4), groups) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    # Neither reports an error; both return the previous value.
    _libc.setfsgid(ctypes.c_uint32(gid))
    _libc.setfsuid(ctypes.c_uint32(uid))
    now = (_libc.setfsuid(_UNCHANGED) & _UNCHANGED, _libc.setfsgid(_UNCHANGED) & _UNCHANGED)
    if now != (uid, gid):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@cache
def own() -> FileCredentials:
    """Return the credentials of the process; the first call must be before any switch."""
    return FileCredentials(os.geteuid(), os.getegid(), tuple(os.getgroups()))


def forget_process() -> None:
    """Find out again what the process is and may do, because its user has changed."""
    own.cache_clear()
    obstacle.cache_clear()


def current() -> FileCredentials | None:
    """Return the credentials of this thread, or None if they are those of the process."""
    return _thread.current


def switch(credentials: FileCredentials | None) -> FileCredentials | None:
    """Give this thread other credentials, and return those that it has had.

    None stands for those of the process.  The caller must switch back, with :func:`switch_back`.
    If a switch has failed half-way and cannot be undone, the process ends, because the thread would
    go on as the wrong user.

    :raises OSError: the thread cannot have them, and has those that it has had.
    """
    previous = _thread.current
    if credentials is not previous:
        before, to = previous or own(), credentials or own()
        try:
            _set(to, with_groups=to.groups != before.groups)
        except OSError:
            _restore(before)
            raise
        _thread.current = credentials
    return previous


def switch_back(previous: FileCredentials | None) -> None:
    """Give this thread the credentials that it has had before a switch.

    If that is not possible, the process ends, because the thread would go on as the wrong user.
    """
    try:
        switch(previous)
    except OSError:
        os.abort()


def _restore(before: FileCredentials) -> None:
    """Make sure that this thread has the credentials from before a switch that has failed."""
    now = (_libc.setfsuid(_UNCHANGED), _libc.setfsgid(_UNCHANGED), sorted(os.getgroups()))
    if now == (before.uid, before.gid, sorted(before.groups)):
        # The first step may not be allowed at all, such as setgroups in a user namespace.
        return
    try:
        _set(before, with_groups=True)
    except OSError:
        os.abort()


def _set(to: FileCredentials, *, with_groups: bool) -> None:
    groups = array("I", to.groups).tobytes() if with_groups else None
    set_file_credentials(to.uid, to.gid, groups)


@contextmanager
def acting_as(credentials: FileCredentials | None) -> Iterator[None]:
    """Access files with these credentials in the body of a with statement.

    :raises OSError: as :func:`switch`.
    """
    previous = switch(credentials)
    try:
        yield
    finally:
        switch_back(previous)


async def run_as(
    credentials: FileCredentials, function: Callable[..., Awaitable[T]], *args: Any
) -> T:
    """Await ``function(*args)``, and run each of its steps with these credentials.

    :raises OSError: as :func:`switch`.
    """
    return await _steps_as(credentials, function, *args)


@coroutine
def _steps_as(
    credentials: FileCredentials, function: Callable[..., Awaitable[T]], *args: Any
) -> Generator[Any, Any, T]:
    previous = switch(credentials)
    try:
        steps = function(*args).__await__()
    finally:
        switch_back(previous)
    step, value = steps.send, None
    while True:
        previous = switch(credentials)
        try:
            awaited = step(value)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            switch_back(previous)
        try:
            step, value = steps.send, (yield awaited)
        except BaseException as error:
            step, value = steps.throw, error


@cache
def obstacle() -> str:
    """Return why threads of this process cannot access files as other users; empty if they can.

    Call it when the process has its final user, and nothing has been switched.
    """
    if not IS_SUPPORTED:
        return "this system has no credentials of single threads"
    # A filter of system calls may end a process that tries without them.
    if effective() & SWITCHING != SWITCHING:
        return "the process has no CAP_SETUID and CAP_SETGID"
    try:
        with acting_as(NOBODY):
            overriding = effective() & OVERRIDING
            groups = os.getgroups()
    except OSError as error:
        return f"the users for files cannot be changed: {error.strerror}"
    if overriding or groups:
        return "its capabilities to override permissions would remain in effect"
    return ""
