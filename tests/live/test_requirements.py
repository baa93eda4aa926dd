"""The files in requirements: what they have, and that pip verifies their hashes."""

import re
import sys
from configparser import ConfigParser
from itertools import product

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from twisted.trial.unittest import SynchronousTestCase

from tests.live.harness import CHECKOUT, run, temporary_directory

MINORS = range(10, 15)
"""The versions of Python 3 that popserv supports."""

EXTRAS = {"dev": "dev", "test": "test", "oldest": "test", "server": "all"}
"""The extra for which a file has everything."""


def setup_cfg():
    """Return the content of setup.cfg."""
    content = ConfigParser()
    content.read(CHECKOUT / "setup.cfg")
    return content


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


def required(*extras):
    """Return what setup.cfg requires for these extras, and for those that they consist of."""
    options = setup_cfg()
    lines, waiting = {options["options"]["install_requires"].strip()}, list(extras)
    while waiting:
        for line in options["options.extras_require"][waiting.pop()].split("\n"):
            if line.startswith("popserv"):
                waiting += sorted(Requirement(line).extras)
            elif line and not line.startswith("#"):
                lines.add(line)
    return [Requirement(line) for line in sorted(lines)]


def versions(locked, wanted, minor):
    """Return the versions of a requirement for Python 3.minor among those of a file."""
    return [
        str(one.specifier).removeprefix("==")
        for one, _ in locked
        if canonicalize_name(one.name) == canonicalize_name(wanted.name) and applies(one, minor)
    ]


class RequirementsTests(SynchronousTestCase):
    """The files in requirements."""

    def test_complete(self):
        """They have what setup.cfg requires, in versions that it permits, for each Python."""
        for name, extra in EXTRAS.items():
            locked = read_requirements(name)
            for wanted, minor in product(required(extra), MINORS):
                if not applies(wanted, minor):
                    continue
                found = versions(locked, wanted, minor)
                self.assertEqual(len(found), 1, f"{wanted} for 3.{minor}: run make requirements")
                self.assertTrue(wanted.specifier.contains(found[0]), f"{wanted}: {found}")

    def test_oldest(self):
        """What the server requires is in oldest.txt in the version that setup.cfg names."""
        locked = read_requirements("oldest")
        for wanted, minor in product(required("all", "cluster"), MINORS):
            bound = SpecifierSet(str(wanted.specifier).replace(">=", "=="))
            for found in versions(locked, wanted, minor):
                self.assertTrue(bound.contains(found), f"{wanted}, and not {found}")

    def test_same(self):
        """What the server, its tests and a build need has the versions and hashes of dev.txt."""
        dev, *parts = (
            {(one.name, str(one.specifier), *hashes) for one, hashes in read_requirements(name)}
            for name in ("dev", "server", "test", "build")
        )
        self.assertEqual(set().union(*parts) - dev, set())

    def test_hashes(self):
        """Each requirement has hashes, and none names an index."""
        for path in (CHECKOUT / "requirements").iterdir():
            text = path.read_text()
            names = re.findall(r"(?m)^[\w.\[\]-]+==", text)
            self.assertEqual(len(names), len(read_requirements(path.stem)))
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
        extras = setup_cfg()["options.extras_require"]
        development = {"all", "cluster", "test", "docs", "bench", "fuzz", "dev"}
        self.assertEqual(Requirement(extras["all"].strip()).extras, set(extras) - development)
