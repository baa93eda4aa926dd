"""maildir.layout: no name leads out of the root, and no link but the operator's."""

import os

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir.layout import Layout

SOMEBODY = 12345
"""A user's number that is neither root's nor this process's."""

PLACES = [
    ("/srv/mail", b"ann", b"/srv/mail/ann"),
    ("/srv/mail/", b"ann", b"/srv/mail/ann"),
    ("/srv/mail", b"ann@here.org", b"/srv/mail/ann@here.org"),
    ("/srv/mail/%u", b"ann@here.org", b"/srv/mail/ann@here.org"),
    ("/srv/mail/%n", b"ann@here.org", b"/srv/mail/ann"),
    ("/srv/mail/%n", b"ann", b"/srv/mail/ann"),
    ("/srv/%d/%n", b"ann@here.org", b"/srv/here.org/ann"),
    ("/srv/%d/%n", b"an@n@here.org", b"/srv/here.org/an@n"),
    ("/srv/%d/mail/%u/Maildir", b"a@b", b"/srv/b/mail/a@b/Maildir"),
    ("/srv/100%%/%n-%d", b"a@b", b"/srv/100%/a-b"),
    ("/%u", b"ann", b"/ann"),
    ("/srv/mail", b"an n", b"/srv/mail/an n"),
    ("/srv/mail", b"\xe9\xff%u\n", b"/srv/mail/\xe9\xff%u\n"),
    ("/srv/mail", b"ann..", b"/srv/mail/ann.."),
    ("/srv/mail/.%u", b"ann", b"/srv/mail/.ann"),
]

BAD_NAMES = [
    ("/srv/mail", b""),
    ("/srv/mail", b"."),
    ("/srv/mail", b".."),
    ("/srv/mail", b".users"),
    ("/srv/mail", b"../etc"),
    ("/srv/mail", b"ann/new"),
    ("/srv/mail", b"/etc"),
    ("/srv/mail", b"ann\0"),
    ("/srv/mail/.%u", b"."),
    ("/srv/%d/%n", b"ann"),
    ("/srv/%d/%n", b"ann@"),
    ("/srv/%d/%n", b"@here.org"),
    ("/srv/%d/%n", b"ann@.."),
    ("/srv/%d/%n", b"..@here.org"),
    ("/srv/%d/%n", b"a/b@here.org"),
    ("/srv/%d/%n", b"a@b@../c"),
]

BAD_TEMPLATES = [
    ("/srv/%x/%u", "%x is not known"),
    ("/srv/%U", "%U is not known"),
    ("/srv/%u%", "% is not known"),
    ("/srv/%\xe9/%u", " is not known"),
    ("/srv/%d", "one maildrop"),
    ("/srv/100%%", "one maildrop"),
]


def watch_descriptors(case):
    """Fail the test if it leaves a file open that was not open before."""
    before = os.listdir("/dev/fd")
    case.addCleanup(lambda: case.assertEqual(set(os.listdir("/dev/fd")) - set(before), set()))


class PlaceTests(SynchronousTestCase):
    """From a template and a name to a path."""

    def test_places(self):
        """Each variable stands for its part of the name."""
        for template, user, path in PLACES:
            layout = Layout(template)
            placed = os.path.join(layout.root, *layout.path_parts(user))
            self.assertEqual(placed, path, (template, user))

    def test_bad_names(self):
        """What is empty, starts with a dot, or holds a slash or NUL, names no maildrop."""
        for template, user in BAD_NAMES:
            layout = Layout(template)
            with self.assertRaisesRegex(ValueError, "is no name for a maildrop"):
                self.fail((template, user, layout.path_parts(user)))

    def test_bad_templates(self):
        """A template that cannot be meant is refused, and the message says why."""
        for template, reason in BAD_TEMPLATES:
            with self.assertRaisesRegex(ValueError, reason):
                self.fail((template, Layout(template).root))

    def test_relative(self):
        """A relative template is relative to the directory that the server starts in."""
        self.assertEqual(Layout("mail").root, os.fsencode(os.path.abspath("mail")))

    @settings(deadline=None)
    @given(
        st.sampled_from(["/m", "/m/%u", "/m/%d/%n", "/m/x%n/%d", "/m/.%u", "/m/%u%n/Maildir"]),
        st.binary() | st.text(".@/\0a%", max_size=8).map(os.fsencode),
    )
    def test_any_name(self, template, user):
        """Whatever the name, it is refused or its maildrop is below the root."""
        layout = Layout(template)
        try:
            parts = layout.path_parts(user)
        except ValueError:
            return
        for part in parts:
            self.assertNotIn(part, (b"", b".", b".."))
            self.assertFalse({b"/", b"\0"} & {bytes([byte]) for byte in part})
        path = os.path.join(layout.root, *parts)
        self.assertEqual(os.path.normpath(path), path)
        self.assertTrue(path.startswith(b"/m/"))


class OpenTests(SynchronousTestCase):
    """From a name to an open directory."""

    def setUp(self):
        """Make here.org/ann below a root, and a directory elsewhere."""
        self.root = os.path.abspath(self.mktemp())
        self.elsewhere = os.path.abspath(self.mktemp())
        os.makedirs(self.at("here.org/ann"))
        os.makedirs(os.path.join(self.elsewhere, "ann"))
        self.layout = Layout(self.root + "/%d/%n")
        watch_descriptors(self)

    def at(self, path):
        """Return a path below the root."""
        return os.path.join(self.root, path)

    def link(self, name, to):
        """Make a symbolic link that is not root's; return whose it is."""
        os.symlink(to, self.at(name))
        if os.geteuid() == 0:
            os.lchown(self.at(name), SOMEBODY, -1)
        return os.lstat(self.at(name)).st_uid

    def serve_as(self, user):
        """Have the server be that user."""
        self.patch(os, "geteuid", lambda: user)

    def assert_opens(self, user, path):
        """Check that the user's maildrop is that directory."""
        fd = self.layout.open(user)
        try:
            self.assertTrue(os.path.samestat(os.fstat(fd), os.stat(path)))
            self.assertFalse(os.get_inheritable(fd))
        finally:
            os.close(fd)

    def assert_refuses(self, user, *errors):
        """Check that opening fails with exactly one of these errors."""
        with self.assertRaises(OSError) as refused:
            self.layout.open(user)
        self.assertIn(type(refused.exception), errors)

    def test_directory(self):
        """A maildrop is a directory, and what runs later inherits it not."""
        self.assert_opens(b"ann@here.org", self.at("here.org/ann"))

    def test_missing(self):
        """A maildrop that is not there is told from a root that is not there."""
        self.assert_refuses(b"bob@here.org", FileNotFoundError)
        self.assert_refuses(b"ann@there.org", FileNotFoundError)
        self.layout = Layout(self.at("nowhere/%d/%n"))
        self.assert_refuses(b"ann@here.org", NotADirectoryError)

    def test_no_directory(self):
        """A file is no maildrop, nor leads it to one."""
        for path in ("here.org/bob", "there.org"):
            os.mknod(self.at(path))
        for user in (b"bob@here.org", b"ann@there.org"):
            self.assert_refuses(user, NotADirectoryError)

    def test_make(self):
        """What is missing is made, for its owner alone; what is there stays as it is."""
        os.chmod(self.at("here.org/ann"), 0o750)
        for user, path, mode in (
            (b"ann@here.org", "here.org/ann", 0o750),
            (b"bob@here.org", "here.org/bob", 0o700),
            (b"ann@there.org", "there.org/ann", 0o700),
        ):
            fd = self.layout.open_or_create(user)
            self.addCleanup(os.close, fd)
            self.assertTrue(os.path.samestat(os.fstat(fd), os.stat(self.at(path))))
            self.assertEqual(os.stat(self.at(path)).st_mode & 0o777, mode)
        self.assertEqual(os.stat(self.at("there.org")).st_mode & 0o777, 0o700)

    def test_make_elsewhere(self):
        """Nothing is made behind a link, in a root that is not there, or for no name."""
        os.symlink(self.elsewhere, self.at("bobs.org"))
        for user in (b"bob@bobs.org", b"a" * 300 + b"@here.org"):
            self.assertRaises(OSError, self.layout.open_or_create, user)
        self.assertRaises(ValueError, self.layout.open_or_create, b"bob")
        self.layout = Layout(self.at("nowhere/%d/%n"))
        self.assertRaises(NotADirectoryError, self.layout.open_or_create, b"ann@here.org")
        self.assertEqual(os.listdir(self.elsewhere), ["ann"])
        self.assertEqual(sorted(os.listdir(self.root)), ["bobs.org", "here.org"])

    def test_too_long(self):
        """A name longer than the file system takes opens nothing."""
        self.assert_refuses(b"a" * 300 + b"@here.org", OSError)

    def test_servers_link(self):
        """A link in a maildrop's place is followed if the server's own user made it."""
        self.serve_as(self.link("here.org/bob", self.elsewhere))
        self.assert_opens(b"bob@here.org", self.elsewhere)

    def test_roots_link(self):
        """So it is if root made it, whoever the server is."""
        if os.geteuid():
            self.skipTest("only root makes root's links")
        os.symlink(self.elsewhere, self.at("here.org/bob"))
        self.serve_as(SOMEBODY)
        self.assert_opens(b"bob@here.org", self.elsewhere)

    def test_somebodys_link(self):
        """A link that anybody else made is not followed."""
        self.serve_as(self.link("here.org/bob", self.elsewhere) + 1)
        self.assert_refuses(b"bob@here.org", NotADirectoryError, OSError)

    def test_link_to_a_file(self):
        """A link to what is no directory opens nothing, whoever made it."""
        os.mknod(self.at("file"))
        self.serve_as(self.link("here.org/bob", self.at("file")))
        self.assert_refuses(b"bob@here.org", NotADirectoryError)

    def test_dangling_link(self):
        """A maildrop that a link says is elsewhere, and is not, is no maildrop without mail."""
        self.serve_as(self.link("here.org/bob", "nowhere"))
        self.assert_refuses(b"bob@here.org", NotADirectoryError)

    def test_link_on_the_way(self):
        """A link on the way to a maildrop is not followed, whoever made it."""
        os.symlink(self.elsewhere, self.at("mine.org"))
        self.serve_as(self.link("bobs.org", self.elsewhere))
        for domain in (b"mine.org", b"bobs.org"):
            self.assert_refuses(b"ann@" + domain, NotADirectoryError, OSError)

    def test_linked_root(self):
        """The root itself may be reached by links: nobody but the operator chose it."""
        self.link("link", self.root)
        self.layout = Layout(self.at("link/here.org"))
        self.assert_opens(b"ann", self.at("here.org/ann"))
