"""What all runs of a process share: the compiled shim, the prepared process, a bench each."""

from tests.faults.bench import Bench
from tests.faults.prepared import Prepared
from tests.faults.shim import Shim

BENCHES = {
    "maildir": ("maildir",),
    "mbox": ("mbox",),
    "mh": ("mh",),
    "trash": ("maildir", "--deleted", "move:Trash"),
    "keep": ("maildir", "--deleted", "keep"),
    "sql": ("sql",),
    "dovecot": ("maildir", "--uidl", "%v.%u"),
}
"""The stores by name, with the options of their servers."""


class Workshop:
    """Benches below a directory, which are made when they are needed."""

    def __init__(self, root):
        self._root = root
        self._shim = Shim(root)
        temporary = root / "tmp"
        temporary.mkdir()
        self._prepared = Prepared(self._shim.environment, temporary)
        self._benches = {}

    def bench(self, key):
        """Return a bench."""
        if key not in self._benches:
            kind, *options = BENCHES[key]
            self._benches[key] = Bench(self._root / key, self._shim, self._prepared, kind, *options)
        return self._benches[key]

    def close(self):
        """Stop everything."""
        for each in self._benches.values():
            each.close()
        self._prepared.close()
