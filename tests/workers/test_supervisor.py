"""The supervisor, with worker processes that the test plays."""

from twisted.application.service import IService, Service
from twisted.internet import reactor
from zope.interface.verify import verifyObject

from popserv.interfaces import IReloadable
from popserv.listening.listeners import CannotStart
from popserv.workers import worker_process
from popserv.workers.supervisor import Supervisor
from tests.workers.harness import LAST_EVENT, SupervisorTestCase


class StartTests(SupervisorTestCase):
    """The start of the service."""

    def test_service(self):
        """A supervisor is a service; by default it uses Twisted's reactor."""
        verifyObject(IService, self.supervisor)
        Supervisor(2, "popserv.tap", [])
        self.assertEqual(
            self.launcher_arguments,
            [
                ("popserv.tap", ["--maildir", "mail"], self.reactor),
                ("popserv.tap", [], reactor),
            ],
        )

    def test_start(self):
        """All workers are started, each with its role; the log contains their pids."""
        processes = self.start()
        self.assertEqual(
            [process.role for process in processes], [{"number": n, "count": 3} for n in (1, 2, 3)]
        )
        self.assertIn("worker 2 started, pid 4711", self.log_lines())

    def test_reload(self):
        """SIGHUP is passed on to each worker that runs."""
        verifyObject(IReloadable, self.supervisor)
        self.supervisor.reload()
        processes = self.start()
        processes[1].exit(code=1)
        self.supervisor.reload()
        for process in processes:
            self.assertEqual(process.signals, [] if process.has_exited else ["HUP"])

    def assert_cannot_start(self, message):
        """Check that the service does not start, and starts at most one process."""
        error = self.assertRaises(CannotStart, self.supervisor.startService)
        self.assertIn(message, str(error))
        self.assertLessEqual(len(self.launcher.started), 1)
        return self.launcher.started

    def test_failed(self):
        """If the first worker cannot start, its reason ends the server."""
        self.launcher.first_message = b'failed "no such certificate"\n'
        (process,) = self.assert_cannot_start("popserv: no such certificate")
        self.assertEqual(process.signals, ["KILL"])
        process.exit(code=1)

    def test_crashed(self):
        """If the first worker exits without a message, the reason is the last line it printed."""
        self.launcher.first_message = b""
        self.launcher.output = b"Traceback\n  ...\nModuleNotFoundError: popserv\n"
        self.assert_cannot_start("popserv: ModuleNotFoundError: popserv")
        self.assertIn("worker 1 output: Traceback", self.log_lines())

    def test_timeout(self):
        """The server does not wait forever for the first worker."""
        self.patch(worker_process, "START_TIMEOUT", 0.01)
        self.launcher.first_message = b""
        self.assert_cannot_start("the first worker did not become ready")

    def test_no_process(self):
        """If the first process cannot be started, the message contains a remedy."""
        self.launcher.error = PermissionError(13, "Permission denied", "python")
        self.assert_cannot_start("must be able to run Python")

    def test_endpoint_without_socket(self):
        """An endpoint that opens no socket is rejected."""
        Service().setServiceParent(self.supervisor)
        error = self.assertRaises(CannotStart, self.supervisor.privilegedStartService)
        self.assertIn("omit --workers", str(error))


class RelayTests(SupervisorTestCase):
    """Updates from one worker to the others."""

    def test_publish(self):
        """An update is sent to all other workers."""
        first, *others = self.start()
        for process in self.launcher.started:
            process.messages()
        first.link.sendall(b'publish ["logins", ["ann", 1]]\n')
        self.reactor.read()
        for process in others:
            self.assertEqual(process.messages(), [b'publish ["logins", ["ann", 1]]'])
        self.assertEqual(first.messages(), [])
        others[0].exit(code=1)
        first.link.sendall(b"publish []\n")
        self.reactor.read()
        self.assertEqual(others[1].messages()[-1], b"publish []")

    def test_replay(self):
        """When a worker has started, one of the others publishes everything again."""
        processes = self.start()
        self.assertEqual([process.messages() for process in processes].count([b"replay"]), 0)
        processes[0].exit(code=1)
        self.reactor.advance(0)
        self.reactor.read()
        messages = [process.messages() for process in self.launcher.started[1:]]
        self.assertEqual(messages, [[b"replay"], [], []])


class StopTests(SupervisorTestCase):
    """The end of the service."""

    def test_stop(self):
        """The service stops when all workers have exited; none is restarted."""
        processes = self.start()
        stopped = self.supervisor.stopService()
        self.assertEqual([process.signals for process in processes], [["TERM"]] * 3)
        for process in processes:
            self.assertNoResult(stopped)
            process.link.sendall(b"log " + LAST_EVENT + b"\n")
            process.exit()
        self.successResultOf(stopped)
        self.reactor.advance(100)
        self.assertEqual(len(self.launcher.started), 3)
        self.assertEqual(self.log_lines().count("last event"), 3)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_not_started(self):
        """A service that was not started stops without waiting."""
        self.successResultOf(self.supervisor.stopService())
