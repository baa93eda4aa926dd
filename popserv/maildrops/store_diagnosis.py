"""What is wrong with a store and the settings of its users, for ``popserv doctor``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from popserv.core.findings import Finding, error, some_names, warning
from popserv.core.printable import one_line, printable
from popserv.core.user_settings import UnsupportedSettings
from popserv.maildrops.file_system import diagnose_file_system
from popserv.maildrops.layout import Layout
from popserv.maildrops.path_problems import explain_directory


def diagnose_root(
    layout: Layout, is_wrong: Callable[[bytes], bool], meant: str, found: str
) -> list[Finding]:
    """Return what is wrong with the root directory of a layout; it waits for the disk.

    ``is_wrong`` tells whether what is at the path of a maildrop is of the wrong kind; ``meant`` and
    ``found`` are the names of the right kind and the wrong one.
    """
    root = os.fsdecode(layout.root)
    problem = explain_directory(root)
    if problem is not None:
        remedy = "correct its owner or its mode"
        return [error("directory", one_line(root), one_line(problem), remedy)]
    findings = list(diagnose_file_system(layout.root))
    try:
        wrong = layout.users(is_wrong)
    except OSError:
        # The server need not list it.
        return findings
    if wrong:
        shown = some_names(map(printable, wrong), len(wrong))
        findings.append(
            warning(
                "maildrop-kind",
                one_line(root),
                f"{len(wrong)} of the {meant} are {found}: {shown}",
                "use another store, see twistd pop3 --help-stores, or move them away",
            )
        )
    return findings


def diagnose_settings(user: bytes, check: Callable[[], object]) -> Iterator[Finding]:
    """Yield whether a user cannot log in because of settings that a store does not support.

    ``check`` raises UnsupportedSettings then.
    """
    try:
        check()
    except UnsupportedSettings as problem:
        yield error(
            "user-settings",
            f'the user "{printable(user)}"',
            f"{problem}, so that the login is refused",
            "remove the field from the user, or use another store",
        )
