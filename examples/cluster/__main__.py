"""Run popserv as a cluster on this machine: ``python -m examples.cluster [--small]``.

It starts a PostgreSQL primary with a synchronous standby, an S3 server, three front ends and
HAProxy, delivers sample messages, and prints how to read them and how to stop parts of it.  With
``--small``, it is one PostgreSQL server, a directory as object store, and one front end.  All
processes end with this one.

The passwords are public, and all ports are on the loopback interface.
"""

import argparse
import runpy
import shutil
import signal
import smtplib
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from examples.cluster.cluster import PASSWORD, USERS, Cluster, SmallCluster
from examples.cluster.processes import HOST, PROGRAMS, ClusterError

SAMPLES = Path(__file__).parents[1] / "sample_maildrop.py"

READER = USERS[-1]
"""The user who gets the sample messages."""


def describe(cluster):
    """Return how to use a cluster."""
    popserv, file = PROGRAMS / "popserv", cluster.file
    return f"""
Users {", ".join(USERS)}, password {PASSWORD}; {READER} has messages.

read:     curl --user {READER}:{PASSWORD} pop3://{HOST}:{cluster.entry.port}/1
deliver:  echo hello | {popserv} deliver --create --store sql:{file} {USERS[0]}
          or by LMTP to port {cluster.entry.lmtp_port}
sessions: {popserv} who --store sql:{file}
servers:  {popserv} status --store sql:{file}
log:      {cluster.front_ends[0].log}
files:    {cluster.directory}
{describe_failures(cluster) if len(cluster.processes) > 2 else ""}
Ctrl-C stops everything."""


def describe_failures(cluster):
    """Return how parts can be killed, and what is seen then."""
    _primary, standby = cluster.databases
    psql = f"{standby.program('psql')} -d '{standby.conninfo}'"
    parts = "\n".join(f"  kill -9 {each.pid:<8} {each.name}" for each in cluster.processes)
    return f"""
Kill parts of it, or suspend them by kill -STOP and kill -CONT:
{parts}

a front end   Its connections break; the next ones go to the others.  A maildrop that was open
              there is locked, -ERR [IN-USE], for 30 seconds at most.
objects       Messages over 8 KiB can be neither read nor delivered: -ERR [SYS/TEMP], and 451 by
              LMTP.  All others can.
the standby   Nothing can be delivered or removed: 451, and -ERR to QUIT, after 10 seconds.  Mail
              can be read.
the primary   Nothing works, -ERR [SYS/TEMP] after 10 seconds, until the standby takes over:
                {psql} -c "SELECT pg_promote()"
              All mail is there.
"""


def main(arguments):
    """Run a cluster until it is interrupted; return the exit status."""
    parser = argparse.ArgumentParser(prog="make cluster", description=__doc__.partition(":")[0])
    parser.add_argument("--small", action="store_true", help="one database, and one front end")
    parser.add_argument("--port", type=int, default=1110, help="the port for POP3")
    parser.add_argument("--lmtp-port", type=int, default=1024, help="the port for LMTP")
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with ExitStack() as ending:
            parent = Path(tempfile.mkdtemp(prefix="popserv-cluster-"))
            ending.callback(shutil.rmtree, parent)
            # PostgreSQL runs as another user if this one is root.
            parent.chmod(0o755)
            make = SmallCluster if options.small else Cluster
            cluster = make(
                parent / "cluster",
                port=options.port,
                lmtp_port=options.lmtp_port,
                show=lambda text: print(text, flush=True),
            )
            ending.callback(cluster.stop)
            cluster.start()
            # What is started must be stopped, however often Ctrl-C is pressed.
            ending.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
            print("delivering messages", flush=True)
            cluster.deliver(READER, runpy.run_path(str(SAMPLES))["messages"]())
            print(describe(cluster), flush=True)
            while True:
                signal.pause()
    except (ClusterError, smtplib.SMTPException) as error:
        print(f"make cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped")
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
