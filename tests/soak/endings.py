"""How sessions end in a run: by QUIT, in the middle of something, or with the worker."""

import re
import time

from tests.soak.model import AWAY, GONE, HERE, MAYBE, Fault


class Endings:
    """Actions that end a session."""

    def quit(self, user, _choose):
        """End the session by QUIT."""
        if user.session:
            self._quit(user)

    def quit_meanwhile(self, user, choose):
        """QUIT, while other programs do something in the same maildrop."""
        if user.session:
            self._quit(user, lambda: self._disturb([user], choose))

    def kill_at_quit(self, user, choose):
        """A worker is killed during QUIT: each message may be removed or not, and no other one."""
        if not user.session:
            return
        delay = choose.choice([0, 0, 0.0005, 0.001, 0.003])
        self._begin_quit(user)
        time.sleep(delay)
        self.process.kill_worker()
        self._store.settle()
        if not self._end_quit(user):
            if self._store.is_kept:
                self._check_interrupted(user)
            self._lose(user, is_killed=True)
        self._after_kill()

    def _check_interrupted(self, user):
        """Check what a removal that was interrupted has done."""
        marked = user.session.marked_messages()
        if self._hides:
            user.maildrop.maybe_hidden += marked
            self._forget_away(marked)
        elif self._store.removes_at_once or self._folder:
            found = {key for key, *_ in self._store.read(user.name)}
            if self._store.removes_at_once and len({each.key in found for each in marked}) > 1:
                raise Fault("a removal was carried out in part")
            for message in marked:
                if self._folder and message.state == MAYBE and message.key not in found:
                    self._check_moved(user, message)

    def _forget_away(self, marked):
        """Never put back what was deleted while it was away: whether it is hidden is not known."""
        for message in marked:
            if message.state == AWAY:
                message.state = GONE

    @property
    def _folder(self):
        """The folder of deleted messages, or nothing."""
        return self.process.configuration.deleted.partition(":")[2]

    def _check_moved(self, user, message):
        if not self._store.is_in(user.name, self._folder, message):
            raise Fault(f"{message} was deleted, and is not in {self._folder}")

    def _begin_quit(self, user):
        """Send QUIT; from now on each marked message may be removed."""
        user.client.send(b"QUIT\r\n")
        user.is_quitting = True
        for message in user.session.marked_messages():
            if message.state == HERE:
                message.state = MAYBE
                # In an MH folder it is no longer unseen a moment before it is removed.
                message.seen = message.seen | {True}
        if user.session.records:
            for message in user.session.retrieved_messages():
                message.seen = message.seen | {True}

    def _end_quit(self, user, meanwhile=False):
        """Read the reply to QUIT, and compare the store with it; return whether there was one."""
        session = user.session
        reply = user.client.line()
        user.is_quitting = False
        if not reply:
            return False
        if user.client.rest():
            raise Fault("the server sends something after its reply to QUIT")
        user.client.close()
        user.client = user.session = None
        user.may_be_locked = False
        user.quit_at = time.monotonic()
        failed = re.fullmatch(rb"-ERR \[SYS/TEMP\] (\d+) deleted messages? not removed", reply)
        marked = session.marked_messages()
        if reply.startswith(b"+OK"):
            for message in marked:
                if message.state == MAYBE:
                    self._delete(user, message)
            if self._hides:
                self._forget_away(marked)
            if session.records and not meanwhile:
                for message in session.retrieved_messages():
                    if not session.entry(message).is_disturbed:
                        message.seen = {True}
        elif not (failed and meanwhile and marked):
            raise Fault(f"the reply to QUIT is {reply!r}, with {len(marked)} messages marked")
        self._settle(user)
        if failed:
            left = sum(message.state == HERE for message in marked)
            if int(failed[1]) > left:
                raise Fault(f"{reply!r}, but of the marked messages {left} are left")
            self.counts["refused"] += 1
        return True

    def _delete(self, user, message):
        """Record that a message was deleted."""
        message.is_hidden = self._hides
        message.state = HERE if self._hides else GONE
        if self._folder:
            self._check_moved(user, message)

    def _quit(self, user, meanwhile=None):
        self._begin_quit(user)
        if meanwhile:
            meanwhile()
        if not self._end_quit(user, meanwhile is not None):
            raise Fault("there is no reply to QUIT")

    def _end(self, user):
        if user.session:
            self._quit(user)

    def half_close(self, user, choose):
        """Send commands, and QUIT or not, and close the sending half; each gets its reply."""
        if not user.session:
            return
        lines = self._lines(user, choose)
        user.client.send(b"".join(line + b"\r\n" for line in lines))
        if choose.random() < 0.5:
            self._read_replies(user, lines)
            if user.session:
                self._begin_quit(user)
                user.client.half_close()
                if not self._end_quit(user):
                    raise Fault("there is no reply to QUIT after a half-close")
            return
        if choose.random() < 0.5:
            user.client.send(b"QUIT")  # and no line end
        user.client.half_close()
        self._read_replies(user, lines)
        if user.session:
            if rest := user.client.rest():
                raise Fault(f"after a half-close the server sends {rest!r}")
            self._lose(user, is_killed=False)

    def disconnect(self, user, choose):
        """End the connection without QUIT: nothing is removed, and the lock is released."""
        if user.session:
            (user.client.reset if choose.random() < 0.5 else user.client.close)()
            self._lose(user, is_killed=False)
            self._settle(user)

    def break_off(self, user, choose):
        """End the connection in the middle of a message."""
        if user.session and user.session.entries:
            number = choose.randrange(len(user.session.entries)) + 1
            user.client.send(b"RETR %d\r\n" % number * 3 + b"DELE %d\r\n" % number)
            user.client.some(choose.randrange(100))
            self.disconnect(user, choose)
