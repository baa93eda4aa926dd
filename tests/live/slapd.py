"""An OpenLDAP server of a test, in a temporary directory and on ports of this machine."""

import shutil
import subprocess
from ipaddress import ip_address
from pathlib import Path

import ldap
from cryptography import x509

from examples.cluster.processes import free_port
from tests.certificates import issue, make_authority
from tests.live.harness import TIMEOUT, temporary_directory, until

SUFFIX = "dc=example,dc=org"
ADMIN = f"cn=admin,{SUFFIX}"

CONFIGURATION = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
attributetype ( 1.3.6.1.4.1.99999.1.1 NAME 'mailReadOnly'
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.7 )
attributetype ( 1.3.6.1.4.1.99999.1.2 NAME 'mailNetworks'
    EQUALITY caseExactMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.99999.1.3 NAME 'mailSince'
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
objectclass ( 1.3.6.1.4.1.99999.2.1 NAME 'mailUser' AUXILIARY
    MAY ( mailReadOnly $ mailNetworks $ mailSince ) )
pidfile {directory}/pid
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCertificateFile {directory}/cert.pem
TLSCertificateKeyFile {directory}/key.pem
{settings}
database mdb
suffix "{suffix}"
rootdn "{admin}"
rootpw secret
directory {directory}/data
access to attrs=userPassword by anonymous auth
access to dn.subtree="ou=hidden,{suffix}" by * none
access to * by * read
"""


def program():
    """Return the path of slapd, which is not in the PATH of users."""
    path = Path("/usr/sbin/slapd")
    return str(path) if path.exists() else shutil.which("slapd")


class Slapd:
    """A server; ``url`` and ``tls_url`` are its URLs, and ``ca_file`` verifies it.

    ``settings`` are lines for its configuration, before the database.
    """

    def __init__(self, test=None, settings=""):
        self.directory = temporary_directory(test)
        (self.directory / "data").mkdir()
        authority = make_authority()
        issued = issue(others=[x509.IPAddress(ip_address("127.0.0.1"))], issuer=authority)
        (self.directory / "cert.pem").write_bytes(issued.certificate_pem())
        (self.directory / "key.pem").write_bytes(issued.key_pem())
        self.ca_file = self.directory / "ca.pem"
        self.ca_file.write_bytes(authority.certificate_pem())
        self.url = f"ldap://127.0.0.1:{free_port()}"
        self.tls_url = f"ldaps://127.0.0.1:{free_port()}"
        (self.directory / "slapd.conf").write_text(
            CONFIGURATION.format(
                directory=self.directory, suffix=SUFFIX, admin=ADMIN, settings=settings
            )
        )
        self._process = None
        if test is not None:
            test.addCleanup(self.stop)
        self.start()

    def start(self):
        """Start the server, and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(program(), "-d", "0", "-f", str(self.directory / "slapd.conf")),
                    *("-h", f"{self.url} {self.tls_url}"),
                ],
                stdout=log,
                stderr=log,
            )

        def answers():
            if self._process.poll() is not None:
                raise AssertionError((self.directory / "log").read_text())
            try:
                self.connect().unbind_s()
            except ldap.SERVER_DOWN:
                return False
            return True

        until(answers, "slapd")

    def stop(self):
        """Stop the server."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(TIMEOUT)
            self._process = None

    def connect(self):
        """Return a connection of the administrator."""
        connection = ldap.initialize(self.url)
        connection.simple_bind_s(ADMIN, "secret")
        return connection

    def add(self, dn, **attributes):
        """Add an entry below the suffix."""
        connection = self.connect()
        connection.add_s(
            f"{dn},{SUFFIX}" if dn else SUFFIX,
            [(name, [each.encode() for each in values]) for name, values in attributes.items()],
        )
        connection.unbind_s()
