"""Arms ``shim.c`` in a server: which system call fails, and how."""

import errno
import mmap
import os
import re
import signal
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.live.harness import run

CLASSES = (
    "open",
    "read",
    "write",
    "fsync",
    "rename",
    "link",
    "unlink",
    "stat",
    "lock",
    "truncate",
    "mkdir",
    "getdents",
    "attributes",
    "close",
    "connect",
    "send",
    "receive",
)
"""The classes of system calls, in the order of their bits in ``shim.c``."""

ERRORS = ("EIO", "EACCES", "ENOENT", "ENOSPC", "EDQUOT", "EMFILE", "EINTR", "ESTALE", "EROFS")
CLOSE_ERRORS = ("EIO", "EDQUOT", "ENOSPC", "EINTR")
"""The errors of close, as file systems in a network have them."""

SOCKETS = CLASSES[-3:]
SOCKET_ERRORS = ("ECONNREFUSED", "ECONNRESET", "EINTR", "ENOBUFS", "EPIPE", "ETIMEDOUT")
"""The classes of calls on sockets, and their errors."""

SHORT, KILL = "short", "KILL"
_ACTIONS = {SHORT: -1, KILL: -2}

CONTROL = struct.Struct(f"@IIIiI2I{len(CLASSES)}I500s1024s")
"""``struct control`` of ``shim.c``."""


class Fault(NamedTuple):
    """What happens at the n-th call of a class, counted from 1, and with ``lasts`` at all later."""

    calls: str
    error: str
    number: int
    lasts: bool = False

    def __str__(self):
        return f"{self.calls}:{self.error}:{self.number}{'+' * self.lasts}"

    @classmethod
    def parse(cls, text):
        """Return the fault that :func:`str` has written."""
        calls, error, number = text.split(":")
        return cls(calls, error, int(number.rstrip("+")), number.endswith("+"))

    @property
    def text(self):
        """The text of the error, as the log tells it; empty if there is none."""
        number = getattr(errno, self.error, None)
        return "" if number is None else os.strerror(number)


def faults_of(calls, number):
    """Return all faults of the n-th call of a class.

    A call that is always interrupted is none: Python and libraries repeat such calls.
    """
    errors = SOCKET_ERRORS if calls in SOCKETS else CLOSE_ERRORS if calls == "close" else ERRORS
    if calls in ("read", "write", "send", "receive"):
        errors = (*errors, SHORT)
    return [
        *(Fault(calls, each, number) for each in (*errors, KILL)),
        *(Fault(calls, each, number, lasts=True) for each in errors if each != "EINTR"),
    ]


class Outcome:
    """What a run has come to.

    :ivar counts: the calls of each class, by its name.
    :ivar hits: how many have failed.
    :ivar last: the last one that has failed, with its path.
    """

    hits = 0
    last = ""

    def __init__(self):
        self.counts = {}


SOURCE = Path(__file__).with_name("shim.c")

_SYSTEM_CALLS = {"fstatat": "newfstatat", "readdir": "getdents", "syscall": "openat2"}
_FUNCTION = re.compile(r"(?m)^(?:int|long|ssize_t|DIR \*|struct dirent64 \*) ?(\w+)\(")


def replaced():
    """Return the system calls of the functions of libc that the shim replaces, without ``64``."""
    names = {
        name.replace("64v2", "2").replace("64", "")
        for name in _FUNCTION.findall(SOURCE.read_text())
    }
    return {_SYSTEM_CALLS.get(name, name) for name in names}


class Shim:
    """A compiled shim, and the memory by which the processes that have it loaded are told.

    :param directory: where its files are.
    """

    def __init__(self, directory):
        library, control = directory / "shim.so", directory / "control"
        built = run(
            *("gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"),
            *(SOURCE, "-o", library, "-ldl", "-pthread"),
        )
        if built.returncode:
            raise AssertionError(built.stderr.decode())
        control.write_bytes(bytes(CONTROL.size))
        self.records = directory / "control.log"
        self.environment = {"LD_PRELOAD": str(library), "POPSERV_FAULTS": str(control)}
        with control.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    @contextmanager
    def armed(self, root, fault=None):
        """Let a fault happen below a directory; yield its :class:`Outcome`, known at the end.

        Without a fault, the calls are only counted.
        """
        mask = 1 << CLASSES.index(fault.calls) if fault else (1 << len(CLASSES)) - 1
        number, action, lasts = 0, 0, False
        if fault:
            number, lasts = fault.number, fault.lasts
            action = _ACTIONS.get(fault.error) or getattr(errno, fault.error)
        outcome = Outcome()
        self._set(mask, number, lasts, action, 0, root)
        try:
            yield outcome
        finally:
            fields = CONTROL.unpack(self._memory[:])
            self._set(0, 0, 0, 0, 0, "")
            outcome.hits = fields[6]
            outcome.counts = dict(zip(CLASSES, fields[7:-2], strict=True))
            outcome.last = fields[-1].partition(b"\0")[0].decode(errors="backslashreplace")

    @contextmanager
    def recording(self, root):
        """Record what is changed below a directory, in the file ``records``."""
        self.records.write_bytes(b"")
        self._set(0, 0, 0, 0, 1, root)
        try:
            yield
        finally:
            self._set(0, 0, 0, 0, 0, "")

    def _set(self, mask, number, lasts, action, records, root):
        # The mask, which arms it, is the first field, and is written last.
        counts = [0] * (2 + len(CLASSES))
        packed = CONTROL.pack(
            mask, number, lasts, action, records, *counts, os.fsencode(root) + b"\0", b""
        )
        self._memory[:4] = bytes(4)
        self._memory[4 : CONTROL.size] = packed[4:]
        self._memory[:4] = packed[:4]


KILLED = -signal.SIGKILL
"""The exit code of a process that the shim has killed."""
