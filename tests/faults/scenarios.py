"""What is done while a system call fails: all scenarios by name.

A scenario prepares something for a new user, acts with the fault armed, and checks what was said
against what is there when the fault is over.
"""

from tests.faults import commands, copies, edits, sessions, sql, steering

SCENARIOS = {
    "first": sessions.Session,
    "second": sessions.SecondSession,
    "changed": sessions.ChangedSession,
    "another-removal": sessions.AnotherRemoval,
    "logging": sessions.Logging,
    "delivery": sessions.Delivery,
    "first-delivery": sessions.FirstDelivery,
    "large-delivery": sessions.LargeDelivery,
    "login": sessions.Login,
    "database": sql.DatabaseSession,
    "reconnection": sql.Reconnection,
    "objects": sql.ObjectSession,
    "database-delivery": sql.DatabaseDelivery,
    "object-delivery": sql.ObjectDelivery,
    "deliver": commands.CommandDelivery,
    "copy": copies.Copy,
    "copy-continued": copies.ContinuedCopy,
    "copy-pinned": copies.PinnedCopy,
    "copy-large": copies.LargeCopy,
    "copy-from-maildir": copies.CopyFrom,
    "copy-from-mbox": copies.CopyFromMbox,
    "copy-from-mh": copies.CopyFromMH,
    "import": commands.Import,
    "import-continued": commands.ContinuedImport,
    "status": steering.Status,
    "user-add": edits.Add,
    "user-add-first": edits.AddFirst,
    "user-passwd": edits.SetPassword,
    "user-remove": edits.Remove,
    "user-disable": edits.Disable,
    "user-enable": edits.Enable,
    "user-set": edits.SetField,
    "user-list": edits.List,
}


def scenarios_of(key):
    """Return the names of the scenarios of a bench."""
    return [name for name, each in SCENARIOS.items() if key in each.benches]
