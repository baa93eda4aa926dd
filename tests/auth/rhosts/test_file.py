"""The rhosts file: its syntax, and how it is read again."""

import os
import re
import socket
import subprocess
from ipaddress import ip_network

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.rhosts import file
from popserv.auth.rhosts.file import RhostsFile, RhostsFileError, parse_entries
from popserv.auth.rhosts.resolver import parse_address
from tests.auth.rhosts.harness import COMPOSED, RhostsCase


class ParseTests(SynchronousTestCase):
    """parse_entries."""

    def problem(self, line):
        """Return the error for an invalid line, which is the same at any place in the file."""
        for before in (b"", b"# x\r\n\n", b"\xef\xbb\xbf192.0.2.1 + =\n"):
            text = before + line + b"\n192.0.2.1 + ="
            error = self.assertRaises(RhostsFileError, parse_entries, "F", text)
            location, _, said = str(error).partition(": ")
            self.assertEqual(location, f"F, line {len(before.splitlines()) + 1}")
        return said

    def test_entry(self):
        """An entry has a line number, allows or denies, and has a host and two users."""
        text = b"\n192.0.2.7 ann bob\n-Host.Example. + =\n\thost  -ann\t + \n-::1 -+ +"
        self.assertEqual(
            [entry[:5] for entry in parse_entries("F", text)],
            [
                (2, True, ip_network("192.0.2.7"), b"ann", b"bob"),
                (3, False, "host.example.", b"+", b"="),
                (4, False, "host", b"ann", b"+"),
                (5, False, ip_network("::1"), b"+", b"+"),
            ],
        )

    def test_ignored(self):
        """Comments, blank lines, CRLF, a BOM and a missing last newline are ignored."""
        for text in (b"", b"\n", b"\xef\xbb\xbf", b"#", b" \t\r\n  # x y z", b"#\r#\n", b"#\xff\0"):
            self.assertEqual(parse_entries("F", text), ())
        plain = parse_entries("F", b"h a b")
        for text in (b"\xef\xbb\xbfh a b", b" h a b\r\n", b"h a b # c # d e\n", b"h a b\t#c\r\n"):
            self.assertEqual(parse_entries("F", text), plain)

    def test_hash_in_a_word(self):
        """A # inside a word does not start a comment."""
        self.assertEqual(parse_entries("F", b"h a#1 b#2 #c")[0][3:5], (b"a#1", b"b#2"))

    def test_any_name(self):
        """User names are octets in any encoding and of any length."""
        for name in (b"\xff\xfe", COMPOSED, b"A" * 100_000, b"a@b", b"a=b", b"a-", b"a+"):
            self.assertEqual(parse_entries("F", b"h %b %b" % (name, name))[0][3:5], (name, name))
        self.assertEqual(parse_entries("F", b"h a/b:#. c")[0].remote_user, b"a/b:#.")

    def test_columns(self):
        """Any other number of columns is an error, which does not quote the line."""
        for line, has in (
            (b"host", 1),
            (b"host ann", 2),
            (b"host ann bob carl", 4),
            (b"ann:{PLAIN}s3cret", 1),
            (b"host ann #bob", 2),
            (b"host\xc2\xa0ann\xc2\xa0bob", 1),
        ):
            said = self.problem(line)
            self.assertIn(f"must have three columns, but has {has}:", said)
            self.assertNotIn("s3cret", said)

    def test_control_characters(self):
        """A control character is an error: a lone CR, NUL, and all of UTF-16."""
        utf16 = "h a b".encode("utf-16")
        for line in (b"h a b\rh a b", b"h a\0 b", b"h a b\x7f", b"h\x0b a b", utf16):
            self.assertIn("control character", self.problem(line))

    def test_every_host(self):
        """A host + is an error, which says how to match every host."""
        for line in (b"+ + +", b"+ ann ann", b"-+ + +"):
            self.assertIn("0.0.0.0/0 and for ::/0", self.problem(line))

    def test_netgroups(self):
        """A netgroup is an error."""
        for host in (b"@lab", b"+@lab", b"-@lab", b"-+@lab"):
            self.assertIn("netgroups are not supported", self.problem(host + b" + ="))

    def test_zones(self):
        """An address with a zone is an error."""
        for host in (b"fe80::1%eth0", b"fe80::%1/64", b"-fe80::1%", b"host%1"):
            self.assertIn("must not have a zone", self.problem(host + b" + ="))

    def test_invalid_networks(self):
        """A host with a slash is a network in CIDR notation, or an error."""
        for host in (
            *(b"192.0.2.0/33", b"192.0.2/24", b"2001:db8::/129", b"192.0.2.0/255.255.255.0"),
            *(b"192.0.2.0/0.0.0.255", b"192.0.2.0/", b"/24", b"host/24", b"192.0.2.0/+24"),
            *(b"192.0.2.0/24/24", b"192.0.2.0/-1", b"[::]/0", b"\xd9\xa1.0.0.0/8", b"/", b"/0"),
        ):
            self.problem(host + b" + =")

    def test_host_bits(self):
        """A network with host bits set is an error, which names the network and the address."""
        for host, network, address in (
            (b"192.0.2.7/24", "192.0.2.0/24", "192.0.2.7"),
            (b"2001:DB8::7/64", "2001:db8::/64", "2001:db8::7"),
            (b"::ffff:192.0.2.7/120", "::ffff:c000:200/120", "::ffff:c000:207"),
            (b"0.0.0.1/0", "0.0.0.0/0", "0.0.0.1"),
        ):
            said = self.problem(host + b" + =")
            # Python 3.13 formats a mapped network differently.
            self.assertIn(str(ip_network(network)), said)
            for right in (network, address):
                self.assertEqual(len(parse_entries("F", right.encode() + b" + =")), 1)

    def test_invalid_hosts(self):
        """A host that is neither a name nor an address is an error; numbers are not names."""
        for host in (
            *(b"-", b"--h", b"h_-", b"-h-", b".", b"h..", b".h", b"h:1", b"[::1]", b"h,i", b"*"),
            *(b"192.0.2.256", b"192.0.2", b"3221225991", b"0xc0000207", b"h.0x7f", b"010.0.0.1"),
            *(b"h.7", b"h.7.", b"\xff", "höst".encode(), b"a" * 64, b"a." * 127 + b"a"),
        ):
            self.assertIn("is not a valid host", self.problem(host + b" + ="))

    def test_host_names(self):
        """Host names have letters of any case, digits, hyphens and underscores."""
        for host in (b"H", b"h.", b"a-b.C_d", b"xn--hst-sna.example", b"7.h", b"a." * 127):
            self.assertEqual(parse_entries("F", host + b" + =")[0].host, host.decode().lower())

    def test_invalid_users(self):
        """A user must not start with a sign; a local user must be valid in a users file."""
        for users in (b"- a", b"= a", b"-= a", b"--a b", b"-+b b", b"+a b", b"@a b", b"+@a b"):
            self.assertIn("is not a valid user; use a name, or +", self.problem(b"h " + users))
        for user in (b"-b", b"+b", b"=b", b"@b", b"-", b"++", b"-+"):
            said = self.problem(b"h + " + user)
            self.assertIn("is not a valid user; use a name, or + or =", said)
        for name in (b".ann", b"../ann", b"a/b", b"a:b", b"/"):
            self.assertIn("is not a valid user name", self.problem(b"h + " + name))

    @settings(deadline=None, database=None)
    @given(st.binary() | st.lists(st.sampled_from([*b"-+=#@/.%:1a \t\r\n\0\xff"])).map(bytes))
    def test_any_bytes(self, text):
        """Any bytes are entries, or one error with a line number."""
        try:
            entries = parse_entries("F", text)
        except RhostsFileError as error:
            number = int(re.match(r"F, line (\d+): .", str(error))[1])
            self.assertLessEqual(number, text.count(b"\n") + 1)
            # The lines above are valid.
            parse_entries("F", b"\n".join(text.split(b"\n")[: number - 1]))
        else:
            self.assertLessEqual(len(entries), text.count(b"\n") + 1)

    @settings(deadline=None, database=None)
    @given(st.data(), st.sampled_from([4, 6]))
    def test_networks(self, data, version):
        """A network contains exactly the addresses with its prefix."""
        bits = 32 if version == 4 else 128
        address = data.draw(st.ip_addresses(v=version))
        prefix = data.draw(st.integers(0, bits))
        differs = data.draw(st.integers(0, (1 << data.draw(st.integers(0, bits))) - 1))
        other = type(address)(int(address) ^ differs)
        # HOSTS covers mapped addresses.
        assume(parse_address(str(address)) == address and parse_address(str(other)) == other)
        first = type(address)(int(address) >> (bits - prefix) << (bits - prefix))
        entry = parse_entries("F", f"{first}/{prefix} + =".encode())[0]
        holds = int(address) >> (bits - prefix) == int(other) >> (bits - prefix)
        self.assertIs(other in entry.host, holds)


class FileTests(RhostsCase):
    """RhostsFile."""

    def test_missing(self):
        """A missing file is an error."""
        self.assertIn(f"{self.path} does not exist", self.error_of(RhostsFile(self.path).read))

    def test_empty(self):
        """An empty file is valid and allows no logins."""
        self.write(b"")
        self.assertEqual(RhostsFile(self.path).read(), ())
        self.assertIsNone(self.opened(b"ann"))

    def test_writable(self):
        """A file that others can write is an error, with the command that corrects it."""
        self.path = os.path.join(self.directory, "my hosts")
        for mode in (0o620, 0o602, 0o666, 0o664):
            self.write(b"192.0.2.7 + =", mode)
            error = self.error_of(RhostsFile(self.path).read)
            subprocess.run(error.partition("run: ")[2], shell=True, check=True)
            self.assertEqual(self.mode(), mode & 0o755)
            self.assertEqual(len(RhostsFile(self.path).read()), 1)

    def test_readable(self):
        """The file may be readable by everybody."""
        for mode in (0o600, 0o640, 0o644, 0o444, 0o755):
            self.write(b"", mode)
            self.assertEqual(RhostsFile(self.path).read(), ())

    def test_link(self):
        """A symbolic link is followed; the permissions of its target are checked."""
        self.write(b"192.0.2.7 + =")
        link = os.path.join(self.directory, "link")
        os.symlink(self.path, link)
        file = RhostsFile(link)
        self.assertEqual(len(file.read()), 1)
        os.chmod(self.path, 0o620)
        self.assertIn("chmod go-w", self.error_of(file.read))

    def test_not_a_file(self):
        """A directory, a FIFO and a socket are errors; the FIFO does not block."""
        fifo, bound_path = (os.path.join(self.directory, name) for name in ("fifo", "socket"))
        os.mkfifo(fifo)
        with socket.socket(socket.AF_UNIX) as bound:
            here = os.open(self.directory, os.O_RDONLY)
            self.addCleanup(os.close, here)
            bound.bind(f"/proc/self/fd/{here}/socket")
            before = len(os.listdir("/proc/self/fd"))
            for path in (bound_path, self.directory):
                self.assertIn("it must be a regular file", self.error_of(RhostsFile(path).read))
            self.assertIn("is not a regular file", self.error_of(RhostsFile(fifo).read))
            self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_unreadable(self):
        """A file that cannot be read is an error with the system's reason."""
        self.patch(file, "_open_nonblocking", self.forbidden)
        self.write(b"")
        error = self.error_of(RhostsFile(self.path).read)
        self.assertIn(f"cannot read {self.path}: Permission denied", error)

    def forbidden(self, path, flags):
        """Replace the opening of a file that the user may not read."""
        raise PermissionError(13, "Permission denied")

    def test_reread(self):
        """A changed file is read at the next login; an unchanged file is not read again."""
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
        """A file that becomes writable by others is an error at the next login."""
        file = RhostsFile(self.path)
        for _ in range(50):
            self.write(b"192.0.2.7 + =")
            file.read()
            os.chmod(self.path, 0o620)
            self.assertIn("chmod go-w", self.error_of(file.read))
