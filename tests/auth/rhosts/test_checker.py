"""The checker of RPOP: how its file is read, which hosts an entry is about, who gets in."""

import os
import re
import socket
import subprocess
import threading
from ipaddress import ip_network
from pathlib import Path
from unittest import SkipTest

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from popserv.auth import precis
from popserv.auth.credentials import RemoteUserCredentials
from popserv.auth.rhosts import checker as rhosts
from popserv.auth.rhosts import file as rhosts_file
from popserv.auth.rhosts import resolver as host_names
from popserv.auth.rhosts.checker import LOOKUP_SECONDS, RhostsChecker
from popserv.auth.rhosts.file import (
    RhostsFile,
    RhostsFileError,
    parse,
)
from popserv.auth.rhosts.resolver import HostNames, address_of
from popserv.core.session import client_is_connected
from popserv.errors import TryLater
from popserv.interfaces import ICredentialsSupport, IRemoteUserCredentials
from popserv.maildrops.maildir.layout import Layout
from tests.auth.passwords.test_users_file import UsersFileCase

COMPOSED, DECOMPOSED = "jos\xe9".encode(), "jose\u0301".encode()


def fullwidth(text):
    """Return ASCII in the other letters that Unicode has for it."""
    return "".join(chr(ord(each) + 0xFEE0) for each in text).encode()


FULLWIDTH = fullwidth("ann")

SPELT = {DECOMPOSED: COMPOSED, FULLWIDTH: b"ann"}
"""What RFC 8265 makes of names that it changes."""

CLIENTS = ("192.0.2.7", "::ffff:192.0.2.7", "192.0.2.8", "2001:db8::7", "fe80::1", "fe80::1%eth0")

DNS = {
    "seven.example": ["192.0.2.7", "2001:db8::7"],
    "mapped.example": ["::ffff:192.0.2.8"],
    "near.example": ["fe80::1%eth0"],
    "none.example": None,
}
"""What names are looked up to; None is nothing."""

HOSTS = {
    b"192.0.2.7": "192.0.2.7 ::ffff:192.0.2.7",
    b"::FFFF:192.0.2.7": "192.0.2.7 ::ffff:192.0.2.7",
    b"192.0.2.6/31": "192.0.2.7 ::ffff:192.0.2.7",
    b"::ffff:c000:208/125": "192.0.2.8",
    b"0.0.0.0/0": "192.0.2.7 ::ffff:192.0.2.7 192.0.2.8",
    b"::ffff:0:0/96": "192.0.2.7 ::ffff:192.0.2.7 192.0.2.8",
    b"::/0": "2001:db8::7 fe80::1 fe80::1%eth0",
    b"::/64": "",
    b"2001:DB8::/32": "2001:db8::7",
    b"fe80::1": "fe80::1 fe80::1%eth0",
    b"seven.example": "192.0.2.7 ::ffff:192.0.2.7 2001:db8::7",
    b"Seven.Example": "192.0.2.7 ::ffff:192.0.2.7 2001:db8::7",
    b"mapped.example": "192.0.2.8",
    b"near.example": "fe80::1 fe80::1%eth0",
    b"none.example": None,
}
"""The clients that a first column is about; None: nobody can tell."""

NOT_FOUND = "host names not found"


def oracle(entries, username, remote_user, client):
    """Return whose maildrop the entries open, or None, by the book and with tables for facts."""
    spellings = {username, SPELT.get(username, username)}
    for host, remote, local in entries:
        denies = b"-" in (host[:1], remote[:1])
        if remote.lstrip(b"-") not in (b"+", remote_user):
            continue
        if local == b"+":
            opened = SPELT.get(username, username)
        else:
            opened = remote_user if local == b"=" else local
            others = set() if local == b"=" else {SPELT.get(local, local)}
            if not spellings & {opened, *others}:
                continue
        there = HOSTS[host.lstrip(b"-")]
        if denies if there is None else client in there.split():
            return None if denies else opened
    return None


class RhostsCase(UsersFileCase):
    """Has a file, and names that are looked up at once."""

    def setUp(self):
        """Make the file; note what is looked up."""
        super().setUp()
        self.asked = []
        self.patch(host_names, "getaddrinfo", self.getaddrinfo)
        self.clock = Clock()
        self.checker = RhostsChecker(self.path, HostNames(self.run_now, self.clock))

    async def run_now(self, function, *args, still_needed):
        """Stand in for a pool of threads."""
        return function(*args)

    def getaddrinfo(self, host, port, **more):
        """Stand in for the resolver."""
        self.asked.append(host.decode())
        addresses = DNS.get(host.decode().rstrip("."))
        if addresses is None:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(0, 0, 0, "", (each, 0)) for each in addresses]

    def error_of(self, call, *args, **more):
        """Return the text of the RhostsFileError that the call must raise."""
        return str(self.assertRaises(RhostsFileError, call, *args, **more))

    def send_challenge(self, username, remote_user=b"ann", host="192.0.2.7", port=1023):
        """Return what the checker makes of a RPOP."""
        credentials = RemoteUserCredentials(username, remote_user, host, port)
        return self.checker.requestAvatarId(credentials)

    def opened(self, *args, **more):
        """Return whose maildrop it opens, or None if it refuses."""
        outcome = self.send_challenge(*args, **more)
        outcome.addErrback(lambda failure: failure.trap(UnauthorizedLogin) and None)
        return self.successResultOf(outcome)

    def refusal(self, *args, kind=UnauthorizedLogin, **more):
        """Return the reason with which it refuses."""
        return str(self.failureResultOf(self.send_challenge(*args, **more), kind).value)


class ParseTests(SynchronousTestCase):
    """From a file's bytes to entries, or to the number of a bad line."""

    def problem(self, line):
        """Return what is said of a bad line, which is one wherever it stands."""
        for before in (b"", b"# x\r\n\n", b"\xef\xbb\xbf192.0.2.1 + =\n"):
            text = before + line + b"\n192.0.2.1 + ="
            error = self.assertRaises(RhostsFileError, parse, "F", text)
            place, _, said = str(error).partition(": ")
            self.assertEqual(place, f"F, line {len(before.splitlines()) + 1}")
        return said

    def test_entry(self):
        """An entry has its line's number, whether it lets in, a host and two users."""
        text = b"\n192.0.2.7 ann bob\n-Host.Example. + =\n\thost  -ann\t + \n-::1 -+ +"
        self.assertEqual(
            [entry[:5] for entry in parse("F", text)],
            [
                (2, True, ip_network("192.0.2.7"), b"ann", b"bob"),
                (3, False, "host.example.", b"+", b"="),
                (4, False, "host", b"ann", b"+"),
                (5, False, ip_network("::1"), b"+", b"+"),
            ],
        )

    def test_passed_over(self):
        """Comments, blank lines, CRLF, a BOM and no end of the last line are no matter."""
        for text in (b"", b"\n", b"\xef\xbb\xbf", b"#", b" \t\r\n  # x y z", b"#\r#\n", b"#\xff\0"):
            self.assertEqual(parse("F", text), ())
        plain = parse("F", b"h a b")
        for text in (b"\xef\xbb\xbfh a b", b" h a b\r\n", b"h a b # c # d e\n", b"h a b\t#c\r\n"):
            self.assertEqual(parse("F", text), plain)

    def test_hash_in_a_word(self):
        """A # that stands in a word is none of a comment."""
        self.assertEqual(parse("F", b"h a#1 b#2 #c")[0][3:5], (b"a#1", b"b#2"))

    def test_any_name(self):
        """Names are octets in any encoding, and as long as they like."""
        for name in (b"\xff\xfe", COMPOSED, b"A" * 100_000, b"a@b", b"a=b", b"a-", b"a+"):
            self.assertEqual(parse("F", b"h %b %b" % (name, name))[0][3:5], (name, name))
        self.assertEqual(parse("F", b"h a/b:#. c")[0].remote, b"a/b:#.")

    def test_columns(self):
        """Another number of columns is an error, which quotes nothing of what may be a secret."""
        for line, has in (
            (b"host", 1),
            (b"host ann", 2),
            (b"host ann bob carl", 4),
            (b"ann:{PLAIN}s3cret", 1),
            (b"host ann #bob", 2),
            (b"host\xc2\xa0ann\xc2\xa0bob", 1),
        ):
            said = self.problem(line)
            self.assertIn(f"must have three columns and has {has}:", said)
            self.assertNotIn("s3cret", said)

    def test_control_characters(self):
        """A control character is an error: CR alone, NUL, and UTF-16, which is full of them."""
        utf16 = "h a b".encode("utf-16")
        for line in (b"h a b\rh a b", b"h a\0 b", b"h a b\x7f", b"h\x0b a b", utf16):
            self.assertIn("control character", self.problem(line))

    def test_every_host(self):
        """+ for the host is refused, with what to write if it is really meant."""
        for line in (b"+ + +", b"+ ann ann", b"-+ + +"):
            self.assertIn("0.0.0.0/0 and for ::/0", self.problem(line))

    def test_netgroups(self):
        """A netgroup is refused, not taken for a name."""
        for host in (b"@lab", b"+@lab", b"-@lab", b"-+@lab"):
            self.assertIn("netgroups are not known", self.problem(host + b" + ="))

    def test_zones(self):
        """A zone is refused, for clients' zones are not known."""
        for host in (b"fe80::1%eth0", b"fe80::%1/64", b"-fe80::1%", b"host%1"):
            self.assertIn("no zone here", self.problem(host + b" + ="))

    def test_no_networks(self):
        """What has a slash is a network in CIDR form, or an error."""
        for host in (
            *(b"192.0.2.0/33", b"192.0.2/24", b"2001:db8::/129", b"192.0.2.0/255.255.255.0"),
            *(b"192.0.2.0/0.0.0.255", b"192.0.2.0/", b"/24", b"host/24", b"192.0.2.0/+24"),
            *(b"192.0.2.0/24/24", b"192.0.2.0/-1", b"[::]/0", b"\xd9\xa1.0.0.0/8", b"/", b"/0"),
        ):
            self.problem(host + b" + =")

    def test_bits_behind_the_prefix(self):
        """A network with bits behind its prefix is refused, with both things that may be meant."""
        for host, network, address in (
            (b"192.0.2.7/24", "192.0.2.0/24", "192.0.2.7"),
            (b"2001:DB8::7/64", "2001:db8::/64", "2001:db8::7"),
            (b"::ffff:192.0.2.7/120", "::ffff:c000:200/120", "::ffff:c000:207"),
            (b"0.0.0.1/0", "0.0.0.0/0", "0.0.0.1"),
        ):
            said = self.problem(host + b" + =")
            # Which Python 3.13 writes otherwise, if it is mapped.
            self.assertIn(str(ip_network(network)), said)
            for right in (network, address):
                self.assertEqual(len(parse("F", right.encode() + b" + =")), 1)

    def test_no_hosts(self):
        """What is neither a name nor an address is refused; numbers are never names."""
        for host in (
            *(b"-", b"--h", b"h_-", b"-h-", b".", b"h..", b".h", b"h:1", b"[::1]", b"h,i", b"*"),
            *(b"192.0.2.256", b"192.0.2", b"3221225991", b"0xc0000207", b"h.0x7f", b"010.0.0.1"),
            *(b"h.7", b"h.7.", b"\xff", "höst".encode(), b"a" * 64, b"a." * 127 + b"a"),
        ):
            self.assertIn("is no host", self.problem(host + b" + ="))

    def test_names_of_hosts(self):
        """Names are of letters, digits, hyphens and underscores, of any case."""
        for host in (b"H", b"h.", b"a-b.C_d", b"xn--hst-sna.example", b"7.h", b"a." * 126 + b"a"):
            self.assertEqual(parse("F", host + b" + =")[0].host, host.decode().lower())

    def test_no_users(self):
        """Users do not begin with a sign, and a local one is one that a users file would take."""
        for users in (b"- a", b"= a", b"-= a", b"--a b", b"-+b b", b"+a b", b"@a b", b"+@a b"):
            self.assertIn("is no user here; name one, or give +", self.problem(b"h " + users))
        for user in (b"-b", b"+b", b"=b", b"@b", b"-", b"++", b"-+"):
            said = self.problem(b"h + " + user)
            self.assertIn("is no user here; name one, or give + or =", said)
        for name in (b".ann", b"../ann", b"a/b", b"a:b", b"/"):
            self.assertIn("is not a valid user name", self.problem(b"h + " + name))

    @settings(deadline=None, database=None)
    @given(st.binary() | st.lists(st.sampled_from([*b"-+=#@/.%:1a \t\r\n\0\xff"])).map(bytes))
    def test_any_bytes(self, text):
        """Whatever the bytes are, they are entries or one error with a line's number."""
        try:
            entries = parse("F", text)
        except RhostsFileError as error:
            number = int(re.match(r"F, line (\d+): .", str(error))[1])
            self.assertLessEqual(number, text.count(b"\n") + 1)
            # What stands above is not to blame.
            parse("F", b"\n".join(text.split(b"\n")[: number - 1]))
        else:
            self.assertLessEqual(len(entries), text.count(b"\n") + 1)

    @settings(deadline=None, database=None)
    @given(st.data(), st.sampled_from([4, 6]))
    def test_networks(self, data, version):
        """A network holds the addresses whose first bits are its own, and no others."""
        bits = 32 if version == 4 else 128
        address = data.draw(st.ip_addresses(v=version))
        prefix = data.draw(st.integers(0, bits))
        differs = data.draw(st.integers(0, (1 << data.draw(st.integers(0, bits))) - 1))
        other = type(address)(int(address) ^ differs)
        # Mapped ones are in the table.
        assume(address_of(str(address)) == address and address_of(str(other)) == other)
        first = type(address)(int(address) >> (bits - prefix) << (bits - prefix))
        entry = parse("F", f"{first}/{prefix} + =".encode())[0]
        holds = int(address) >> (bits - prefix) == int(other) >> (bits - prefix)
        self.assertIs(other in entry.host, holds)


class FileTests(RhostsCase):
    """The file as it is on disk, and as it changes."""

    def test_missing(self):
        """No file is an error, for nobody is let in by a name mistyped."""
        self.assertIn(f"there is no {self.path}", self.error_of(RhostsFile(self.path).read))

    def test_empty(self):
        """An empty file is one, and lets nobody in."""
        self.write(b"")
        self.assertEqual(RhostsFile(self.path).read(), ())
        self.assertIsNone(self.opened(b"ann"))

    def test_writable(self):
        """A file that others can write is refused; the message has the command that mends it."""
        self.path = os.path.join(self.directory, "my hosts")
        for mode in (0o620, 0o602, 0o666, 0o664):
            self.write(b"192.0.2.7 + =", mode)
            error = self.error_of(RhostsFile(self.path).read)
            subprocess.run(error.partition("mend it: ")[2], shell=True, check=True)
            self.assertEqual(self.mode(), mode & 0o755)
            self.assertEqual(len(RhostsFile(self.path).read()), 1)

    def test_readable(self):
        """Everybody may read it."""
        for mode in (0o600, 0o640, 0o644, 0o444, 0o755):
            self.write(b"", mode)
            self.assertEqual(RhostsFile(self.path).read(), ())

    def test_link(self):
        """A link is followed, and what it leads to is judged."""
        self.write(b"192.0.2.7 + =")
        link = os.path.join(self.directory, "link")
        os.symlink(self.path, link)
        file = RhostsFile(link)
        self.assertEqual(len(file.read()), 1)
        os.chmod(self.path, 0o620)
        self.assertIn("chmod go-w", self.error_of(file.read))

    def test_no_file(self):
        """A directory, a FIFO that nobody writes, and a socket are refused at once."""
        fifo, place = (os.path.join(self.directory, name) for name in ("fifo", "socket"))
        os.mkfifo(fifo)
        with socket.socket(socket.AF_UNIX) as bound:
            here = os.open(self.directory, os.O_RDONLY)
            self.addCleanup(os.close, here)
            bound.bind(f"/proc/self/fd/{here}/socket")
            before = len(os.listdir("/proc/self/fd"))
            for path in (place, self.directory):
                self.assertIn("it must be a file", self.error_of(RhostsFile(path).read))
            self.assertIn("is no file", self.error_of(RhostsFile(fifo).read))
            self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_unreadable(self):
        """What cannot be read is refused, with the system's reason."""
        self.patch(rhosts_file, "_open_at_once", self.forbidden)
        self.write(b"")
        error = self.error_of(RhostsFile(self.path).read)
        self.assertIn(f"cannot read {self.path}: Permission denied", error)

    def forbidden(self, path, flags):
        """Stand in for a file of root's."""
        raise PermissionError(13, "Permission denied")

    def test_reread(self):
        """A change is seen at the next login, however it was made; no change costs no reading."""
        self.write(b"192.0.2.7 + =\n")
        file = RhostsFile(self.path)
        first = file.read()
        self.assertIs(file.read(), first)
        with open(self.path, "ab") as appended:
            appended.write(b"192.0.2.8 + =\n")
        self.assertEqual(len(file.read()), 2)
        self.write(b"")
        self.assertEqual(file.read(), ())

    def test_made_writable(self):
        """A file that is opened to others at run time is refused from then on, even at once."""
        file = RhostsFile(self.path)
        for _ in range(50):
            self.write(b"192.0.2.7 + =")
            file.read()
            os.chmod(self.path, 0o620)
            self.assertIn("chmod go-w", self.error_of(file.read))


class CheckerTests(RhostsCase):
    """RhostsChecker.requestAvatarId."""

    def test_interfaces(self):
        """It is a checker of RPOP alone, and knows whether that is any use."""
        verifyObject(ICredentialsChecker, self.checker)
        verifyObject(ICredentialsSupport, self.checker)
        self.assertEqual(self.checker.credentialInterfaces, (IRemoteUserCredentials,))

    @settings(deadline=None, database=None, max_examples=300)
    @given(st.data())
    def test_like_the_oracle(self, data):
        """The first entry that fits decides, and without one nobody gets in."""
        if not precis.is_available():
            raise SkipTest("there is no precis-i18n")
        users = st.sampled_from([b"ann", b"bob", b"Ann", COMPOSED, DECOMPOSED, FULLWIDTH])
        sign = st.sampled_from([b"", b"", b"-"])
        remotes = st.builds(bytes.__add__, sign, users | st.just(b"+"))
        hosts = st.builds(bytes.__add__, sign, st.sampled_from([*HOSTS]))
        locals_ = users | st.sampled_from([b"+", b"="])
        entries = data.draw(st.lists(st.tuples(hosts, remotes, locals_), max_size=6))
        self.write(b"\n".join(map(b" ".join, entries)))
        for _ in range(5):
            asked = [data.draw(each) for each in (users, users, st.sampled_from(CLIENTS))]
            self.assertEqual(self.opened(*asked), oracle(entries, *asked), (entries, asked))

    def test_hosts(self):
        """Each kind of first column is about the clients that it should, and no others."""
        for host, there in HOSTS.items():
            self.write(host + b" + +\n")
            for client in CLIENTS:
                expected = b"ann" if client in (there or "").split() else None
                self.assertEqual(self.opened(b"ann", host=client), expected, (host, client))

    def test_first_match(self):
        """The order decides: what denies behind what lets in denies nobody."""
        for text, opened in (
            (b"192.0.2.7 ann ann\n-192.0.2.7 + +", b"ann"),
            (b"-192.0.2.7 + +\n192.0.2.7 ann ann", None),
            (b"192.0.2.0/24 -ann +\n192.0.2.7 + +", None),
            (b"192.0.2.0/24 -bob +\n192.0.2.7 + +", b"ann"),
            (b"-192.0.2.7 bob +\n192.0.2.7 + +", b"ann"),
            (b"-192.0.2.7 -ann +\n192.0.2.7 + +", None),
            (b"-192.0.2.8 + +\n192.0.2.7 + =", b"ann"),
        ):
            self.write(text)
            self.assertEqual(self.opened(b"ann"), opened, text)

    def test_port(self):
        """Only a reserved port is believed, whatever the caller has checked (RFC 1225, RPOP)."""
        self.write(b"0.0.0.0/0 + +")
        for port in (1, 110, 512, 1023):
            self.assertEqual(self.opened(b"ann", port=port), b"ann")
        for port in (0, -1, 1024, 1025, 65535, 1 << 32):
            self.assertIn("port is not reserved", self.refusal(b"ann", port=port))

    def test_no_address(self):
        """What is no address of a client is no host at all."""
        self.write(b"0.0.0.0/0 + +\n::/0 + +\nseven.example + +\n-none.example + +")
        for host in (None, "", "seven.example", "/run/pop3.sock", 0, b"\x7f\0\0\1", "1.2.3", "::%"):
            self.assertIn("no IP address", self.refusal(b"ann", host=host), host)
        self.assertEqual(self.asked, [])

    def test_names(self):
        """What no users file would take opens nothing, though the file says everybody."""
        self.write(b"0.0.0.0/0 + +\n0.0.0.0/0 + =")
        names = [
            b"",
            b".",
            b"..",
            b".users",
            b"../ann",
            b"a/b",
            b"a\0",
            b"/",
            b"a b",
            b"a:b",
            b"#a",
        ]
        for name in [*names, *map(fullwidth, ("/", "a/b", "..", ":"))]:
            self.assertIn("not a valid user name", self.refusal(name, name), name)
        for name in (
            b"ann",
            b"a@example.org",
            b"-",
            b"+",
            b"=",
            b"-a",
            b"\xff",
            b"%u",
            b"a..",
            b"\\",
        ):
            self.assertEqual(self.opened(name, b"x"), name)

    @settings(deadline=None, database=None)
    @given(st.binary(max_size=9) | st.text("./:@a\0\u2024\uff0e\uff0f", max_size=9).map(str.encode))
    def test_no_way_out(self, name):
        """What is opened for any name at all is no path to anywhere but below the root."""
        self.write(b"0.0.0.0/0 x +\n0.0.0.0/0 + =\n")
        for remote in (b"x", name):
            opened = self.opened(name, remote)
            if opened is not None:
                for template in ("/r", "/r/%d/%n"):
                    try:
                        parts = Layout(template).place(opened)
                    except ValueError:
                        continue
                    for part in parts:
                        self.assertNotIn(part[:1], (b"", b"."))
                        self.assertNotIn(b"/", part)

    def test_spelling(self):
        """A user has one maildrop in all spellings: the file's, or RFC 8265's if it has none."""
        if not precis.is_available():
            raise SkipTest("there is no precis-i18n")
        for local, remote, name, opened in (
            (COMPOSED, b"x", DECOMPOSED, COMPOSED),
            (DECOMPOSED, b"x", DECOMPOSED, DECOMPOSED),
            (DECOMPOSED, b"x", COMPOSED, DECOMPOSED),
            (b"+", b"x", DECOMPOSED, COMPOSED),
            (b"=", COMPOSED, DECOMPOSED, COMPOSED),
            (b"=", DECOMPOSED, DECOMPOSED, DECOMPOSED),
            (b"=", DECOMPOSED, COMPOSED, None),
            (b"=", FULLWIDTH, b"ann", None),
            (b"ann", b"x", FULLWIDTH, b"ann"),
            (b"ann", b"x", b"Ann", None),
        ):
            self.write(b"192.0.2.7 + " + local)
            self.assertEqual(self.opened(name, remote), opened, (local, remote, name))
            self.write(b"-192.0.2.7 + %b\n192.0.2.7 + +" % local)
            self.assertIs(self.opened(name, remote) is None, opened is not None)

    def test_without_preparing(self):
        """Without precis-i18n names are octets."""
        self.patch(precis, "_profile", lambda name: None)
        self.write(b"192.0.2.7 + %b\n192.0.2.8 + +" % COMPOSED)
        self.assertEqual(self.opened(COMPOSED), COMPOSED)
        self.assertIsNone(self.opened(DECOMPOSED))
        self.assertEqual(self.opened(DECOMPOSED, host="192.0.2.8"), DECOMPOSED)

    def test_remote_user(self):
        """Remote users are octets: what their host takes for another is another."""
        self.write(b"192.0.2.7 %b ann\n192.0.2.8 + ann\n192.0.2.9 ann ann" % COMPOSED)
        self.assertEqual(self.opened(b"ann", COMPOSED), b"ann")
        for remote in (DECOMPOSED, COMPOSED + b" ", b"", b"+", b"="):
            self.assertIsNone(self.opened(b"ann", remote))
            self.assertEqual(self.opened(b"ann", remote, "192.0.2.8"), b"ann")
            self.assertIsNone(self.opened(b"ann", remote, "192.0.2.9"))

    def test_reasons(self):
        """The reason, which is for the log, holds nothing that the client said."""
        self.write(b"#\n-192.0.2.7 bad ann\nnone.example + ann\n-gone.example + ann")
        for remote, host, reason in (
            (b"bad", "192.0.2.7", "line 2 denies it"),
            (b"x", "192.0.2.8", f"line 4 denies it; {NOT_FOUND}: 2, the first none.example"),
        ):
            self.assertEqual(self.refusal(b"ann", remote, host), reason)
        self.assertEqual(self.refusal(b"bob", b"s3cret"), "no entry lets it in")


class ChangingTests(RhostsCase):
    """A checker that lives on while its file changes, or falls into disorder."""

    def test_reread(self):
        """An entry taken out, and one put in, count from the next login."""
        self.write(b"192.0.2.7 ann ann")
        self.assertEqual(self.opened(b"ann"), b"ann")
        self.write(b"192.0.2.7 ann bob")
        self.assertIsNone(self.opened(b"ann"))
        self.assertEqual(self.opened(b"bob"), b"bob")

    def test_disorder(self):
        """A file that is bad, unsafe or gone lets nobody in, logged once, until it is mended."""
        good = b"192.0.2.7 + +"
        for spoil, said in (
            (lambda: self.write(good + b"\nx"), f"{self.path}, line 2: must have three columns"),
            (lambda: os.chmod(self.path, 0o622), "chmod go-w"),
            (lambda: os.unlink(self.path), f"there is no {self.path}"),
        ):
            self.write(good)
            self.assertEqual(self.opened(b"ann"), b"ann")
            for _ in range(2):
                self.events.clear()
                spoil()
                for _ in range(3):
                    failure = self.failureResultOf(self.send_challenge(b"ann"), TryLater)
                    self.assertNotIn(self.path, str(failure.value))
                    self.assertIn(said, str(failure.value.__cause__))
                    self.assertTrue(self.checker.supports(IRemoteUserCredentials))
                self.assertEqual([event["log_level"].name for event in self.events], ["critical"])
                self.assertIn(said, self.logged())
                self.write(good)
                self.assertEqual(self.opened(b"ann"), b"ann")

    def test_strangers_read_nothing(self):
        """Who has no reserved port, or no name, does not learn that the file is in disorder."""
        for more in ({"port": 1024}, {"username": b"/"}, {"host": ""}):
            self.refusal(**{"username": b"ann", **more})
        self.assertEqual(self.events, [])

    def test_offers(self):
        """RPOP can succeed while some entry lets in."""
        for text, offered in (
            (b"", False),
            (b"-192.0.2.7 + +\n192.0.2.7 -ann +", False),
            (b"-192.0.2.7 + +\nnone.example ann ann", True),
        ):
            self.write(text)
            self.assertIs(self.checker.supports(IRemoteUserCredentials), offered)
            self.assertFalse(self.checker.supports(IUsernamePassword))
        self.assertEqual(self.asked, [])

    def test_warning(self):
        """The log says how many entries let in, and whom they trust, when that has changed."""
        for text, said in (
            (b"192.0.2.7 + +\n-192.0.2.8 + +\n192.0.2.0/24 ann =", "password: 2; whoever is root"),
            (b"192.0.2.7 + +", "password: 1; whoever is root"),
            (b"-192.0.2.7 + +", "no entry"),
            (b"", "no entry"),
        ):
            self.events.clear()
            self.write(text)
            for _ in range(3):
                self.opened(b"ann")
                self.write(text)
            self.assertEqual([event["log_level"].name for event in self.events], ["warn"])
            self.assertIn(said, self.logged())


class AtStartTests(RhostsCase):
    """RhostsChecker.at_start."""

    def test_in_order(self):
        """With a file in order there is a checker, and a warning, once."""
        self.write(b"192.0.2.7 + +")
        self.checker = RhostsChecker.from_file(self.path)
        self.assertEqual(self.opened(b"ann"), b"ann")
        self.assertEqual([event["log_level"].name for event in self.events], ["warn"])

    def test_in_disorder(self):
        """Without a file in order the server does not start, and nothing is logged."""
        self.assertIn("there is no", self.error_of(RhostsChecker.from_file, self.path))
        self.assertIn("no name; give it as", self.error_of(RhostsChecker.from_file, ""))
        self.write(b"192.0.2.7 + +\n\nnonsense")
        self.assertIn("line 3: ", self.error_of(RhostsChecker.from_file, self.path))
        self.write(b"192.0.2.7 + +", 0o664)
        self.assertIn("chmod go-w", self.error_of(RhostsChecker.from_file, self.path))
        self.assertEqual(self.events, [])


class HostNamesTests(RhostsCase):
    """When names are looked up, and what becomes of those that are not found."""

    def setUp(self):
        """Hold back what is looked up."""
        super().setUp()
        self.held = []

    def hold(self, function, *args, still_needed):
        """Stand in for a pool of threads that are busy."""
        self.held.append((Deferred(), still_needed, *args))
        return self.held[-1][0]

    def slow(self, text):
        """Write the file, and have a checker whose lookups are held back."""
        self.write(text)
        self.checker = RhostsChecker(self.path, HostNames(self.hold, self.clock))

    def test_only_when_needed(self):
        """A name is looked up when its entry is the next that may fit, once for a login."""
        for text, asked in (
            (b"192.0.2.7 + +\nseven.example + +", []),
            (b"192.0.2.8 + +\nseven.example + +\nmapped.example + +", ["seven.example"]),
            (b"seven.example bob +\nseven.example + bob\nseven.example -bob +", []),
            (b"mapped.example + +\n-mapped.example + +\nB. + +", ["mapped.example", "b."]),
        ):
            self.asked.clear()
            self.write(text)
            self.opened(b"ann")
            self.assertEqual(self.asked, asked, text)

    def test_not_found(self):
        """A name that is not found is nobody where an entry lets in, everybody where it denies."""
        for text, opened in (
            (b"none.example + +\n192.0.2.7 + +", b"ann"),
            (b"-none.example + +\n192.0.2.7 + +", None),
            (b"none.example -ann +\n192.0.2.7 + +", None),
            (b"none.example -bob +\n192.0.2.7 + +", b"ann"),
            (b"none.example + +", None),
        ):
            self.write(text)
            self.assertEqual(self.opened(b"ann"), opened, text)

    def test_slow(self):
        """A login waits ten seconds for names, for all together; none is looked up after that."""
        self.slow(b"".join(b"%b.example + +\n" % name for name in (b"a", b"b", b"c")))
        outcome = self.send_challenge(b"ann")
        self.clock.advance(LOOKUP_SECONDS * 0.75)
        self.held[0][0].callback(frozenset())
        self.assertEqual(len(self.held), 2)
        self.clock.advance(LOOKUP_SECONDS * 0.24)
        self.assertNoResult(outcome)
        self.clock.advance(LOOKUP_SECONDS * 0.02)
        reason = str(self.failureResultOf(outcome, UnauthorizedLogin).value)
        self.assertEqual(reason, f"no entry lets it in; {NOT_FOUND}: 2, the first b.example")
        self.assertEqual(len(self.held), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_slow_denial(self):
        """A name that denies and is not found in time denies, though an address would let in."""
        self.slow(b"a.example + +\n-b.example + +\n192.0.2.7 + +")
        outcome = self.send_challenge(b"ann")
        self.clock.advance(LOOKUP_SECONDS)
        self.assertIn("line 2 denies it", str(self.failureResultOf(outcome).value))
        self.assertEqual(len(self.held), 1)
        self.slow(b"a.example + +\n192.0.2.7 + +")
        outcome = self.send_challenge(b"ann")
        self.clock.advance(LOOKUP_SECONDS)
        self.assertEqual(self.successResultOf(outcome), b"ann")

    def test_at_once(self):
        """Many who wait for one name are answered by one lookup, each with its own time."""
        self.slow(b"a.example + +")
        outcomes = [self.send_challenge(b"ann"), self.send_challenge(b"bob", host="192.0.2.8")]
        self.clock.advance(LOOKUP_SECONDS / 2)
        outcomes.append(self.send_challenge(b"carl"))
        self.assertEqual([args for _, _, *args in self.held], [["a.example"]])
        self.clock.advance(LOOKUP_SECONDS / 2)
        for outcome in outcomes[:2]:
            self.failureResultOf(outcome, UnauthorizedLogin)
        self.held[0][0].callback(frozenset({address_of("192.0.2.7")}))
        self.assertEqual(self.successResultOf(outcomes[2]), b"carl")
        self.send_challenge(b"ann")
        self.assertEqual(len(self.held), 2)

    def test_wanted(self):
        """A lookup is wanted as long as one of those who asked is still there."""
        self.slow(b"a.example + +")
        there = [True, True]
        for each in range(2):
            token = client_is_connected.set(lambda each=each: there[each])
            self.addCleanup(self.send_challenge(b"ann").addErrback, lambda _: None)
            client_is_connected.reset(token)
        wanted = self.held[0][1]
        for there[:], expected in (
            ([True, False], True),
            ([False, True], True),
            ([False, False], False),
        ):
            self.assertIs(wanted(), expected)

    def test_busy(self):
        """Threads that take no more are a TryLater for all who wait, and the next may ask again."""
        self.slow(b"a.example + +")
        outcomes = [self.send_challenge(b"ann"), self.send_challenge(b"bob")]
        self.held[0][0].errback(TryLater("busy"))
        for outcome in outcomes:
            self.failureResultOf(outcome, TryLater)
        self.assertNoResult(self.send_challenge(b"ann"))
        self.assertEqual(len(self.held), 2)
        self.held[1][0].callback(frozenset({address_of("192.0.2.7")}))

    def test_full(self):
        """A pool that is full at once is a TryLater."""

        def full(function, *args, still_needed):
            raise TryLater

        self.write(b"a.example + +")
        self.checker = RhostsChecker(self.path, HostNames(full, self.clock))
        for _ in range(2):
            self.refusal(b"ann", kind=TryLater)


class RealNamesTests(UsersFileCase, TestCase):
    """The checker on its own pool of threads, and with the system's resolver."""

    def checker(self, text):
        """Return a checker of such a file."""
        self.write(text)
        return RhostsChecker(self.path)

    async def test_localhost(self):
        """A name of this machine is looked up in a thread that is not the reactor's."""
        where = []

        def getaddrinfo(*args, **more):
            where.append(threading.current_thread().name)
            return socket.getaddrinfo(*args, **more)

        self.patch(host_names, "getaddrinfo", getaddrinfo)
        checker = self.checker(b"LocalHost ann ann")
        for host, right in (("127.0.0.1", True), ("::ffff:127.0.0.1", True), ("192.0.2.7", False)):
            credentials = RemoteUserCredentials(b"ann", b"ann", host, 1023)
            try:
                self.assertEqual(await checker.requestAvatarId(credentials), b"ann")
            except UnauthorizedLogin:
                self.assertFalse(right)
            else:
                self.assertTrue(right)
        self.assertEqual(["popserv-rhosts" in name for name in where], [True] * 3)

    async def test_not_found(self):
        """A name that cannot be (RFC 6761 section 6.4) is not found."""
        checker = self.checker(b"nothing.invalid ann ann")
        credentials = RemoteUserCredentials(b"ann", b"ann", "127.0.0.1", 1023)
        with self.assertRaisesRegex(UnauthorizedLogin, "1, the first nothing.invalid"):
            await checker.requestAvatarId(credentials)

    async def test_gone(self):
        """A name whose client has gone before a thread was free is not looked up."""
        self.patch(host_names, "getaddrinfo", lambda *_, **__: self.fail("looked up"))
        checker = self.checker(b"localhost ann ann")
        token = client_is_connected.set(lambda: False)
        try:
            with self.assertRaises(TryLater):
                await checker.requestAvatarId(RemoteUserCredentials(b"ann", b"ann", "::1", 1023))
        finally:
            client_is_connected.reset(token)


DOCS = Path(__file__).parents[3] / "docs"
TEXT = "".join(
    (DOCS / page).read_text("utf-8") for page in ("howto/rhosts.rst", "reference/rhosts-file.rst")
)


def block(name):
    """Return the text of a code block of rhosts.rst or rhosts-file.rst."""
    found = re.search(rf"\n   :name: {name}\n((?:\n|   .*\n)+)", TEXT)
    return re.sub("(?m)^   ", "", found[1])


class DocumentationTests(RhostsCase):
    """What rhosts.rst and rhosts-file.rst show is so."""

    def test_example(self):
        """The example does what its comments say."""
        self.patch(host_names, "getaddrinfo", self.hub)
        self.write(block("rhosts").encode())
        self.checker = RhostsChecker(self.path, HostNames(self.run_now, self.clock))
        for name, remote, host, right in (
            (b"ann", b"ann", "192.0.2.1", False),
            (b"ann", b"ann", "192.0.2.7", True),
            (b"ann", b"ann", "2001:db8:1::7", True),
            (b"bob", b"ann", "192.0.2.7", False),
            (b"bob", b"bob", "192.0.2.7", True),
            (b"bob", b"bob", "2001:db8:1::7", False),
            (b"guest", b"guest", "192.0.2.7", False),
            (b"list-a", b"fetch", "203.0.113.5", True),
            (b"list-b", b"fetch", "203.0.113.5", True),
            (b"list-a", b"ann", "203.0.113.5", False),
            (b"carl", b"carl", "198.51.100.17", True),
            (b"carl", b"ann", "198.51.100.17", False),
        ):
            self.assertEqual(self.opened(name, remote, host), name if right else None)

    def hub(self, host, port, **more):
        """Stand in for the resolver of the example."""
        self.assertEqual(host, b"hub.example.org")
        return [(0, 0, 0, "", ("203.0.113.5", 0))]

    def test_try(self):
        """The program to try it is one."""
        compile(block("try"), "rhosts.rst", "exec")

    def test_reasons(self):
        """Every reason that the checker gives for the log stands in what the log says."""
        text = " ".join(TEXT.split())
        source = Path(rhosts.__file__).read_text("utf-8")
        reasons = re.findall(r'UnauthorizedLogin\(f?"(.+?)"\)', source)
        self.assertEqual(len(reasons), 5)
        for reason in reasons:
            for piece in re.split(r"\{.*?\}", reason):
                self.assertIn(piece.strip(), text)

    def test_mode(self):
        """The file may be root's and for all to read, as the page says."""
        self.write(block("rhosts").encode(), 0o644)
        self.assertEqual(len(RhostsFile(self.path).read()), 8)
