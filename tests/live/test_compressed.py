"""Message files that real programs have compressed, and those that Dovecot's plugin zlib writes."""

import os
import pwd
import re
import shutil
import subprocess

from tests.live.harness import (
    SAMPLES,
    ServerTestCase,
    require_programs,
    run,
    split_lines,
    temporary_directory,
)

PROGRAMS = ("gzip", "bzip2", "xz", "zstd")
LARGE = b"Subject: large\n\n" + b"".join(b"%d\n" % n for n in range(60_000))
MESSAGES = [
    *(
        each
        for each in SAMPLES
        if each.replace(b"\r\n", b"\n").partition(b"\n\n")[0].isascii() and len(each) < 1 << 20
    ),
    LARGE,
]

DOVECOT = """\
base_dir = {home}/base
log_path = {home}/log
mail_location = maildir:{home}/{compression}
mail_plugins = zlib
mail_uid = {user}
first_valid_uid = 0
first_valid_gid = 0
ssl = no
plugin {{
  zlib_save = {compression}
}}
"""


class CompressedTests(ServerTestCase):
    """Compressed messages are sent decompressed."""

    def retrieve_all(self, name):
        """Return a user's messages as lines, after checking the octets that LIST reports."""
        session = self.server.login(name)
        self.addCleanup(session.abandon)
        self.assertTrue(session.ask(b"LIST").startswith(b"+OK"))
        listed = [int(line.split()[1]) for line in session.lines()]
        messages = []
        for n, octets in enumerate(listed, 1):
            self.assertEqual(session.ask(b"RETR %d" % n), b"+OK %d octets" % octets)
            messages.append(session.lines())
        session.close()
        self.assertEqual([*map(octets_of, messages)], listed)
        return messages

    def test_programs(self):
        """Messages that gzip, bzip2, xz and zstd have compressed are the original ones."""
        require_programs(self, *PROGRAMS)
        for program in PROGRAMS:
            compressed = [
                run(program, "-c", *options, input=message).stdout
                for message in MESSAGES
                for options in ([], ["-9"])
            ]
            name, _ = self.server.add_user(compressed)
            self.assertEqual(
                self.retrieve_all(name), [split_lines(each) for each in MESSAGES for _ in range(2)]
            )
            line = f"message files are compressed with {program}, and are sent decompressed"
            self.assertEqual(self.server.log.count(line), 1)
        # The server may not be able to import anything after it has started.
        self.assertEqual(self.server.loads, "")

    def test_damaged(self):
        """A damaged message is refused, and the log names its file; the others are sent."""
        require_programs(self, *PROGRAMS)
        for program in PROGRAMS:
            data = run(program, "-c", input=LARGE).stdout
            session, maildir = self.login([data[:-9], b"a: b\n\n"])
            self.assertEqual(session.ask(b"LIST 1"), b"+OK 1 0")
            for line in (b"RETR 1", b"TOP 1 0"):
                self.assertTrue(session.ask(line).startswith(b"-ERR [SYS/PERM] "))
            self.assertEqual(session.ask(b"RETR 2"), b"+OK 8 octets")
            self.assertEqual(session.lines(), [b"a: b", b""])
            session.close()
            first = min(os.listdir(maildir / "new"))
            self.assertIn(f"/{first}: not valid {program} data", self.server.log)

    def test_memory(self):
        """A message that is much larger than its file is sent in bounded memory."""
        message = b"Subject: zeros\n\n" + (b"0" * 1023 + b"\n") * (40 << 10)
        # The windows of bzip2 and xz are larger; see docs/reference/limits.rst.
        for program in ("gzip", "zstd"):
            name, _ = self.server.add_user([run(program, "-c", input=message).stdout])
            # This counts the message.
            self.server.login(name).close()
            before = self.server.memory
            session = self.server.login(name)
            self.addCleanup(session.abandon)
            self.assertEqual(session.ask(b"RETR 1")[:6], b"+OK 41")
            for _ in range(5_000):
                session.file.readline()
            self.assertLess(self.server.memory, before + (16 << 20))

    def test_dovecot(self):
        """What Dovecot has compressed is sent as Dovecot sends it, with the same octets."""
        require_programs(self, "dovecot", "doveadm")
        messages = MESSAGES[-4:]
        for compression in ("gz", "bz2", "zstd"):
            home = temporary_directory(self)
            # Dovecot refuses to serve root.
            user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
            group = pwd.getpwnam(user).pw_gid
            privileges = (
                {"user": user, "group": group, "extra_groups": []} if os.geteuid() == 0 else {}
            )
            shutil.chown(home, user)
            (home / "dovecot.conf").write_text(
                DOVECOT.format(home=home, user=user, compression=compression)
            )

            def doveadm(*arguments, text, home=home, user=user, privileges=privileges):
                return subprocess.run(
                    ["doveadm", "-c", home / "dovecot.conf", *arguments],
                    input=text,
                    capture_output=True,
                    check=True,
                    timeout=60,
                    env={**os.environ, "USER": user, "HOME": str(home)},
                    **privileges,
                ).stdout

            for message in messages:
                doveadm("save", text=message)
            name, maildir = self.server.add_user([])
            for folder in ("new", "cur"):
                shutil.rmtree(maildir / folder)
                shutil.copytree(home / compression / folder, maildir / folder)
            files = sorted((*(maildir / "new").iterdir(), *(maildir / "cur").iterdir()))
            self.assertEqual(len(files), len(messages))
            self.assertFalse(any(b"Subject: large\n\n" in file.read_bytes() for file in files))
            # Its octets exclude the CRLF that it adds to a last line without one, and its
            # message-numbers are in another order if files were written in one second.
            sent = sorted(self.retrieve_all(name))
            self.assertEqual(sent, sorted(map(split_lines, messages)))
            commands = b"".join(b"RETR %d\r\n" % n for n in range(1, len(messages) + 1))
            replies = doveadm("exec", "pop3", text=commands + b"QUIT\r\n")
            dovecot = re.findall(rb"\+OK \d+ octets\r\n(.*?\r\n)\.\r\n", replies, re.DOTALL)
            self.assertEqual(
                sorted([each.removeprefix(b".") for each in split_lines(body)] for body in dovecot),
                sent,
            )


def octets_of(lines):
    """Return the octets of lines in wire form."""
    return sum(len(line) + 2 for line in lines)
