"""Print the software bill of materials of a wheel: ``python release/sbom.py WHEEL``.

It is a CycloneDX document.  Its components are the libraries in ``requirements/server.txt``, of all
extras and for each Python that the wheel supports, with their versions and the hashes of their
archives.  The property ``popserv:extra`` of a component names an extra that needs it; a component
without one is always needed.  Licenses and dependencies are those that the libraries in the
environment state; the dependencies of a version for another Python are those that uv has noted in
the requirements.
"""

import hashlib
import os
import re
import sys
import uuid
import zipfile
from collections import defaultdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, PathDistribution, distribution
from pathlib import Path
from typing import NamedTuple

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.contrib.this.builders import this_component
from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REQUIREMENTS = Path(__file__).parents[1] / "requirements" / "server.txt"
PYTHON = "Programming Language :: Python :: 3."
"""The start of the classifiers that name the versions of Python."""


class Locked(NamedTuple):
    """A line of the requirements: the requirement, its hashes, and the names that need it."""

    requirement: Requirement
    hashes: list
    needed_by: set


class Libraries:
    """The libraries that a wheel needs.

    :ivar edges: for each name the names that it needs itself.
    """

    def __init__(self, wheel, locked):
        self.wheel = wheel
        self.edges = defaultdict(set)
        self._locked = locked
        minors = [
            line.removeprefix(PYTHON)
            for line in wheel.metadata.get_all("Classifier")
            if line.startswith(PYTHON)
        ]
        self._environments = [
            {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.0"}
            for minor in minors
        ]

    def applies(self, marker, extras=()):
        """Return whether a marker is true for any supported Python, with any of the extras."""
        return marker is None or any(
            marker.evaluate({**environment, "extra": extra})
            for environment in self._environments
            for extra in (extras or ("",))
        )

    def distribution(self, name):
        """Return the metadata of a library; None if it is not installed."""
        if name == self.wheel.name:
            return self.wheel
        try:
            return distribution(name)
        except PackageNotFoundError:
            return None

    def names(self, extras=(), name="popserv", seen=None):
        """Return the names of all libraries that one needs with these extras.

        :raises SystemExit: the requirements lack one.
        """
        seen = set() if seen is None else seen
        if (name, extras) in seen:
            return set()
        seen.add((name, extras))
        if name not in self._locked and name != self.wheel.name:
            sys.exit(f"{REQUIREMENTS} lacks {name}: run make requirements")
        found = {name} - {self.wheel.name}
        for other, other_extras in self._needed(name, extras):
            self.edges[name] |= {other} - {name}
            found |= self.names(other_extras, other, seen)
        return found

    def _needed(self, name, extras):
        """Yield the name and the extras of all that a library needs itself."""
        found = self.distribution(name)
        for line in (found and found.requires) or ():
            needed = Requirement(line)
            if self.applies(needed.marker, extras):
                yield canonicalize_name(needed.name), tuple(sorted(needed.extras))
        # Another Python needs a version that is not installed.
        if name in self._locked and (found is None or len(self._locked[name]) > 1):
            for other, lines in self._locked.items():
                if any(name in line.needed_by for line in lines):
                    yield other, ()


def read_locked():
    """Return the lines of each name in the requirements.

    There are several if other versions of Python need other versions.
    """
    locked = defaultdict(list)
    text = REQUIREMENTS.read_text()
    for found in re.finditer(r"(?m)^(\w[^\\]*)\\\n((?:    --hash=.*\n)+)    # via (.*)", text):
        requirement = Requirement(found[1])
        hashes = re.findall(r"sha256:(\w+)", found[2])
        line = Locked(requirement, hashes, set(found[3].split(", ")))
        locked[canonicalize_name(requirement.name)].append(line)
    return locked


def licenses(found):
    """Return the license that a distribution states, as CycloneDX has it, in a list."""
    if found is None:
        return []
    metadata = found.metadata
    text = metadata.get("License-Expression") or metadata.get("License", "")
    if not text or "\n" in text:
        names = [line for line in metadata.get_all("Classifier", []) if line[:7] == "License"]
        text = names[0].split(" :: ")[-1] if names else ""
    return [LicenseFactory().make_from_string(text)] if text else []


def component(line, found, extras):
    """Return the component of a line of the requirements, which these extras need."""
    requirement = line.requirement
    name = canonicalize_name(requirement.name)
    (specifier,) = requirement.specifier
    url = PackageURL("pypi", name=name, version=specifier.version)
    archives = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(str(url)),
        comment="the archives of this version, any of which may be installed",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in line.hashes],
    )
    properties = [Property(name="popserv:extra", value=extra) for extra in extras]
    if requirement.marker:
        properties.append(Property(name="popserv:marker", value=str(requirement.marker)))
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=specifier.version,
        bom_ref=str(url),
        purl=url,
        licenses=licenses(found),
        external_references=[archives],
        properties=properties,
    )


def bill_of_materials(path):
    """Return the bill of materials of a wheel."""
    name, version, *_ = path.name.split("-")
    wheel = PathDistribution(zipfile.Path(path, f"{name}-{version}.dist-info/"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    url = PackageURL("pypi", name=name, version=version)
    root = Component(
        type=ComponentType.APPLICATION,
        name=name,
        version=version,
        bom_ref=str(url),
        purl=url,
        licenses=licenses(wheel),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{url}#{digest}"))
    bom.metadata.component = root
    bom.metadata.tools.components.add(this_component())
    bom.metadata.timestamp = datetime.fromtimestamp(
        int(os.environ["SOURCE_DATE_EPOCH"]), timezone.utc
    )
    locked = read_locked()
    libraries = Libraries(wheel, locked)
    always = libraries.names()
    (everything,) = [
        Requirement(line)
        for line in wheel.requires
        if line.startswith(f"{name}[") and libraries.applies(Requirement(line).marker, ("all",))
    ]
    extras = {extra: libraries.names((extra,)) - always for extra in sorted(everything.extras)}
    components = defaultdict(list)
    for each in sorted(always.union(*extras.values())):
        for line in locked[each]:
            if libraries.applies(line.requirement.marker):
                needing = [extra for extra in extras if each in extras[extra]]
                found = libraries.distribution(each)
                components[each].append(component(line, found, needing))
    components[name] = [root]
    for each, made in components.items():
        others = [one for other in libraries.edges[each] for one in components.get(other, ())]
        for one in made:
            bom.register_dependency(one, others)
            if one is not root:
                bom.components.add(one)
    return bom


if __name__ == "__main__":
    print(JsonV1Dot6(bill_of_materials(Path(sys.argv[1]))).output_as_string(indent=2))
