"""Users for tests, and threads that give up capabilities or keep those that they should lose."""

import ctypes
import os
import threading
from array import array
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime import capabilities
from popserv.runtime.file_credentials import FileCredentials, current

ANN = FileCredentials(5000, 6000)
BOB = FileCredentials(5001, 6001, (7, 8))

CAP_DAC_OVERRIDE, CAP_SETUID = 1, 7
_SET_SECUREBITS, _NO_SETUID_FIXUP = 28, 1 << 2

_libc = ctypes.CDLL(None, use_errno=True)


def in_kernel():
    """Return the credentials of this thread according to the kernel."""
    status = dict(
        line.split(":", 1) for line in Path("/proc/thread-self/status").read_text().splitlines()
    )
    uid, gid = (int(status[name].split()[3]) for name in ("Uid", "Gid"))
    return FileCredentials(uid, gid, tuple(map(int, status["Groups"].split())))


class CredentialsCase(SynchronousTestCase):
    """Tests that need root, and leave the thread as it was."""

    def setUp(self):
        """Check the credentials in the end."""
        if os.geteuid():
            self.skipTest("only root can become other users")
        before = in_kernel()
        self.addCleanup(lambda: self.assertEqual((in_kernel(), current()), (before, None)))


def in_thread(function, *args):
    """Call a function in a thread of its own; return its result, or raise its exception."""
    results = []

    def run():
        try:
            results.append((function(*args), None))
        except BaseException as error:
            results.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, error = results[0]
    if error is not None:
        raise error
    return result


def drop_capability(number):
    """Take a capability from this thread, which must end after the test."""
    sets = array("I", bytes(24))
    address = ctypes.c_void_p(sets.buffer_info()[0])
    assert _libc.capget(capabilities._HEADER, address) == 0
    sets[0] &= ~(1 << number)
    assert _libc.capset(capabilities._HEADER, address) == 0


def keep_capabilities():
    """Let this thread, which must end after the test, keep capabilities when its uid changes."""
    assert _libc.prctl(_SET_SECUREBITS, _NO_SETUID_FIXUP, 0, 0, 0) == 0
