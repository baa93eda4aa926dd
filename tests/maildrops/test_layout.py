"""popserv.maildrops.layout: no name or link leads out of the root."""

import contextlib
import errno
import os
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops import layout as layout_module
from popserv.maildrops.layout import Layout, create_directory, create_inheriting, mode_of
from popserv.maildrops.path_problems import UnusablePath
from popserv.runtime.file_credentials import FileCredentials, acting_as
from popserv.runtime.permissions import user_name
from tests.live.harness import temporary_directory
from tests.maildrops.maildir.harness import (
    before_each_call,
    can_open_cached,
    failing,
    watch_descriptors,
)

SOMEBODY = 12345
"""A user number that is neither root's nor that of this process."""

PATHS = [
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
    ("/srv/%%u%%%u", b"a", b"/srv/%u%a"),
    ("/%u", b"ann", b"/ann"),
    ("/srv/MBOX/%u", b"ann", b"/srv/MBOX/ann"),
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
    ("~/Maildir", "~ is not the home of a user here: use a path such as /home/%u"),
]


class UsersTests(SynchronousTestCase):
    """The users of a layout are those who have a directory in it."""

    def users(self, template, *directories):
        """Return the users after making directories below a root, which is ROOT in the template."""
        root = os.path.abspath(self.mktemp())
        for path in (b"", *directories):
            os.makedirs(os.path.join(os.fsencode(root), path))
        with open(os.path.join(root, "file"), "wb"):
            pass
        return Layout(template.replace("ROOT", root)).users()

    def test_found(self):
        """Each template finds the names that it makes paths of, and no others."""
        for template, directories, users in (
            ("ROOT", [b"bob", b"ann", b".users.d", b"\xe9\n"], [b"ann", b"bob", b"\xe9\n"]),
            ("ROOT/%u/Maildir", [b"ann/Maildir", b"bob/mail"], [b"ann"]),
            ("ROOT/%d/%n", [b"here.org/ann", b"x/.y", b"x/bob"], [b"ann@here.org", b"bob@x"]),
            ("ROOT/%n-%d", [b"ann-here.org", b"x"], [b"ann@here.org"]),
            ("ROOT/%n", [b"ann"], [b"ann"]),
            ("ROOT/%d/mail/%u", [b"b/mail/a@b", b"c/mail/a@b"], [b"a@b"]),
            ("ROOT/100%%u%u", [b"100%uann", b"100ann"], [b"ann"]),
            ("ROOT/x.%u", [b"x.ann", b"xyann"], [b"ann"]),
            ("ROOT/%u/%u", [b"ann/ann", b"bob/ann"], [b"ann"]),
            ("ROOT/%n/%u", [b"a/.b", b"a/b@c"], []),
            ("ROOT", [], []),
        ):
            with self.subTest(template=template):
                self.assertEqual(self.users(template, *directories), users)

    def test_files(self):
        """A store of files finds those, and no directories."""
        root = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(root, "ann"))
        for name in ("bob", "ann/mbox"):
            with open(os.path.join(root, name), "wb"):
                pass
        for template, users in ((root, [b"bob"]), (root + "/%u/mbox", [b"ann"])):
            self.assertEqual(Layout(template).users(os.path.isfile), users)

    def test_missing_root(self):
        """Without the root there is an error."""
        self.assertRaises(OSError, Layout("/nowhere/%u").users)

    def test_links(self):
        """A link that leads nowhere, to itself or through a file is no user."""
        root = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(root, "ann"))
        for name, target in (("bob", "nowhere"), ("cid", "cid"), ("dan", "file/x")):
            os.symlink(target, os.path.join(root, name))
        with open(os.path.join(root, "file"), "wb"):
            pass
        self.assertEqual(Layout(root).users(), [b"ann"])
        for name in ("bob", "cid", "dan", "eve"):
            self.assertEqual(mode_of(os.fsencode(f"{root}/{name}")), 0)

    def test_not_examined(self):
        """A path that cannot be examined may be a user's, so there is an error."""
        with failing(os, "stat", OSError(errno.EIO, "I/O error")):
            self.assertRaises(OSError, self.users, "ROOT", b"ann")


class CreationTests(SynchronousTestCase):
    """Directories are created for the first delivery."""

    def test_owner(self):
        """A directory may get the owner of its parent; one that exists stays as it is."""
        root = os.path.abspath(self.mktemp())
        os.makedirs(root + "/old")
        os.chown(root, SOMEBODY, SOMEBODY)
        layout = Layout(root + "/%d/%n")
        for user in (b"ann@new", b"ann@old"):
            os.close(layout.open_or_create(user, create_inheriting))
        owners = {name: os.stat(f"{root}/{name}").st_uid for name in ("new", "new/ann", "old")}
        self.assertEqual(owners, {"new": SOMEBODY, "new/ann": SOMEBODY, "old": 0})

    def test_link_made_meanwhile(self):
        """What another program's link in the place of a new directory leads to keeps its owner."""
        root, directory, file = (os.path.abspath(self.mktemp()) for _ in range(3))
        for path in (root, directory):
            os.makedirs(path)
        with open(file, "wb"):
            pass
        os.chown(root, SOMEBODY, SOMEBODY)
        for name, link, victim in (("a", os.symlink, directory), ("b", os.link, file)):

            def replace(_fd, path=f"{root}/{name}", link=link, victim=victim):
                os.rmdir(path)
                link(victim, path)

            with before_each_call(os, "fsync", replace):
                user = name.encode()
                layout = Layout(root)
                self.assertRaises(UnusablePath, layout.open_or_create, user, create_inheriting)
            self.assertEqual(os.lstat(f"{root}/{name}").st_uid, 0)
            self.assertEqual(os.stat(victim).st_uid, 0)

    def test_synced(self):
        """A directory is synced after another was created in it."""
        root = os.path.abspath(self.mktemp())
        os.makedirs(root)
        synced = []
        with before_each_call(
            os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        ):
            for user in (b"ann@here.org", b"bob@here.org", b"ann@here.org"):
                os.close(Layout(root + "/%d/%n").open_or_create(user))
        self.assertEqual(synced, [root, f"{root}/here.org", f"{root}/here.org"])

    def test_errors(self):
        """The error names the path, whatever fails and whenever."""
        root = os.path.abspath(self.mktemp())
        os.makedirs(root)
        layout, broken = Layout(root), []

        def create(name, parent):
            create_directory(name, parent)
            broken.append(name)

        def refuse(_name, _parent):
            raise OSError(errno.ENOSPC, "No space left on device")

        with failing(os, "open", OSError(errno.EIO, "I/O error"), lambda *_: broken):
            for user, function, problem in (
                (b"ann", lambda *_: None, f"{root}/ann: No such file or directory"),
                (b"ann", refuse, f"{root}/ann: No space left on device"),
                (b"ann", create, f"{root}/ann: I/O error"),
            ):
                error = self.assertRaises(UnusablePath, layout.open_or_create, user, function)
                self.assertEqual(str(error), problem)

    def test_failure(self):
        """A failure leaves no directory open."""
        watch_descriptors(self)
        root = os.path.abspath(self.mktemp())
        os.makedirs(root)
        with open(root + "/file", "wb"):
            pass
        for user in (b"ann@file", b"file@file"):
            self.assertRaises(OSError, Layout(root + "/%d/%n").open_or_create, user)
        with self.assertRaises(NotADirectoryError):
            Layout(root + "/%u").open_or_create_parent([b"file"], create_directory)


class PathTests(SynchronousTestCase):
    """A template and a user name give a path."""

    def test_paths(self):
        """Each variable is replaced by its part of the name."""
        for template, user, path in PATHS:
            layout = Layout(template)
            path_given = os.path.join(layout.root, *layout.path_parts(user))
            self.assertEqual(path_given, path, (template, user))
            self.assertEqual(layout.path(user), path)

    def test_below_trusted(self):
        """A path begins below the root, or below that of the system if it is a path of its own."""
        for layout, trusted, parts in (
            (Layout("/srv/%d/%n"), b"/srv", [b"X.org", b"annX"]),
            (Layout("/%u"), b"/", [b"annX@X.org"]),
            (Layout("/srv/%u").at(b"/XXX/mail/MBOX"), b"/", [b"XXX", b"mail", b"MBOX"]),
        ):
            self.assertEqual(layout.below_trusted(b"annX@X.org"), (trusted, parts))

    def test_bad_names(self):
        """A part that is empty, starts with a dot, or contains a slash or NUL is rejected."""
        for template, user in BAD_NAMES:
            layout = Layout(template)
            with self.assertRaisesRegex(ValueError, "is not a valid name for a maildrop"):
                self.fail((template, user, layout.path_parts(user)))

    def test_bad_templates(self):
        """An invalid template is rejected, and the message says why."""
        for template, reason in BAD_TEMPLATES:
            with self.assertRaisesRegex(ValueError, reason):
                self.fail((template, Layout(template).root))

    def test_relative(self):
        """A relative template is relative to the working directory at the start."""
        self.assertEqual(Layout("mail").root, os.fsencode(os.path.abspath("mail")))

    @settings(deadline=None)
    @given(
        st.sampled_from(["/m", "/m/%u", "/m/%d/%n", "/m/x%n/%d", "/m/.%u", "/m/%u%n/Maildir"]),
        st.binary() | st.text(".@/\0a%", max_size=8).map(os.fsencode),
    )
    def test_any_name(self, template, user):
        """Any name is rejected or gives a path below the root."""
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


class AtTests(SynchronousTestCase):
    """A layout with one maildrop, at a path."""

    def test_any_user(self):
        """The path is the same for every user, and a percent sign in it stays."""
        for path, root, part in (
            (b"/srv/100%/%u", b"/srv/100%", b"%u"),
            (b"/mail", b"/", b"mail"),
        ):
            layout = Layout("/mail/%u").at(path)
            self.assertEqual(layout.root, root)
            for user in (b"ann", b"", b"../x", b"%"):
                self.assertEqual((layout.path(user), layout.path_parts(user)), (path, [part]))


class OpenTests(SynchronousTestCase):
    """A user name gives an open directory."""

    def setUp(self):
        """Make here.org/ann below a root, and a directory outside of it."""
        self.root = os.path.abspath(self.mktemp())
        self.elsewhere = os.path.abspath(self.mktemp())
        os.makedirs(self.path_of("here.org/ann"))
        os.makedirs(os.path.join(self.elsewhere, "ann"))
        self.layout = Layout(self.root + "/%d/%n")
        watch_descriptors(self)

    def path_of(self, path):
        """Return a path below the root."""
        return os.path.join(self.root, path)

    def link(self, name, to):
        """Make a symbolic link that root does not own; return its owner."""
        os.symlink(to, self.path_of(name))
        if os.geteuid() == 0:
            os.lchown(self.path_of(name), SOMEBODY, -1)
        return os.lstat(self.path_of(name)).st_uid

    def run_as(self, user):
        """Run the server as this user."""
        self.patch(os, "geteuid", lambda: user)

    def assert_opens(self, user, path):
        """Check that the user's maildrop is this directory."""
        fd = self.layout.open(user)
        try:
            self.assertTrue(os.path.samestat(os.fstat(fd), os.stat(path)))
            self.assertFalse(os.get_inheritable(fd))
        finally:
            os.close(fd)

    def assert_refuses(self, user, text):
        """Check that opening fails with this text, in which {} stands for the root."""
        error = self.assertRaises(UnusablePath, self.layout.open, user)
        self.assertEqual(str(error), text.replace("{}", self.root))

    def test_directory(self):
        """A maildrop is a directory, and child processes do not inherit it."""
        self.assert_opens(b"ann@here.org", self.path_of("here.org/ann"))

    def test_has(self):
        """A user has a maildrop if there is a directory; an error tells nothing."""
        for user, is_there in ((b"ann@here.org", True), (b"bob@here.org", False), (b"ann", False)):
            self.assertIs(self.layout.has(user), is_there)
        os.mknod(self.path_of("here.org/bob"))
        self.assertRaises(UnusablePath, self.layout.has, b"bob@here.org")

    def test_file(self):
        """A maildrop may be a file, which is opened with its directory."""
        self.layout = Layout(self.root + "/%d/%n/mbox")
        self.assertRaises(FileNotFoundError, self.layout.open_file, b"ann@here.org", os.O_RDONLY)
        os.mknod(self.path_of("here.org/ann/mbox"))
        opened = self.layout.open_file(b"ann@here.org", os.O_RDONLY)
        for fd, path in zip(opened, ("here.org/ann", "here.org/ann/mbox"), strict=True):
            self.assertTrue(os.path.samestat(os.fstat(fd), os.stat(self.path_of(path))))
            os.close(fd)

    def test_search_permission(self):
        """To pass through the directories above a maildrop, search permission is enough."""
        if os.geteuid():
            self.skipTest("only root can become other users")
        root = temporary_directory(self)
        (root / "here.org/ann").mkdir(parents=True)
        os.chown(root / "here.org/ann", SOMEBODY, SOMEBODY)
        for path in (root, root / "here.org"):
            path.chmod(0o711)
        with acting_as(FileCredentials(SOMEBODY, SOMEBODY)):
            os.close(Layout(f"{root}/%d/%n").open(b"ann@here.org"))

    def test_cached(self):
        """What the kernel has cached is opened without waiting, and inherited by no process."""
        if not can_open_cached(self.root):
            self.skipTest("open_cached is not supported here")
        os.makedirs(self.path_of("X.org/ann/new"))
        os.symlink(self.root, self.path_of("link"))
        os.symlink("X.org", self.path_of("link.org"))
        real = layout_module.open_cached

        def open_cached(*args, **options):
            fd = real(*args, **options)
            self.assertFalse(os.get_inheritable(fd))
            return fd

        self.patch(layout_module, "open_cached", open_cached)
        for root in (self.root, self.path_of("link")):
            layout = Layout(root + "/%d/%n")
            for way in (b"", b"/new/.."):
                fd = self.opened_cached(layout, b"ann@X.org", way)
                self.assertTrue(os.path.samestat(os.fstat(fd), os.stat(self.path_of("X.org/ann"))))
                os.close(fd)
            self.assertRaises(OSError, layout.open_cached, b"ann@X.org", b"/cur/..")
            self.assertRaises(OSError, layout.open_cached, b"ann@link.org")

    @staticmethod
    def opened_cached(layout, user, way=b""):
        """Return a descriptor, in one of many attempts: the kernel can fail at any time."""
        for _ in range(100):
            with contextlib.suppress(BlockingIOError):
                return layout.open_cached(user, way) if way else layout.open_cached(user)
            os.stat(layout.path(user) + way)
        raise AssertionError("never cached")

    def test_missing(self):
        """The error of a missing maildrop differs from that of a missing root."""
        for user in (b"bob@here.org", b"ann@there.org"):
            self.assertRaises(FileNotFoundError, self.layout.open, user)
        self.layout = Layout(self.path_of("nowhere/%d/%n"))
        self.assert_refuses(b"ann@here.org", "the directory {}/nowhere does not exist; create it")

    def test_no_directory(self):
        """A file is not opened as a maildrop or as a directory above one."""
        for path in ("here.org/bob", "there.org"):
            os.mknod(self.path_of(path))
        for user, path in ((b"bob@here.org", "here.org/bob"), (b"ann@there.org", "there.org")):
            self.assert_refuses(user, f"{{}}/{path} is a file, an mbox perhaps")

    def test_create(self):
        """Missing directories are created for their owner alone; others are not changed."""
        os.chmod(self.path_of("here.org/ann"), 0o750)
        for user, path, mode in (
            (b"ann@here.org", "here.org/ann", 0o750),
            (b"bob@here.org", "here.org/bob", 0o700),
            (b"ann@there.org", "there.org/ann", 0o700),
        ):
            fd = self.layout.open_or_create(user)
            self.addCleanup(os.close, fd)
            self.assertTrue(os.path.samestat(os.fstat(fd), os.stat(self.path_of(path))))
            self.assertEqual(os.stat(self.path_of(path)).st_mode & 0o777, mode)
        self.assertEqual(os.stat(self.path_of("there.org")).st_mode & 0o777, 0o700)

    def test_create_elsewhere(self):
        """Nothing is created behind a link, in a missing root, or for an invalid name."""
        os.symlink(self.elsewhere, self.path_of("bobs.org"))
        for user in (b"bob@bobs.org", b"a" * 300 + b"@here.org"):
            self.assertRaises(OSError, self.layout.open_or_create, user)
        self.assertRaises(ValueError, self.layout.open_or_create, b"bob")
        self.layout = Layout(self.path_of("nowhere/%d/%n"))
        self.assertRaises(UnusablePath, self.layout.open_or_create, b"ann@here.org")
        self.assertEqual(os.listdir(self.elsewhere), ["ann"])
        self.assertEqual(sorted(os.listdir(self.root)), ["bobs.org", "here.org"])

    def test_too_long(self):
        """A name that is too long for the file system is refused."""
        self.assert_refuses(
            b"a" * 300 + b"@here.org", "{}/here.org/%s: File name too long" % ("a" * 300)
        )

    def test_servers_link(self):
        """A link in the place of a maildrop is followed if the server's user owns it."""
        self.run_as(self.link("here.org/bob", self.elsewhere))
        self.assert_opens(b"bob@here.org", self.elsewhere)

    def test_roots_link(self):
        """A link in the place of a maildrop is followed if root owns it."""
        if os.geteuid():
            self.skipTest("only root can make links that root owns")
        os.symlink(self.elsewhere, self.path_of("here.org/bob"))
        self.run_as(SOMEBODY)
        self.assert_opens(b"bob@here.org", self.elsewhere)

    def test_somebodys_link(self):
        """A link that another user owns is not followed."""
        owner = self.link("here.org/bob", self.elsewhere)
        self.run_as(owner + 1)
        self.assert_refuses(
            b"bob@here.org",
            f"{{}}/here.org/bob is a symbolic link that belongs to {user_name(owner)}; "
            f"a link must belong to root or to {user_name(owner + 1)} to be followed",
        )

    def test_replaced_link(self):
        """A link that somebody puts in the place of one that was found good is not followed."""
        self.run_as(self.link("here.org/bob", self.elsewhere))
        open_ = os.open

        def replace(path, flags, *args, dir_fd=None):
            if dir_fd is not None and not flags & os.O_NOFOLLOW:
                self.link("other", self.path_of("here.org/ann"))
                os.replace(self.path_of("other"), self.path_of("here.org/bob"))
            return open_(path, flags, *args, dir_fd=dir_fd)

        self.patch(os, "open", replace)
        self.assert_opens(b"bob@here.org", self.elsewhere)

    def test_replaced_before_read(self):
        """Nor is one that is put there before the good one has been read."""
        if sys.platform != "linux":
            self.skipTest("a link that is open may be impossible to read here")
        self.run_as(self.link("here.org/bob", self.elsewhere))
        readlink = os.readlink

        def replace(path, *, dir_fd=None):
            self.link("other", self.path_of("here.org/ann"))
            os.replace(self.path_of("other"), self.path_of("here.org/bob"))
            return readlink(path, dir_fd=dir_fd)

        self.patch(os, "readlink", replace)
        self.assert_opens(b"bob@here.org", self.elsewhere)

    def test_without_o_path(self):
        """A link is followed or refused likewise where a link itself cannot be opened."""
        self.patch(layout_module, "_LINK", None)
        self.run_as(self.link("here.org/bob", self.elsewhere))
        self.assert_opens(b"bob@here.org", self.elsewhere)
        self.run_as(os.lstat(self.path_of("here.org/bob")).st_uid + 1)
        self.assertRaises(UnusablePath, self.layout.open, b"bob@here.org")

    def test_link_to_a_file(self):
        """A link to a file is refused, whoever owns it."""
        os.mknod(self.path_of("file"))
        self.run_as(self.link("here.org/bob", self.path_of("file")))
        self.assert_refuses(b"bob@here.org", "{}/here.org/bob is a file, an mbox perhaps")

    def test_dangling_link(self):
        """A dangling link is an error, and not a maildrop without mail."""
        os.symlink("nowhere", self.path_of("here.org/cid"))
        self.run_as(self.link("here.org/bob", "nowhere"))
        for name in ("bob", "cid"):
            self.assert_refuses(
                f"{name}@here.org".encode(),
                f"{{}}/here.org/{name} is a symbolic link to {{}}/here.org/nowhere, "
                "which does not exist",
            )

    def test_link_above(self):
        """A link above a maildrop is not followed, whoever owns it."""
        os.symlink(self.elsewhere, self.path_of("mine.org"))
        bob = self.link("bobs.org", self.elsewhere)
        self.run_as(bob)
        for domain, owner in (("mine.org", os.getuid()), ("bobs.org", bob)):
            self.assert_refuses(
                f"ann@{domain}".encode(),
                f"{{}}/{domain} is a symbolic link that belongs to {user_name(owner)}; "
                "links above a maildrop are not followed",
            )

    def test_linked_root(self):
        """Links in the path of the root are followed, since the administrator chose it."""
        self.link("link", self.root)
        self.layout = Layout(self.path_of("link/here.org"))
        self.assert_opens(b"ann", self.path_of("here.org/ann"))
