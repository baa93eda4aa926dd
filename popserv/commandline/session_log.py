"""Where ``popserv session`` tells its operator what happens: anywhere but to the client."""

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
    """Sends events to syslog, facility mail, a line at a time."""

    def __init__(self) -> None:
        syslog.openlog("popserv", syslog.LOG_PID, syslog.LOG_MAIL)

    def __call__(self, event: LogEvent) -> None:
        """Send one."""
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        priority = _PRIORITIES[event.get("log_level", LogLevel.info)]
        for line in text.replace("\0", "\\0").splitlines():
            syslog.syslog(priority, line)


def begin(*, to_syslog: bool, everything: bool) -> None:
    """Begin to log warnings and what is worse, or ``everything`` of popserv's.

    That goes to standard error, or to syslog.  What anything prints goes there, too.
    """
    observer = SyslogObserver() if to_syslog else textFileLogObserver(sys.stderr)
    lets_through = LogLevelFilterPredicate(LogLevel.warn)
    if everything:
        lets_through.setLogLevelForNamespace("popserv", LogLevel.info)
    globalLogBeginner.beginLoggingTo([FilteringLogObserver(observer, [lets_through])])


def complain(text: str) -> None:
    """Tell a line on standard error, or in syslog if the client would read it there."""
    if is_client_stream(2, 0, 1) and not os.isatty(2):
        SyslogObserver()({"log_level": LogLevel.error, "log_format": "{text}", "text": text})
    else:
        print(f"popserv session: {text}", file=sys.stderr)
