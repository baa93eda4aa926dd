"""The supervisor, with workers that the test plays."""

import socket
from signal import SIGKILL

from twisted.application.service import IService, Service
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import Logger, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.server.listeners import CannotStart
from popserv.workers import supervisor
from popserv.workers import worker_process as module
from popserv.workers.link import BEAT
from popserv.workers.supervisor import Supervisor
from popserv.workers.worker import as_json
from tests.workers.harness import Reactor

END_EVENT = as_json(
    {"log_format": "the end", "log_system": "-", "log_time": 1.5, "log_level": LogLevel.info}
)


class Process:
    """A process that does nothing; ``end`` is the worker's end of the link."""

    pid = 4711

    def __init__(self, protocol, end, output):
        self.protocol = protocol
        self.end = end
        self.output = output
        self.signals = []
        self.gone = False

    def signalProcess(self, name):
        """Note it."""
        if self.gone:
            raise ProcessExitedAlready
        self.signals.append(name)

    def ended(self, *, code=0, signal=None):
        """End, with what is yet unread."""
        self.end.close()
        self.output.close()
        self.gone = True
        reason = ProcessTerminated(code, signal) if code or signal else ProcessDone(0)
        self.protocol.processEnded(Failure(reason))


class Launcher:
    """Starts such processes; ``first`` is what each says at once."""

    def __init__(self, test):
        self.test = test
        self.started = []
        self.first = b"ready\n"
        self.output = b""
        self.error = None

    def launch(self, protocol, part, sockets):
        """See launch.Launcher."""
        if self.error:
            raise self.error
        link, end = socket.socketpair()
        output, its_output = socket.socketpair()
        for each in (link, end, output, its_output):
            self.test.addCleanup(each.close)
        end.sendall(self.first)
        its_output.sendall(self.output)
        if not self.first.endswith(b"ready\n"):
            end.shutdown(socket.SHUT_WR)
            its_output.shutdown(socket.SHUT_WR)
        end.setblocking(False)
        process = Process(protocol, end, its_output)
        process.part = part
        self.started.append(process)
        return process, link, output


class SupervisorCase(SynchronousTestCase):
    """A supervisor of three workers."""

    def setUp(self):
        """Make it, and look at the log."""
        self.reactor = Reactor()
        self.supervisor = Supervisor(3, "popserv.tap", ["--maildir", "mail"], self.reactor)
        self.launcher = self.supervisor.launcher = Launcher(self)
        self.paused = []
        self.patch(self.supervisor.opener, "pause", self.paused.append)
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def start(self):
        """Start all; return the processes."""
        self.supervisor.privilegedStartService()
        self.supervisor.startService()
        self.reactor.read()
        return list(self.launcher.started)

    def told(self):
        """Return the texts in the log."""
        return [formatEvent(event) for event in self.log]

    def heard(self, process):
        """Return the lines that a worker hears."""
        try:
            return process.end.recv(1 << 20).splitlines()
        except BlockingIOError:
            return []


class StartTests(SupervisorCase):
    """How it begins."""

    def test_service(self):
        """It is a service, and makes a launcher and an opener of its own."""
        verifyObject(IService, self.supervisor)
        self.assertIsInstance(Supervisor(2, "popserv.tap", []).launcher, supervisor.Launcher)

    def test_start(self):
        """All are started, each as its part; the log says which process is which."""
        processes = self.start()
        self.assertEqual(
            [process.part for process in processes], [{"number": n, "of": 3} for n in (1, 2, 3)]
        )
        self.assertIn("worker 2 is process 4711", self.told())

    def assertCannotStart(self, told):
        """It does not start, and nothing else is tried."""
        error = self.assertRaises(CannotStart, self.supervisor.startService)
        self.assertIn(told, str(error))
        self.assertLessEqual(len(self.launcher.started), 1)
        return self.launcher.started

    def test_failed(self):
        """If the first cannot start, that ends all, with its reason."""
        self.launcher.first = b'failed "no such certificate"\n'
        (process,) = self.assertCannotStart("popserv: no such certificate")
        self.assertEqual(process.signals, ["KILL"])
        process.ended(code=1)

    def test_crashed(self):
        """If it ends without a word, its last output is the reason."""
        self.launcher.first = b""
        self.launcher.output = b"Traceback\n  ...\nModuleNotFoundError: popserv\n"
        self.assertCannotStart("popserv: ModuleNotFoundError: popserv")
        self.assertIn("worker 1 says: Traceback", self.told())

    def test_silent(self):
        """If it says nothing at all, not that either is waited for for ever."""
        self.patch(module, "START", 0.01)
        self.launcher.first = b""
        self.assertCannotStart("the first worker does not come up")

    def test_no_process(self):
        """If there is no process at all, the system's reason is told."""
        self.launcher.error = PermissionError(13, "Permission denied", "python")
        self.assertCannotStart("must be able to run Python")

    def test_not_shared(self):
        """Whoever opens no socket cannot be shared."""
        Service().setServiceParent(self.supervisor)
        error = self.assertRaises(CannotStart, self.supervisor.privilegedStartService)
        self.assertIn("leave --workers out", str(error))


class RelayTests(SupervisorCase):
    """What workers say."""

    def test_facts(self):
        """What one tells, all others hear."""
        first, *others = self.start()
        for process in self.launcher.started:
            self.heard(process)
        first.end.sendall(b'tell ["logins", ["ann", 1]]\n')
        self.reactor.read()
        for process in others:
            self.assertEqual(self.heard(process), [b'tell ["logins", ["ann", 1]]'])
        self.assertEqual(self.heard(first), [])
        others[0].ended(code=1)
        first.end.sendall(b"tell []\n")
        self.reactor.read()
        self.assertEqual(self.heard(others[1])[-1], b"tell []")

    def test_newcomer(self):
        """When one begins, one of the others is asked to tell everything."""
        processes = self.start()
        self.assertEqual([self.heard(process) for process in processes].count([b"tell-all"]), 0)
        processes[0].ended(code=1)
        self.reactor.advance(0)
        self.reactor.read()
        asked = [self.heard(process) for process in self.launcher.started[1:]]
        self.assertEqual(asked, [[b"tell-all"], [], []])

    def test_log(self):
        """Its events are the supervisor's, with its number, and lose nothing that is read."""
        process, *_ = self.start()
        seen = EventLoggingObserver()
        logger = Logger("popserv.somewhere", observer=seen)
        logger.info("{user!r} is {state}", user=b"ann", state="in")
        (event,) = seen
        process.end.sendall(b"log " + as_json(event) + b"\n")
        process.end.sendall(b"log " + END_EVENT + b"\n")
        before = len(list(self.log))
        self.reactor.read()
        info, end = list(self.log)[before:]
        self.assertEqual(formatEvent(info), "b'ann' is in")
        self.assertEqual((info["state"], info["log_level"]), ("in", LogLevel.info))
        self.assertEqual(info["log_time"], event["log_time"])
        self.assertEqual(info["log_system"], "worker 1: popserv.somewhere#info")
        self.assertEqual(end["log_system"], "worker 1: -")

    def test_malformed(self):
        """What is no event is logged as it is."""
        process, *_ = self.start()
        process.end.sendall(b"log {\nlog 1\nnonsense\n")
        self.reactor.read()
        self.assertIn("worker 1 says: {", self.told())
        self.assertIn("worker 1 says: 1", self.told())

    def test_output(self):
        """What it prints is in the log."""
        process, *_ = self.start()
        process.output.sendall(b"Fatal Python error\nhalf \xff")
        process.ended(signal=11)
        self.assertIn("worker 1 says: Fatal Python error", self.told())
        self.assertIn("worker 1 says: half \\xff", self.told())

    def test_deaf(self):
        """One that does not read is killed before too much waits for it."""
        self.patch(module, "UNHEARD", 1000)
        first, *others = self.start()
        for _ in range(2000):
            self.supervisor.relay(b"x" * 1000, self.supervisor.workers[1])
            self.heard(others[1])
            self.reactor.write()
            if first.signals:
                break
        self.assertEqual((first.signals, others[1].signals), (["KILL"], []))

    def test_silence(self):
        """One that gives no sign of life for a minute is killed; one that does is not."""
        first, second, _ = self.start()
        for _ in range(7):
            second.end.sendall(b"alive\n")
            self.reactor.read()
            self.reactor.advance(BEAT)
        self.assertEqual((first.signals, second.signals), (["KILL"], []))
        first.gone = True
        self.reactor.advance(BEAT)

    def test_slow_start(self):
        """One that is not ready yet may take a minute, and is then killed."""
        processes = self.start()
        self.launcher.first = b"failed_not ready\n"
        processes[1].ended(code=1)
        self.reactor.advance(0)
        for _ in range(module.SILENCE):
            self.supervisor.workers[1].count_silence()
        self.assertEqual(self.launcher.started[-1].signals, [])
        self.supervisor.workers[1].count_silence()
        self.assertEqual(self.launcher.started[-1].signals, ["KILL"])

    def test_waiting(self):
        """One that waits to be started is not missed."""
        processes = self.start()
        for process in (processes[1], self.launcher.started[-1]):
            process.ended(code=1)
        for _ in range(2 * module.SILENCE):
            self.supervisor.workers[1].count_silence()
        self.assertNotIn("worker 2 gives no sign of life; killed", self.told())


class RestartTests(SupervisorCase):
    """Workers that end."""

    def test_back_off(self):
        """The first time at once, then ever later; after a minute of life at once again."""
        self.start()
        for wait in (0, 1, 2, 4, 8, 16, 32, 60, 60):
            started = len(self.launcher.started)
            self.launcher.started[-1].ended(signal=SIGKILL)
            if wait:
                self.reactor.advance(wait - 0.5)
                self.assertEqual(len(self.launcher.started), started)
                self.reactor.advance(0.5)
            self.reactor.advance(0)
            self.assertEqual(len(self.launcher.started), started + 1, wait)
            when = f"in {wait} s" if wait else "at once"
            self.assertIn(f"worker 3 ended with signal 9; it is started again {when}", self.told())
        self.assertEqual(self.paused, [3] * 8)
        self.reactor.advance(60)
        self.launcher.started[-1].ended(code=0)
        self.assertIn("worker 3 ended with exit code 0; it is started again at once", self.told())
        self.assertEqual(len(self.paused), 8)

    def test_cannot(self):
        """If a process cannot be started again, it is tried again."""
        processes = self.start()
        self.launcher.error = BlockingIOError(11, "Resource temporarily unavailable")
        processes[0].ended(code=1)
        self.reactor.advance(0)
        self.assertIn("worker 1 cannot be started: ", self.told()[-1])
        self.launcher.error = None
        self.reactor.advance(1)
        self.assertEqual(len(self.launcher.started), 4)

    def test_failed(self):
        """If it cannot start later, that is told and tried again, whoever it is."""
        processes = self.start()
        self.launcher.first = b'failed "no certificate"\n'
        processes[0].ended(code=1)
        self.reactor.advance(0)
        self.reactor.read()
        self.assertIn("worker 1 cannot start: no certificate", self.told())

    def test_link_lost(self):
        """One that lets go of the link has thirty seconds to end."""
        first, *_ = self.start()
        first.end.close()
        self.reactor.read()
        self.reactor.advance(module.END - 1)
        self.assertEqual(first.signals, [])
        self.reactor.advance(1)
        self.assertEqual(first.signals, ["KILL"])
        self.assertIn("worker 1 does not end; killed", self.told())
        first.ended(signal=SIGKILL)


class StopTests(SupervisorCase):
    """How it ends."""

    def test_stop(self):
        """All are told to end, and when all have, so has the service; nothing is started."""
        processes = self.start()
        stopped = self.supervisor.stopService()
        self.assertEqual([process.signals for process in processes], [["TERM"]] * 3)
        for process in processes:
            self.assertNoResult(stopped)
            process.end.sendall(b"log " + END_EVENT + b"\n")
            process.ended()
        self.successResultOf(stopped)
        self.reactor.advance(100)
        self.assertEqual(len(self.launcher.started), 3)
        self.assertEqual(self.told().count("the end"), 3)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_deadline(self):
        """One that does not end is killed."""
        processes = self.start()
        stopped = self.supervisor.stopService()
        processes[0].ended()
        processes[2].ended()
        self.reactor.advance(module.END)
        self.assertEqual(processes[1].signals, ["TERM", "KILL"])
        processes[1].ended(signal=SIGKILL)
        self.successResultOf(stopped)

    def test_waiting(self):
        """One that waits to be started again is not."""
        processes = self.start()
        for process in processes:
            process.ended(code=1)
        self.successResultOf(self.supervisor.stopService())
        self.reactor.advance(100)
        self.assertEqual(len(self.launcher.started), 3)

    def test_link_lost_before(self):
        """One that was ending already is told all the same."""
        processes = self.start()
        processes[0].end.close()
        self.reactor.read()
        stopped = self.supervisor.stopService()
        for process in processes:
            process.ended()
        self.successResultOf(stopped)

    def test_not_started(self):
        """What was not started ends at once."""
        self.successResultOf(self.supervisor.stopService())
