"""Tests of the page on limits."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.names import MAX_NAME
from popserv.auth.services import checkpassword, pam
from popserv.auth.users import look_ups
from tests.docs.harness import DOCS


class LimitsTests(SynchronousTestCase):
    """The numbers of the page are those of the code."""

    def test_checkers(self):
        """The limits of the checkers that ask another program, a database or a directory."""
        text = " ".join((DOCS / "reference/limits.rst").read_text("utf-8").split())
        for sentence in (
            f"{MAX_NAME} octets for ``sql``, ``ldap``, ``dovecot``, ``pam`` and ``checkpassword``;",
            f"and at most {look_ups.BACKLOG} logins that run or wait.",
            f"PAM: {pam.THREADS} threads, for at most {pam.BACKLOG} logins, each for at most "
            f"{pam.TIMEOUT:g} seconds, and {pam.MAX_CHECKS_OF_NAME} threads for one name.",
            f"``checkpassword``: {checkpassword.MAX_PROCESSES} programs, each for at most "
            f"{checkpassword.TIMEOUT:g} seconds and with at most "
            f"{checkpassword.MAX_OUTPUT / 1024:g} KiB of output, and {checkpassword.MAX_QUEUED} "
            "logins that wait.",
        ):
            self.assertIn(sentence, text)
