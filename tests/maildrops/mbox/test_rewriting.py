"""popserv.maildrops.mbox.rewriting: no message is lost, whichever system call fails or is the last.

Every test reads the file afterwards as a mail program would.
"""

import contextlib
import errno
import os
from itertools import count, groupby
from unittest import mock

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.mbox import rewriting
from popserv.maildrops.mbox.parser import DEFAULT_FORMAT, parse
from popserv.maildrops.mbox.rewriting import Edit, rewrite
from popserv.maildrops.mbox.window import Window
from tests.maildrops.maildir.harness import failing
from tests.maildrops.mbox.harness import mbox_of

CALLS = ("pread", "pwrite", "fdatasync", "ftruncate", "fsync")
"""The system calls of a rewrite."""

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES)


class Killed(BaseException):
    """The process was killed."""


def message(number, octets):
    """Return a message that differs from others in each part."""
    return b"Subject: %d\n\n" % number + b"%d.\n" % number * octets


@st.composite
def cases(draw):
    """Return messages, the positions to remove, and texts to insert before the bodies of others."""
    sizes = draw(st.lists(st.integers(0, 12), min_size=1, max_size=7))
    messages = [message(number, size) for number, size in enumerate(sizes)]
    fates = [draw(st.sampled_from(["keep", "keep", "remove", "insert"])) for _ in messages]
    removed = {at for at, fate in enumerate(fates) if fate == "remove"}
    inserted = {at: b"X-UIDL: %d\n" % at for at, fate in enumerate(fates) if fate == "insert"}
    return messages, removed, inserted


class RewritingTests(SynchronousTestCase):
    """A file of some messages."""

    def setUp(self):
        """Make the file; copy in small pieces."""
        self.path = self.mktemp()
        self.touches = 0
        self.patch(rewriting, "CHUNK", 16)

    def touch(self):
        """Count the calls."""
        self.touches += 1

    def read(self):
        """Return the messages that the file has."""
        with open(self.path, "rb") as file:
            window = Window(file.fileno(), os.path.getsize(self.path))
            return [
                window.read(entry.start, entry.end - entry.start)
                for entry in parse(window, 0, DEFAULT_FORMAT)
            ]

    def prepare(self, case):
        """Write the file of a case; return its octets, and the function that rewrites it."""
        messages, removed, inserted = case
        octets = mbox_of(messages)
        with open(self.path, "wb") as file:
            file.write(octets)
        with open(self.path, "rb") as file:
            entries = list(parse(Window(file.fileno(), len(octets)), 0, DEFAULT_FORMAT))
        edits = [Edit(entries[at].offset, entries[at].next) for at in removed]
        for at, text in inserted.items():
            body = entries[at].start + messages[at].index(b"\n\n") + 1
            edits.append(Edit(body, body, text))

        def run():
            fd = os.open(self.path, os.O_RDWR)
            try:
                offsets = [entry.offset for entry in entries]
                rewrite(fd, len(octets), sorted(edits), offsets, self.touch)
            finally:
                os.close(fd)

        expected = [
            each.replace(b"\n\n", b"\n%b\n" % inserted[at], 1) if at in inserted else each
            for at, each in enumerate(messages)
            if at not in removed
        ]
        return octets, (run if edits else lambda: None), expected

    def contents(self):
        """Return the octets of the file."""
        with open(self.path, "rb") as file:
            return file.read()

    @given(cases())
    def test_result(self, case):
        """The file has what was not removed, with what was inserted."""
        _, run, expected = self.prepare(case)
        run()
        self.assertEqual(self.read(), expected)
        self.assertEqual(len(self.contents()), len(mbox_of(expected)))

    @given(cases(), st.sampled_from(CALLS), st.integers(0, 30), st.sampled_from(ERRORS))
    @settings(max_examples=300)
    def test_failing_call(self, case, name, number, code):
        """If a system call fails once, the file is what it was, or what it should become."""
        octets, run, expected = self.prepare(case)
        calls = count()
        with failing(os, name, OSError(code, "injected"), lambda *_: next(calls) == number):
            try:
                run()
            except OSError:
                if name != "fsync":
                    self.assertEqual(self.contents(), octets)
                    return
        self.assertEqual(self.read(), expected)

    @given(cases(), st.sampled_from(CALLS), st.integers(0, 30), st.booleans())
    @settings(max_examples=300)
    def test_failing_for_ever(self, case, name, number, is_full):
        """If a system call fails from some time on, every message that is not removed is there.

        A full disk does not affect octets that the file has already.
        """
        octets, run, expected = self.prepare(case)
        calls = count()

        def fails(*args):
            is_past = next(calls) >= number
            return is_past and not (
                is_full and (name != "pwrite" or args[2] + len(args[1]) <= len(octets))
            )

        with failing(os, name, OSError(errno.ENOSPC, "full"), fails):
            try:
                run()
                has_failed = False
            except OSError:
                has_failed = True
        if is_full and has_failed:
            self.assertEqual(self.contents(), octets)
        if has_failed:
            self.assert_kept(case)
        else:
            self.assertEqual(self.read(), expected)

    @given(cases(), st.integers(0, 60), st.integers(0, 20))
    @settings(max_examples=400)
    def test_killed(self, case, number, written):
        """If the process is killed in any system call, every message not removed is in the file."""
        self.kill(case, number, written)

    def test_killed_while_it_grows(self):
        """So it is if the file becomes longer than it was by more than the notice."""
        messages = [message(number, 9) for number in range(4)]
        longer = {0: b"X-UIDL: %b\n" % (b"0" * 900)}
        for removed in (set(), {1}):
            for number in range(200):
                self.kill((messages, removed, longer), number, 0)

    def kill(self, case, number, written):
        """Kill a rewrite in one of its system calls, after so many octets are written."""
        _, run, _ = self.prepare(case)
        calls = count()

        def killing(name):
            real = getattr(os, name)

            def function(fd, *args):
                if next(calls) == number:
                    if name == "pwrite":
                        # The system does not write a part of what is in one page.
                        is_line = bytes(args[0]).startswith(rewriting._NOTICE_LINE)
                        octets = max(written, len(rewriting._NOTICE_LINE)) if is_line else written
                        real(fd, args[0][:octets], args[1])
                    raise Killed
                return real(fd, *args)

            return mock.patch.object(os, name, function)

        patches = [killing(name) for name in CALLS]
        for patch in patches:
            patch.start()
        try:
            run()
        except Killed:
            pass
        finally:
            for patch in patches:
                patch.stop()
        self.assert_kept(case)

    @given(cases(), st.integers(0, 4), st.integers(1, 20), st.integers(0, 12))
    @example(([message(0, 1), message(1, 1)], {0}, {}), 0, 3, 1000)
    @example(
        ([*(b"Subject: %d\n\n" % n for n in range(5)), message(5, 3), message(6, 2)], {5}, {}),
        *(0, 1, 12),
    )
    def test_appended_without_a_lock(self, case, number, size, failed):
        """What a program without locks appends while the file is rewritten is kept."""
        _, run, expected = self.prepare(case)
        text = message(99, size)
        real, ftruncate = os.pwrite, os.ftruncate
        calls, appended = count(), []

        def extend(fd, octets):
            ftruncate(fd, octets)
            appended[:] = appended or [False]

        def pwrite(fd, *args):
            call = next(calls) if appended else -1
            if call == number:
                appended[:] = [True]
                with open(self.path, "ab") as file:
                    file.write(mbox_of([text]))
            if call == failed:
                raise OSError(errno.EIO, "injected")
            return real(fd, *args)

        with mock.patch.object(os, "pwrite", pwrite), mock.patch.object(os, "ftruncate", extend):
            try:
                run()
            except OSError:
                expected = None
        self.assert_kept(case)
        added = [text] * (appended == [True])
        self.assertEqual(self.read()[-1:] if added else [], added)
        if expected is not None:
            self.assertEqual(self.read(), expected + added)

    def test_appended_while_it_is_cut(self):
        """What a program without locks appends while something is moved is moved as well."""
        _, run, expected = self.prepare(([message(at, 3) for at in range(5)], {3, 4}, {}))
        texts = [message(98, 3), message(99, 2)]
        real, later = rewriting._copy, iter([mbox_of(texts[1:])])

        def copy(*args, **kwargs):
            for text in later:
                self.append(text)
            real(*args, **kwargs)

        self.append(mbox_of(texts[:1]))
        with mock.patch.object(rewriting, "_copy", copy):
            run()
        self.assertEqual(self.read(), expected + texts)

    def append(self, text):
        """Append to the file."""
        with open(self.path, "ab") as file:
            file.write(text)

    @given(cases())
    def test_short_writes(self, case):
        """A write may write less than it is given."""
        real = os.pwrite
        _, run, expected = self.prepare(case)
        with mock.patch.object(os, "pwrite", lambda fd, text, at: real(fd, text[:3], at)):
            run()
        self.assertEqual(self.read(), expected)

    def test_last_messages(self):
        """To remove the last messages, the file is only cut: that works on a full disk."""
        messages = [message(at, 3) for at in range(5)]
        _, run, expected = self.prepare((messages, {3, 4}, {}))
        with failing(os, "pwrite", OSError(errno.ENOSPC, "full")):
            run()
        self.assertEqual(self.read(), expected)

    def test_cut_again(self):
        """If the system does not cut the file, it is asked once more."""
        _, run, expected = self.prepare(([message(at, 3) for at in range(5)], {3, 4}, {}))
        calls = count()
        error = OSError(errno.EIO, "injected")
        with failing(os, "ftruncate", error, lambda *_: next(calls) == 0):
            run()
        self.assertEqual(next(calls), 2)
        self.assertEqual(self.read(), expected)

    def test_space(self):
        """No more is copied than is overwritten, and one message more."""
        messages = [message(0, 1000), *(message(at, 5) for at in range(1, 6))]
        _, run, expected = self.prepare((messages, {0}, {}))
        ends = []
        real = os.pwrite

        def pwrite(fd, text, at):
            ends.append(at + len(text))
            return real(fd, text, at)

        size = len(mbox_of(messages))
        with mock.patch.object(os, "pwrite", pwrite):
            run()
        self.assertEqual(self.read(), expected)
        # The copy of the removed message is never needed, but may be made: it is overwritten.
        self.assertLess(max(ends), 2 * size + 1000)

    def test_notice(self):
        """The From_ line of the notice is in one page, and blank lines are before it."""
        line = rewriting._NOTICE_LINE
        for size in range(3 * 4096):
            blank_lines = rewriting._blank_lines(size)
            start = size + len(blank_lines)
            self.assertEqual(blank_lines.strip(b"\n"), b"")
            self.assertEqual(start // 4096, (start + len(line) - 1) // 4096)

    def test_notice_text(self):
        """The notice says what has happened, however much the file grows."""
        messages = [message(number, 9) for number in range(4)]
        self.kill((messages, set(), {0: b"X-UIDL: %b\n" % (b"0" * 900)}), 30, 0)
        notice = next(each for each in self.read() if b"MAILER-DAEMON" in each)
        self.assertEqual(
            notice.rstrip(b" \n"),
            b"From: popserv <MAILER-DAEMON>\n"
            b"Subject: Removing mail was interrupted\n\n"
            b"The server was stopped while it removed messages from this mailbox.  The messages\n"
            b"after this one are copies of earlier ones; some of those may be damaged.",
        )

    def steps(self, removed, failing=None):
        """Remove messages, and return what was done to the file.

        ``failing`` is the number of the write over old octets that fails.
        """
        octets, run, _ = self.prepare(([message(at, 40) for at in range(4)], removed, {}))
        steps, overwritten = [], count()

        def record(name):
            real = getattr(os, name)

            def function(fd, *arguments):
                step = name
                if name == "pwrite":
                    step = "append" if arguments[1] >= len(octets) else "overwrite"
                steps.append(step)
                if step == "overwrite" and next(overwritten) == failing:
                    raise OSError(errno.EIO, "injected")
                return real(fd, *arguments)

            return mock.patch.object(os, name, function)

        with contextlib.ExitStack() as stack:
            for name in CALLS[1:]:
                stack.enter_context(record(name))
            with contextlib.suppress(OSError):
                run()
        return [step for step, _ in groupby(steps)]

    def test_synced(self):
        """What is written is on disk before the next step relies on it.

        The notice is, before the file grows, the copies before anything is overwritten, and the new
        text before the file is cut.
        """
        begin = ["append", "fdatasync", "ftruncate", "append", "fdatasync", "overwrite"]
        end = ["fdatasync", "ftruncate"]
        self.assertEqual(self.steps({1}), [*begin, *end, "fsync"])
        self.assertEqual(self.steps({1}, failing=2), [*begin, *end])
        self.assertEqual(self.steps({2, 3}), ["ftruncate", "fsync"])

    def test_touched(self):
        """The lock is touched for each piece that is copied."""
        _, run, _ = self.prepare(([message(at, 40) for at in range(4)], {1}, {}))
        run()
        self.assertGreater(self.touches, len(self.contents()) // 16)

    def test_truncated(self):
        """A file that is cut by a program without locks is an error."""
        messages = [message(at, 9) for at in range(3)]
        _, run, _ = self.prepare((messages, {0}, {}))
        with mock.patch.object(os, "pread", return_value=b""), self.assertRaises(OSError):
            run()

    def assert_kept(self, case):
        """Check that every message that was not removed is in the file, with or without edit."""
        messages, removed, inserted = case
        found = {each.rstrip(b"\n") for each in self.read()}
        for at, each in enumerate(messages):
            if at not in removed:
                new = each.replace(b"\n\n", b"\n%b\n" % inserted.get(at, b""), 1)
                self.assertTrue({each.rstrip(b"\n"), new.rstrip(b"\n")} & found, (at, found))
