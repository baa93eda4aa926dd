"""make audit, with a service of advisories on this machine that is as OSV describes its own."""

import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

from packaging.utils import canonicalize_name
from twisted.trial.unittest import SynchronousTestCase

from examples.cluster.processes import free_port
from tests.live.harness import BIN, CHECKOUT, require_programs, run
from tests.live.test_requirements import read_requirements


class Service(BaseHTTPRequestHandler):
    """Answers ``POST /v1/query`` of https://google.github.io/osv.dev/post-v1-query/."""

    advisories = {}
    """The identifiers of the advisories of each name and version."""

    def do_POST(self):
        """Answer with the advisories of a library, and remember the question."""
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        library = (question["package"]["name"], question["version"])
        self.server.asked.add(library)
        found = [{"id": name, "affected": []} for name in self.advisories.get(library, ())]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"vulns": found} if found else {}).encode())

    def log_message(self, *arguments):
        """Print nothing."""


def audit(port):
    """Run make audit with the service at a port; return its exit code, output and errors."""
    service = f"--vulnerability-service osv --osv-url http://127.0.0.1:{port}/v1/query"
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    command = ("make", "-C", CHECKOUT, "audit", "-o", ".venv/dev", f"BIN={BIN}")
    done = run(*command, f"AUDIT={service}", env=environment)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class AuditTests(SynchronousTestCase):
    """The command, with the requirements of the checkout."""

    def setUp(self):
        """Read what is installed for this Python."""
        require_programs(self, "make", "pip-audit")
        self.libraries = {
            (canonicalize_name(one.name), str(one.specifier).removeprefix("=="))
            for one, _ in read_requirements("dev")
            if one.marker is None or one.marker.evaluate()
        }

    def serve(self, **advisories):
        """Start a service with advisories of the libraries of these names; return it."""
        found = {
            (name, version): advisories[name]
            for name, version in self.libraries
            if name in advisories
        }
        server = HTTPServer(("127.0.0.1", 0), type("Handler", (Service,), {"advisories": found}))
        server.asked = set()
        thread = Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        return server

    def test_clean(self):
        """It passes if there is no advisory, and has asked for each library."""
        server = self.serve()
        code, output, errors = audit(server.server_port)
        self.assertEqual(code, 0, output + errors)
        self.assertIn("No known vulnerabilities found", errors)
        self.assertEqual(server.asked, self.libraries)

    def test_vulnerable(self):
        """It fails if there are advisories, and prints the libraries and the advisories."""
        server = self.serve(twisted=("EXAMPLE-1", "EXAMPLE-2"), idna=("EXAMPLE-3",))
        code, output, errors = audit(server.server_port)
        self.assertEqual(code, 2, errors)
        self.assertRegex(output, r"(?m)^idna +\S+ +EXAMPLE-3")
        self.assertRegex(output, r"(?m)^twisted +\S+ +EXAMPLE-1")
        self.assertRegex(output, r"(?m)^twisted +\S+ +EXAMPLE-2")
        self.assertIn("make audit has failed: a library has a vulnerability, or", errors)

    def test_no_service(self):
        """It fails if the service cannot be asked."""
        code, _, errors = audit(free_port())
        self.assertEqual(code, 2)
        self.assertIn("its advisories cannot be read here", errors)
