"""``popserv deliver``: a message from standard input."""

import errno
import io
import os
import syslog
from pathlib import Path
from unittest import mock

from popserv.commandline import deliver
from popserv.errors import DeliveryRefused, MessageTooLarge
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.memory import MemoryMaildrops
from popserv.runtime.file_credentials import obstacle
from tests.commandline.harness import CommandCase
from tests.live.harness import (
    BIN,
    CHECKOUT,
    Fetchmail,
    ServerTestCase,
    read_maildir,
    require_programs,
    run,
    temporary_directory,
)
from tests.live.harness import deliver as make_maildir
from tests.maildrops.maildir.harness import result, run_inline

MESSAGE = b"Subject: x\n\ntext\n"


class DeliverTests(CommandCase):
    """Deliveries without a reactor and threads."""

    def setUp(self):
        """Make Ann's Maildir."""
        super().setUp()
        self.patch(deliver, "run_in_reactor", result)
        self.patch(
            MaildirMaildrops.__init__,
            "__kwdefaults__",
            {**MaildirMaildrops.__init__.__kwdefaults__, "run": run_inline},
        )
        if not obstacle():
            # The owners of maildrops are looked up in threads.
            self.patch(deliver, "StoreSettings", self.settings)
        make_maildir(Path(self.directory, "ann"), [])
        self.logged = []
        self.patch(syslog, "openlog", mock.Mock())
        self.patch(syslog, "syslog", lambda level, text: self.logged.append(text))
        self.store = ("--maildir", self.directory)

    def settings(self, *, as_owners, **settings):
        """Return the settings of a store that is not accessed as its owner."""
        from popserv.maildrops.settings import StoreSettings

        self.assertTrue(as_owners)
        return StoreSettings(**settings)

    def deliver(self, *arguments, message=MESSAGE, user="ann"):
        """Run the command; return the exit code and what it prints."""
        stdin = io.TextIOWrapper(io.BytesIO(message))
        code, out, err = self.run_command(["deliver", *self.store, *arguments, user], stdin)
        self.assertEqual(out, "")
        return code, err

    def messages(self, user="ann"):
        """Return the messages of a user."""
        return read_maildir(Path(self.directory, user))

    def test_delivered(self):
        """The message is delivered as it is, without the From_ line of a program."""
        for message, stored in (
            (MESSAGE, MESSAGE),
            (b"From bob Mon Jan  5 10:00:00 2026\n" + MESSAGE, MESSAGE),
            (b"a: b\r\n\r\nx", b"a: b\r\n\r\nx"),
            (b"", b""),
        ):
            self.assertEqual(self.deliver(message=message), (os.EX_OK, ""))
            self.assertEqual(self.messages()[-1], stored)
        self.assertEqual(self.logged, [])

    def test_sender(self):
        """--sender adds Return-Path."""
        for sender, field in (("bob@x", b"<bob@x>"), ("<bob@x>", b"<bob@x>"), ("", b"<>")):
            self.assertEqual(self.deliver("--sender", sender), (os.EX_OK, ""))
            self.assertEqual(self.messages()[-1], b"Return-Path: %b\n%b" % (field, MESSAGE))
        for sender in ("a\nb", "a>b", "a\x7f"):
            code, err = self.deliver("--sender", sender)
            self.assertEqual(code, os.EX_USAGE)
            self.assertIn("is not an address", err)

    def test_pipe(self):
        """In the pipe for Postfix, a sender is no option, whatever it begins with."""
        pipe = (CHECKOUT / "contrib/postfix/pipe.cf").read_text()
        for sender in ("--create", "-x@y", ""):
            values = {"${sender}": sender, "${user}": "ann", "/srv/mail": self.directory}
            text = pipe.partition("argv=")[2]
            for name, value in values.items():
                text = text.replace(name, value)
            stdin = io.TextIOWrapper(io.BytesIO(MESSAGE))
            self.assertEqual(self.run_command(text.split()[1:], stdin), (os.EX_OK, "", ""))
            (field, *_) = self.messages()[-1].decode().splitlines()
            self.assertEqual(field, f"Return-Path: <{sender}>")

    def test_user(self):
        """There is a user if there is a maildrop, which --create makes."""
        text = "5.1.1 no such user here\n"
        for user in ("eve", "../ann", ""):
            self.assertEqual(self.deliver(user=user), (os.EX_NOUSER, text))
        self.assertIn('message not delivered to "eve": UnknownRecipient', self.logged[0])
        self.assertEqual(self.deliver("--create", user="eve"), (os.EX_OK, ""))
        self.assertEqual(self.messages("eve"), [MESSAGE])

    def test_usage(self):
        """An invalid command line has the code for that."""
        for arguments in (
            ["deliver", "ann"],
            ["deliver", "--maildir=x", "--mbox=y", "ann"],
            ["deliver", "--maildir", self.directory],
            ["deliver", "--maildir", self.directory, "--bogus", "ann"],
            ["deliver", "--maildir", self.directory, "ann", "bob"],
        ):
            code, _, err = self.run_command(arguments)
            self.assertEqual(code, os.EX_USAGE, arguments)
            self.assertEqual(err.count("\n"), 1)

    def test_no_store(self):
        """Mail is not returned because the store is not there, or wrong: the same may succeed."""
        for self.store, reason in (
            (("--store=pigeon:x",), "pigeon: there is no such kind of store"),
            (("--mbox", "/nowhere"), "mbox: the directory /nowhere does not exist"),
        ):
            code, err = self.deliver()
            self.assertEqual((code, err[:6]), (os.EX_TEMPFAIL, "4.3.0 "))
            self.assertIn(reason, self.logged[-1])
        with mock.patch.object(deliver, "make_store", return_value=object()):
            self.assertEqual(self.deliver()[0], os.EX_TEMPFAIL)
        self.assertIn("this kind of store takes no new mail", self.logged[-1])

    def test_failures(self):
        """Failures have codes, and their reasons are in the system's log only, or on a terminal."""
        store = MemoryMaildrops()
        store.stored[b"ann"] = {}
        self.store = ("--store", "x:y")
        for error, code, text in (
            (OSError(errno.ENOSPC, "secret"), os.EX_TEMPFAIL, "4.3.1 no room for the message"),
            (KeyboardInterrupt(), os.EX_TEMPFAIL, "4.3.0 temporary failure"),
            (DeliveryRefused("secret"), os.EX_DATAERR, "5.6.0 message cannot be stored"),
            (MessageTooLarge("secret"), os.EX_DATAERR, "5.3.4 message is too large"),
        ):
            with (
                mock.patch.object(deliver, "make_store", return_value=store),
                mock.patch.object(store, "deliver_new", side_effect=error),
            ):
                found, err = self.deliver()
                self.assertEqual(found, code)
                self.assertTrue(err.startswith(text))
                self.assertNotIn("secret", err)
                with mock.patch.object(deliver, "_is_on_terminal", return_value=True):
                    _, err = self.deliver()
                self.assertEqual(len(err.splitlines()), 2)
        self.assertIn("secret", self.logged[0])


class ProcessTests(ServerTestCase):
    """The command as programs run it."""

    def test_process(self):
        """It delivers, and says when it cannot."""
        root = temporary_directory(self)
        make_maildir(root / "ann", [])
        for user, code in (("ann", os.EX_OK), ("eve", os.EX_NOUSER)):
            done = run("popserv", "deliver", "--maildir", root, user, input=MESSAGE)
            self.assertEqual(done.returncode, code, done)
        self.assertEqual(read_maildir(root / "ann"), [MESSAGE])

    def test_fetchmail(self):
        """Fetchmail delivers by it, as in the guide."""
        require_programs(self, "fetchmail")
        root = temporary_directory(self)
        make_maildir(root / "ann", [])
        name, _ = self.server.add_user([MESSAGE])
        client = Fetchmail(
            self,
            f'service {self.server.port} proto pop3 user "{name}" password "secret" sslproto ""',
        )
        agent = client.home / "agent"
        agent.write_text(f"#!/bin/sh\nexec {BIN}/popserv deliver --maildir {root} ann\n")
        client.fetch()
        (message,) = read_maildir(root / "ann")
        self.assertTrue(message.endswith(MESSAGE))
