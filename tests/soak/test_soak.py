"""Short runs of the model, and servers with faults, which it must find."""

import os
import random
import socket
from io import BytesIO
from itertools import islice
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.live.harness import require_programs, temporary_directory
from tests.live.postgresql import program
from tests.soak.connection import Client, Transcript
from tests.soak.driver import ANY_PROOF, ANY_REMOTE_USER, Run
from tests.soak.logins import has_reserved_ports
from tests.soak.model import Fault
from tests.soak.plan import Step, steps
from tests.soak.process import Configuration
from tests.soak.session import Session

LIFE = 40
"""Steps of each server: there are five dialects."""


def carry_out(run, seed, number, without=()):
    """Carry out so many steps, but for some actions, and compare everything at the end."""
    for step in islice(steps(seed, LIFE), number):
        if step.action not in without:
            run.execute(step)
    run.finish()


class RunCase(SynchronousTestCase):
    """Tests that run servers."""

    def setUp(self):
        """Skip the tests without /proc, which tells the workers of a server."""
        if not Path("/proc/self/task").exists():
            self.skipTest("/proc is required")


class SoakTests(RunCase):
    """Random sessions of several users, in all dialects, with other programs and accidents."""

    def check(self, store):
        """Run a store: in CI from the same seed each time, elsewhere from another one."""
        seed = 1725 if "CI" in os.environ else random.SystemRandom().getrandbits(32)
        print(f"make soak SOAK='--store {store} --seed {seed} --users 4 --polls 5 --life {LIFE}'")
        run = Run(temporary_directory(self), store)
        self.addCleanup(run.close)
        try:
            carry_out(run, seed, 5 * (LIFE + 1))
        except Exception:
            print(run.transcript.last())
            raise
        self.assertGreater(run.counts["sessions"], 50)
        self.assertGreater(run.counts["commands"], 50)

    def test_memory(self):
        """What is said about mail in memory agrees with the model."""
        self.check("memory")

    def test_maildir(self):
        """What is said and what is in the Maildirs agrees with the model."""
        self.check("maildir")

    def test_mbox(self):
        """What is said and what is in the mbox files agrees with the model."""
        self.check("mbox")

    def test_mh(self):
        """What is said and what is in the MH folders agrees with the model."""
        self.check("mh")

    def test_sql(self):
        """What is said and what is in PostgreSQL agrees with the model."""
        if not program("initdb"):
            require_programs(self, "initdb")
        self.check("sql")


class Recorded(Client):
    """A client to which a server has sent some octets, and has closed the connection."""

    def __init__(self, octets):
        self.name = "recorded"
        self._transcript = Transcript()
        self._socket = socket.socket()
        self._file = BytesIO(octets)


class RewrittenTests(RunCase):
    """Other programs write an mbox file anew while messages of it are sent."""

    SMALL = b"Subject: 1\n\nsmall\n"
    LARGE = b"Subject: 2\n\n" + b"0123456789.\n" * 20_000

    def setUp(self):
        """Make a run."""
        super().setUp()
        self.run_ = Run(temporary_directory(self), "mbox", users=2)
        self.addCleanup(self.run_.close)
        self.user = self.run_.users[0]

    def deliver(self, *bodies):
        """Deliver messages as other programs do."""
        for body in bodies:
            self.patch(self.run_, "_body", lambda choose, body=body: body)
            self.run_.deliver(self.user, random.Random(0))

    def test_cut_off(self):
        """A large message that is moved while the server sends it is not sent to its end."""
        # The client reads nothing before that, and no system has buffers of such a size.
        self.deliver(self.SMALL, b"Subject: 2\n\n" + (b"x" * 999 + b"\n") * 20_000)
        self.run_.execute(Step("new_server", 0, 0))
        self.run_.login(self.user, random.Random(0))
        self.patch(self.run_, "_lines", lambda user, choose: [b"RETR 2", b"NOOP"])
        self.patch(self.run_, "_disturb", lambda users, choose: self.run_.remove(users[0], choose))
        self.patch(self.run_, "_pick", lambda user, choose: user.maildrop.messages[0])
        self.run_.all_at_once(None, random.Random(0))
        self.assertEqual(self.run_.counts["cut off"], 1)
        self.assertIsNone(self.user.session)

    def read(self, body, octets, *, is_rewritten=True, lines=(b"RETR 1",)):
        """Compare what a server sends of a message with the model; return whether it goes on."""
        self.user.maildrop.forget()
        (self.run_.process.root / "mail" / self.user.name).unlink(missing_ok=True)
        self.deliver(body)
        self.user.session = Session(self.user.maildrop.messages, Configuration("modern", 1))
        self.user.client = Recorded(octets)
        self.addCleanup(self.user.client.close)
        self.run_._read_replies(self.user, lines, is_rewritten=is_rewritten)
        return self.user.session is not None

    def reply(self, body):
        """Return the reply to RETR."""
        sent = body.replace(b"\n", b"\r\n")
        return b"+OK %d octets\r\n%b.\r\n" % (len(sent), sent)

    def test_parts(self):
        """Any part of a large message is permitted, if the connection is closed after it."""
        whole = self.reply(self.LARGE)
        status, line = whole.index(b"\n") + 1, whole.index(b"9.\r\n") + 4
        for octets in (b"", whole[:status], whole[:line], whole[:-3]):
            self.assertFalse(self.read(self.LARGE, octets))

    def test_replies_before(self):
        """The replies before that of a large message may be missing, but not those after it."""
        self.assertFalse(self.read(self.LARGE, b"", lines=[b"NOOP", b"RETR 1"]))
        self.assertFalse(self.read(self.LARGE, b"+OK\r\n", lines=[b"NOOP", b"RETR 1"]))
        with self.assertRaises(Fault):
            self.read(self.LARGE, self.reply(self.LARGE), lines=[b"RETR 1", b"NOOP"])

    def test_replies(self):
        """The whole message, and a refusal, are permitted as well."""
        for octets in (self.reply(self.LARGE), b"-ERR message has changed\r\n"):
            self.assertTrue(self.read(self.LARGE, octets))

    def test_not_permitted(self):
        """Nothing of this is permitted for other messages and files, or before other replies."""
        refusal = b"-ERR message has changed\r\n"
        marked = [b"DELE 1", b"RETR 1"]
        for body, octets, is_rewritten, *lines in (
            (self.SMALL, self.reply(self.SMALL)[:-3], True),
            (self.SMALL, refusal, True),
            (self.LARGE, self.reply(self.LARGE)[:-3], False),
            (self.LARGE, refusal, False),
            (self.LARGE, self.reply(self.LARGE.replace(b"0", b"1")), True),
            (self.LARGE, b"\r\n+OK\r\n", True),
            (self.LARGE, b"+OK\r\n", True, *marked),
        ):
            with self.assertRaises(Fault):
                self.read(body, octets, is_rewritten=is_rewritten, lines=lines or [b"RETR 1"])


class PlanTests(SynchronousTestCase):
    """The steps of a run."""

    def test_seed(self):
        """A seed gives the same steps each time, and another one gives others."""
        self.assertEqual(list(islice(steps(1, 9), 50)), list(islice(steps(1, 9), 50)))
        self.assertNotEqual(list(islice(steps(1, 9), 50)), list(islice(steps(2, 9), 50)))


class BrokenServerTests(RunCase):
    """The model finds servers that break a promise."""

    def find(self, fault, pattern, store="memory"):
        """Run a server with a fault until the model finds it."""
        run = Run(temporary_directory(self), store, broken=fault)
        self.addCleanup(run.close)
        # The server delays its reply to a wrong login.
        found = self.assertRaises(Fault, carry_out, run, 1725, 1000, {"wrong_login"})
        self.assertRegex(str(found), pattern)

    def test_unique_id_reused(self):
        """A message has the unique-id of one that was removed."""
        self.find("unique-id-reused", "has the unique-id .*( of message|, and had)")

    def test_unique_id_changed(self):
        """A message has another unique-id than before."""
        self.find("unique-id-changed", "has the unique-id .*, and had|a poll gets")

    def test_octets(self):
        """LIST announces an octet too many."""
        self.find("octets-wrong", "STAT")

    def test_order(self):
        """Messages are in another order."""
        self.find("order-changed", "the reply to b'LIST'")

    def test_octet_changed(self):
        """A message is sent with another octet."""
        self.find("octet-changed", "(?i)the reply to b'(retr|top)")

    def test_removal_dropped(self):
        """QUIT replies +OK, and one of the messages is not removed."""
        self.find("removal-dropped", "is on disk", "maildir")

    def test_too_much_removed(self):
        """QUIT removes a message that was not marked."""
        self.find("too-much-removed", "is not on disk", "maildir")

    def test_removed_without_quit(self):
        """The end of a session removes a message."""
        self.find("removed-without-quit", "is not on disk", "maildir")

    def find_by(self, actions, fault, pattern, store="memory"):
        """Have some actions carried out until a fault is found."""
        run = Run(temporary_directory(self), store, broken=fault)
        self.addCleanup(run.close)
        choose = random.Random(1725)

        def carry_out():
            for at in range(300):
                number = choose.getrandbits(64)
                if at % 30 == 0:
                    run.execute(Step("new_server", 0, number))
                run.execute(Step(choose.choice(actions), number % 8, number))

        self.assertRegex(str(self.assertRaises(Fault, carry_out)), pattern)

    def test_any_proof(self):
        """Any proof of SCRAM lets a client in."""
        self.find_by(["wrong_login"], ANY_PROOF, "by SCRAM get b.[+]OK")

    def test_any_remote_user(self):
        """RPOP of any remote user lets a client in."""
        if not has_reserved_ports():
            self.skipTest("reserved ports are required")
        self.find_by(["wrong_login"], ANY_REMOTE_USER, "by RPOP get b.[+]OK")

    def test_utf8_ignored(self):
        """Messages are sent as they are stored to clients that have not given UTF8."""
        actions = ["deliver", "login", "disconnect"]
        self.find_by(actions, "utf8-ignored", "STAT", "maildir")

    def test_deleted_ignored(self):
        """Messages are removed, and should be kept or moved."""
        actions = ["deliver", "login", "commands", "quit"]
        self.find_by(actions, "deleted-ignored", "is not on disk|is not in Trash", "maildir")

    def test_delivery_in_part(self):
        """A part of a message is left of a delivery that was interrupted."""
        actions = ["kill_at_delivery"]
        self.find_by(actions, "delivery-in-part", "nobody has delivered", "maildir")

    def test_lock_kept(self):
        """The lock is not released."""
        self.find("lock-kept", "IN-USE")
