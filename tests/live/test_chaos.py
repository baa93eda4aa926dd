"""A cluster keeps its promises while parts of it are killed, suspended, cut off and replaced."""

import os
import random

from twisted.trial.unittest import SynchronousTestCase

from tests.live.chaos.faults import Faults
from tests.live.chaos.run import run_chaos
from tests.live.harness import require_programs


class ChaosTests(SynchronousTestCase):
    """Clients deliver, read and remove while parts of a cluster fail."""

    def run_chaos(self, seconds, **options):
        """Run a cluster; return what was violated, and what was shown.

        POPSERV_CHAOS_SEED in the environment is the seed.
        """
        require_programs(self, "haproxy", "rclone", "psql")
        seed = int(os.environ.get("POPSERV_CHAOS_SEED") or random.SystemRandom().randrange(10**6))
        print(f"POPSERV_CHAOS_SEED={seed}", flush=True)
        lines = []
        violations = run_chaos(seconds, seed, show=lines.append, **options)
        return violations, "\n".join(lines)

    def test_synchronous(self):
        """No promise is broken, and a second after the leases are over all maildrops are free."""
        violations, shown = self.run_chaos(40)
        self.assertEqual(violations, {}, shown)
        for fault in Faults(None, None, None).all():
            self.assertRegex(shown, rf"(?m)(^|; ){fault.__name__.replace('_', ' ')}: [1-9]")
        # The clients did something meanwhile.
        self.assertRegex(shown, r"(?m)^[1-9]\d* messages acknowledged, [1-9]\d* removed")

    def test_asynchronous(self):
        """A standby that lags loses messages; but no other messages are in their place."""
        violations, shown = self.run_chaos(2, is_synchronous=False, only=["fail_over"])
        self.assertIn("lost", violations, shown)
        self.assertNotIn("wrong", violations, shown)
        self.assertNotIn("unique-id of two messages", violations, shown)
