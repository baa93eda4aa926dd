"""A real Dovecot that only authenticates, by its socket auth-client."""

import base64
import grp
import os
import pwd
import signal
import subprocess

import jwt

from tests.live.harness import accepts, require_programs, temporary_directory, until

CONFIGURATION = """\
base_dir = {home}/run
state_dir = {home}/run
log_path = {home}/log
protocols =
ssl = no
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
auth_debug = yes
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {home}/users
}}
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {home}/oauth2.conf
}}
service anvil {{
  chroot =
  # Without it, failures delay later logins from the same address.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  unix_listener auth-client {{
    mode = 0666
  }}
}}
"""

OAUTH2 = """\
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={home}/keys/
username_attribute = sub
"""

USERS = """\
ann:secret::::::
carl:secret::::::nologin
dan:secret::::::allow_nets=192.0.2.0/24
eve:secret::::::user=dora
frank:secret::::::proxy host=192.0.2.9
gina:secret::::::
hal:secret::::::popserv_read_only=yes
ida:secret::::::popserv_nologin
"""

KEY = b"0123456789abcdef0123456789abcdef"

MECHANISMS = (
    "plain login scram-sha-1 scram-sha-256 cram-md5 digest-md5 anonymous apop external oauthbearer "
    "xoauth2"
)


class DovecotAuth:
    """A Dovecot whose users are those of ``USERS``; every password is ``secret``."""

    def __init__(self, test, mechanisms=MECHANISMS):
        require_programs(test, "dovecot")
        self.home = temporary_directory(test)
        self.path = self.home / "run/auth-client"
        user, group = os.geteuid(), os.getegid()
        if user == 0:
            user, group = (pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
        (self.home / "keys/default/HS256").mkdir(parents=True)
        (self.home / "keys/default/HS256/default").write_bytes(base64.b64encode(KEY))
        (self.home / "oauth2.conf").write_text(OAUTH2.format(home=self.home))
        (self.home / "users").write_text(USERS)
        (self.home / "dovecot.conf").write_text(
            CONFIGURATION.format(
                home=self.home,
                mechanisms=mechanisms,
                user=pwd.getpwuid(user).pw_name,
                group=grp.getgrgid(group).gr_name,
            )
        )
        self._process = None
        self._test = test
        test.addCleanup(self.stop)

    @property
    def log(self):
        """What Dovecot has logged."""
        return (self.home / "log").read_text(errors="backslashreplace")

    def start(self):
        """Start Dovecot; it is stopped after the test."""
        with (self.home / "output").open("wb") as output:
            self._process = subprocess.Popen(
                ["dovecot", "-F", "-c", self.home / "dovecot.conf"],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

        def started():
            self._test.assertIsNone(self._process.poll(), (self.home / "output").read_text())
            return accepts(str(self.path))

        until(started, "Dovecot")

    def stop(self):
        """Stop Dovecot, if it runs."""
        if self._process is not None:
            # With SIGTERM, its other processes go on while they have clients, for half a minute.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def token_of(name):
    """Return a bearer token of a user, as a provider that Dovecot trusts issues it."""
    return jwt.encode({"sub": name, "exp": 2_000_000_000}, KEY, "HS256")
