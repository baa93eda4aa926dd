"""The choice between functions in Python and the same functions in C.

``popserv/_speedups.c`` is compiled when popserv is installed, if there is a compiler; popserv does
the same without it.  The environment variable ``PURE_PYTHON``, which zope.interface has as well,
selects Python.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


HAS_STABLE_ABI = "t" not in sys.abiflags
"""Whether Python can use the module, as setup.py decides: not without the interpreter's lock."""


def _load(environment: dict[str, str] | os._Environ[str]) -> object:
    """Return the module in C, or None if there is none or Python was selected."""
    # Without the lock, Python before 3.15 also finds what another one has built in a checkout.
    if not HAS_STABLE_ABI or environment.get("PURE_PYTHON", "0") not in ("", "0"):
        return None
    try:
        return import_module("popserv._speedups")
    except ImportError:
        return None


SPEEDUPS = _load(os.environ)
"""The module in C, or None."""

in_python: dict[Callable[..., Any], Callable[..., Any]] = {}
"""The functions in Python, by those in C that take their places."""


def speedup(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function in C that has the name of this one, or else this one; a decorator."""
    compiled: Callable[P, T] | None = getattr(SPEEDUPS, function.__name__, None)
    if compiled is None:
        return function
    in_python[compiled] = function
    return compiled
