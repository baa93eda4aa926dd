"""Clients of a cluster that deliver, read and remove, and record what they are told."""

import poplib
import random
import smtplib
import threading
import time
import uuid

from examples.cluster.cluster import PASSWORD
from examples.cluster.processes import HOST
from tests.live.chaos.record import Login

PATIENCE = 25
"""Seconds after which a client gives up."""

SENDER = "ann@example.org"


class Client(threading.Thread):
    """A thread that does one thing again and again until ``stop()``.

    :ivar failure: the exception that has ended it.
    """

    def __init__(self, cluster, record, users, seed):
        super().__init__(daemon=True)
        self.cluster, self.record, self.users = cluster, record, users
        self.random = random.Random(seed)
        self.stopping = threading.Event()
        self.failure = None

    def stop(self):
        """Let the client end after what it is doing."""
        self.stopping.set()

    def run(self):
        """Act until the client is stopped."""
        try:
            while not self.stopping.is_set():
                self.act(self.random.choice(self.users))
                self.stopping.wait(self.random.uniform(0, 0.05))
        except Exception as error:
            self.failure = error

    def act(self, user):
        """Do one thing for a user."""
        raise NotImplementedError

    def refused(self, what, reply):
        """Count a reply that is not success."""
        with self.record.lock:
            self.record.refused[f"{what}: {reply}"] += 1


class Sender(Client):
    """A client that delivers messages by LMTP, half of them too large to be stored inline."""

    def act(self, user):
        """Deliver a message."""
        token = uuid.UUID(int=self.random.getrandbits(128)).hex
        lines = self.random.choice((20, 800, 8000))
        body = b"".join(b"%.*s\r\n" % (self.random.randrange(70), b"." * 70) for _ in range(lines))
        message = b"X-Token: %b\r\nSubject: chaos\r\n\r\n%b" % (token.encode(), body)
        with self.record.lock:
            self.record.sent[token] = b"Return-Path: <%b>\r\n%b" % (SENDER.encode(), message)
        try:
            with smtplib.LMTP(HOST, self.cluster.entry.lmtp_port, timeout=PATIENCE) as lmtp:
                lmtp.sendmail(SENDER, [user], message)
                # A connection that is lost at QUIT takes nothing back.
                with self.record.lock:
                    self.record.acknowledged.add(token)
        except smtplib.SMTPRecipientsRefused as error:
            ((code, _text),) = error.recipients.values()
            self.refused("RCPT", code)
        except smtplib.SMTPResponseException as error:
            self.refused("LMTP", error.smtp_code)
        except (OSError, smtplib.SMTPException):
            self.refused("LMTP", "connection lost")


class Viewer(Client):
    """A client that retrieves messages."""

    removed_share = 0.0
    """The part of the retrieved messages that it removes."""

    def act(self, user):
        """Have a session."""
        try:
            with Session(self.cluster, user, self.record) as session:
                self._use(session)
        except poplib.error_proto as error:
            self.refused("POP3", repr(error.args[0]))
        except OSError:
            self.refused("POP3", "connection lost")

    def _use(self, session):
        marked = []
        for number in self.random.sample(session.numbers, min(len(session.numbers), 5)):
            token = session.retrieve(number)
            if token and self.random.random() < self.removed_share:
                session.pop.dele(number)
                marked.append(token)
        self.stopping.wait(self.random.choice((0, 0, 0.1, 1)))
        session.quit(marked)


class Reader(Viewer):
    """A client that retrieves messages, and removes some of them."""

    removed_share = 0.6


class _POP3(poplib.POP3):
    """A client whose connection is closed if there is no greeting."""

    file = sock = None

    def __init__(self, *address, **options):
        try:
            super().__init__(*address, **options)
        except BaseException:
            self.close()
            raise


class Session:
    """A session of a user, who is logged in; it is closed at the end of a ``with`` block.

    :raises OSError, poplib.error_proto: the connection breaks, or the login is refused.
    """

    def __init__(self, cluster, user, record):
        self.pop = _POP3(HOST, cluster.entry.port, timeout=PATIENCE)
        self._record, self._user = record, user
        try:
            self.pop.user(user)
            asked = time.monotonic()
            self.pop.pass_(PASSWORD)
            self._login = Login(user, asked, time.monotonic())
            with record.lock:
                record.logins.append(self._login)
            self._octets = [int(line.split()[1]) for line in self.pop.list()[1]]
            self._unique_ids = [line.split()[1].decode() for line in self.pop.uidl()[1]]
        except BaseException:
            self.pop.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.pop.close()

    @property
    def numbers(self):
        """The message-numbers."""
        return range(1, len(self._octets) + 1)

    def retrieve(self, number):
        """Retrieve and check a message; return its token, or None."""
        octets = b"".join(line + b"\r\n" for line in self.pop.retr(number)[1])
        index = number - 1
        return self._record.received(
            self._user, self._unique_ids[index], octets, self._octets[index]
        )

    def quit(self, marked=()):
        """End the session; ``marked`` are the tokens of the messages that it removes."""
        with self._record.lock:
            # Until the reply is there, they may be gone or not.
            self._record.uncertain.update(marked)
        self._login.removing = time.monotonic()
        self.pop.quit()
        with self._record.lock:
            self._login.removed = bool(marked)
            self._record.removals.update(marked)
