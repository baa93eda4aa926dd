"""The log of ``popserv session``, which must not reach the client.

Standard error can lead to the client, as under inetd; messages then go to syslog.
"""

from __future__ import annotations

import os
import sys
import syslog

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    globalLogBeginner,
    textFileLogObserver,
)
from zope.interface import implementer

from popserv.logs.records import encodable
from popserv.transports.stdio import is_client_stream

_PRIORITIES = {
    LogLevel.debug: syslog.LOG_DEBUG,
    LogLevel.info: syslog.LOG_INFO,
    LogLevel.warn: syslog.LOG_WARNING,
    LogLevel.error: syslog.LOG_ERR,
    LogLevel.critical: syslog.LOG_CRIT,
}


@implementer(ILogObserver)
class SyslogObserver:
    """Sends events to syslog, facility mail, one message for each line.

    All lines but the first start with a tab, as in the log files of twistd: no text in a traceback
    looks like an event.
    """

    def __init__(self) -> None:
        syslog.openlog("popserv", syslog.LOG_PID, syslog.LOG_MAIL)

    def __call__(self, event: LogEvent) -> None:
        """Send an event."""
        # An event with what UTF-8 cannot encode, as in the name of a file, would be lost.
        text = encodable(eventAsText(event, includeTimestamp=False, includeSystem=False))
        priority = _PRIORITIES[event.get("log_level", LogLevel.info)]
        for number, line in enumerate(text.replace("\0", "\\0").splitlines()):
            syslog.syslog(priority, f"\t{line}" if number else line)


def start(*, to_syslog: bool, include_info: bool) -> None:
    """Start logging to standard error, or to syslog.

    Warnings and errors are logged, and with ``include_info`` also popserv's events of level
    info.  Text that any code prints goes to the same destination.
    """
    observer = SyslogObserver() if to_syslog else textFileLogObserver(sys.stderr)
    levels = LogLevelFilterPredicate(LogLevel.warn)
    if include_info:
        levels.setLogLevelForNamespace("popserv", LogLevel.info)
    globalLogBeginner.beginLoggingTo([FilteringLogObserver(observer, [levels])])


def is_stderr_usable() -> bool:
    """Return whether standard error is open, and the client does not read it."""
    # If it was closed, another file has its descriptor now, and Python prints to standard output.
    return sys.stderr is not None and not is_client_stream(2, 0, 1)


def report_error(text: str) -> None:
    """Print an error to standard error, or send it to syslog if the client would read it."""
    is_terminal = sys.stderr is not None and os.isatty(2)
    if not (is_terminal or is_stderr_usable()):
        SyslogObserver()({"log_level": LogLevel.error, "log_format": "{text}", "text": text})
    else:
        print(f"popserv session: {text}", file=sys.stderr)
