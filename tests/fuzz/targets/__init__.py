"""What is fuzzed: one module for each target, and ``TARGETS``, which has all of them by name."""

from tests.fuzz.targets import (
    downgrader,
    framing,
    jwt,
    lines,
    mbox,
    proxy,
    sasl,
    sessions,
    size_file,
    uidlist,
    users,
)

TARGETS = {
    module.TARGET.name: module.TARGET
    for module in (
        *(lines, sessions, sasl, proxy, users, size_file, mbox, uidlist, jwt),
        *(downgrader, framing),
    )
}
"""All targets, by name."""
