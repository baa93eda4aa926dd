"""A Postfix with its own configuration and queue, which takes mail by its command sendmail."""

import shutil

from tests.live.harness import require_programs, run

MAIN_CF = """
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
mail_owner = postfix
setgid_group = postdrop
myhostname = localhost
inet_interfaces = loopback-only
alias_maps =
maillog_file = {root}/log
maillog_file_prefixes = {root}
"""

MASTER_CF = """
pickup unix n - n 1 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
local unix - n n - - local
lmtp unix - - n - - lmtp
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """A Postfix in a directory, with these lines in its main.cf, until the test ends.

    ``services`` are lines that are added to its master.cf.

    The test is skipped if Postfix is not installed.
    """

    def __init__(self, test, root, lines, services=""):
        require_programs(test, "postfix")
        self._test = test
        self._log = root / "log"
        self._configuration = root / "postfix"
        for each in ("postfix", "queue", "data"):
            (root / each).mkdir()
        shutil.chown(root / "data", "postfix")
        (self._configuration / "main.cf").write_text(MAIN_CF.format(root=root) + lines)
        (self._configuration / "master.cf").write_text(MASTER_CF + services)
        started = run("postfix", "-c", self._configuration, "start")
        test.assertEqual(started.returncode, 0, repr(started))
        test.addCleanup(run, "postfix", "-c", self._configuration, "stop")

    @property
    def log(self):
        """What it has logged."""
        return self._log.read_bytes()

    def send(self, message, sender, *recipients):
        """Have it send a message."""
        command = ("sendmail", "-i", "-C", self._configuration, "-f", sender)
        done = run(*command, *recipients, input=message)
        self._test.assertEqual(done.returncode, 0, repr(done))

    def flush(self):
        """Have it try again to deliver what is in its queue."""
        run("postqueue", "-c", self._configuration, "-f")
