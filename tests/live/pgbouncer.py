"""A pgbouncer before the PostgreSQL server that tests share."""

import atexit
import os
import pwd
import subprocess
from functools import cache

from tests.live.harness import TIMEOUT, temporary_directory, until
from tests.live.postgresql import shared_server

CONFIGURATION = """\
[databases]
* = host={server}
[pgbouncer]
listen_port = 6432
listen_addr =
unix_socket_dir = {directory}
auth_type = trust
auth_file = {directory}/users
pool_mode = transaction
default_pool_size = 3
"""


@cache
def pgbouncer():
    """Return the connection parameters of a pgbouncer that passes transactions to any session.

    It is started once.
    """
    directory = temporary_directory()
    configuration = directory / "pgbouncer.ini"
    server = shared_server().directory
    configuration.write_text(CONFIGURATION.format(server=server, directory=directory))
    (directory / "users").write_text('"mail" ""\n')
    as_user = {}
    if os.geteuid() == 0:
        # It does not run as root.
        user = pwd.getpwnam("postgres")
        os.chown(directory, user.pw_uid, user.pw_gid)
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["pgbouncer", configuration],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **as_user,
        )

    def stop():
        process.terminate()
        process.wait(TIMEOUT)

    atexit.register(stop)
    until((directory / ".s.PGSQL.6432").exists, "pgbouncer")
    return {"host": str(directory), "port": "6432"}
