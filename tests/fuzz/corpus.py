"""Inputs in files: those that are kept in the tree, and those of the runs on this machine."""

from hashlib import sha256
from pathlib import Path

KEPT = Path(__file__).parent / "corpus"
"""For each target, the inputs that reach most, and the slowest ones, whose names say so."""

WORK = Path("build", "fuzz")
"""What runs write, below the current directory.

Its parts are ``corpus``, ``slowest``, ``failures`` and ``totals``.
"""


def read(directory):
    """Return the inputs in the files of a directory, in the order of their names."""
    return [path.read_bytes() for path in sorted(directory.glob("*")) if path.is_file()]


def names(directory):
    """Return the names of the files of a directory, none if there is no such one."""
    return [path.name for path in directory.glob("*")]


def write(directory, data, prefix=""):
    """Write an input to a file that is named after its octets; return the path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{prefix}{sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    return path


def inputs_of(target):
    """Return the inputs of a target that are in the tree: the seeds, and those that are kept."""
    return [*target.seeds, *read(KEPT / target.name)]
