"""Tests of popserv.auth.users.extra_fields."""

import time
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.users.extra_fields import (
    EVALUATED,
    HARMLESS,
    HARMLESS_PREFIXES,
    NO_RULES,
    PREFIX,
    REFUSING,
    Rules,
    is_field,
    parse_rules,
)
from popserv.core.connection_details import ConnectionDetails
from popserv.core.user_settings import NO_SETTINGS, UserSettings

NOBODY = ConnectionDetails
"""Returns the details of a client without an address and without TLS."""


def client(address=None, uses_tls=False):
    """Return a function that returns the details of a client."""
    remote = None if address is None else (address, 4321)
    return lambda: ConnectionDetails(remote, uses_tls=uses_tls)


def rules(extra):
    """Return the rules of a user with these extra fields."""
    return parse_rules(b":::::" + extra)


class ColumnsTests(SynchronousTestCase):
    """Which columns have extra fields."""

    def test_eighth_column(self):
        """The extra fields begin with the eighth column, and may contain colons."""
        for columns in (
            b"1:2:gecos:/home/ann:/bin/sh:nologin",
            b"::::: nologin",
            b":::::nodelay  nologin ",
            b":::::userdb_mail=maildir:~/Maildir nologin",
            b":::::userdb_mail=maildir:~/Maildir:INDEX=/x nologin=y",
            b":::::nologin:protected=yes",
            b":::::nologin\t",
            b":::::userdb_quota_rule=*:storage=1G\tnologin",
        ):
            self.assertEqual(parse_rules(columns).refusal, "nologin is set", columns)

    def test_other_columns(self):
        """What looks like a field in the other columns is a shell or a comment."""
        for columns in (
            b"",
            b"1000",
            b"1000:1000",
            b"::::",
            b"::::/usr/sbin/nologin",
            b"::::/usr/sbin/nologin:",
            b":::/home/allow_nets:",
            b"::Proxy Administrator, user=fun:::",
            b"::failure::::",
            b"::::::maildir:~/Maildir",
        ):
            self.assertEqual(parse_rules(columns), NO_RULES, columns)

    def test_misplaced(self):
        """A restriction in a wrong column refuses, although Dovecot ignores it there."""
        for columns, name in (
            (b"nologin", "nologin"),
            (b":nologin", "nologin"),
            (b":::: nologin", "nologin"),
            (b"allow_nets=10.0.0.0/8", "allow_nets"),
            (b":::::: nologin", "nologin"),
            (b"::::::allow_nets=local", "allow_nets"),
            (b"::fail::::", "fail"),
            (b"::gone away nologin=y::::", "nologin"),
        ):
            reason = f"{name} must be in the eighth field of the line, after seven colons"
            self.assertEqual(parse_rules(columns).refusal, reason, columns)

    @given(st.lists(st.sampled_from([b":", b" ", b"=", b"nologin", b"user", b"%", b"\xff"])))
    def test_any(self, parts):
        """Any columns have rules."""
        self.assertIsInstance(parse_rules(b"".join(parts)), Rules)


class FieldsTests(SynchronousTestCase):
    """What each field means."""

    def test_refusing(self):
        """Each field that refuses does so with any value and without one; the reason names it."""
        for name in REFUSING:
            for value in ("", "=", "=y", "=no", "=0", "=%u"):
                refusal = rules((name + value).encode()).refusal
                self.assertTrue(refusal.startswith(f"{name} is set"), refusal)

    def test_harmless(self):
        """Each harmless field has no effect, with any value and without one."""
        for name in (*HARMLESS, *(prefix + "x" for prefix in HARMLESS_PREFIXES)):
            for value in ("", "=", "=nologin", "=%u", "=a:b"):
                self.assertEqual(rules((name + value).encode()), NO_RULES, name)

    def test_one_class(self):
        """No field is in two classes."""
        names = [*EVALUATED, *REFUSING, *HARMLESS]
        self.assertEqual(len(names), len(set(names)))
        self.assertFalse([name for name in names if name.startswith(HARMLESS_PREFIXES)])

    def test_is_field(self):
        """The names of fields are told from others."""
        for name in (*EVALUATED, *REFUSING, *HARMLESS, *(each + "x" for each in HARMLESS_PREFIXES)):
            self.assertIs(is_field(name), True, name)
        for name in ("", "quota", "NoLogin", "popserv_"):
            self.assertIs(is_field(name), False, name)

    def test_unknown(self):
        """An unknown field refuses and is named; a word that is not like a name is not logged."""
        for word in ("surprise", "surprise=1", "nologins=1", "xallow_nets=10.0.0.0/8", "user_x=1"):
            name = word.partition("=")[0]
            self.assertIn(f"unknown extra field {name};", rules(word.encode()).refusal)
        for word in (b"S3cret", b"nologin,", b"s3cret!", b"=", b"S3cret=1", b"\xff"):
            self.assertTrue(rules(word).refusal.startswith("unknown extra field;"), word)

    def test_other_case(self):
        """A field in another case is unknown, as in Dovecot, and is named."""
        for name in ("NoLogin", "NOLOGIN", "Allow_nets", "User"):
            reason = rules(f"{name}=x".encode()).refusal
            self.assertIn(f"unknown extra field {name};", reason)

    def test_first_reason(self):
        """The reason is the first field that refuses."""
        self.assertEqual(rules(b"userdb_x=1 nologin fail surprise").refusal, "nologin is set")

    def test_user(self):
        """user=NAME changes the maildrop; a name that cannot be one refuses."""
        self.assertEqual(rules(b"user=info@example.org").maildrop, b"info@example.org")
        for value in (b"", b"=", b"=a/b", b"=.hidden", b"=../x", b"=#x"):
            self.assertIn("user: ", rules(b"user" + value).refusal)

    def test_variables(self):
        """A variable of Dovecot in a value that counts refuses."""
        for word in (b"user=%n", b"allow_nets=%{real_rip}", b"delay_until=%s"):
            self.assertIn("variable of Dovecot", rules(word).refusal)


class NetworksTests(SynchronousTestCase):
    """allow_nets and allow_real_nets."""

    def assert_allowed(self, value, *addresses):
        """Check from which of some addresses a client may log in."""
        every = {
            *("10.0.0.1", "10.255.0.1", "11.0.0.1", "::1", "2001:db8::1", "::ffff:10.0.0.1"),
            *("fe80::1%eth0", "localhost", "", None),
        }
        for field in (b"allow_nets", b"allow_real_nets"):
            parsed = rules(field + value)
            allowed = {each for each in every if not parsed.refusal_of(client(each, False), 0)}
            self.assertEqual(allowed, set(addresses), value)

    def test_networks(self):
        """A client must be in one of the networks; a mapped IPv4 address is an IPv4 address."""
        mapped = "::ffff:10.0.0.1"
        self.assert_allowed(b"=10.0.0.0/8", "10.0.0.1", "10.255.0.1", mapped)
        self.assert_allowed(b"=10.0.0.1", "10.0.0.1", mapped)
        self.assert_allowed(b"=10.9.9.9/8", "10.0.0.1", "10.255.0.1", mapped)
        self.assert_allowed(b"=2001:db8::/32,::1", "2001:db8::1", "::1")
        self.assert_allowed(b"=fe80::/10", "fe80::1%eth0")
        self.assert_allowed(b"=0.0.0.0/0", "10.0.0.1", "10.255.0.1", "11.0.0.1", mapped)
        self.assert_allowed(b"=local", None)
        self.assert_allowed(b"=local,,11.0.0.1", None, "11.0.0.1")

    def test_nobody(self):
        """A list without a valid network refuses everybody, and the reason has its first entry."""
        self.assertEqual(
            rules(b"allow_nets").refusal, "allow_nets has no network, no client is in it"
        )
        self.assertEqual(
            rules(b"allow_nets=,10.0.0,x").refusal,
            "allow_nets: 10.0.0 is not a network, no client is in it",
        )
        for value in (
            *(b"", b"=", b"=,", b"=10.0.0", b"=10/8", b"=10.0.0.0/33", b"=10.0.0.0/", b"=all"),
            *(b"=10.0.0.0/255.0.0.0", b"=0.0.0.0/255.255.255.255", b"=*", b"=LOCAL", b"=localhost"),
            *(b"=::1/129", b"=10.0.0.0-10.0.0.9", b"=010.0.0.1", b"=0x0a000001", b"=167772161"),
            *(b"=[::1]", b"=::ffff:10.0.0.0/104", b"=/", b"=/0", b"=!10.0.0.0/8", b"=\xff"),
        ):
            self.assert_allowed(value)

    def test_warnings(self):
        """Each entry that is not a network is named, as one line."""
        parsed = rules(b"allow_nets=10.0.0.0/8,all,\x1b allow_real_nets=local,x")
        self.assertEqual(
            list(parsed.warnings),
            [
                "allow_nets: all is not a network, no client is in it",
                r"allow_nets: \x1b is not a network, no client is in it",
                "allow_real_nets: x is not a network, no client is in it",
            ],
        )

    def test_several(self):
        """A client must be in the networks of every such field."""
        parsed = rules(b"allow_nets=10.0.0.0/8 allow_real_nets=10.0.0.0/16 allow_nets=10.0.0.1")
        self.assertEqual(parsed.refusal_of(client("10.0.0.1", False), 0), "")
        self.assertIn("allow_nets", parsed.refusal_of(client("10.0.0.2", False), 0))
        self.assertIn("allow_real_nets", parsed.refusal_of(client("10.1.0.1", False), 0))


class DelayTests(SynchronousTestCase):
    """delay_until."""

    def test_time(self):
        """Nobody logs in before the latest time, with all of the random seconds."""
        for value, first in (
            (b"=1700000000", 1_700_000_000),
            (b"=1700000000+60", 1_700_000_060),
            (b"=0", 0),
            (b"=5 delay_until=9 delay_until=7", 9),
        ):
            parsed = rules(b"delay_until" + value)
            self.assertEqual(parsed.refusal_of(NOBODY, first), "")
            if first:
                self.assertIn("delay_until is ", parsed.refusal_of(NOBODY, first - 0.1))

    def test_reason(self):
        """The reason has the time in UTC."""
        reason = rules(b"delay_until=1700000000").refusal_of(NOBODY, 0)
        self.assertEqual(reason, "delay_until is 2023-11-14T22:13:20Z")

    def test_formatted_once(self):
        """The time is formatted once, so that these refusals take as long as others."""
        parsed = rules(b"delay_until=1700000001")
        with mock.patch("time.strftime", wraps=time.strftime) as strftime:
            for _ in range(3):
                self.assertIn("delay_until is ", parsed.refusal_of(NOBODY, 0))
        self.assertLessEqual(strftime.call_count, 1)

    def test_invalid(self):
        """What is not a time refuses for good, as in Dovecot."""
        for value in (
            b"",
            b"=",
            b"=soon",
            b"=-1",
            b"=1.5",
            b"=1+",
            b"=1+x",
            b"=+1",
            b"=1 2",
            b"=1e9",
        ):
            self.assertTrue(rules(b"delay_until" + value).refusal_of(NOBODY, 10**12), value)
        self.assertTrue(rules(b"delay_until").refusal_of(NOBODY, 10**12))


class OwnFieldsTests(SynchronousTestCase):
    """The fields of popserv."""

    def test_settings(self):
        """Each setting has the value of its field; the last field of a name counts."""
        for words, settings in (
            (b"popserv_read_only", UserSettings(read_only=True)),
            (b"popserv_read_only=yes", UserSettings(read_only=True)),
            (b"popserv_read_only=no", NO_SETTINGS),
            (b"popserv_read_only popserv_read_only=no", NO_SETTINGS),
            (b"popserv_maildrop=/srv/a:b/\xff", UserSettings(maildrop=b"/srv/a:b/\xff")),
            (b"popserv_maildrop=/.a/..b/c..", UserSettings(maildrop=b"/.a/..b/c..")),
            (b"popserv_deleted=keep", UserSettings(deleted="keep")),
            (b"popserv_deleted=move:Tr\xc3\xa4sh", UserSettings(deleted="move:Tr\xe4sh")),
            (b"popserv_since=2h", UserSettings(since=7200)),
            (b"popserv_max_user_sessions=2", UserSettings(max_user_sessions=2)),
            (
                b"popserv_since=1d popserv_read_only popserv_deleted=remove",
                UserSettings(since=86400, read_only=True, deleted="remove"),
            ),
        ):
            self.assertEqual(rules(words), NO_RULES._replace(settings=settings), words)

    def test_invalid(self):
        """A value that is not valid refuses, and the reason names the field."""
        for name, values in (
            ("read_only", (b"=1", b"=true", b"=Yes", b"=no!", b"=\xff")),
            ("require_tls", (b"=1", b"=required")),
            ("nologin", (b"=1", b"=off")),
            (
                "maildrop",
                (
                    *(b"", b"=", b"=mail", b"=/", b"=//a", b"=/a/", b"=/a//b", b"=/a/../b"),
                    *(b"=/./a", b"=/a/..", b"=/.", b"=/a\0b"),
                ),
            ),
            ("deleted", (b"", b"=no", b"=move:", b"=\xff")),
            ("since", (b"", b"=30", b"=0d", b"=\xff")),
            ("max_user_sessions", (b"", b"=1", b"=0", b"=-2", b"=two", b"=1000000", b"=\xff")),
        ):
            for value in values:
                refusal = rules(PREFIX.encode() + name.encode() + value).refusal
                self.assertTrue(refusal.startswith(f"popserv_{name}: "), (name, value, refusal))

    def test_unknown(self):
        """A field with the prefix that popserv does not know refuses as any other."""
        for word in (b"popserv_", b"popserv_readonly", b"popserv_quota=1"):
            self.assertIn("unknown extra field popserv_", rules(word).refusal)

    def test_variables(self):
        """A path with a percent sign refuses: it could be meant as a variable."""
        self.assertIn("variable of Dovecot", rules(b"popserv_maildrop=/srv/%n").refusal)

    def test_nologin(self):
        """popserv_nologin refuses everybody, or nobody."""
        for value in (b"", b"=", b"=yes"):
            self.assertEqual(rules(b"popserv_nologin" + value).refusal, "popserv_nologin is set")
        self.assertEqual(rules(b"popserv_nologin=no"), NO_RULES)

    def test_require_tls(self):
        """popserv_require_tls refuses clients without TLS."""
        for value, refuses in ((b"", True), (b"=yes", True), (b"=no", False)):
            parsed = rules(b"popserv_require_tls" + value)
            self.assertEqual(parsed.refusal_of(client("::1", True), 0), "")
            self.assertIs("does not use TLS" in parsed.refusal_of(client("::1", False), 0), refuses)

    def test_misplaced(self):
        """In another column each of them refuses."""
        for columns in (b"popserv_read_only", b"::popserv_since=1d::", b":::::::popserv_nologin"):
            self.assertIn("must be in the eighth field", parse_rules(columns).refusal)
