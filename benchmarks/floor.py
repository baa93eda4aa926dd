"""Measure the lower bound of a POP3 server on Twisted: ``python floor.py PORT ROOT``.

A LineReceiver that makes the system calls of a login and of a RETR, writes one line to
Twisted's log per session, and does nothing else.  It has no users, no authentication, no
limits and no timers, checks nothing, caches all listings, and fails on unusual input.
"""

import fcntl
import os
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver
from twisted.protocols.basic import LineReceiver

from popserv.transports.output import write_now

log = Logger()
maildrops = {}


class Maildrop:
    """The paths of a user's messages, and the listings, which are made once."""

    def __init__(self, maildir):
        self.paths = [os.fsencode(path) for path in sorted(Path(maildir, "cur").iterdir())]
        octets = [len(text) + text.count(b"\n") for text in map(_read, self.paths)]
        self.drop_listing = b"+OK %d %d\r\n" % (len(octets), sum(octets))
        self.scan_listing = _listing(octets)
        self.unique_ids = _listing(range(len(octets)))


class Floor(LineReceiver):
    """One connection."""

    delimiter = b"\n"
    root = ""

    def connectionMade(self):
        """Send the greeting."""
        self.transport.setTcpNoDelay(True)
        write_now(self.transport, b"+OK POP3 server ready\r\n")

    def lineReceived(self, line):
        """Send the reply to a command line."""
        write_now(self.transport, self.reply(*line.split()))

    def reply(self, keyword, argument=b"", *_):
        """Return the reply to a command."""
        if keyword == b"USER":
            self.name = argument.decode("ascii")
        elif keyword == b"PASS":
            self.open()
        elif keyword == b"STAT":
            return self.maildrop.drop_listing
        elif keyword == b"LIST":
            return self.maildrop.scan_listing
        elif keyword == b"UIDL":
            return self.maildrop.unique_ids
        elif keyword in (b"RETR", b"TOP"):
            text = _read(self.maildrop.paths[int(argument) - 1])
            if keyword == b"TOP":
                text = text[: text.index(b"\n\n") + 2]
            text = text.replace(b"\n", b"\r\n")
            return b"+OK\r\n%b.\r\n" % text.replace(b"\n.", b"\n..")
        elif keyword == b"QUIT":
            os.close(self.maildir)
            log.info(
                "{peer}: session of {name} ended", peer=self.transport.getPeer(), name=self.name
            )
            self.transport.loseConnection()
        return b"+OK\r\n"

    def open(self):
        """Lock the maildrop and stat its directories, as a check for changes does."""
        os.stat(f"{self.root}/.users")
        self.maildir = os.open(f"{self.root}/{self.name}", os.O_RDONLY)
        fcntl.flock(self.maildir, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for folder in ("new", "cur"):
            fd = os.open(folder, os.O_RDONLY, dir_fd=self.maildir)
            os.fstat(fd)
            os.close(fd)
        if self.name not in maildrops:
            maildrops[self.name] = Maildrop(f"{self.root}/{self.name}")
        self.maildrop = maildrops[self.name]


def _read(path):
    fd = os.open(path, os.O_RDONLY)
    text = os.read(fd, os.fstat(fd).st_size)
    os.close(fd)
    return text


def _listing(values):
    lines = (b"%d %d\r\n" % each for each in enumerate(values, 1))
    return b"+OK\r\n%b.\r\n" % b"".join(lines)


def main(port, root):
    """Serve until the process receives a signal."""
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    Floor.root = root
    factory = ServerFactory.forProtocol(Floor)
    factory.noisy = False
    reactor.listenTCP(int(port), factory, backlog=1024, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
