"""Tests of popserv.runtime.file_credentials."""

import contextlib
import errno
import os
import threading
from array import array
from pathlib import Path
from unittest import mock

from twisted.internet.defer import Deferred, ensureDeferred, succeed

from popserv.runtime import file_credentials
from popserv.runtime.file_credentials import (
    NOBODY,
    acting_as,
    current,
    forget_process,
    obstacle,
    own,
    run_as,
    set_file_credentials,
    switch,
)
from popserv.runtime.speedups import in_python
from tests.live.harness import temporary_directory
from tests.runtime.harness import (
    ANN,
    BOB,
    CAP_DAC_OVERRIDE,
    CAP_SETUID,
    CredentialsCase,
    drop_capability,
    in_kernel,
    in_thread,
    keep_capabilities,
)

FUNCTIONS = {set_file_credentials, in_python.get(set_file_credentials, set_file_credentials)}
"""The function in C, if it was built, and the one in Python."""


class SwitchTests(CredentialsCase):
    """The kernel and this module agree about the credentials of a thread."""

    def test_kernel(self):
        """A thread has the uid, the group and the groups that it was given, and nobody else's."""
        for credentials in (ANN, BOB, NOBODY):
            with acting_as(credentials):
                self.assertEqual(in_kernel(), credentials)
                self.assertIs(current(), credentials)
            self.assertEqual((in_kernel(), current()), (own(), None))

    def test_nested(self):
        """Credentials are those of the innermost with statement, also after an exception."""
        with acting_as(BOB):
            with acting_as(ANN), acting_as(None):
                self.assertEqual(in_kernel(), own())
            with self.assertRaises(KeyError), acting_as(ANN):
                raise KeyError
            self.assertEqual(in_kernel(), BOB)

    def test_other_threads(self):
        """Other threads keep theirs."""
        inside, seen = threading.Event(), threading.Event()

        def other():
            inside.wait()
            found = in_kernel()
            seen.set()
            return found

        found = []
        thread = threading.Thread(target=lambda: found.append(other()))
        thread.start()
        with acting_as(ANN):
            inside.set()
            seen.wait()
        thread.join()
        self.assertEqual(found, [own()])

    def test_permissions(self):
        """What only root may read cannot be read, and what is created belongs to the user."""
        directory = temporary_directory(self)
        secret = directory / "secret"
        secret.touch(0o600)
        (directory / "ann").mkdir()
        os.chown(directory / "ann", ANN.uid, ANN.gid)
        self.assertEqual(secret.read_bytes(), b"")
        with acting_as(ANN):
            self.assertRaises(PermissionError, secret.read_bytes)
            self.assertRaises(PermissionError, secret.unlink)
            self.assertRaises(PermissionError, os.chown, directory / "ann", 0, 0)
            (directory / "ann" / "new").touch()
        status = (directory / "ann" / "new").stat()
        self.assertEqual((status.st_uid, status.st_gid), ANN[:2])

    def test_same(self):
        """A switch to the same credentials makes no system call."""
        with (
            acting_as(ANN),
            mock.patch.object(file_credentials, "set_file_credentials", self.fail),
            acting_as(ANN),
        ):
            pass
        with mock.patch.object(file_credentials, "set_file_credentials", self.fail):
            switch(None)

    def test_both(self):
        """The function in C and the one in Python do the same."""
        for function in FUNCTIONS:
            with mock.patch.object(file_credentials, "set_file_credentials", function):
                self.test_kernel()

    def test_unverified(self):
        """Without the capability, the credentials stay, and that is an error."""
        for function in FUNCTIONS:
            for groups in (None, b""):

                def attempt(function=function, groups=groups):
                    drop_capability(CAP_SETUID)
                    with self.assertRaises(OSError) as refused:
                        function(5000, 0, groups)
                    return refused.exception.errno, in_kernel().uid

                self.assertEqual(in_thread(attempt), (errno.EPERM, 0))

    def test_many_groups(self):
        """A thread has as many groups as it was given."""
        groups = tuple(range(100, 113))
        with acting_as(ANN._replace(groups=groups)):
            self.assertEqual(in_kernel().groups, groups)

    def test_nobody(self):
        """Nobody is the user whom Linux shows for users that it does not know."""
        self.assertEqual(NOBODY, (65534, 65534, ()))
        for name in ("overflowuid", "overflowgid"):
            self.assertEqual(Path(f"/proc/sys/kernel/{name}").read_text(), "65534\n")

    def test_forget_process(self):
        """What the process is, and may do, is found out again after its user has changed."""
        self.addCleanup(forget_process)
        own()
        with mock.patch.object(os, "geteuid", return_value=5000):
            self.assertNotEqual(own().uid, 5000)
            forget_process()
            self.assertEqual(own().uid, 5000)
        forget_process()
        self.assertEqual(obstacle(), "")
        with mock.patch.object(file_credentials, "IS_SUPPORTED", False):
            self.assertEqual(obstacle(), "")
            forget_process()
            self.assertIn("this system", obstacle())

    def test_setgroups(self):
        """An error of setgroups is one of the switch."""
        for function in FUNCTIONS:
            with self.assertRaises(OSError) as refused:
                function(5000, 0, b"\0\0\0\0" * (1 << 17))
            self.assertEqual(refused.exception.errno, errno.EINVAL)

    def test_failure(self):
        """After a switch that fails half-way, the thread has the credentials from before."""
        real = set_file_credentials

        def fail_for_bob(uid, gid, groups):
            real(uid, gid, groups)
            if uid == BOB.uid:
                raise OSError(errno.ENOMEM, "no")

        with mock.patch.object(file_credentials, "set_file_credentials", fail_for_bob):
            for before in (None, ANN):
                with acting_as(before):
                    self.assertRaises(OSError, switch, BOB)
                    self.assertEqual((in_kernel(), current()), (before or own(), before))

    def test_refused(self):
        """A switch of which no step is allowed changes nothing, and needs no way back."""
        with mock.patch.object(file_credentials, "set_file_credentials", side_effect=OSError):
            self.assertRaises(OSError, switch, BOB)
        self.assertEqual((in_kernel(), current()), (own(), None))

    def test_no_way_back(self):
        """A process ends that can have neither the new credentials nor the old ones."""
        real = set_file_credentials

        def fail_after_first(uid, gid, groups):
            if uid == ANN.uid:
                real(uid, gid, groups)
            raise OSError

        with (
            mock.patch.object(file_credentials, "set_file_credentials", fail_after_first),
            mock.patch.object(os, "abort") as abort,
        ):
            self.assertRaises(OSError, switch, ANN)
        abort.assert_called_once_with()
        real(own().uid, own().gid, array("I", own().groups).tobytes())

    def test_not_back(self):
        """A process ends whose thread cannot have back the credentials of the process."""
        real = set_file_credentials

        def act():
            with acting_as(ANN):
                pass

        def fail_for_own(uid, gid, groups):
            if uid == own().uid:
                raise OSError(errno.ENOMEM, "no")
            real(uid, gid, groups)

        for function in (act, lambda: ensureDeferred(run_as(ANN, succeed, None))):
            with (
                mock.patch.object(file_credentials, "set_file_credentials", fail_for_own),
                mock.patch.object(os, "abort", side_effect=KeyError) as abort,
                contextlib.suppress(KeyError),
            ):
                self.failureResultOf(function(), KeyError)
            abort.assert_called_once_with()
            switch(None)
        self.assertEqual((in_kernel(), current()), (own(), None))


class RunAsTests(CredentialsCase):
    """Each step of a coroutine has the credentials, and nothing between the steps."""

    def start(self, function, *args):
        """Start a coroutine as Ann, and return its Deferred."""

        async def run():
            return await run_as(ANN, function, *args)

        running = ensureDeferred(run())
        self.assertEqual(in_kernel(), own())
        return running

    def test_steps(self):
        """The function, and each step, has them; the result is the coroutine's."""
        waits = [Deferred(), Deferred()]
        seen = []

        def function(first):
            seen.append(in_kernel())
            return coroutine(first)

        async def coroutine(first):
            seen.append(in_kernel())
            for wait in waits:
                first += await wait
                seen.append(in_kernel())
            return first

        running = self.start(function, 1)
        for wait in waits:
            self.assertNoResult(running)
            wait.callback(2)
            self.assertEqual(in_kernel(), own())
        self.assertEqual(self.successResultOf(running), 5)
        self.assertEqual(seen, [ANN] * 4)

    def test_exceptions(self):
        """An exception is raised in the coroutine, with the credentials, and one from it passes."""
        wait = Deferred()
        seen = []

        async def coroutine():
            try:
                await wait
            except KeyError as error:
                seen.append(in_kernel())
                raise OSError("second") from error

        running = self.start(coroutine)
        wait.errback(KeyError())
        self.failureResultOf(running, OSError)
        self.assertEqual(seen, [ANN])

        def function():
            raise KeyError

        self.failureResultOf(self.start(function), KeyError)

    def test_closed(self):
        """A coroutine that is given up cleans up with the credentials."""
        seen = []

        async def coroutine():
            try:
                await Deferred()
            finally:
                seen.append(in_kernel())

        steps = run_as(ANN, coroutine).__await__()
        next(steps)
        steps.close()
        self.assertEqual(seen, [ANN])

    def test_awaitable(self):
        """Any awaitable will do, such as a Deferred."""
        self.assertEqual(self.successResultOf(self.start(succeed, 3)), 3)

    def test_refused(self):
        """If the credentials cannot be had, nothing of the function runs."""
        with mock.patch.object(file_credentials, "_set", side_effect=[OSError, None]):
            self.failureResultOf(self.start(self.fail), OSError)


class ObstacleTests(CredentialsCase):
    """Why a process cannot become other users."""

    def obstacle(self, prepare=lambda: None):
        """Return what is found in a thread after ``prepare``."""

        def find():
            prepare()
            return obstacle.__wrapped__()

        return in_thread(find)

    def test_root(self):
        """Root can, and has the own credentials afterwards."""
        self.assertEqual(obstacle.__wrapped__(), "")

    def test_systems(self):
        """Linux has credentials of threads; the numbers of system calls are for 64 bits."""
        for platform, bits, machine, expected in (
            ("linux", 63, "x86_64", True),
            ("linux", 63, "aarch64", True),
            ("linux", 63, "riscv64", True),
            ("linux", 31, "x86_64", False),
            ("linux", 63, "s390x", False),
            ("freebsd14", 63, "x86_64", False),
        ):
            found = file_credentials._is_supported(platform, (1 << bits) - 1, machine)
            self.assertIs(found, expected, (platform, bits, machine))
        # As in the kernel's tables of system calls.
        self.assertEqual(
            file_credentials._SETGROUPS, {"x86_64": 116, "aarch64": 159, "riscv64": 159}
        )

    def test_other_system(self):
        """Other systems have no credentials of threads."""
        with mock.patch.object(file_credentials, "IS_SUPPORTED", False):
            self.assertIn("this system", obstacle.__wrapped__())

    def test_no_capability(self):
        """Without the capabilities nothing is tried, which a filter of system calls may punish."""
        with mock.patch.object(file_credentials, "set_file_credentials", self.fail):
            found = self.obstacle(lambda: drop_capability(CAP_SETUID))
        self.assertEqual(found, "the process has no CAP_SETUID and CAP_SETGID")

    def test_no_other_capability(self):
        """The other capabilities of root are not needed."""
        self.assertEqual(self.obstacle(lambda: drop_capability(CAP_DAC_OVERRIDE)), "")

    def test_capabilities_remain(self):
        """Root that would keep its capabilities would have the rights of root as any user."""
        self.assertIn("would remain in effect", self.obstacle(keep_capabilities))

    def test_filtered(self):
        """A filter of system calls that lets them fail is given as the reason."""

        def fail(uid, gid, groups):
            if uid:
                raise OSError(errno.EPERM, "not permitted")

        with mock.patch.object(file_credentials, "set_file_credentials", fail):
            found = obstacle.__wrapped__()
        self.assertEqual(found, "the users for files cannot be changed: not permitted")
