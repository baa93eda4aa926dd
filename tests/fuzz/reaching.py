"""Which inputs reach lines of popserv that no input before them has reached."""

import sys
from contextlib import contextmanager


def is_available():
    """Return whether Python tells it at no cost (PEP 669), which begins with 3.12."""
    return hasattr(sys, "monitoring")


@contextmanager
def new_lines():
    """Watch the lines that run; yield a function that returns how many were new since its call.

    Each line is reported once, so that what runs again is as fast as without.
    """
    monitoring, number = sys.monitoring, 0

    def note(code, _line):
        nonlocal number
        number += "/popserv/" in code.co_filename
        return monitoring.DISABLE

    def take():
        nonlocal number
        taken, number = number, 0
        return taken

    tool = next(each for each in range(6) if monitoring.get_tool(each) is None)
    monitoring.use_tool_id(tool, "tests.fuzz")
    monitoring.register_callback(tool, monitoring.events.LINE, note)
    monitoring.set_events(tool, monitoring.events.LINE)
    # Those that an earlier run has reached are reported again.
    monitoring.restart_events()
    try:
        yield take
    finally:
        monitoring.set_events(tool, 0)
        monitoring.register_callback(tool, monitoring.events.LINE, None)
        monitoring.free_tool_id(tool)
