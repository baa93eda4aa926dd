"""Where the log goes and in which form, from the options of twistd and ``--log-format``."""

from __future__ import annotations

import os
import sys
from typing import Any, ClassVar

from twisted.logger import ILogObserver
from twisted.python import usage

from popserv.listening.listeners import CannotStart
from popserv.logs.formats import FORMATS, TEXT
from popserv.options.values import one_of
from popserv.reloading.log_file import LogFile
from popserv.runtime.permissions import reason_of


class LogOptions(usage.Options):
    """The options of a server that are about its log."""

    optParameters: ClassVar[list[list[str | None]]] = [
        [
            "log-format",
            None,
            TEXT,
            "The form of the log: text; json, with an object in each line; or journald, which "
            "sends it to the systemd journal instead of the file or standard output. The default "
            f"is {TEXT}.",
        ],
    ]

    def check_log_format(self) -> None:
        """Check ``--log-format``.

        :raises UsageError: it is unknown, or twistd's own options choose another form.
        """
        one_of(FORMATS, "log-format", self["log-format"])
        for name in ("syslog", "logger"):
            if self["log-format"] != TEXT and self.parent is not None and self.parent.get(name):
                raise usage.UsageError(
                    f"--log-format {self['log-format']} cannot be combined with twistd's --{name}; "
                    "remove one of them"
                )

    def open_log_file(self) -> LogFile | None:
        """Open the file that twistd's options name for the log.

        Return None if there is no such file: the log goes to standard output, to syslog or to
        ``--logger``.

        :raises CannotStart: the file cannot be opened.
        """
        twistd: Any = self.parent
        name = self._log_name()
        if name in ("", "-"):
            return None
        try:
            return LogFile(name, twistd["chroot"], FORMATS[self["log-format"]])
        except OSError as error:
            raise CannotStart(
                f"popserv: --logfile {os.path.abspath(name)} cannot be opened: {reason_of(error)}"
            ) from None

    def standard_output(self) -> ILogObserver | None:
        """Return an observer for standard output, if twistd's options send the log there."""
        twistd: Any = self.parent
        # twistd itself rejects it for a daemon.
        is_chosen = self._log_name() == "-" and twistd["nodaemon"]
        return FORMATS[self["log-format"]](sys.stdout) if is_chosen else None

    def _log_name(self) -> str:
        """Return the log file in twistd's options: ``-``, or empty if the log goes elsewhere."""
        twistd: Any = self.parent
        if twistd is None or twistd["logger"] or twistd["syslog"]:
            return ""
        in_foreground = twistd["nodaemon"] or twistd["debug"]
        return twistd["logfile"] or ("-" if in_foreground else "twistd.log")
