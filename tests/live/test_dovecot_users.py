"""Dovecot and popserv with one passwd-file: whom Dovecot refuses, popserv refuses, too."""

import grp
import os
import pwd
import subprocess
import time

from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.trial.unittest import SynchronousTestCase

from examples.cluster.processes import free_port
from popserv.auth.hmac_md5 import hmac_md5_context
from popserv.auth.passwords.file_checker import PasswdFileChecker
from popserv.auth.users.extra_fields import EVALUATED, HARMLESS, HARMLESS_PREFIXES, REFUSING
from popserv.core.connection_details import ConnectionDetails, connection_details
from tests.auth.harness import ask
from tests.live.harness import Connection, accepts, require_programs, temporary_directory, until

SECONDS = int(time.time())

EXTRA = [
    b"",
    *(name.encode() for name in REFUSING),
    *(name.encode() + b"=y" for name in REFUSING),
    *(name.encode() + b"=1" for name in HARMLESS - {"nodelay"}),
    *(prefix.encode() + b"x=1" for prefix in HARMLESS_PREFIXES),
    *(name.encode() for name in EVALUATED),
    *(
        b"allow%b_nets=%b" % (real, networks)
        for real in (b"", b"_real")
        for networks in (
            b"127.0.0.1,::1 127.0.0.0/8 10.0.0.0/8 10.0.0.0/8,127.0.0.1 127.1.2.3/8 local ::1 "
            b"127.0.0.0/255.0.0.0 0.0.0.0/0.0.0.0 127.0.0.1/33 127.0.0.1/ 0.0.0.0/0 ::/0 all * , "
            b"::ffff:127.0.0.1 ::ffff:0:0/96 127.0.0.1/x 127.0.0.2 !127.0.0.1 /0 /"
        ).split()
    ),
    b"allow_nets=127.0.0.1 allow_nets=10.0.0.0/8",
    b"allow_nets=10.0.0.0/8 allow_nets=127.0.0.1",
    b"allow_nets=127.0.0.1 allow_real_nets=10.0.0.0/8",
    b"delay_until=%d" % (SECONDS - 60),
    b"delay_until=%d+10" % (SECONDS - 60),
    b"delay_until=%d" % (SECONDS + 86_400),
    b"delay_until=%d+10" % (SECONDS + 86_400),
    b"delay_until=soon",
    b"delay_until=-1",
    b"delay_until=5+x",
    b"nologin:protected=y",
    b"fail:protected",
    b"user=other",
    b"nodelay  nologin",
    b"reason=gone nologin=",
    b"popserv_read_only=yes popserv_since=30d popserv_deleted=keep",
    b"popserv_maildrop=/srv/mail/other/Maildir",
    b"popserv_require_tls=no",
    b"popserv_require_tls",
    b"popserv_nologin=no",
    b"popserv_nologin",
    b"popserv_nologin nologin",
    b"surprise",
    b"surprise=1",
    b"NOLOGIN",
]
"""The extra fields of one user each."""

COLUMNS = [
    b"",
    b":",
    b":1000:1000::/home/x",
    b":1000:1000:Proxy Admin:/home/x:/usr/sbin/nologin",
    b":1000:1000:Proxy Admin:/home/x:/usr/sbin/nologin:",
    b":1000:1000::/home/x::nologin",
    b":::::::maildir:~/Maildir",
    b"::::::: nologin",
    b":nologin",
]
"""What follows the secrets of more users."""

SECRETS = [
    b"{PLAIN}password",
    b"{CRAM-MD5}" + hmac_md5_context(b"password").hex().encode(),
    b"{PLAIN}wrong",
    b"{CRAM-MD5}" + hmac_md5_context(b"wrong").hex().encode(),
    b"{OTP}password",
    b"",
    b"{PLAIN}",
    b"!",
    b"*",
]
"""The secrets of more users."""

STRICTER = {
    *(b"surprise", b"surprise=1", b"NOLOGIN", b"delay_until=-1"),
    *(b"popserv_require_tls", b"popserv_nologin"),
    # They need a value.
    *(b"popserv_maildrop", b"popserv_deleted", b"popserv_since", b"popserv_max_user_sessions"),
    # Dovecot refers the client to another server, takes another name or any password, or ignores
    # the field.
    *(
        name + value
        for name in b"host login_user username domain nopassword password password_noscheme".split()
        for value in (b"", b"=y")
    ),
    # In another column.
    *(b"::::::: nologin", b":nologin"),
}
"""The fields and columns with which popserv may refuse a user whom Dovecot accepts."""


CONFIGURATION = """\
base_dir = {home}/run
state_dir = {home}/run
log_path = {home}/log
protocols = pop3
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_failure_delay = 0
auth_username_format =
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 1
mail_location = maildir:{home}/mail/%u
passdb {{
  driver = passwd-file
  args = scheme=CRYPT username_format=%u {users}
}}
userdb {{
  driver = static
  args = uid={user} gid={group} home={home}/mail/%u
}}
service anvil {{
  chroot =
  # Without it, failures delay later logins from the same address.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
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
service pop3 {{
  service_count = 0
}}
"""


class PasswdFileTests(SynchronousTestCase):
    """The same passwd-file with both."""

    def test_refused(self):
        """Whom Dovecot refuses, popserv refuses; it accepts the others, but for a few."""
        require_programs(self, "dovecot")
        lines = [
            *((b"{PLAIN}password:::::: " + extra, extra) for extra in EXTRA),
            *((b"{PLAIN}password" + columns, columns) for columns in COLUMNS),
            *((secret, secret) for secret in SECRETS),
        ]
        names = [b"u%d" % number for number in range(len(lines))]
        text = b"".join(
            b"%b:%b\n" % (name, line) for name, (line, _) in zip(names, lines, strict=True)
        )
        home = temporary_directory(self)
        (home / "users").write_bytes(text)
        (home / "users").chmod(0o600)
        by_dovecot = self.accepted_by_dovecot(home, names)
        by_popserv = self.accepted_by_popserv(home / "users", names)
        tried = dict(zip(names, (what for _, what in lines), strict=True))
        self.assertEqual({tried[name] for name in by_popserv - by_dovecot}, set())
        self.assertLessEqual({tried[name] for name in by_dovecot - by_popserv}, STRICTER)
        self.assertGreater(len(by_popserv), 30)

    def accepted_by_popserv(self, users, names):
        """Return the names that popserv accepts with the password, from the same address."""

        async def run_now(function, *args):
            return function(*args)

        checker = PasswdFileChecker(str(users), run_now)
        details = ConnectionDetails(("127.0.0.1", 4321))
        token = connection_details.set(lambda: details)
        self.addCleanup(connection_details.reset, token)
        accepted = set()
        for name in names:
            outcome = ask(checker, UsernamePassword(name, b"password"))
            outcome.addErrback(lambda failure: failure.trap(UnauthorizedLogin) and None)
            if self.successResultOf(outcome) is not None:
                accepted.add(name)
        return accepted

    def accepted_by_dovecot(self, home, names):
        """Return the names that Dovecot accepts with the password."""
        # Dovecot serves no mail of root.
        user, group = os.geteuid(), os.getegid()
        if user == 0:
            user, group = (pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
        for name in ("mail", "run"):
            (home / name).mkdir()
        for name in ("mail", "run", "users"):
            os.chown(home / name, user, group)
        port = free_port()
        configuration = home / "dovecot.conf"
        configuration.write_text(
            CONFIGURATION.format(
                home=home,
                users=home / "users",
                port=port,
                user=pwd.getpwuid(user).pw_name,
                group=grp.getgrgid(group).gr_name,
            )
        )
        with (home / "output").open("wb") as output:
            dovecot = subprocess.Popen(
                ["dovecot", "-F", "-c", configuration], stdout=output, stderr=output
            )
        self.addCleanup(dovecot.wait)
        self.addCleanup(dovecot.terminate)

        def started():
            self.assertIsNone(dovecot.poll(), (home / "output").read_text())
            return accepts(("127.0.0.1", port))

        until(started, "Dovecot")
        return set().union(
            *(accepted(port, names[at : at + BATCH]) for at in range(0, len(names), BATCH))
        )


BATCH = 20
"""The number of concurrent logins: Dovecot delays the reply to a failure, and has a limit."""


def accepted(port, names):
    """Return the names that the server on a port accepts with the password."""
    connections = [Connection(("127.0.0.1", port)) for _ in names]
    for name, connection in zip(names, connections, strict=True):
        connection.ask(b"USER " + name)
        connection.socket.sendall(b"PASS password\r\n")
    replies = [connection.line() for connection in connections]
    for connection in connections:
        connection.abandon()
    return {name for name, reply in zip(names, replies, strict=True) if reply[:3] == b"+OK"}
