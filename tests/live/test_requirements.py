"""The files in requirements: what they have, and that pip verifies their hashes."""

import re
import sys
from configparser import ConfigParser
from itertools import product

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from twisted.trial.unittest import SynchronousTestCase

from tests.live.harness import CHECKOUT, run, temporary_directory

MINORS = range(10, 15)
"""The versions of Python 3 that popserv supports."""


def applies(requirement, minor):
    """Return whether Python 3.minor on this platform needs a requirement."""
    python = {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.0"}
    return requirement.marker is None or requirement.marker.evaluate(python)


def read_requirements(name):
    """Return each requirement of a file in requirements, with the list of its hashes."""
    text = (CHECKOUT / "requirements" / f"{name}.txt").read_text()
    return [
        (Requirement(found[1]), re.findall(r"--hash=sha256:(\w+)", found[0]))
        for found in re.finditer(r"(?m)^(\w[^\\]*)\\\n(?:    --hash=.*\n)+", text)
    ]


class RequirementsTests(SynchronousTestCase):
    """The files in requirements."""

    def test_complete(self):
        """They have what setup.cfg requires, in versions that it permits, for each Python."""
        metadata = ConfigParser()
        metadata.read(CHECKOUT / "setup.cfg")
        extras = metadata["options.extras_require"]
        for name, extra in (("dev", "dev"), ("server", "all")):
            locked = read_requirements(name)
            lines, waiting = set(), [extra]
            while waiting:
                for line in extras[waiting.pop()].split("\n"):
                    if line.startswith("popserv"):
                        waiting += sorted(Requirement(line).extras)
                    elif line and not line.startswith("#"):
                        lines.add(line)
            lines.add(metadata["options"]["install_requires"].strip())
            for line, minor in product(sorted(lines), MINORS):
                wanted = Requirement(line)
                if not applies(wanted, minor):
                    continue
                found = [
                    str(one.specifier).removeprefix("==")
                    for one, _ in locked
                    if canonicalize_name(one.name) == canonicalize_name(wanted.name)
                    and applies(one, minor)
                ]
                self.assertEqual(len(found), 1, f"{line} for 3.{minor}: run make requirements")
                self.assertTrue(wanted.specifier.contains(found[0]), f"{line}: {found}")

    def test_same(self):
        """What the server and a build need has the versions and hashes of what tests need."""
        dev, server, build = (
            {(one.name, str(one.specifier), *hashes) for one, hashes in read_requirements(name)}
            for name in ("dev", "server", "build")
        )
        self.assertEqual((server | build) - dev, set())

    def test_hashes(self):
        """Each requirement has hashes, and none names an index."""
        for name in ("dev", "server", "build"):
            text = (CHECKOUT / "requirements" / f"{name}.txt").read_text()
            names = re.findall(r"(?m)^[\w.\[\]-]+==", text)
            self.assertEqual(len(names), len(read_requirements(name)))
            self.assertNotIn("://", text)

    def test_other_archive(self):
        """Pip refuses an archive that has another hash than the file."""
        changed = temporary_directory(self) / "build.txt"
        text = (CHECKOUT / "requirements/build.txt").read_text()
        changed.write_text(re.sub(r"sha256:\w{4}", "sha256:0000", text))
        install = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir")
        done = run(*install, "--dest", changed.parent, "--require-hashes", "-r", changed)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"THESE PACKAGES DO NOT MATCH THE HASHES", done.stderr)

    def test_all(self):
        """The extra all has all extras but those for development."""
        metadata = ConfigParser()
        metadata.read(CHECKOUT / "setup.cfg")
        extras = metadata["options.extras_require"]
        development = {"all", "cluster", "test", "docs", "bench", "fuzz", "dev"}
        self.assertEqual(Requirement(extras["all"].strip()).extras, set(extras) - development)
