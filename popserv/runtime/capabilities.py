"""The capabilities that a process keeps of root's privileges, on Linux; see capabilities(7).

They belong to threads, as credentials do: a change affects the calling thread, and the threads and
programs that it starts later.
"""

from __future__ import annotations

import ctypes
import os
from array import array

SWITCHING = 1 << 6 | 1 << 7
"""CAP_SETGID and CAP_SETUID, by which a thread can have the credentials of any user."""

OVERRIDING = 0b11111
"""CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER and CAP_FSETID."""

_HEADER = array("I", [0x2008_0522, 0]).tobytes()
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2

# PyDLL keeps the lock of the interpreter, which costs less than the calls.
_libc = ctypes.PyDLL(None, use_errno=True)


def effective() -> int:
    """Return the effective capabilities of this thread, as bits.

    :raises OSError: they cannot be read.
    """
    sets = _get()
    return sets[0] | sets[3] << 32


def make_effective(capabilities: int) -> None:
    """Make these capabilities, below bit 32, the effective ones of this thread.

    :raises OSError: this thread may not have them, and has those that it has had.
    """
    sets = _get()
    sets[0], sets[3] = capabilities, 0
    _set(sets)


def keep_when_user_changes() -> None:
    """Let this thread change from root to another user without losing what it may make effective.

    :raises OSError: that is not allowed.
    """
    _prctl(_PR_SET_KEEPCAPS, 1)


def keep_only(capabilities: int, *, for_programs: bool) -> None:
    """Make these capabilities, below bit 32, effective in this thread, and give up all others.

    Programs that it starts have them as well if ``for_programs``, and otherwise none.

    :raises OSError: this thread does not have them, and has those that it has had.
    """
    inheritable = capabilities if for_programs else 0
    _set(array("I", [capabilities, capabilities, inheritable, 0, 0, 0]))
    for number in range(inheritable.bit_length()):
        if inheritable >> number & 1:
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)


def _get() -> array[int]:
    """Return two sets of 32 bits each: effective, permitted and inheritable."""
    sets = array("I", bytes(24))
    address, _ = sets.buffer_info()
    _check(_libc.capget(_HEADER, ctypes.c_void_p(address)))
    return sets


def _set(sets: array[int]) -> None:
    address, _ = sets.buffer_info()
    _check(_libc.capset(_HEADER, ctypes.c_void_p(address)))


def _prctl(operation: int, *arguments: int) -> None:
    numbers = (*arguments, *[0] * (4 - len(arguments)))
    _check(_libc.prctl(operation, *map(ctypes.c_ulong, numbers)))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
