"""A real Cyrus that serves users by POP3, and gets their mail by LMTP."""

import os
import pwd
import shutil
import smtplib
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from examples.cluster.processes import free_port
from tests.live.harness import require_programs, temporary_directory, until

UNPACKED = Path("/opt/cyrus")
"""Where .ci/run unpacks Debian's packages, because cyrus-pop3d conflicts with dovecot-pop3d."""

CONFIGURATION = """\
configdirectory: {home}/conf
partition-default: {home}/spool
proc_path: {home}/proc
mboxname_lockpath: {home}/lock
lmtpsocket: {home}/lmtp
notifysocket: {home}/notify
idlesocket: {home}/idle
servername: old.example.org
cyrus_user: {user}
allowplaintext: yes
allowapop: no
autocreate_quota: 0
autocreate_post: yes
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: {home}/sasldb
sasl_mech_list: PLAIN
"""

SERVICES = """\
START {{
  recover cmd="{programs}/ctl_cyrusdb -C {home}/imapd.conf -r"
}}
SERVICES {{
  pop3 cmd="{programs}/pop3d -C {home}/imapd.conf" listen="127.0.0.1:{pop3}" prefork=0
  lmtp cmd="{programs}/lmtpd -C {home}/imapd.conf -a" listen="127.0.0.1:{lmtp}" prefork=0
}}
EVENTS {{
}}
"""


class Cyrus:
    """A running Cyrus; every password is ``secret``."""

    def __init__(self, test, *names):
        if not UNPACKED.exists():
            require_programs(test, "cyrmaster")
        programs = UNPACKED / "usr/sbin"
        home = temporary_directory(test)
        for name in ("conf", "spool", "proc", "lock"):
            (home / name).mkdir()
        # It does not run as root.
        user = pwd.getpwuid(os.geteuid()) if os.geteuid() else pwd.getpwnam("nobody")
        self.port, self._lmtp = free_port(), free_port()
        values = {"home": home, "user": user.pw_name, "pop3": self.port, "lmtp": self._lmtp}
        values["programs"] = UNPACKED / "usr/lib/cyrus/bin"
        (home / "imapd.conf").write_text(CONFIGURATION.format(**values))
        (home / "cyrus.conf").write_text(SERVICES.format(**values))
        libraries = {str(file.parent) for file in (UNPACKED / "usr/lib").rglob("lib*.so*")}
        environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries)}
        for name in names:
            subprocess.run(
                [
                    *(programs / "saslpasswd2", "-p", "-c", "-f", home / "sasldb"),
                    *("-u", "old.example.org", name),
                ],
                input=b"secret",
                env=environment,
                check=True,
            )
        for path in (home, *home.rglob("*")):
            shutil.chown(path, user.pw_uid, user.pw_gid)
        with (home / "output").open("wb") as output:
            master = subprocess.Popen(
                [
                    *(programs / "cyrmaster", "-D", "-p", home / "pid"),
                    *("-C", home / "imapd.conf", "-M", home / "cyrus.conf"),
                ],
                env=environment,
                stdout=output,
                stderr=output,
                **({"user": user.pw_uid, "group": user.pw_gid} if os.geteuid() == 0 else {}),
            )
        test.addCleanup(master.wait)
        test.addCleanup(master.terminate)

        def started():
            test.assertIsNone(master.poll(), (home / "output").read_text())
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._lmtp)):
                return True

        until(started, "Cyrus")

    def deliver(self, name, *messages):
        """Deliver messages to a user."""
        with smtplib.LMTP("127.0.0.1", self._lmtp) as lmtp:
            for message in messages:
                lmtp.sendmail("sender@example.org", [name], message)
