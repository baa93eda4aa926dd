"""Fetch new mail into a directory: ``python fetch_mail.py HOST PORT USER DIRECTORY``.

This small mail program is an example of what popserv.testing can test; test_fetch_mail.py and
test_fetch_mail_pytest.py are its tests.  It leaves mail on the server.  Each message becomes a
file, whose name is the unique-id, so that it is fetched once.
"""

import os
import poplib
import ssl
import sys
from contextlib import suppress
from getpass import getpass
from pathlib import Path
from urllib.parse import quote


class FetchError(Exception):
    """Not all mail was fetched; the text says why."""


def fetch(host, port, user, password, directory, *, context=None, timeout=30):
    """Fetch the messages that are not in ``directory`` yet; return the paths of their files.

    ``context`` is an SSL context for a port with TLS.

    :raises FetchError: the server has refused something, or the connection has failed.
    """
    try:
        if context is None:
            server = poplib.POP3(host, port, timeout)
        else:
            server = poplib.POP3_SSL(host, port, timeout=timeout, context=context)
        try:
            server.user(user)
            server.pass_(password)
            fetched = fetch_new(server, Path(directory))
            server.quit()
        finally:
            with suppress(OSError):
                server.close()
    except poplib.error_proto as error:
        raise FetchError(f"{host}: {error.args[0]!r}") from error
    except OSError as error:
        raise FetchError(f"{host}: {error}") from error
    return fetched


def fetch_new(server, directory):
    """Fetch the new messages of a session; return the paths of their files."""
    fetched = []
    for line in server.uidl()[1]:
        number, uid = line.split()
        path = directory / quote(uid, safe="")
        if not path.exists():
            lines = server.retr(int(number))[1]
            # A file with the final name is a whole message, even after an error or a crash.
            incomplete = path.with_name(f".{path.name}.incomplete")
            incomplete.write_bytes(b"".join(line + b"\n" for line in lines))
            os.replace(incomplete, path)
            fetched.append(path)
    return fetched


def main(arguments):
    """Fetch mail over TLS; return the exit code, or the error."""
    if len(arguments) != 4 or not arguments[1].isdecimal():
        return "usage: fetch_mail.py HOST PORT USER DIRECTORY"
    host, port, user, directory = arguments
    context = ssl.create_default_context()
    try:
        fetched = fetch(host, int(port), user, getpass(), directory, context=context)
    except FetchError as error:
        return str(error)
    print(f"{len(fetched)} new")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
