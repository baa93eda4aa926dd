"""Records what a server imports, loads or looks up after it has opened its first port.

Python runs this module in servers that :class:`tests.live.harness.Server` starts.  Ports are
opened just before privileges are given up.
"""

import os
import sys
import traceback

_LOADS = ("import", "ctypes.dlopen", "socket.gethostbyaddr", "socket.getnameinfo")
_record = os.environ["POPSERV_TEST_LOADS"]
_has_port = False


def _hook(event, arguments):
    global _has_port
    if event == "socket.bind":
        _has_port = True
    elif _has_port and event in _LOADS:
        stack = "".join(traceback.format_stack(sys._getframe(1)))
        if "in privilegedStartService" not in stack:
            with open(_record, "a") as file:
                file.write(f"{event} {arguments[0]}\n{stack}\n")


sys.addaudithook(_hook)

if "POPSERV_TEST_SECRETS" in os.environ:
    import kept

    kept.start()
