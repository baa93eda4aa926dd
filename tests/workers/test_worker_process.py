"""A worker as its supervisor handles it: log, heartbeats, restarts and stops."""

from signal import SIGKILL

from twisted.internet.testing import EventLoggingObserver
from twisted.logger import Logger, LogLevel, formatEvent

from popserv.listening.drain import STOP_TIMEOUT
from popserv.workers import worker_process
from popserv.workers.link import HEARTBEAT_INTERVAL
from popserv.workers.log_forwarding import event_as_json
from popserv.workers.worker_process import MAX_MISSED_HEARTBEATS, MAX_RESTART_DELAY
from tests.workers.harness import LAST_EVENT, SupervisorTestCase


class LogTests(SupervisorTestCase):
    """What a worker logs and prints."""

    def test_event(self):
        """An event of a worker is logged with all its fields and the worker's number."""
        process, *_ = self.start()
        events = EventLoggingObserver()
        logger = Logger("popserv.somewhere", observer=events)
        logger.info("{user!r} is {state}", user=b"ann", state="in")
        (event,) = events
        process.link.sendall(b"log " + event_as_json(event) + b"\n")
        process.link.sendall(b"log " + LAST_EVENT + b"\n")
        before = len(list(self.log))
        self.reactor.read()
        info, last = list(self.log)[before:]
        self.assertEqual(formatEvent(info), "b'ann' is in")
        self.assertEqual((info["state"], info["log_level"]), ("in", LogLevel.info))
        self.assertEqual(info["log_time"], event["log_time"])
        self.assertEqual(info["log_system"], "worker 1: popserv.somewhere#info")
        self.assertEqual(last["log_system"], "worker 1: -")

    def test_malformed_event(self):
        """A malformed event is logged as output; an unknown message is ignored."""
        process, *_ = self.start()
        process.link.sendall(b"log {\nlog 1\nnonsense\n")
        self.reactor.read()
        self.assertIn("worker 1 output: {", self.log_lines())
        self.assertIn("worker 1 output: 1", self.log_lines())

    def test_output(self):
        """What the process prints is logged, also an incomplete last line."""
        process, *_ = self.start()
        process.output.sendall(b"Fatal Python error\nhalf \xff")
        process.exit(signal=11)
        self.assertIn("worker 1 output: Fatal Python error", self.log_lines())
        self.assertIn("worker 1 output: half \\xff", self.log_lines())


class MessageTests(SupervisorTestCase):
    """Messages that a worker has not sent whole, or that are invalid."""

    MESSAGES = (b'answer [1, "red"', b'ask [7, "colours"', b'failed "no cert')

    def test_cut(self):
        """A message that a worker had no time to send whole is dropped; it is restarted."""
        self.start()
        for message in self.MESSAGES:
            started = len(self.launcher.started)
            process = self.launcher.started[-1]
            process.link.sendall(message)
            process.exit(signal=SIGKILL)
            self.reactor.advance(MAX_RESTART_DELAY)
            self.reactor.read()
            self.assertEqual(len(self.launcher.started), started + 1)
        self.assertEqual(self.supervisor.workers[2].failure_reason, "")

    def test_invalid(self):
        """An invalid message is logged, and those after it are read."""
        first, *_ = self.start()
        for message in self.MESSAGES:
            first.link.sendall(message + b"\nlog " + LAST_EVENT + b"\n")
            self.reactor.read()
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
            self.assertEqual(self.log_lines()[-2:], ["invalid message from worker 1", "last event"])
        self.assertEqual(first.signals, [])

    def test_invalid_at_the_end(self):
        """A worker whose last message is invalid is restarted, and does not delay a stop."""
        first, second, third = self.start()
        first.link.sendall(b"answer 1\n")
        first.exit(signal=SIGKILL)
        self.reactor.advance(0)
        self.assertEqual(len(self.launcher.started), 4)
        stopped = self.supervisor.stopService()
        for process in (second, third, self.launcher.started[-1]):
            process.link.sendall(b"answer 1\n")
            process.exit()
        self.successResultOf(stopped)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 4)


class SupervisionTests(SupervisorTestCase):
    """Workers that do not respond are killed."""

    def test_unread_messages(self):
        """A worker that does not read is killed before much memory is used for it."""
        self.patch(worker_process, "MAX_UNSENT", 1000)
        first, *others = self.start()
        for _ in range(2000):
            self.supervisor.message_received(b"publish", b"x" * 1000, self.supervisor.workers[1])
            others[1].messages()
            self.reactor.write()
            if first.signals:
                break
        self.assertEqual((first.signals, others[1].signals), (["KILL"], []))
        self.assertIn("worker 1 does not read from the supervisor; killed", self.log_lines())

    def test_heartbeat(self):
        """A worker that has sent no heartbeat for a minute is killed."""
        first, second, _ = self.start()
        for _ in range(7):
            second.link.sendall(b"heartbeat\n")
            self.reactor.read()
            self.reactor.advance(HEARTBEAT_INTERVAL)
        self.assertEqual((first.signals, second.signals), (["KILL"], []))
        self.assertIn("worker 1 sent no heartbeat; killed", self.log_lines())
        first.has_exited = True
        self.reactor.advance(HEARTBEAT_INTERVAL)

    def test_slow_start(self):
        """A restarted worker that is not ready after a minute is killed."""
        processes = self.start()
        self.launcher.first_message = b"failed_not ready\n"
        processes[1].exit(code=1)
        self.reactor.advance(0)
        for _ in range(MAX_MISSED_HEARTBEATS):
            self.supervisor.workers[1].check_heartbeat()
        self.assertEqual(self.launcher.started[-1].signals, [])
        self.supervisor.workers[1].check_heartbeat()
        self.assertEqual(self.launcher.started[-1].signals, ["KILL"])

    def test_no_process(self):
        """A worker that is to be restarted later misses no heartbeats."""
        processes = self.start()
        for process in (processes[1], self.launcher.started[-1]):
            process.exit(code=1)
        for _ in range(2 * MAX_MISSED_HEARTBEATS):
            self.supervisor.workers[1].check_heartbeat()
        self.assertNotIn("worker 2 sent no heartbeat; killed", self.log_lines())


class RestartTests(SupervisorTestCase):
    """Workers that exit are restarted."""

    def test_delay(self):
        """The delay grows from 0 to 60 seconds, and is 0 again after a minute without an exit."""
        self.start()
        for delay in (0, 1, 2, 4, 8, 16, 32, 60, 60):
            started = len(self.launcher.started)
            self.launcher.started[-1].exit(signal=SIGKILL)
            if delay:
                self.reactor.advance(delay - 0.5)
                self.assertEqual(len(self.launcher.started), started)
                self.reactor.advance(0.5)
            self.reactor.advance(0)
            self.assertEqual(len(self.launcher.started), started + 1, delay)
            when = f"in {delay} s" if delay else "at once"
            self.assertIn(f"worker 3 exited with signal 9; restarting {when}", self.log_lines())
        self.reactor.advance(60)
        self.launcher.started[-1].exit(code=0)
        self.assertIn("worker 3 exited with code 0; restarting at once", self.log_lines())

    def test_no_process(self):
        """A process that cannot be started is tried again."""
        processes = self.start()
        self.launcher.error = BlockingIOError(11, "Resource temporarily unavailable")
        processes[0].exit(code=1)
        self.reactor.advance(0)
        self.assertIn("worker 1 cannot be started: ", self.log_lines()[-1])
        self.launcher.error = None
        self.reactor.advance(1)
        self.assertEqual(len(self.launcher.started), 4)

    def test_ends_at_once(self):
        """A process that has ended before anything is known of it is restarted as any other."""
        processes = self.start()
        self.launcher.ends_at_once = True
        processes[0].exit(code=1)
        self.reactor.advance(0)
        self.assertIn("worker 1 exited with signal 9; restarting in 1 s", self.log_lines())
        self.assertIsNone(self.supervisor.workers[0].pid)
        self.launcher.ends_at_once = False
        self.reactor.advance(1)
        self.assertEqual(len(self.launcher.started), 5)
        self.assertEqual(self.supervisor.workers[0].pid, self.launcher.started[-1].pid)

    def test_failed(self):
        """The reason why a restarted worker cannot start is logged."""
        processes = self.start()
        self.launcher.first_message = b'failed "no certificate"\n'
        processes[0].exit(code=1)
        self.reactor.advance(0)
        self.reactor.read()
        self.assertIn("worker 1 cannot start: no certificate", self.log_lines())

    def test_link_closed(self):
        """A worker that closes the link has thirty seconds to exit."""
        first, *_ = self.start()
        first.link.close()
        self.reactor.read()
        self.reactor.advance(STOP_TIMEOUT - 1)
        self.assertEqual(first.signals, [])
        self.reactor.advance(1)
        self.assertEqual(first.signals, ["KILL"])
        self.assertIn("worker 1 does not stop; killed", self.log_lines())
        first.exit(signal=SIGKILL)


class StopTests(SupervisorTestCase):
    """Workers that are to stop."""

    def test_timeout(self):
        """A worker that does not exit within thirty seconds is killed."""
        processes = self.start()
        stopped = self.supervisor.stopService()
        processes[0].exit()
        processes[2].exit()
        self.reactor.advance(STOP_TIMEOUT)
        self.assertEqual(processes[1].signals, ["TERM", "KILL"])
        processes[1].exit(signal=SIGKILL)
        self.successResultOf(stopped)

    def test_waiting_for_restart(self):
        """A worker that was to be restarted later is not restarted."""
        processes = self.start()
        for process in processes:
            process.exit(code=1)
        self.successResultOf(self.supervisor.stopService())
        self.reactor.advance(100)
        self.assertEqual(len(self.launcher.started), 3)

    def test_ended_at_once(self):
        """A process that ends as soon as it is started does not keep the server from stopping."""
        processes = self.start()
        self.launcher.ends_at_once = True
        processes[0].exit(code=1)
        stopping = []
        self.reactor.callLater(0, lambda: stopping.append(self.supervisor.stopService()))
        for process in processes[1:]:
            self.reactor.callLater(0, process.exit)
        self.reactor.advance(0)
        self.successResultOf(stopping[0])
        self.reactor.advance(100)
        self.assertEqual(len(self.launcher.started), 4)

    def test_link_closed_before(self):
        """A worker that has closed its link already is stopped like the others."""
        processes = self.start()
        processes[0].link.close()
        self.reactor.read()
        stopped = self.supervisor.stopService()
        for process in processes:
            process.exit()
        self.successResultOf(stopped)
