"""A directory with users, and configuration files for it."""

import atexit
from pathlib import Path

from twisted.trial.unittest import TestCase

from tests.live.harness import require_programs
from tests.live.slapd import SUFFIX, Slapd, program

SEARCH = """\
base = "ou=people,dc=example,dc=org"
filter = "(&(objectClass=person)(|(uid=%u)(mail=%u)))"
"""

TEMPLATE = 'user-dn = "uid=%n,ou=people,dc=example,dc=org"\n'

_directories = []


def add_user(directory, uid, password, unit="people", **attributes):
    """Add a user below a unit."""
    secret = {"userPassword": [password]} if password else {}
    directory.add(
        f"uid={uid},ou={unit}",
        **{
            "objectClass": ["inetOrgPerson", "mailUser"],
            "sn": ["x"],
            "cn": ["x"],
            **secret,
            **attributes,
        },
    )


def shared_directory(test):
    """Return a directory that all tests of the process share, with its users."""
    if not program():
        require_programs(test, "slapd")
    if not _directories:
        directory = Slapd()
        atexit.register(directory.stop)
        _directories.append(directory)
        directory.add("", objectClass=["dcObject", "organization"], o=["x"])
        for unit in ("people", "hidden", "one", "two"):
            directory.add(f"ou={unit}", objectClass=["organizationalUnit"])
        add_user(directory, "ann", "secret", mail=["ann@example.org"])
        add_user(directory, "zo\xe9", "s\xe9cret")
        add_user(directory, "twice", "secret", mail=["both@example.org"])
        add_user(directory, "again", "secret", mail=["both@example.org"])
        add_user(directory, "two", "secret", mailNetworks=["10.0.0.0/8", "192.0.2.1"])
        add_user(directory, "reader", "secret", mailReadOnly=["TRUE"], mailSince=["2d"])
        add_user(directory, "writer", "secret", mailReadOnly=["FALSE"])
        add_user(directory, "none", None)
        for unit in ("one", "two"):
            add_user(directory, "ann", "secret", unit, mail=[f"ann@{unit}"])
        add_user(directory, "star\\2a", "secret")
        add_user(directory, "a\\,b", "secret")
        directory.add(
            "uid=shy,ou=hidden",
            objectClass=["inetOrgPerson"],
            sn=["x"],
            cn=["x"],
            userPassword=["secret"],
        )
    return _directories[0]


class DirectoryCase(TestCase):
    """Has a directory of users."""

    def setUp(self):
        """Start the directory, or take that of earlier tests."""
        self.directory = shared_directory(self)
        self.file = Path(self.mktemp()).absolute()

    def configure(self, text=SEARCH, *, urls=None, tls=True, mode=0o600):
        """Write the file; return its path."""
        urls = urls or [self.directory.url]
        ca_file = f'ca-file = "{self.directory.ca_file}"\n' if tls else ""
        self.file.write_text(f"urls = {urls}\n{ca_file}{text}")
        self.file.chmod(mode)
        return str(self.file)


__all__ = ["SEARCH", "SUFFIX", "TEMPLATE", "DirectoryCase"]
