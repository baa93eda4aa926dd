"""The completions of real shells, typed on a terminal."""

import os
import pty
import subprocess

from twisted.trial.unittest import SynchronousTestCase

from tests.live.harness import BIN, CHECKOUT, require_programs, temporary_directory, until

COMPLETIONS = CHECKOUT / "completions"

BASH = """\
source /usr/share/bash-completion/bash_completion
bind -x '"\\C-xp": printf "%s" "$READLINE_LINE" >~/new && mv ~/new ~/line'
bind '"\\C-xa": insert-completions'
touch ~/ready
"""

ZSH = """\
fpath=({directory} $fpath)
autoload -Uz compinit
compinit -u -D
zle -C all complete-word _generic
zstyle ':completion:all:*' completer _all_matches _complete
zstyle ':completion:all:*' insert true
show() {{ print -rn -- "$BUFFER" >~/new && mv ~/new ~/line }}
zle -N show
bindkey '^Xa' all
bindkey '^Xp' show
touch ~/ready
"""
"""Two keys: one inserts everything that can be completed, the other writes the line to a file."""


class Cases:
    """What is completed; subclasses start a shell."""

    command = ()
    set_up = ""

    def setUp(self):
        """Start the shell in a directory with two files and a directory."""
        require_programs(self, self.command[0])
        self.home, directory = temporary_directory(self), temporary_directory(self)
        (directory / "users.txt").touch()
        (directory / "popserv.toml").touch()
        (directory / "mail").mkdir()
        (self.home / "rc").write_text(self.set_up.format(directory=COMPLETIONS / "zsh"))
        user_directory = self.home / ".local/share/bash-completion"
        user_directory.mkdir(parents=True)
        (user_directory / "completions").symlink_to(COMPLETIONS / "bash")
        self.terminal, other_end = pty.openpty()
        self.addCleanup(os.close, self.terminal)
        process = subprocess.Popen(
            self.command,
            stdin=other_end,
            stdout=subprocess.DEVNULL,
            stderr=other_end,
            cwd=directory,
            start_new_session=True,
            env={
                "HOME": str(self.home),
                "PATH": f"{BIN}:/usr/bin:/bin",
                "PYTHONPATH": str(CHECKOUT),
                "TERM": "dumb",
            },
        )
        os.close(other_end)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.type(". ~/rc\r")
        until((self.home / "ready").exists, "the shell")

    def type(self, keys):
        """Type keys on the terminal."""
        os.write(self.terminal, keys.encode())

    def completed(self, text):
        """Type a command line; return the words that complete the last one, sorted.

        What a shell adds for what may follow a word is left out: a slash, a comma, ``=``.
        """
        self.type(f"\x15{text}\x18a\x18p")
        path = self.home / "line"
        until(path.exists, text)
        line = path.read_text()
        path.unlink()
        before = text.rpartition(" ")[0]
        self.assertTrue(line.startswith(before), (text, line))
        return sorted(word.rstrip("/,=") for word in line[len(before) :].split())

    def test_commands(self):
        """Commands are completed, and their subcommands."""
        self.assertEqual(self.completed("popserv us"), ["user"])
        self.assertEqual(self.completed("popserv c"), ["collect", "compare", "config", "copy"])
        self.assertEqual(self.completed("popserv uidl "), ["diff", "export", "import"])
        self.assertEqual(self.completed("popserv x"), ["x"])

    def test_options(self):
        """Options are completed after the command that has them."""
        users = ["--help", "--maildir", "--store", "--users"]
        self.assertEqual(self.completed("popserv user add --"), ["--apop", *users])
        self.assertEqual(self.completed("popserv user remove --"), users)
        self.assertEqual(self.completed("popserv --"), ["--help", "--version"])
        self.assertEqual(self.completed("popserv session --mai"), ["--maildir"])
        self.assertEqual(self.completed("popserv config check --mai"), ["--maildir"])
        self.assertEqual(self.completed("popserv user --"), ["--help"])

    def test_files(self):
        """File names are completed after an option that takes a file, and only there."""
        files = ["mail", "popserv.toml", "users.txt"]
        self.assertEqual(self.completed("popserv user list --users "), files)
        self.assertEqual(self.completed("popserv user list --users us"), ["users.txt"])
        self.assertEqual(self.completed("popserv user list --users=us"), ["--users=users.txt"])
        self.assertEqual(self.completed("popserv user list --maildir "), ["mail"])
        self.assertEqual(self.completed("popserv session --config p"), ["popserv.toml"])
        self.assertEqual(self.completed("popserv session --timeout "), [])

    def test_words(self):
        """Words are completed where only some are possible."""
        self.assertEqual(self.completed("popserv log-level w"), ["warn"])
        self.assertEqual(self.completed("popserv session --dialect rfc12"), ["rfc1225"])
        self.assertEqual(self.completed("popserv session --without TOP,U"), ["TOP,UIDL"])
        self.assertEqual(self.completed("popserv session --auth pass"), ["passwd-file:"])
        self.assertEqual(
            self.completed("popserv session --auth passwd-file:u")[-1][-9:], "users.txt"
        )
        self.assertEqual(self.completed("popserv copy mai"), ["maildir:"])

    def test_twistd(self):
        """After twistd pop3, its options are completed, whatever options of twistd come before."""
        for before in ("twistd", "twistd -n", "twistd --logfile - --nodaemon"):
            self.assertEqual(self.completed(f"{before} pop3 --mail"), ["--maildir"])
        self.assertEqual(self.completed("twistd pop3 --maildir "), ["mail"])
        self.assertEqual(self.completed("twistd pop3 --config pop"), ["popserv.toml"])
        self.assertEqual(self.completed("twistd pop3 --timeout "), [])
        self.assertEqual(self.completed("twistd --nod"), ["--nodaemon"])


class BashTests(Cases, SynchronousTestCase):
    """Bash, with the package bash-completion."""

    command = ("bash", "--norc", "--noprofile", "-i")
    set_up = BASH


class ZshTests(Cases, SynchronousTestCase):
    """zsh, which has its own completion of twistd."""

    command = ("zsh", "-f", "-i")
    set_up = ZSH
