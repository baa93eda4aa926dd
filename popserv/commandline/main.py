"""The ``popserv`` command.

``popserv deliver`` has to say that mail is to be kept even if nothing else can be imported, as
while popserv is being upgraded: mail transfer agents return mail to its sender if the exit code is
that of a traceback.  So this module imports only what Python has imported before it.
"""

import os
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code; see :func:`popserv.commandline.parsing.run`.

    The default arguments are those of the process.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["deliver"]:
        return _deliver(arguments)
    from popserv.commandline.output import run_printing  # noqa: PLC0415
    from popserv.commandline.parsing import run  # noqa: PLC0415

    return run_printing(run, arguments)


def _deliver(arguments: list[str]) -> int:
    """Deliver a message; after any unexpected error, have the mail transfer agent keep it."""
    try:
        from popserv.commandline.parsing import parse  # noqa: PLC0415

        options = parse(arguments)
        return int(options.run(options))
    except (Exception, KeyboardInterrupt) as error:
        _report(error)
        return os.EX_TEMPFAIL


def _report(error: BaseException) -> None:
    """Say why a delivery has failed, as far as that is possible."""
    try:
        # What is printed may be sent to whoever has sent the message.
        print("4.3.0 temporary failure", file=sys.stderr)
        import syslog  # noqa: PLC0415

        syslog.openlog("popserv", syslog.LOG_PID, syslog.LOG_MAIL)
        syslog.syslog(syslog.LOG_WARNING, f"message not delivered: {error!r}")
    except Exception:
        # The exit code alone has to tell it.
        return
