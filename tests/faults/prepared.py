"""Processes that have popserv imported before they are needed, so that each starts in no time.

The module is also the program of the process that forks them.  It reads a request on each line, in
JSON, and replies with a line: to ``{"argv": [...], "input": TEXT, "output": PATH, "patch": NAME}``,
which starts ``twistd`` or ``popserv``, with the process ID, and to ``{"wait": PID}`` with the exit
code.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import traceback

from tests.live.harness import CHECKOUT

PR_SET_PDEATHSIG = 1


class Prepared:
    """A process with all modules of popserv, from which servers and commands are forked.

    ``temporary`` is their directory for temporary files.
    """

    def __init__(self, environment, temporary):
        self.temporary = temporary
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.prepared"],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment, "TMPDIR": str(temporary)},
        )

    def _ask(self, **request):
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, output, *argv, text=b"", patch=None):
        """Start a program whose output is appended to a file; return its process ID.

        ``text`` is its standard input, and ``patch`` names one of :mod:`tests.faults.patches`.
        """
        request = {"argv": list(map(str, argv)), "input": text.decode("ascii")}
        return self._ask(**request, output=str(output), patch=patch)

    def wait(self, pid):
        """Wait until a process has ended; return its exit code, as subprocess tells it."""
        return self._ask(wait=pid)

    def close(self):
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _become(request):
    """Run a program in a process of its own."""
    # It ends with the process that has forked it, which ends with the test.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    text = os.memfd_create("input")
    os.write(text, request["input"].encode())
    os.lseek(text, 0, os.SEEK_SET)
    output = os.open(request["output"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for fd, number in ((text, 0), (output, 1), (output, 2)):
        os.dup2(fd, number)
    os.close(text)
    os.close(output)
    if request["patch"]:
        from tests.faults.patches import PATCHES

        PATCHES[request["patch"]]()
    sys.argv = request["argv"]
    if sys.argv[0] == "popserv":
        from popserv.commandline.main import main

        sys.exit(main())
    from twisted.scripts.twistd import run

    run()


def _serve():
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb", 0)
    # What a program imports beside these would cost each process again.
    for name in (
        *("popserv.tap", "popserv.wiring.factories", "twisted.scripts.twistd"),
        *("popserv.maildrops.maildir.kind", "popserv.maildrops.mbox.kind"),
        *("popserv.maildrops.mh.kind", "popserv.delivery", "twisted.internet.epollreactor"),
        *(f"popserv.commandline.{name}" for name in ("main", "parsing", "copy", "deliver")),
        *("popserv.commandline.uidl", "popserv.commandline.user"),
    ):
        __import__(name)
    for line in requests:
        request = json.loads(line)
        if "wait" in request:
            status = os.waitpid(request["wait"], 0)[1]
            replies.write(b"%d\n" % os.waitstatus_to_exitcode(status))
            continue
        pid = os.fork()
        if pid == 0:
            code = 0
            try:
                requests.close()
                replies.close()
                _become(request)
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        replies.write(b"%d\n" % pid)


if __name__ == "__main__":
    _serve()
