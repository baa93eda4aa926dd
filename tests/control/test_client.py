"""The client of the control socket, with servers that are right and wrong."""

import contextlib
import os
import socket
from threading import Thread

from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase

from popserv.control import commands
from popserv.control.client import MAX_ANSWER, ControlClient, ControlError


class ClientTestCase(SynchronousTestCase):
    """A client, and a server whose answers the test gives."""

    def setUp(self):
        """Listen on a UNIX socket, whose path is short."""
        self.path = f"/tmp/popserv-test-{os.getpid()}"
        self.listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.listening.close)
        self.listening.bind(self.path)
        self.addCleanup(os.unlink, self.path)
        self.listening.listen()

    def serve(self, *answers):
        """Send these octets, each after a command; None leaves the client without an answer."""
        received = []

        def run():
            accepted, _ = self.listening.accept()
            # The client closes the connection as soon as an answer is invalid.
            with accepted, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for answer in answers:
                    received.append(accepted.recv(1 << 16))
                    if answer is not None:
                        for at in range(0, len(answer), 50_000):
                            accepted.sendall(answer[at : at + 50_000])
                if answers[-1] is None:
                    accepted.recv(1)

        thread = Thread(target=run)
        thread.start()
        self.addCleanup(thread.join)
        return received

    def client(self, timeout=30):
        """Return a client, which is closed at the end of the test."""
        client = ControlClient(f"unix:{self.path}", timeout)
        client.__enter__()
        self.addCleanup(client.__exit__, None, None, None)
        return client

    def assert_error(self, text, *answers, timeout=30):
        """Check that a command fails with a text."""
        self.serve(*answers)
        with self.assertRaisesRegex(ControlError, text):
            self.client(timeout).call(commands.Kick, whom="ann")


def answer(command, **values):
    """Return the octets of an answer."""
    box = command.makeResponse(values, None)
    box[amp.ANSWER] = b"1"
    return box.serialize()


class CallTests(ClientTestCase):
    """Commands and their answers."""

    def test_call(self):
        """A command has its arguments, and its answer is parsed."""
        received = self.serve(answer(commands.Kick, kicked=3, missing=2))
        client = self.client()
        self.assertEqual(client.call(commands.Kick, whom="ann"), {"kicked": 3, "missing": 2})
        (box,) = amp.parseString(received[0])
        self.assertEqual((box[amp.COMMAND], box[b"whom"]), (b"kick", b"ann"))
        self.assertEqual(client.missing, 2)

    def test_no_missing(self):
        """A command that asks no processes has none that are missing."""
        self.serve(answer(commands.Reload))
        client = self.client()
        client.call(commands.Reload)
        self.assertEqual(client.missing, 0)

    def test_older_server(self):
        """A server of an older version, which does not tell what is missing, has been drained."""
        self.serve(amp.AmpBox({amp.ANSWER: b"1", b"seconds": b"60"}).serialize())
        client = self.client()
        answer = client.call(commands.Drain, seconds=None, workers=True)
        self.assertEqual((answer["seconds"], client.missing), (60, 0))

    def test_listing(self):
        """A listing is read part by part; processes missing in any part are missing."""
        received = self.serve(
            answer(commands.List, items=[1, 2], following="x", missing=1),
            answer(commands.List, items=[3], following="", missing=0),
        )
        client = self.client()
        self.assertEqual(list(client.listing("sessions")), [1, 2, 3])
        self.assertEqual(client.missing, 1)
        boxes = [amp.parseString(each)[0] for each in received]
        self.assertEqual([each[b"after"] for each in boxes], [b"", b"x"])

    def test_refused(self):
        """The reason of a refusal is the text of the error, in one line."""
        box = amp.AmpBox(
            {amp.ERROR: b"1", amp.ERROR_CODE: b"REFUSED", amp.ERROR_DESCRIPTION: b"no\x1b"}
        )
        self.assert_error(r"^no\\x1b$", box.serialize())


class WrongServerTests(ClientTestCase):
    """Servers that are not there, stall, or send something else."""

    def test_no_server(self):
        """Without a server, the error says how to start one."""
        for endpoint, text in [
            ("unix:/nowhere/x", "/nowhere/x: No such file or directory; start the server with"),
            ("tcp:1", "tcp:1 is no UNIX socket"),
            (f"unix:/{'x' * 200}", "x: AF_UNIX path too long; start the server with"),
        ]:
            with self.assertRaisesRegex(ControlError, text):
                ControlClient(endpoint)

    def test_stalls(self):
        """A server that does not answer in time, or closes the connection, is an error."""
        self.assert_error(r"^/\S+: the server does not answer: timed out$", None, timeout=0.01)

    def test_closes(self):
        """A server that closes the connection is an error."""
        self.assert_error(r"^/\S+: .* answer: it has closed the connection$", b"\x00")

    def test_invalid(self):
        """An answer that is not AMP, lacks a value, or does not end is an error."""
        endless = (b"\x00\x01k\xff\xff" + b"x" * 65535) * (MAX_ANSWER // 65535 + 1)
        for octets in (
            b"-ERR\r\n",
            amp.AmpBox({amp.ANSWER: b"1"}).serialize(),
            amp.AmpBox({amp.ANSWER: b"1", b"kicked": b"x", b"missing": b"0"}).serialize(),
            endless,
        ):
            self.assert_error(r"^/\S+: the server has sent an invalid answer$", octets)
