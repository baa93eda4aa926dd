"""SIGINT and SIGTERM end a run as its time does: the inputs are counted, the slowest kept."""

import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether a signal has asked for the end; a context manager, in which signals do that.

    :ivar is_wanted: whether one has.
    """

    def __init__(self):
        self.is_wanted = False
        self._action = None
        self._before = {}

    def __enter__(self):
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def call(self, action):
        """Call a function when a signal comes, or at once if one has; the last one counts."""
        self._action = action
        if self.is_wanted:
            action()

    def _note(self, _number, _frame):
        self.is_wanted = True
        if self._action is not None:
            self._action()
