"""What is fuzzed: one module for each target, and ``TARGETS``, which has all of them by name."""

from tests.fuzz.targets import (
    delivered,
    downgrader,
    framing,
    jwt,
    lines,
    lmtp,
    mbox,
    names,
    proxy,
    remote,
    sasl,
    sequences,
    sessions,
    size_file,
    uidlist,
    unique_ids,
    users,
)

TARGETS = {
    module.TARGET.name: module.TARGET
    for module in (
        *(lines, sessions, sasl, jwt, proxy, lmtp, names, delivered, downgrader, framing),
        *(users, size_file, mbox, uidlist, unique_ids, sequences, remote),
    )
}
"""All targets, by name."""
