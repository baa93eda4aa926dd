"""Arms ``shim.c`` in a server: which system call fails, and how."""

import errno
import mmap
import os
import signal
import struct
from contextlib import contextmanager
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
)
"""The classes of system calls, in the order of their bits in ``shim.c``."""

ERRORS = ("EIO", "EACCES", "ENOENT", "ENOSPC", "EDQUOT", "EMFILE", "EINTR", "ESTALE", "EROFS")
SHORT, KILL = "short", "KILL"
_ACTIONS = {SHORT: -1, KILL: -2}

CONTROL = struct.Struct("@IIIiIII500s1024s")
"""``struct control`` of ``shim.c``."""
_RECORDS = 16
_COUNT = 20


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
        return os.strerror(getattr(errno, self.error)) if self.error in ERRORS else ""


def faults_of(calls):
    """Return what can happen to the calls of a class, besides that the process is killed."""
    return (*ERRORS, *([SHORT] if calls in ("read", "write") else []))


class Outcome:
    """What a run has come to.

    :ivar count: the calls of the class.
    :ivar hits: how many of them have failed.
    :ivar last: the last one that has failed, with its path.
    """

    count = hits = 0
    last = ""


class Shim:
    """A compiled shim, and the memory by which the processes that have it loaded are told.

    :param directory: where its files are.
    """

    def __init__(self, directory):
        source = os.path.join(os.path.dirname(__file__), "shim.c")
        library, control = directory / "shim.so", directory / "control"
        built = run(
            *("gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"),
            *(source, "-o", library, "-ldl", "-pthread"),
        )
        if built.returncode:
            raise AssertionError(built.stderr.decode())
        control.write_bytes(bytes(CONTROL.size))
        self.records = directory / "control.log"
        self.environment = {"LD_PRELOAD": str(library), "POPSERV_FAULTS": str(control)}
        with control.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    @contextmanager
    def armed(self, root, fault=None, calls=None):
        """Let a fault happen below a directory; yield its :class:`Outcome`, known at the end.

        Without a fault, the calls of a class are only counted.
        """
        mask = 1 << CLASSES.index(fault.calls if fault else calls)
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
            outcome.count, outcome.hits = fields[5:7]
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
        packed = CONTROL.pack(
            mask, number, lasts, action, records, 0, 0, os.fsencode(root) + b"\0", b""
        )
        self._memory[:4] = bytes(4)
        self._memory[4 : CONTROL.size] = packed[4:]
        self._memory[:4] = packed[:4]


KILLED = -signal.SIGKILL
"""The exit code of a process that the shim has killed."""
