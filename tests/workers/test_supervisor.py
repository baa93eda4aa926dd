"""The supervisor, with worker processes that the test plays."""

from twisted.application.service import IService, Service
from twisted.internet import reactor
from zope.interface.verify import verifyObject

from popserv.interfaces import IReloadable
from popserv.listening.drain import STOP_TIMEOUT
from popserv.listening.listeners import CannotStart
from popserv.runtime.bus import Answers
from popserv.workers import worker_process
from popserv.workers.link import HEARTBEAT_INTERVAL
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

    def test_cut(self):
        """A message of the first worker that has no end is none."""
        self.launcher.first_message = b'failed "no such cert'
        self.assert_cannot_start("popserv: the first worker did not become ready")

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


class QuestionTests(SupervisorTestCase):
    """Questions of the supervisor, and of workers to each other."""

    def test_ask(self):
        """The supervisor asks all workers that are ready."""
        processes = self.start()
        answers = self.supervisor.ask("colours", "?")
        for process in processes:
            line = process.messages()[-1]
            self.assertEqual(line, b'ask [1, "colours", "?", 2.0]')
            process.link.sendall(b'answer [1, "red"]\n')
        self.reactor.read()
        self.assertEqual(self.successResultOf(answers), Answers(["red"] * 3, 0))

    def test_worker_asks(self):
        """A worker asks all other workers, and gets their answers with the number it gave."""
        asking, second, third = self.start()
        for process in self.launcher.started:
            process.messages()
        asking.link.sendall(b'ask [17, "colours", "?", 5]\n')
        self.reactor.read()
        self.assertEqual(asking.messages(), [])
        self.assertEqual(second.messages(), [b'ask [1, "colours", "?", 5]'])
        second.link.sendall(b'answer [1, "red"]\n')
        self.reactor.read()
        third.exit(code=1)
        self.assertEqual(asking.messages()[-1], b'answers [17, ["red"], 0]')

    def test_not_ready(self):
        """A worker that has not started yet is not asked."""
        self.successResultOf(self.supervisor.ask("colours", "?"))


class CoverTests(SupervisorTestCase):
    """Workers accept the connections of those that do not run."""

    def setUp(self):
        """Start the workers."""
        super().setUp()
        self.processes = self.start()

    def covered(self):
        """Return what each process has been told since the last call."""
        told = []
        for process in self.launcher.started:
            if not process.has_exited:
                process.messages()
                told.append(process.covered)
                process.covered = []
        return told

    def test_start(self):
        """Workers that are ready accept the connections of those that are not yet."""
        self.assertEqual(self.covered(), [[[2, 3], [3], []], [[3], []], []])

    def test_ended(self):
        """The others accept the connections of a worker that has ended, until it runs again."""
        self.covered()
        self.processes[1].exit(code=1)
        self.assertEqual(self.covered(), [[[2]], [[2]]])
        self.launcher.first_message = b"heartbeat\nready\n"
        self.reactor.advance(0)
        self.assertEqual(self.covered(), [[], [], []])
        self.reactor.read()
        self.assertEqual(self.covered(), [[[]], [[]], []])

    def test_two(self):
        """A worker that starts while another one does not run accepts its connections, too."""
        self.covered()
        self.processes[0].exit(code=1)
        self.reactor.advance(0)
        self.launcher.error = PermissionError(13, "Permission denied", "python")
        self.processes[1].exit(code=1)
        self.reactor.advance(0)
        self.reactor.read()
        self.assertEqual(self.covered(), [[[1], [1, 2], [2]], [[2]]])

    def test_leaving(self):
        """The same holds for a worker that has stopped accepting connections by itself."""
        self.covered()
        self.launcher.first_message = b"heartbeat\nready\n"
        self.processes[1].link.sendall(b"leaving\n")
        self.reactor.read()
        self.assertEqual(self.covered(), [[[2]], [], [[2]], []])
        self.reactor.read()
        self.assertEqual(self.covered(), [[[]], [], [[]], []])

    def test_replaced(self):
        """A worker that replaces another one knows which do not run."""
        self.launcher.first_message = b"heartbeat\nready\n"
        self.supervisor.replace_workers()
        self.processes[2].exit(code=1)
        self.covered()
        self.reactor.read()
        self.assertEqual(self.covered(), [[], [], [[3]], []])

    def test_silent(self):
        """A worker that has missed two heartbeats is covered until it sends one."""
        self.covered()
        for beating in (2, 2, 3):
            self.reactor.advance(HEARTBEAT_INTERVAL)
            for process in self.processes[:beating]:
                process.link.sendall(b"heartbeat\n")
            self.reactor.read()
        self.assertEqual(self.covered(), [[[3]]] * 3)
        self.reactor.advance(HEARTBEAT_INTERVAL)
        self.assertEqual(self.covered(), [[[]]] * 3)


class ReplacementTests(SupervisorTestCase):
    """Workers that are replaced while the server goes on."""

    def setUp(self):
        """Start the workers."""
        super().setUp()
        self.processes = self.start()

    def step(self):
        """Let the newest process become ready; return it."""
        self.reactor.read()
        return self.launcher.started[-1]

    def states(self):
        """Return the number and the state of each process."""
        return sorted((each["number"], each["state"]) for each in self.supervisor.overview())

    def test_replace(self):
        """Each worker is asked to leave when its successor is ready, one after the other."""
        self.launcher.first_message = b"heartbeat\nready\n"
        replaced = self.supervisor.replace_workers()
        for at, process in enumerate(self.processes):
            self.assertTrue(self.supervisor.is_replacing)
            self.assertEqual(len(self.launcher.started), 4 + at)
            self.assertEqual(process.signals, [])
            self.step()
            self.assertEqual(process.signals, ["TERM"])
        self.successResultOf(replaced)
        self.assertFalse(self.supervisor.is_replacing)
        self.assertEqual(
            self.states(),
            [(n, state) for n in (1, 2, 3) for state in ("leaving", "serving")],
        )
        for process in self.processes:
            process.exit()
        self.assertEqual(len(self.launcher.started), 6)
        self.assertEqual(self.states(), [(1, "serving"), (2, "serving"), (3, "serving")])

    def test_restarted(self):
        """A successor is restarted like any other worker."""
        self.supervisor.replace_workers()
        self.step()
        self.launcher.started[3].exit(code=1)
        self.reactor.advance(0)
        numbers = [process.role["number"] for process in self.launcher.started]
        self.assertEqual(numbers, [1, 2, 3, 1, 2, 1])
        self.assertIn("worker 1 exited with code 1; restarting at once", self.log_lines())

    def test_starting(self):
        """While a successor starts, its predecessor serves."""
        self.launcher.first_message = b"heartbeat\n"
        self.supervisor.replace_workers()
        self.assertEqual(self.states()[:2], [(1, "serving"), (1, "starting")])

    def test_cannot_start(self):
        """If a successor cannot start, that is logged, and no worker is stopped."""
        for message, reason in [
            (b'failed "no such certificate"\n', "no such certificate"),
            (b"", "the new process has ended"),
        ]:
            self.launcher.first_message = message
            replaced = self.supervisor.replace_workers()
            self.step().exit(code=1)
            self.successResultOf(replaced)
            self.assertIn(
                f"worker 1 is not replaced, and those after it neither: {reason}",
                self.log_lines(),
            )
        self.assertEqual([process.signals for process in self.processes], [[], [], []])
        self.assertFalse(self.supervisor.is_replacing)

    def test_no_process(self):
        """The same holds if the process of a successor cannot be started at all."""
        self.launcher.error = PermissionError(13, "Permission denied", "python")
        self.successResultOf(self.supervisor.replace_workers())
        self.assertIn("cannot be started", self.log_lines()[-1])
        self.assertEqual(self.processes[0].signals, [])

    def test_twice(self):
        """Workers that are being replaced cannot be replaced again, until that has ended."""
        self.launcher.first_message = b"heartbeat\nready\n"
        self.supervisor.replace_workers()
        self.assertRaises(RuntimeError, self.supervisor.replace_workers)
        self.assertEqual(len(self.launcher.started), 4)
        for _ in self.processes:
            self.step()
        self.supervisor.replace_workers()
        self.assertEqual(len(self.launcher.started), 7)

    def test_predecessor_ended(self):
        """A worker that waits for its restart is replaced as well, and not restarted then."""
        self.supervisor.replace_workers()
        self.processes[0].exit(code=1)
        self.step()
        self.assertEqual(self.states()[:2], [(1, "serving"), (2, "serving")])
        self.reactor.advance(0)
        self.assertEqual(len(self.launcher.started), 5)

    def test_leaving(self):
        """A worker that stops accepting connections by itself has a successor at once."""
        self.processes[1].link.sendall(b"leaving\nleaving\n")
        self.reactor.read()
        self.assertEqual(len(self.launcher.started), 4)
        self.assertEqual(self.launcher.started[-1].role["number"], 2)
        self.processes[1].exit()
        self.reactor.advance(100)
        self.assertEqual(len(self.launcher.started), 4)

    def test_time_to_leave(self):
        """A worker that is leaving is killed after the seconds for sessions, and the usual ones."""
        self.supervisor.wait_for_sessions(100)
        self.supervisor.replace_workers()
        self.step()
        self.reactor.advance(STOP_TIMEOUT + 99)
        self.assertEqual(self.processes[0].signals, ["TERM"])
        self.reactor.advance(2)
        self.assertEqual(self.processes[0].signals, ["TERM", "KILL"])

    def test_more_time_to_leave(self):
        """More seconds for the sessions count from the start, and fewer take nothing away."""
        # Of the replacement, not of the server.
        self.reactor.advance(5)
        self.supervisor.replace_workers()
        self.step()
        for seconds, wait in ((100, 50), (200, STOP_TIMEOUT + 149), (0, STOP_TIMEOUT - 1)):
            self.supervisor.wait_for_sessions(seconds)
            self.reactor.advance(wait)
            self.assertEqual(self.processes[0].signals, ["TERM"])
        self.reactor.advance(1)
        self.assertEqual(self.processes[0].signals, ["TERM", "KILL"])

    def test_stop(self):
        """When the server stops, workers that are leaving or starting stop as well."""
        self.supervisor.replace_workers()
        self.step()
        stopped = self.supervisor.stopService()
        self.processes[1].link.sendall(b"leaving\n")
        self.reactor.read()
        self.assertEqual(len(self.launcher.started), 5)
        for process in self.launcher.started:
            self.assertNoResult(stopped)
            process.exit()
        self.successResultOf(stopped)


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
