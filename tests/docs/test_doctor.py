"""What docs/howto/doctor.rst shows is what ``popserv doctor`` prints."""

import os
import pwd
import re
import sys

from popserv.auth.passwords.schemes import new_scram_sha256
from tests.docs.harness import DOCS, ROOT, Base, blocks

GUIDE = DOCS / "howto/doctor.rst"
RUN = "import sys; from popserv.commandline.main import main; sys.exit(main(sys.argv[1:]))"
MACHINE = r"\[(clock|disk-full|inodes|open-files)\]$|^ok: (clock|open files)$|^errors: "
"""The lines that depend on the machine."""


class DoctorTests(Base):
    """The output of the guide."""

    def test_output(self):
        """The lines are those of a server with these faults."""
        import subprocess

        mail = os.path.join(self.directory, "srv/mail")
        for user in ("ann", "bob"):
            for name in ("new", "cur", "tmp"):
                os.makedirs(f"{mail}/{user}/{name}")
            os.chmod(f"{mail}/{user}", 0o700)
        os.chmod(f"{mail}/ann", 0o755)
        open(f"{mail}/bob/new/1700000000.M1P1.host", "w").close()
        secret = new_scram_sha256(b"long secret", 4096).decode()
        with open(f"{mail}/.users", "w", encoding="ascii") as file:
            file.write(f"ann:{secret}\nbob:{{SHA256.hex}}{'00' * 32}\neve:{secret}\nann:{secret}\n")
        os.chmod(f"{mail}/.users", 0o600)
        shown = dict(blocks(GUIDE, "text"))["doctor"]
        command, *expected = shown.splitlines()
        user = pwd.getpwuid(os.geteuid()).pw_name
        words = [self.place(each) for each in command.removeprefix("$ popserv ").split()]
        done = subprocess.run(
            [sys.executable, "-c", RUN, *(user if each == "vmail" else each for each in words)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        printed = done.stdout.replace(self.directory, "").splitlines()
        printed = [line for line in printed if not re.search(MACHINE, line)]
        self.assertEqual(
            printed, [line for line in expected if not re.search(MACHINE, line)], done.stdout
        )
        self.assertEqual(done.returncode, 1)
