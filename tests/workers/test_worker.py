"""The process of a worker, run in the process of the tests."""

import json
import os
import signal
import socket
import sys
from types import SimpleNamespace
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from popserv import tap
from popserv.auth.passwords.users_file_editing import set_secret
from popserv.listening.listeners import CannotStart
from popserv.runtime.bus import Answers
from popserv.workers import worker as worker_module
from popserv.workers.link import HEARTBEAT_INTERVAL
from popserv.workers.worker import Worker, main
from tests.certificates import issue
from tests.signals import preserve_signals
from tests.workers.harness import FakeReactor


class WorkerTestCase(SynchronousTestCase):
    """A worker, and the supervisor's end of its link."""

    def setUp(self):
        """Create a directory of Maildirs, and both ends of the link."""
        preserve_signals(self)
        self.directory = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(self.directory, "mail"))
        users_file = os.path.join(self.directory, "mail/.users")
        set_secret(users_file, b"ann", b"{PLAIN}x", new=True)
        self.reactor = FakeReactor()
        self.observers = []
        beginner = SimpleNamespace(
            beginLoggingTo=lambda observers, discardBuffer: self.observers.extend(observers)
        )
        self.patch(worker_module, "globalLogBeginner", beginner)
        self.link, self.supervisor = socket.socketpair()
        self.addCleanup(self.link.close)
        self.addCleanup(self.supervisor.close)
        self.supervisor.settimeout(10)

    def worker(self, *arguments, reactor=None, **setup):
        """Return a worker with this command line."""
        complete_setup = {
            "service_module": "popserv.tap",
            "arguments": ["--maildir", "mail", "--workers", "3", *arguments],
            "directory": self.directory,
            "number": 2,
            "count": 3,
            "sockets": [],
            **setup,
        }
        return Worker(reactor or self.reactor, self.link, complete_setup)

    def messages(self):
        """Return the messages that the worker has sent."""
        self.supervisor.setblocking(False)
        try:
            return self.supervisor.recv(1 << 22).splitlines()
        except BlockingIOError:
            return []

    def run_with(self, service, worker=None):
        """Run a worker whose service is replaced; return its exit code."""
        with patch.object(tap, "makeService", return_value=service) as make_service:
            code = (worker or self.worker()).run()
        self.make_service_arguments = make_service.call_args.args
        return code


class RecordingService:
    """A service that records which of its methods were called; its start may fail."""

    def __init__(self, error=None):
        self.calls = []
        self._error = error

    def privilegedStartService(self):
        """See IService."""
        self.calls.append("privileged")

    def startService(self):
        """See IService."""
        self.calls.append("start")
        if self._error:
            raise self._error

    def stopService(self):
        """See IService."""
        self.calls.append("stop")


class RunTests(WorkerTestCase):
    """From the setup to the exit."""

    def test_run(self):
        """A worker makes and starts its service, reports that it is ready, and sends heartbeats."""
        service = RecordingService()
        previous = os.getcwd()
        self.reactor.on_run = lambda: self.reactor.advance(HEARTBEAT_INTERVAL)
        handlers = []
        self.patch(worker_module.signal, "signal", lambda *handler: handlers.append(handler))
        self.assertEqual(self.run_with(service), 0)
        self.assertEqual(service.calls, ["privileged", "start"])
        options, role = self.make_service_arguments
        self.assertEqual(options["workers"], 3)
        self.assertEqual((role.number, role.count), (2, 3))
        self.assertEqual(self.messages(), [b"ready", b"heartbeat"])
        self.assertEqual(os.getcwd(), previous)
        self.assertEqual(len(self.observers), 1)
        ((number, handler),) = handlers
        self.assertEqual(number, signal.SIGTERM)
        handler(number, None)
        self.assertEqual(self.reactor.stopped, 0)
        self.reactor.advance(0)
        self.assertEqual(self.reactor.stopped, 1)

    def test_listens(self):
        """The service of popserv.tap listens on the sockets that the supervisor has opened."""
        adopted = []

        class AdoptingReactor(FakeReactor):
            def adoptStreamPort(self, fileno, family, factory):
                adopted.append((fileno, family, factory.max_connections))

        listening = socket.create_server(("127.0.0.1", 0))
        fileno = os.dup(listening.fileno())
        listening.close()
        worker = self.worker(
            *("-l", "tcp:110", "--max-connections=8"),
            reactor=AdoptingReactor(),
            sockets=[[fileno]],
        )
        self.assertEqual(worker.run(), 0)
        self.assertEqual(adopted, [(fileno, socket.AF_INET, 3)])

    def test_shutdown(self):
        """When the reactor stops, the service is stopped, and later events still arrive."""
        service = RecordingService()
        self.run_with(service)
        (observer,) = self.observers
        ((phase, event, shut_down, *arguments),) = self.reactor.triggers
        self.assertEqual((phase, event), ("before", "shutdown"))
        observer({"log_format": "before", "log_level": LogLevel.info})
        self.assertNotIn(b"before", b"".join(self.messages()))
        self.successResultOf(shut_down(*arguments))
        observer({"log_format": "after", "log_level": LogLevel.info})
        self.assertEqual(service.calls[-1], "stop")
        texts = [
            json.loads(line[4:])["log_format"] for line in self.messages() if line[:4] == b"log "
        ]
        self.assertEqual(texts, ["before", "after"])

    def test_waits_for_sessions(self):
        """Until the service has stopped, heartbeats are sent and events of the log collected."""
        service, stopped = RecordingService(), Deferred()
        service.stopService = lambda: stopped
        self.run_with(service)
        self.messages()
        ((_, _, shut_down, *arguments),) = self.reactor.triggers
        ended = shut_down(*arguments)
        self.reactor.advance(HEARTBEAT_INTERVAL)
        self.assertEqual(self.messages(), [b"heartbeat"])
        self.assertNoResult(ended)
        stopped.callback(None)
        self.successResultOf(ended)
        self.reactor.advance(HEARTBEAT_INTERVAL)
        self.assertEqual(self.messages(), [])

    def test_supervisor_exits(self):
        """When the supervisor has closed the link, the reactor is stopped if it still runs."""
        self.worker()
        self.supervisor.close()
        self.reactor.read()
        self.assertEqual(self.reactor.stopped, 1)
        own, other = socket.socketpair()

        def stop():
            raise ReactorNotRunning

        self.patch(self.reactor, "stop", stop)
        Worker(self.reactor, own, {})
        other.close()
        self.reactor.read()

    def test_cannot_start(self):
        """A service that cannot start is reported in one line."""
        for error, reason in [
            (CannotStart("popserv: no port"), "popserv: no port"),
            (OSError(5, "broken"), "OSError: [Errno 5] broken"),
        ]:
            own, self.supervisor = socket.socketpair()
            self.link = own
            with patch("traceback.print_exc"):
                code = self.run_with(RecordingService(error))
            self.assertEqual(code, 1)
            (line,) = self.messages()
            self.assertEqual(json.loads(line.removeprefix(b"failed ")), reason)
            own.close()
            self.supervisor.close()

    def test_invalid_options(self):
        """Options that only the worker finds invalid are reported in one line."""
        self.assertEqual(self.worker("--certificate", "/nowhere.pem").run(), 1)
        (line,) = self.messages()
        self.assertIn(b"/nowhere.pem: no such file", line)

    def test_no_directory(self):
        """The directory in which the server was started need not exist for the worker."""
        arguments = ["--maildir", os.path.join(self.directory, "mail")]
        worker = self.worker(arguments=arguments, directory="/nowhere")
        self.assertEqual(self.run_with(RecordingService(), worker), 0)

    def test_expiry_warning(self):
        """Only the first worker has the timer that warns of certificates that expire."""
        pem = os.path.join(self.directory, "pop.pem")
        with open(pem, "wb") as file:
            file.write(issue("localhost").pem())
        for number, timers in ((1, 1), (2, 0)):
            options = tap.Options()
            options.parseOptions(
                ["--maildir", f"{self.directory}/mail", "--certificate", pem, "--workers", "2"]
            )
            role = tap.WorkerRole(number, 2, reactor=self.reactor)
            service = tap.makeService(options, role)
            (listeners,) = service
            names = [type(each).__name__ for each in listeners]
            self.assertEqual(names.count("TimerService"), timers)


class BusTests(WorkerTestCase):
    """Updates from and to other workers."""

    def setUp(self):
        """Run a worker, and subscribe to a topic of its bus."""
        super().setUp()
        self.subject = self.worker()
        self.run_with(RecordingService(), self.subject)
        self.assertEqual(self.messages(), [b"ready"])
        _, role = self.make_service_arguments
        self.bus = role.bus
        self.received = []
        self.bus.subscribe(
            "colours",
            SimpleNamespace(
                receive=lambda update, offset: self.received.append(update),
                replay=lambda: ["red", 1],
            ),
        )

    def test_publish(self):
        """An update of a component is sent to the supervisor."""
        self.bus.publish("colours", ["blue"])
        self.assertEqual(self.messages(), [b'publish ["colours", ["blue"]]'])

    def test_receive(self):
        """An update of another worker reaches the component; replay publishes all updates."""
        self.supervisor.sendall(b'publish ["colours", ["green"]]\nreplay\nunknown\n')
        self.reactor.read()
        self.assertEqual(self.received, [["green"]])
        self.reactor.advance(0)
        self.assertEqual(
            self.messages(), [b'publish ["colours", "red"]', b'publish ["colours", 1]']
        )

    def test_cover(self):
        """The supervisor tells on which sockets of other workers this one accepts, too."""
        covered = []
        self.subject._sockets.cover = covered.append
        self.supervisor.sendall(b"cover [1, 3]\ncover []\n")
        self.reactor.read()
        self.assertEqual(covered, [[1, 3], []])

    def test_answer(self):
        """A question is answered by the component, with the number of the question."""
        self.bus.answer("colours", lambda question: [question, "red"])
        self.supervisor.sendall(b'ask [3, "colours", "?", 2]\n')
        self.reactor.read()
        self.assertEqual(self.messages(), [b'answer [3, ["?", "red"]]'])

    def test_ask(self):
        """A component can ask the other workers through the supervisor."""
        first, second = (self.bus.ask_others("colours", each, 5) for each in "ab")
        self.assertEqual(
            self.messages(), [b'ask [1, "colours", "a", 5]', b'ask [2, "colours", "b", 5]']
        )
        self.supervisor.sendall(b'answers [2, ["red"], 1]\n')
        self.reactor.read()
        self.assertNoResult(first)
        self.assertEqual(self.successResultOf(second), Answers(["red"], 1))

    def test_leaving(self):
        """The service can tell the supervisor that it accepts no more connections."""
        self.make_service_arguments[1].leaving()
        self.assertEqual(self.messages(), [b"leaving"])

    def test_error(self):
        """An exception of a component is logged, and the worker goes on."""
        self.bus.subscribe("colours", SimpleNamespace(receive=lambda *update: 1 // 0))
        self.supervisor.sendall(b'publish ["colours", 1]\n')
        self.reactor.read()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.reactor.stopped, 0)

    def test_unread(self):
        """Updates that the supervisor does not read are dropped."""
        self.patch(worker_module, "MAX_UNSENT", 1000)
        for _ in range(2000):
            self.bus.publish("colours", "x" * 1000)
        self.assertLess(self.subject._link.unsent_octets, 3000)


class MainTests(WorkerTestCase):
    """The function that the process runs."""

    def test_main(self):
        """The process reads its setup, installs the reactor, ignores SIGINT, and runs."""
        setup = {"reactor": "tests.workers.test_worker", "number": 7}
        self.supervisor.sendall(json.dumps(setup).encode() + b"\nmore\n")
        fileno = os.dup(self.link.fileno())
        with (
            patch.object(worker_module, "Worker") as worker_class,
            patch.object(worker_module.signal, "signal") as ignored,
        ):
            worker_class.return_value.run.return_value = 0
            with self.assertRaises(SystemExit) as exit_:
                main(fileno)
        self.assertEqual(exit_.exception.code, 0)
        self.assertEqual(INSTALLED.pop(), "installed")
        reactor, link, received = worker_class.call_args.args
        self.assertEqual((reactor, received), (sys.modules["twisted.internet.reactor"], setup))
        self.assertEqual(link.recv(100), b"more\n")
        self.assertFalse(link.get_inheritable())
        link.close()
        self.assertEqual(
            [call.args for call in ignored.call_args_list],
            [(signal.SIGINT, signal.SIG_IGN)],
        )

    def test_no_supervisor(self):
        """Without a supervisor, main returns."""
        self.supervisor.close()
        with patch.object(worker_module.signal, "signal"):
            main(os.dup(self.link.fileno()))


INSTALLED = []


def install():
    """Stand for the function of a reactor's module."""
    INSTALLED.append("installed")
