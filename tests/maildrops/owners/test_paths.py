"""Tests of popserv.maildrops.owners.paths."""

import errno
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.owners.paths import MAX_LINKS, is_unchanged, owner_of_path
from popserv.maildrops.path_problems import UnusablePath
from popserv.runtime.file_credentials import NOBODY
from tests.live.harness import temporary_directory

ANN, BOB = 5000, 5001


class OwnerTests(SynchronousTestCase):
    """Who decides what is at a path."""

    def setUp(self):
        """Make an empty directory of root's."""
        if os.geteuid():
            self.skipTest("only root can make files of other users")
        self.root = temporary_directory(self)

    def make(self, path, owner=0, mode=0o755, link=None):
        """Make a directory, or a link."""
        made = self.root / path
        if link is None:
            made.mkdir()
            made.chmod(mode)
        else:
            made.symlink_to(link)
        os.chown(made, owner, owner, follow_symlinks=False)
        return made

    def owner(self, path, inside=(), root=None):
        """Return the owner of a path."""
        parts = [*map(os.fsencode, Path(path).parts)]
        return owner_of_path(os.fsencode(root or self.root), parts, inside)

    def assert_shared(self, path, directory, inside=()):
        """Check that a path is refused because of a directory, and that the error has a remedy."""
        with self.assertRaises(UnusablePath) as refused:
            self.owner(path, inside)
        self.assertIn(
            f"the directory {self.root / directory} belongs to root", str(refused.exception)
        )
        self.assertIn(f"chmod go-w {self.root / directory}", str(refused.exception))

    def test_first(self):
        """The first component that is not root's decides, whatever is below it."""
        self.make("ann", ANN)
        self.make("ann/Maildir", BOB)
        self.make("ann/other")
        self.make("domain")
        self.make("domain/bob", BOB)
        for path, owner in {
            "ann": ANN,
            "ann/Maildir": ANN,
            "ann/other": ANN,
            "ann/missing/too": ANN,
            "domain/bob": BOB,
            "domain/bob/Maildir": BOB,
            "domain": 0,
        }.items():
            self.assertEqual(self.owner(path), owner, path)

    def test_file(self):
        """A maildrop may be a file."""
        (self.root / "ann").touch()
        self.assertEqual(self.owner("ann", [b"cur"]), 0)
        os.chown(self.root / "ann", ANN, 8)
        self.assertEqual(self.owner("ann"), ANN)

    def test_administrators_directory(self):
        """The directory that the administrator has named counts only for what is root's in it."""
        self.make("mail", BOB)
        self.make("mail/ann", ANN)
        self.make("mail/root")
        (self.root / "link").symlink_to("mail")
        for root in (self.root / "mail", self.root / "link"):
            for path, owner in {"ann": ANN, "root": BOB, "missing": BOB}.items():
                self.assertEqual(self.owner(path, root=root), owner, path)
        self.assertEqual(self.owner("x", root=self.root / "missing"), 0)

    def test_missing(self):
        """What is missing could be created by the owner of the directory, or by many users."""
        for mode, owner in {
            0o755: 0,
            0o775: NOBODY.uid,
            0o1777: NOBODY.uid,
            0o757: NOBODY.uid,
        }.items():
            self.root.chmod(mode)
            self.assertEqual(self.owner("ann/Maildir"), owner, oct(mode))

    def test_shared(self):
        """What is root's in a directory where others can replace it is refused."""
        self.make("root")
        self.make("ann", ANN)
        for mode in (0o775, 0o757, 0o777):
            self.root.chmod(mode)
            self.assert_shared("root", "")
            self.assertEqual(self.owner("ann"), ANN)
        self.root.chmod(0o1777)
        self.assertEqual(self.owner("root"), 0)

    def test_shared_maildrop(self):
        """So is a directory of root's in which others can create messages."""
        self.make("root", mode=0o1777)
        self.assert_shared("root", "root")
        (self.root / "root").chmod(0o755)
        self.make("root/cur", mode=0o775)
        self.assertEqual(self.owner("root"), 0)
        self.assert_shared("root", "root/cur", [b"new", b"cur"])

    def test_inside(self):
        """In a maildrop of root's, the directories in it decide."""
        self.make("root")
        self.make("root/new")
        self.make("root/cur", ANN, 0o777)
        self.assertEqual(self.owner("root", [b"new", b"cur"]), ANN)
        self.assertEqual(self.owner("root", [b"new", b"tmp"]), 0)

    def test_links(self):
        """A link of root's leads on, and one of another user decides."""
        self.make("home")
        self.make("home/ann", ANN)
        self.make("home/root")
        self.make("absolute", link=self.root / "home/ann/Maildir")
        self.make("relative", link="./home/../home/ann")
        self.make("twice", link="relative")
        self.make("to-root", link="home/root")
        self.make("bobs", BOB, link="home/root")
        self.make("dangling", link="nowhere")
        for path, owner in {
            "absolute": ANN,
            "absolute/cur": ANN,
            "relative": ANN,
            "twice/x": ANN,
            "to-root": 0,
            "bobs": BOB,
            "dangling": 0,
        }.items():
            self.assertEqual(self.owner(path), owner, path)

    def test_link_loop(self):
        """Too many links are an error, as they are for the system."""
        self.make("loop", link="loop")
        with self.assertRaisesRegex(UnusablePath, "loop: too many symbolic links"):
            self.owner("loop")
        for number in range(MAX_LINKS + 1):
            self.make(str(number + 1), link=str(number))
        self.make("0")
        self.assertEqual(self.owner(str(MAX_LINKS)), 0)
        os.stat(self.root / str(MAX_LINKS))
        for function in (self.owner, lambda name: os.stat(self.root / name)):
            error = self.assertRaises(OSError, function, str(MAX_LINKS + 1))
            self.assertEqual(error.errno, errno.ELOOP)

    def test_link_to_shared(self):
        """A link into a directory where others can replace things is refused as well."""
        self.make("shared", mode=0o777)
        self.make("shared/root")
        self.make("link", link=self.root / "shared/root")
        self.assert_shared("link", "shared")

    def seen(self, path, inside=(), root=None):
        """Return the owner of a path, and what has decided it."""
        parts, seen = [*map(os.fsencode, Path(path).parts)], []
        return owner_of_path(os.fsencode(root or self.root), parts, inside, seen), seen

    def test_unchanged(self):
        """What has decided about an owner is unchanged until a mode or an owner changes."""
        self.make("domain")
        home = self.make("domain/ann")
        inside = self.make("domain/ann/cur")
        for change, undo in (
            (lambda: os.chown(inside, ANN, ANN), lambda: os.chown(inside, 0, 0)),
            (lambda: os.chown(home, ANN, ANN), lambda: os.chown(home, 0, 0)),
            (lambda: home.parent.chmod(0o777), lambda: home.parent.chmod(0o755)),
            (lambda: self.root.chmod(0o1777), lambda: self.root.chmod(0o755)),
            (inside.rmdir, inside.mkdir),
            (
                lambda: (inside.rmdir(), inside.symlink_to("..")),
                lambda: (inside.unlink(), inside.mkdir()),
            ),
            (
                lambda: self.root.rename(f"{self.root}-away"),
                lambda: Path(f"{self.root}-away").rename(self.root),
            ),
        ):
            owner, seen = self.seen("domain/ann", [b"cur"])
            self.assertEqual(owner, 0)
            (home / "new").mkdir(exist_ok=True)
            self.assertTrue(is_unchanged(seen))
            change()
            self.assertFalse(is_unchanged(seen))
            undo()

    def test_never_unchanged(self):
        """What is missing may be made by others at any time, and links may lead elsewhere."""
        self.make("home")
        self.make("link", link="home")
        for path, inside, root in (
            ("home/ann", (), None),
            ("home", [b"cur"], None),
            ("link", (), None),
            ("ann", (), self.root / "missing"),
            ("ann", (), self.root / "link"),
        ):
            owner, seen = self.seen(path, inside, root)
            self.assertEqual(owner, 0)
            self.assertFalse(is_unchanged(seen), (path, root))
