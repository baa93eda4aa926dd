"""Commands that ask a running server, while a system call on the control socket fails."""

from tests.faults.base import require
from tests.faults.commands import Command


class Status(Command):
    """The state of the server is asked for."""

    benches = ("maildir",)
    is_recorded = False

    @property
    def root(self):
        """The path of the control socket."""
        return self.bench.control

    def _ask(self):
        return self.bench.command("status", "--control", f"unix:{self.bench.control}")

    def act(self):
        """Ask for it."""
        self.code, self.output = self._ask()
        return [self.output.encode()]

    def check(self, killed):
        """An answer that succeeds is whole, and so is the next one."""
        require(self.code != 0 or self._is_whole(self.output), f"it printed {self.output!r}")
        code, output = self._ask()
        require(code == 0 and self._is_whole(output), f"exit code {code}: {output!r}")

    def check_told(self, replies, log):
        """After EINTR Python waits for a connection, and this one has no error."""
        if (self.fault.calls, self.fault.error) != ("connect", "EINTR"):
            super().check_told(replies, log)

    @staticmethod
    def _is_whole(output):
        return "version" in output and "sessions" in output and output.endswith("\n")
