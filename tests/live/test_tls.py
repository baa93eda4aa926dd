"""TLS of a running server, as testssl.sh and OpenSSL see it."""

import json
import subprocess
import sys

from twisted.trial.unittest import TestCase

from tests.certificates import issue
from tests.live.harness import (
    BIN,
    LOOPBACK,
    TIMEOUT,
    Server,
    require_programs,
    run,
    temporary_directory,
)

DENY_WRITE_EXECUTE = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""PR_SET_MDWE, by which systemd implements MemoryDenyWriteExecute=yes."""


class TLSTests(TestCase):
    """A server with an RSA certificate."""

    def start(self, *options):
        """Start a server; return its port for STLS and its port for TLS."""
        certificate = temporary_directory(self) / "server.pem"
        certificate.write_bytes(issue("localhost", kind="rsa").pem())
        server = Server(
            "--certificate", certificate, "--listen", LOOPBACK, "--listen-tls", LOOPBACK, *options
        )
        self.addCleanup(server.stop)
        return server.ports

    def test_testssl(self):
        """testssl.sh finds no old version, no weak cipher and no known vulnerability."""
        require_programs(self, "testssl")
        _, port = self.start()
        report = temporary_directory(self) / "report.json"
        run(
            *("testssl", "--quiet", "--warnings", "off", "--openssl-timeout", "10"),
            *("-p", "-s", "-U", "--jsonfile", report, f"127.0.0.1:{port}"),
        )
        findings = {each["id"]: each for each in json.loads(report.read_text())}
        bad = [
            each
            for each in findings.values()
            if each["severity"] not in ("OK", "INFO", "DEBUG", "WARN")
        ]
        self.assertEqual(bad, [])
        for name in ("TLS1_2", "TLS1_3", "cipherlist_STRONG"):
            self.assertRegex(findings[name]["finding"], "^offered", name)
        for name in ("SSLv3", "TLS1", "TLS1_1", "cipherlist_NULL", "cipherlist_AVERAGE"):
            self.assertEqual(findings[name]["finding"], "not offered", name)
        for name in ("heartbleed", "ROBOT", "secure_client_renego", "CRIME_TLS", "LUCKY13"):
            self.assertRegex(findings[name]["finding"], "^not vulnerable", name)

    def test_profiles(self):
        """OpenSSL connects by TLS 1.0 to the profile old, and by TLS 1.3 only to modern."""
        require_programs(self, "openssl")
        versions = ["-tls1", "-tls1_2", "-tls1_3"]
        for profile, expected in (("old", versions), ("modern", versions[2:])):
            stls, tls = self.start("--tls-profile", profile)
            for where in (
                ["-connect", f"127.0.0.1:{tls}"],
                ["-connect", f"127.0.0.1:{stls}", "-starttls", "pop3"],
            ):
                connected = [
                    version
                    for version in versions
                    if b"+OK"
                    in run(
                        *("openssl", "s_client", "-quiet", version, *where),
                        *("-cipher", "ALL:@SECLEVEL=0"),
                        input=b"QUIT\r\n",
                    ).stdout
                ]
                self.assertEqual(connected, expected, (profile, where))

    def test_no_executable_memory(self):
        """With MemoryDenyWriteExecute=yes, a server with TLS does not start, and says why."""
        root = temporary_directory(self)
        certificate = root / "server.pem"
        certificate.write_bytes(issue("localhost").pem())
        done = subprocess.run(
            [
                *(sys.executable, "-c", DENY_WRITE_EXECUTE, BIN / "twistd", "--nodaemon"),
                *("--pidfile=", "pop3", "--maildir", root, "--listen", LOOPBACK),
                *("--certificate", certificate),
            ],
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
            cwd=root,
        )
        if done.returncode == 77:
            self.skipTest("this kernel has no PR_SET_MDWE")
        self.assertEqual(done.returncode, 1, done)
        self.assertRegex(
            (done.stdout + done.stderr).decode(),
            f"--certificate: {certificate}: TLS requires memory that is writable and executable; "
            "remove MemoryDenyWriteExecute=yes",
        )
