"""Tests of popserv.logs.journal; tests.live runs systemd-journald itself."""

import errno
import mmap
import os
import socket
from unittest.mock import patch

from hypothesis import given
from twisted.logger import ILogObserver, LogLevel
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.logs import journal
from popserv.logs.journal import PRIORITIES, JournalObserver, entry_fields
from popserv.logs.records import record_of
from tests.logs.harness import EVENTS, failure


def parse(entry):
    """Return the fields of an entry, as systemd's documentation of the protocol says."""
    fields = {}
    while entry:
        line, _, entry = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(entry[:8], "little")
            value, entry = entry[8 : 8 + length], entry[8 + length :]
            assert entry[:1] == b"\n"
            entry = entry[1:]
        fields[name.decode("ascii")] = value.decode()
    return fields


class EntryTests(SynchronousTestCase):
    """The fields of an entry."""

    def fields(self, event):
        """Return the fields of an event's entry."""
        return parse(b"".join(entry_fields(record_of(event))))

    def test_fields(self):
        """An entry has the message, the priority, and the fields with a prefix."""
        event = {
            "log_format": "text",
            "log_level": LogLevel.warn,
            "log_namespace": "popserv.session",
            "log_worker": 2,
            "event": "login",
            "user": "a\nb",
        }
        self.assertEqual(
            self.fields(event),
            {
                "MESSAGE": "text",
                "PRIORITY": "4",
                "SYSLOG_FACILITY": "2",
                "SYSLOG_IDENTIFIER": "popserv",
                "POPSERV_SOURCE": "popserv.session",
                "POPSERV_WORKER": "2",
                "POPSERV_EVENT": "login",
                "POPSERV_USER": "a\nb",
            },
        )

    def test_priorities(self):
        """Each level has a priority, and a graver one has a smaller number."""
        levels = list(LogLevel.iterconstants())
        self.assertEqual(sorted(levels), sorted(PRIORITIES, key=PRIORITIES.get, reverse=True))
        self.assertEqual(set(levels), set(PRIORITIES))

    def test_failure(self):
        """The message ends with the traceback, which journalctl would not show elsewhere."""
        event = {"log_format": "text", "log_failure": failure(ValueError("why"))}
        message = self.fields(event)["MESSAGE"]
        self.assertTrue(message.startswith("text\nTraceback"))
        self.assertIn("ValueError: why", message)

    @given(EVENTS)
    def test_any(self, event):
        """Whatever an event contains, its entry has exactly its fields."""
        record = record_of(event)
        if record is None:
            return
        fields = self.fields(event)
        expected = {f"POPSERV_{name.upper()}": str(value) for name, value in record.fields.items()}
        self.assertEqual({name: fields.pop(name) for name in expected}, expected)
        self.assertIn(record.message, fields["MESSAGE"])
        worker = set() if record.worker is None else {"POPSERV_WORKER"}
        self.assertEqual(
            set(fields),
            {"MESSAGE", "PRIORITY", "SYSLOG_FACILITY", "SYSLOG_IDENTIFIER", "POPSERV_SOURCE"}
            | worker,
        )


class ObserverTests(SynchronousTestCase):
    """JournalObserver, with a socket in the place of the journal's."""

    def setUp(self):
        """Name the socket, in a directory whose path is short enough."""
        self.path = os.path.relpath(self.mktemp())
        self.fallen, self.problems = [], []
        self.journal = None

    def listen(self):
        """Open the socket."""
        self.journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.journal.close)
        self.journal.bind(self.path)
        self.journal.setblocking(False)

    def close(self):
        """Close the socket and remove it."""
        self.journal.close()
        os.unlink(self.path)

    def observer(self):
        """Return an observer."""

        def fall(event):
            self.fallen.append(event["log_format"])
            self.problems += [event["problem"]] if "problem" in event else []

        observer = JournalObserver(fall, self.path)
        self.addCleanup(lambda: observer._socket.close())
        return observer

    def received(self):
        """Return the fields of the next entry."""
        entry, descriptors, _, _ = socket.recv_fds(self.journal, 1 << 20, 1)
        for descriptor in descriptors:
            with open(descriptor, "rb") as file:
                entry += mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[:]
        return parse(entry)

    def test_sent(self):
        """An event becomes a datagram, and one without a text none."""
        self.listen()
        observer = self.observer()
        verifyObject(ILogObserver, observer)
        observer({"log_format": ""})
        observer({"log_format": "text"})
        self.assertEqual(self.received()["MESSAGE"], "text")
        self.assertRaises(BlockingIOError, self.journal.recv, 1)
        self.assertEqual(self.fallen, [])

    def test_large(self):
        """An entry that is too large for a datagram is passed in a sealed file in memory."""
        self.listen()
        observer = self.observer()
        text = "x" * (1 << 24)
        observer({"log_format": text})
        self.assertEqual(self.received()["MESSAGE"], text)
        self.assertEqual(self.fallen, [])

    def test_away(self):
        """Without a journal the events go elsewhere, which is said once, until it is there."""
        observer = self.observer()
        observer({"log_format": "a"})
        observer({"log_format": "b"})
        self.listen()
        observer({"log_format": "c"})
        observer({"log_format": "d"})
        self.assertEqual([self.received()["MESSAGE"] for _ in range(2)], ["c", "d"])
        problem = "the systemd journal cannot be reached: {problem}; the log continues here"
        back = "the log continues in the systemd journal"
        self.assertEqual(self.fallen, [problem, "a", "b", back])
        self.assertEqual(self.problems, ["No such file or directory"])

    def test_stopped(self):
        """A journal that has ended is away, although its socket is there."""
        self.listen()
        observer = self.observer()
        self.journal.close()
        observer({"log_format": "a"})
        self.assertEqual(self.problems, ["Connection refused"])
        os.unlink(self.path)

    def test_restarted(self):
        """A journal that was restarted gets all events."""
        self.listen()
        observer = self.observer()
        self.close()
        self.listen()
        observer({"log_format": "text"})
        self.assertEqual(self.received()["MESSAGE"], "text")
        self.assertEqual(self.fallen, [])

    def test_busy(self):
        """A journal that does not read never makes the server wait."""
        self.listen()
        observer = self.observer()
        for _ in range(2000):
            observer({"log_format": "text"})
        self.assertIn("text", self.fallen)
        self.assertEqual(self.received()["MESSAGE"], "text")

    def test_no_memory(self):
        """If there is no memory for a large entry, it goes elsewhere."""
        self.listen()
        observer = self.observer()
        error = OSError(errno.ENOMEM, "no memory")
        with patch.object(journal.os, "memfd_create", side_effect=error):
            observer({"log_format": "x" * (1 << 24)})
        self.assertEqual(len(self.fallen), 2)
