"""Sends the log events of a worker to the supervisor, which writes the log."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Any

from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, eventAsJSON, eventAsText
from zope.interface import implementer

from popserv.logs.records import fields_of, split_text
from popserv.workers.link import Link

_log = Logger()

BATCH_DELAY = 0.05
"""Seconds for which events are collected, to be sent together; halves the CPU time on a busy
server."""
MAX_UNSENT = 1 << 20
"""Octets that the supervisor may leave unread before events are dropped."""
MAX_EVENT = 1 << 19
"""The maximum octets of an event; of a longer one, only the start of its text is sent."""


@implementer(ILogObserver)
class LogForwarder:
    """A log observer that sends each event as a ``log`` message over the link."""

    def __init__(self, reactor: Any, link: Link) -> None:
        self._reactor = reactor
        self._link = link
        self._events: deque[bytes] = deque()
        self._is_collecting = False
        self._is_batching = True
        self._dropped = 0

    def __call__(self, event: LogEvent) -> None:
        """Send an event: warnings and errors without delay, other events in batches."""
        # Called from any thread; and in the reactor's thread from anywhere, because the garbage
        # collector can run code that logs.
        self._events.append(b"log " + event_as_json(event))
        if not self._is_batching:
            self.flush()
        elif event.get("log_level", LogLevel.info) >= LogLevel.warn:
            # It may report why this process is about to exit.
            self._reactor.callFromThread(self.flush)
        elif not self._is_collecting:
            self._is_collecting = True
            self._reactor.callFromThread(self._flush_later)

    def stop_batching(self) -> None:
        """Send all events now, and later ones without delay, because the reactor is stopping."""
        self._is_batching = False
        self.flush()

    def flush(self) -> None:
        """Send the collected events, or drop them if the supervisor does not read."""
        self._is_collecting = False
        events = []
        while self._events:
            events.append(self._events.popleft())
        if self._link.unsent_octets > MAX_UNSENT:
            self._dropped += len(events)
        elif events:
            self._link.send(b"\n".join(events))
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                _log.warn(
                    "{dropped} earlier log events were dropped, the supervisor did not read them",
                    dropped=dropped,
                )

    def _flush_later(self) -> None:
        self._reactor.callLater(BATCH_DELAY, self.flush)


def event_as_json(event: LogEvent) -> bytes:
    """Return an event as JSON in one line of at most MAX_EVENT octets.

    An event that JSON cannot represent, or that is longer, is reduced to its text and a few
    fields.
    """
    # The objects that logged the event mean nothing in another process.
    event = {key: event[key] for key in event if key not in ("log_logger", "log_source")}
    # Twisted's JSON of a failure lacks the message of the exception.
    if "log_failure" not in event:
        with suppress(Exception):
            text = eventAsJSON(event).encode()
            if len(text) <= MAX_EVENT:
                return text
    kept = ("log_time", "log_level", "log_namespace", "log_system")
    reduced: LogEvent = {key: event[key] for key in kept if key in event}
    text_of_event = eventAsText(event, includeTimestamp=False, includeSystem=False)
    texts = {"log_reduced": text_of_event}
    if "log_failure" in event:
        reduced.update(fields_of(event))
        texts["log_message"], texts["log_traceback"] = split_text(event)
    # JSON needs up to 12 octets for a character.
    reduced.update((name, text[: MAX_EVENT >> 6]) for name, text in texts.items())
    return eventAsJSON({**reduced, "log_format": "{log_reduced}"}).encode()
