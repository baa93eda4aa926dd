"""The commands that a guide shows, run with other directories and ports."""

import os
import re
import shlex
import subprocess

from tests.docs.harness import DOCS, blocks, commands
from tests.live.harness import BIN, CHECKOUT, LOOPBACK, TIMEOUT, Server, temporary_directory


class Guide:
    """A page of docs/howto.

    ``replaced`` are texts of the page, such as directories and ports, and what stands for them
    in the test; more can be added.  ``directory`` is where the commands run.
    """

    def __init__(self, test, name, replaced, directory=None):
        self._test = test
        self._path = DOCS / "howto" / f"{name}.rst"
        self._blocks = dict(blocks(self._path, "console"))
        self._directory = directory or temporary_directory(test)
        self.replaced = {key: str(value) for key, value in replaced.items()}

    def _place(self, text):
        keys = sorted(self.replaced, key=len, reverse=True)
        pattern = "|".join(rf"{re.escape(key)}(?![\w.])" for key in keys)
        return re.sub(pattern, lambda found: self.replaced[found[0]], text)

    def run(self, *names, differing=None):
        """Run the commands of these blocks; they must succeed, and print what the page shows.

        The command ``differing`` has the exit code 1.
        """
        for name in names:
            text = self._place(self._blocks[name])
            for session in text.removeprefix("$ ").split("\n$ "):
                command, _, expected = f"{session.strip()}\n".partition("\n")
                done = subprocess.run(
                    ["bash", "-c", command],
                    cwd=self._directory,
                    env={
                        **os.environ,
                        "PATH": f"{BIN}:{os.environ['PATH']}",
                        "PYTHONPATH": str(CHECKOUT),
                    },
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=4 * TIMEOUT,
                    check=False,
                )
                self._test.assertEqual(done.stdout, expected, command)
                code = 1 if differing is not None and command.startswith(differing) else 0
                self._test.assertEqual(done.returncode, code, command)

    def start_server(self, port):
        """Start the server of the page, which listens on the port in ``replaced`` for clients."""
        (line,) = commands(self._path, "twistd")
        words = [self._place(word) for word in line[line.index("pop3") + 1 :]]
        words[words.index("--listen") + 1] = LOOPBACK
        server = Server(*words[2:], store=words[:2])
        self._test.addCleanup(server.stop)
        self.replaced[port] = f"pop3://127.0.0.1:{server.port}"
        return server

    def assert_complete(self, *run):
        """Check that these blocks are all that the page has, and that each has a command."""
        self._test.assertEqual(sorted(self._blocks), sorted(run))
        for text in self._blocks.values():
            self._test.assertTrue(shlex.split(text.removeprefix("$ ")))
