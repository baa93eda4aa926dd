"""A worker's own process, played in this one."""

import json
import os
import signal
import socket
import sys
from threading import Thread
from types import SimpleNamespace
from unittest.mock import patch

from twisted.internet.error import ReactorNotRunning
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import ILogObserver, Logger, LogLevel, eventFromJSON, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv import tap
from popserv.auth.passwords.users_file import set_secret
from popserv.server.listeners import CannotStart
from popserv.workers import worker as module
from popserv.workers.worker import Worker, as_json, main
from tests.workers.harness import Reactor


class WorkerCase(SynchronousTestCase):
    """A worker, and the supervisor's end of its link."""

    def setUp(self):
        """Make a root, and what the worker's process would have."""
        self.root = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(self.root, "mail"))
        set_secret(os.path.join(self.root, "mail/.users"), b"ann", b"{PLAIN}x", new=True)
        self.reactor = Reactor()
        self.begun = []
        beginner = SimpleNamespace(
            beginLoggingTo=lambda observers, discardBuffer: self.begun.append(observers)
        )
        self.patch(module, "globalLogBeginner", beginner)
        self.link, self.end = socket.socketpair()
        self.addCleanup(self.link.close)
        self.addCleanup(self.end.close)
        self.end.settimeout(10)

    def worker(self, *arguments, reactor=None, **setup):
        """Return a worker with this command line."""
        sent = {
            "maker": "popserv.tap",
            "arguments": ["--maildir", "mail", "--workers", "3", *arguments],
            "directory": self.root,
            "number": 2,
            "of": 3,
            "sockets": [],
            **setup,
        }
        return Worker(reactor or self.reactor, self.link, sent)

    def said(self):
        """Return the lines that it has said."""
        self.end.setblocking(False)
        try:
            return self.end.recv(1 << 22).splitlines()
        except BlockingIOError:
            return []

    def run_with(self, service, worker=None):
        """Run a worker that makes this service."""
        with patch.object(tap, "makeService", return_value=service) as made:
            code = (worker or self.worker()).run()
        self.made = made.call_args.args
        return code


class Noting:
    """A service that notes what is done with it."""

    def __init__(self, log=None, error=None):
        self.done = []
        self._error = error

    def privilegedStartService(self):
        """See IService."""
        self.done.append("privileged")

    def startService(self):
        """See IService."""
        self.done.append("start")
        if self._error:
            raise self._error

    def stopService(self):
        """See IService."""
        self.done.append("stop")


class RunTests(WorkerCase):
    """From its setup to its end."""

    def test_run(self):
        """It makes its part of the service, starts it, says so, and gives signs of life."""
        service = Noting()
        here = os.getcwd()
        self.reactor.on_run = lambda: self.reactor.advance(module.BEAT)
        handlers = []
        self.patch(module.signal, "signal", lambda *handler: handlers.append(handler))
        worker = self.worker()
        self.assertEqual(self.run_with(service, worker), 0)
        self.assertEqual(service.done, ["privileged", "start"])
        options, share = self.made
        self.assertEqual(options["workers"], 3)
        self.assertEqual((share.number, share.of), (2, 3))
        self.assertEqual(self.said(), [b"ready", b"alive"])
        self.assertEqual(os.getcwd(), here)
        self.assertEqual(self.begun, [[worker]])
        ((number, handler),) = handlers
        self.assertEqual(number, signal.SIGTERM)
        handler(number, None)
        self.assertEqual(self.reactor.stopped, 0)
        self.reactor.advance(0)
        self.assertEqual(self.reactor.stopped, 1)

    def test_listens(self):
        """Made by the real thing it listens on what the supervisor has opened."""
        adopted = []

        class Adopting(Reactor):
            def adoptStreamPort(self, fileno, family, factory):
                adopted.append((fileno, family, factory.max_connections))

        listening = socket.create_server(("127.0.0.1", 0))
        fileno = os.dup(listening.fileno())
        listening.close()
        worker = self.worker(
            *("-l", "tcp:110", "--max-connections=8"),
            reactor=Adopting(),
            sockets=[[fileno, 50]],
        )
        self.assertEqual(worker.run(), 0)
        self.assertEqual(adopted, [(fileno, socket.AF_INET, 3)])

    def test_end(self):
        """At the end the service is stopped, and what is then logged still arrives."""
        service = Noting()
        worker = self.worker()
        self.run_with(service, worker)
        ((phase, event, end, *arguments),) = self.reactor.triggers
        self.assertEqual((phase, event), ("before", "shutdown"))
        worker({"log_format": "before", "log_level": LogLevel.info})
        self.assertNotIn(b"before", b"".join(self.said()))
        self.successResultOf(end(*arguments))
        worker({"log_format": "behind", "log_level": LogLevel.info})
        self.assertEqual(service.done[-1], "stop")
        texts = [json.loads(line[4:])["log_format"] for line in self.said() if line[:4] == b"log "]
        self.assertEqual(texts, ["before", "behind"])

    def test_supervisor_gone(self):
        """When the supervisor is gone, it ends, if it has not already."""
        self.worker()
        self.end.close()
        self.reactor.read()
        self.assertEqual(self.reactor.stopped, 1)
        mine, other = socket.socketpair()
        self.patch(self.reactor, "stop", self.not_running)
        Worker(self.reactor, mine, {})
        other.close()
        self.reactor.read()

    def not_running(self):
        """A reactor that has stopped."""
        raise ReactorNotRunning

    def test_cannot(self):
        """What cannot be started is told in one line."""
        for error, told in [
            (CannotStart("popserv: no port"), "popserv: no port"),
            (OSError(5, "broken"), "OSError: [Errno 5] broken"),
        ]:
            mine, self.end = socket.socketpair()
            self.link = mine
            with patch("traceback.print_exc"):
                code = self.run_with(Noting(error=error))
            self.assertEqual(code, 1)
            (line,) = self.said()
            self.assertEqual(json.loads(line.removeprefix(b"failed ")), told)
            mine.close()
            self.end.close()

    def test_wrong_options(self):
        """So is a mistake that only this process finds."""
        self.assertEqual(self.worker("--certificate", "/nowhere.pem").run(), 1)
        (line,) = self.said()
        self.assertIn(b"/nowhere.pem: no such file", line)

    def test_no_directory(self):
        """Where it was started from need not be there for it."""
        arguments = ["--maildir", os.path.join(self.root, "mail")]
        worker = self.worker(arguments=arguments, directory="/nowhere")
        self.assertEqual(self.run_with(Noting(), worker), 0)

    def test_makes_once(self):
        """Only the first worker warns of certificates that end, and needs a timer for it."""
        pem = os.path.join(self.root, "pop.pem")
        from tests.certificates import issue

        with open(pem, "wb") as file:
            file.write(issue("localhost").pem())
        for number, timers in ((1, 1), (2, 0)):
            options = tap.Options()
            options.parseOptions(
                ["--maildir", f"{self.root}/mail", "--certificate", pem, "--workers", "2"]
            )
            share = tap.WorkerRole(number, 2, reactor=self.reactor)
            service = tap.makeService(options, share)
            names = [type(each).__name__ for each in service]
            self.assertEqual(names.count("TimerService"), timers)


class ExchangeTests(WorkerCase):
    """Facts, from and to other workers."""

    def setUp(self):
        """Have a listener."""
        super().setUp()
        self.subject = self.worker()
        self.bus = self.subject._bus
        self.heard = []
        self.bus.subscribe(
            "colours", SimpleNamespace(receive=self.heard.append, replay=lambda: ["red", 1])
        )

    def test_tell(self):
        """What a component tells goes to the supervisor."""
        self.bus.publish("colours", ["blue"])
        self.assertEqual(self.said(), [b'tell ["colours", ["blue"]]'])

    def test_hear(self):
        """What others tell reaches the component."""
        self.end.sendall(b'tell ["colours", ["green"]]\ntell-all\nwhatever\n')
        self.reactor.read()
        self.assertEqual(self.heard, [["green"]])
        self.reactor.advance(0)
        self.assertEqual(self.said(), [b'tell ["colours", "red"]', b'tell ["colours", 1]'])

    def test_fault(self):
        """A component that does not understand is logged, and the link stays."""
        self.bus.subscribe("colours", SimpleNamespace(receive=lambda fact: 1 // 0))
        self.end.sendall(b'tell ["colours", 1]\n')
        self.reactor.read()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.reactor.stopped, 0)

    def test_unread(self):
        """A supervisor that does not read is told no more facts than fit."""
        self.patch(module, "UNREAD", 1000)
        for _ in range(2000):
            self.bus.publish("colours", "x" * 1000)
        self.assertLess(self.subject._link.waiting, 3000)


class LogTests(WorkerCase):
    """The worker as an observer of the log."""

    def setUp(self):
        """Make a logger."""
        super().setUp()
        self.subject = self.worker()
        verifyObject(ILogObserver, self.subject)
        self.logger = Logger("popserv.somewhere", observer=self.subject)

    def events(self):
        """Return the events that the supervisor gets."""
        return [eventFromJSON(line[4:].decode()) for line in self.said()]

    def test_gathered(self):
        """Events are sent together after a moment, warnings at once, with all before them."""
        self.logger.info("one {what!r}", what=b"thing")
        self.logger.info("two")
        self.reactor.advance(0)
        self.assertEqual(self.events(), [])
        self.reactor.advance(module.GATHERING)
        self.assertEqual([formatEvent(each) for each in self.events()], ["one b'thing'", "two"])
        self.logger.info("three")
        self.logger.warn("four")
        self.reactor.advance(0)
        self.assertEqual([each["log_format"] for each in self.events()], ["three", "four"])
        self.reactor.advance(1)
        self.assertEqual(self.events(), [])

    def test_from_thread(self):
        """What a thread logs is sent by the reactor."""
        thread = Thread(target=self.logger.warn, args=("from elsewhere",))
        thread.start()
        thread.join()
        self.assertEqual(self.events(), [])
        self.reactor.advance(0)
        self.assertEqual(self.events()[0]["log_format"], "from elsewhere")

    def test_in_between(self):
        """What is logged while an event is being sent is sent behind it, whole."""
        send = socket.socket.send
        again = [True]

        def interrupted(end, data):
            if again:
                again.pop()
                self.logger.warn("two")
                self.subject._send_events()
            return send(end, data)

        self.patch(socket.socket, "send", interrupted)
        self.logger.warn("one")
        self.reactor.advance(0)
        self.assertEqual([each["log_format"] for each in self.events()], ["one", "two"])

    def test_unread(self):
        """While nobody reads, events are dropped and counted, and that is told later."""
        self.patch(module, "UNREAD_LOG", 1000)
        for _ in range(2000):
            self.logger.warn("{text}", text="x" * 1000)
            self.reactor.advance(0)
        self.assertLess(self.subject._link.waiting, 5000)
        self.end.setblocking(False)
        while self.subject._link.waiting:
            self.end.recv(1 << 20)
            self.reactor.write()
        self.said()
        log = EventLoggingObserver()
        self.patch(module, "_log", Logger("popserv.workers.worker", observer=log))
        for text in ("again", "and again"):
            self.logger.warn(text)
            self.reactor.advance(0)
        self.assertEqual([each["log_format"] for each in self.events()], ["again", "and again"])
        (event,) = log
        self.assertRegex(formatEvent(event), r"before this, \d+ events went unread and are lost")

    def test_large(self):
        """A very long event is cut; its level and its time stay."""
        event = {
            "log_format": "{text}",
            "text": "ü" * 1_000_000,
            "log_level": LogLevel.warn,
            "log_time": 1.5,
        }
        line = as_json(event)
        self.assertLess(len(line), module.LONGEST)
        read = eventFromJSON(line.decode())
        self.assertEqual((read["log_level"], read["log_time"]), (LogLevel.warn, 1.5))
        self.assertStartsWith(formatEvent(read), "üüü")

    def assertStartsWith(self, text, start):
        """Compare the beginning."""
        self.assertEqual(text[: len(start)], start)

    def test_failure(self):
        """Of a failure the text arrives, with the traceback and what the exception says."""
        try:
            raise ZeroDivisionError("the secret of arithmetic")
        except ZeroDivisionError:
            self.logger.failure("it {what}", what="failed")
        self.reactor.advance(0)
        (event,) = self.events()
        self.assertEqual(event["log_level"], LogLevel.critical)
        text = formatEvent(event)
        self.assertStartsWith(text, "it failed\nTraceback")
        self.assertIn("ZeroDivisionError: the secret of arithmetic", text)

    def test_odd(self):
        """What JSON cannot say is said as text."""
        loop = []
        loop.append(loop)
        event = {"log_format": "{loop}", "loop": loop, "log_level": LogLevel.info}
        self.assertEqual(formatEvent(eventFromJSON(as_json(event).decode())), "[[...]]")


class MainTests(WorkerCase):
    """The process's first steps."""

    def test_main(self):
        """It reads its setup, installs the reactor, ignores what is for the supervisor, runs."""
        setup = {"reactor": "tests.workers.test_worker", "number": 7}
        self.end.sendall(json.dumps(setup).encode() + b"\nmore\n")
        fileno = os.dup(self.link.fileno())
        with (
            patch.object(module, "Worker") as made,
            patch.object(module.signal, "signal") as ignored,
        ):
            made.return_value.run.return_value = 0
            with self.assertRaises(SystemExit) as ended:
                main(fileno)
        self.assertEqual(ended.exception.code, 0)
        self.assertEqual(INSTALLED.pop(), "installed")
        reactor, link, given = made.call_args.args
        self.assertEqual((reactor, given), (sys.modules["twisted.internet.reactor"], setup))
        self.assertEqual(link.recv(100), b"more\n")
        self.assertFalse(link.get_inheritable())
        link.close()
        self.assertEqual(
            [call.args for call in ignored.call_args_list],
            [(signal.SIGINT, signal.SIG_IGN), (signal.SIGHUP, signal.SIG_IGN)],
        )

    def test_nobody(self):
        """Without a supervisor it does nothing."""
        self.end.close()
        with patch.object(module.signal, "signal"):
            main(os.dup(self.link.fileno()))


INSTALLED = []


def install():
    """Stand for a reactor's module."""
    INSTALLED.append("installed")
