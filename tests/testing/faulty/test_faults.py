"""Tests of popserv.testing.faulty.faults."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.testing import Faults
from popserv.testing.faulty.faults import ActiveFaults


class FaultsTests(SynchronousTestCase):
    """Faults are checked when they are made."""

    def test_valid(self):
        """The least and the usual values of each fault are accepted."""
        Faults(
            greeting_delay=0.5,
            reply_delay=1,
            octets_per_second=1,
            drop_after=0,
            refuse_logins=1,
            lock_held=True,
            unknown_commands=["CAPA", "UIDL"],
            wrong_sizes=-5,
            changing_unique_ids=True,
            fail_retr=1,
            drop_retr=(1, 0),
            unterminated_retr=2,
            fail_removal=True,
        )
        Faults(fail_logins=2, unknown_commands={"TOP"})

    def test_wrong_types(self):
        """An argument of the wrong type is an error that names it."""
        for name, value in (
            ("greeting_delay", "1"),
            ("greeting_delay", None),
            ("reply_delay", True),
            ("octets_per_second", 1.5),
            ("drop_after", b"1"),
            ("refuse_logins", None),
            ("wrong_sizes", 0.5),
            ("lock_held", 1),
            ("fail_removal", None),
            ("unknown_commands", "CAPA"),
            ("unknown_commands", b"CAPA"),
        ):
            error = self.assertRaises(TypeError, Faults, **{name: value})
            self.assertIn(name, str(error))
            self.assertIn(repr(value), str(error))

    def test_out_of_range(self):
        """An argument that is out of range is an error that names it."""
        for name, value in (
            ("greeting_delay", -1),
            ("reply_delay", float("nan")),
            ("octets_per_second", 0),
            ("drop_after", -1),
            ("refuse_logins", -1),
            ("fail_logins", -1),
            ("fail_retr", 0),
            ("unterminated_retr", 0),
            ("drop_retr", (0, 1)),
            ("drop_retr", (1, -1)),
            ("drop_retr", (1,)),
            ("drop_retr", 1),
            ("drop_retr", ("1", 1)),
        ):
            error = self.assertRaises(ValueError, Faults, **{name: value})
            self.assertIn(name, str(error))
            self.assertIn(repr(value), str(error))

    def test_unknown_commands(self):
        """Only commands that a server may lack can be unknown, and QUIT is none of them."""
        for name in ("QUIT", "capa", "XDAY", ""):
            error = self.assertRaises(ValueError, Faults, unknown_commands=[name])
            self.assertIn(f"unknown_commands has {name!r}; use some of APOP, AUTH,", str(error))

    def test_contradiction(self):
        """A login cannot be refused and fail."""
        error = self.assertRaises(ValueError, Faults, refuse_logins=1, fail_logins=1)
        self.assertIn("exclude each other", str(error))


class ActiveFaultsTests(SynchronousTestCase):
    """The faults of a running server."""

    def test_counts(self):
        """Logins and retrievals are counted from 1, and again when other faults are set."""
        faults = ActiveFaults(Faults())
        self.assertEqual([faults.count_login(), faults.count_login()], [1, 2])
        self.assertEqual([faults.count_retrieval(), faults.count_retrieval()], [1, 2])
        faults.set(Faults(unknown_commands=["TOP"]))
        self.assertEqual((faults.count_login(), faults.count_retrieval()), (1, 1))
        self.assertTrue(faults.is_unknown(b"TOP"))
        self.assertFalse(faults.is_unknown(b"UIDL"))
        self.assertFalse(faults.is_unknown(b"\xff"))
