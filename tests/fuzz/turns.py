"""The turns of the targets, and how many inputs each of them has had."""

from tests.fuzz import corpus, totals


class Turns:
    """Turns of ``seconds`` each, one for each target, and more until there are ``inputs``.

    A target gets twice as long if its last turn has found inputs that reach something new.

    :param engines: by the name of a target, a function that runs it; it is called with the seconds,
        a seed and a Stop, and returns whether no input has failed.
    """

    def __init__(self, engines, seconds, inputs):
        self._engines = engines
        self._seconds = seconds
        self._inputs = inputs
        self._found = set()
        self._before = self._totals()

    def _totals(self):
        return totals.read(corpus.WORK, self._engines)

    def run(self, seed, stop):
        """Run the targets until a signal asks for the end; return the names of those that fail."""
        failed = []
        is_done = False
        while not is_done:
            for name in self._engines:
                # One that fails does not keep the others from running.
                if name not in failed and not stop.is_wanted and not self._turn(name, seed, stop):
                    failed.append(name)
            seed += 1
            inputs = sum(self._totals().values()) - sum(self._before.values())
            is_done = stop.is_wanted or inputs >= self._inputs or len(failed) == len(self._engines)
        return failed

    def _turn(self, name, seed, stop):
        """Run a target; return whether no input has failed."""
        directory = corpus.WORK / "corpus" / name
        before = len(corpus.names(directory))
        seconds = self._seconds * (2 if name in self._found else 1)
        is_good = self._engines[name](seconds, seed, stop)
        has_found = len(corpus.names(directory)) > before
        self._found = self._found | {name} if has_found else self._found - {name}
        return is_good

    def table(self):
        """Return the lines of a table of the inputs."""
        return totals.table(self._before, self._totals())
