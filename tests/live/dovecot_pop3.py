"""A real Dovecot that serves the Maildirs of popserv's tests by POP3, and by IMAP."""

import os
import pwd
import shutil
import subprocess

from examples.cluster.processes import free_port
from tests.live.harness import accepts, deliver, require_programs, run, temporary_directory, until

CONFIGURATION = """\
base_dir = {home}/run
state_dir = {home}/run
log_path = {home}/log
protocols = pop3
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 0
first_valid_gid = 0
mail_location = maildir:{mail}/{layout}
passdb {{
  driver = static
  args = password=secret
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={mail}/{layout}
}}
service anvil {{
  chroot =
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
"""


class DovecotPOP3:
    """A Dovecot for the Maildirs in the directory ``mail``; every password is ``secret``.

    ``layout`` is the path of a Maildir in that directory.

    The Maildirs must belong to :attr:`owner`; :meth:`deliver` makes them so.
    """

    def __init__(self, test, mail=None, layout="%u"):
        require_programs(test, "dovecot", "doveadm")
        self._test = test
        self._home = temporary_directory(test)
        self.mail = mail or temporary_directory(test)
        # Dovecot serves no mail of root.
        self.owner = os.geteuid(), os.getegid()
        if self.owner[0] == 0:
            nobody = pwd.getpwnam("nobody")
            self.owner = nobody.pw_uid, nobody.pw_gid
        os.chown(self._home, *self.owner)
        self.port = free_port()
        self._configuration = self._home / "dovecot.conf"
        self._configuration.write_text(
            CONFIGURATION.format(
                home=self._home,
                mail=self.mail,
                layout=layout,
                port=self.port,
                uid=self.owner[0],
                gid=self.owner[1],
                user=pwd.getpwuid(self.owner[0]).pw_name,
                group=subprocess.check_output(["id", "-gn", str(self.owner[0])], text=True).strip(),
            )
        )

    def deliver(self, name, messages):
        """Deliver messages to a user; return the Maildir."""
        maildir = self.mail / name
        deliver(maildir, messages)
        self.give(maildir)
        return maildir

    def give(self, maildir):
        """Let Dovecot's user own all of a Maildir."""
        for path in (maildir, *maildir.rglob("*")):
            shutil.chown(path, *self.owner)

    def session(self, name, commands=b"", uidl_format="%08Xu%08Xv"):
        """Run a session of Dovecot's on the Maildir of a user; return the lines of its output."""
        setting = f"pop3_uidl_format = {uidl_format}\n"
        return self._execute("pop3", name, commands + b"QUIT\r\n", setting)

    def imap(self, name, *commands):
        """Run a session of Dovecot's IMAP server; return the lines of its output.

        A command is accepted if the output contains a line that starts with its tag and ``OK``;
        the tags are the numbers from 1.
        """
        numbered = [b"%d %b\r\n" % each for each in enumerate((*commands, b"LOGOUT"), 1)]
        lines = self._execute("imap", name, b"".join(numbered))
        tagged = [line for line in lines if line[:1].isdigit()]
        self._test.assertEqual(len(tagged), len(numbered), lines)
        self._test.assertTrue(all(b" OK " in line for line in tagged), lines)
        return lines

    def flags(self, name, mailbox=b"INBOX"):
        """Return the keywords and flags that IMAP shows of the messages of a user, sorted."""
        lines = self.imap(name, b"SELECT " + mailbox, b"FETCH 1:* FLAGS")
        fetched = [line.partition(b"(FLAGS (")[2] for line in lines if b"FETCH (" in line]
        return [sorted({*flags.rstrip(b")").split()} - {b"\\Recent"}) for flags in fetched]

    def _execute(self, protocol, name, text, setting=""):
        """Run a session without a login, and return the lines of its output."""
        configuration = self._home / "session.conf"
        configuration.write_text(self._configuration.read_text() + setting)
        done = run(
            *("doveadm", "-c", configuration, "exec", protocol),
            input=text,
            env={**os.environ, "USER": name, "HOME": str(self.mail / name)},
            **({"user": self.owner[0], "group": self.owner[1]} if os.geteuid() == 0 else {}),
        )
        lines = done.stdout.split(b"\r\n")
        self._test.assertEqual(done.returncode, 0, repr(done))
        return lines

    def unique_ids(self, name, uidl_format="%08Xu%08Xv"):
        """Return the unique-ids that Dovecot shows, in order."""
        lines = self.session(name, b"UIDL\r\n", uidl_format)
        shown = lines[lines.index(b"+OK") + 1 : lines.index(b".")]
        return [line.partition(b" ")[2] for line in shown]

    def start(self):
        """Start the server; it is stopped after the test."""
        output = self._home / "output"
        with output.open("wb") as file:
            dovecot = subprocess.Popen(
                ["dovecot", "-F", "-c", self._configuration], stdout=file, stderr=file
            )
        self._test.addCleanup(dovecot.wait)
        self._test.addCleanup(dovecot.terminate)

        def started():
            self._test.assertIsNone(dovecot.poll(), output.read_text())
            return accepts(("127.0.0.1", self.port))

        until(started, "Dovecot")
