"""Chromium without a window, steered through pipes by the DevTools protocol."""

import base64
import fcntl
import json
import os
import re
import select
import subprocess
import sys
import time
from collections import Counter
from itertools import count

from tests.live.harness import TIMEOUT, require_programs, temporary_directory

_STARTER = """\
import os, sys
for number, descriptor in ((3, sys.argv[1]), (4, sys.argv[2])):
    os.dup2(int(descriptor), number)
os.execvp(sys.argv[3], sys.argv[3:])
"""

_CLEAR = "rgba(0, 0, 0, 0)"


class Browser:
    """A Chromium with one page, in which no scripts run.

    :ivar problems: what the browser has reported on its console, such as a violation of a policy.
    :ivar requested: the URLs that it has requested.
    """

    def __init__(self, test):
        require_programs(test, "chromium")
        self.problems, self.requested = [], []
        self._numbers = count(1)
        self._received = b""
        # Above 3 and 4, at which Chromium expects them.
        commands, self._output = _pipe()
        self._input, answers = _pipe()
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", _STARTER, str(commands), str(answers)),
                *("chromium", "--headless", "--remote-debugging-pipe", "--no-sandbox"),
                *("--disable-gpu", "--no-first-run", "--disable-background-networking"),
                f"--user-data-dir={temporary_directory(test)}",
            ],
            pass_fds=[commands, answers],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        test.addCleanup(self._stop, process)
        os.close(commands)
        os.close(answers)
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Log", "Network", "Audits", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setScriptExecutionDisabled", value=True)

    def open(self, url, *, width=1280, height=800, scheme="light"):
        """Show a page in a window of that size, for a reader who prefers that color scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self._loaded = False
        answer = self.call("Page.navigate", url=url)
        if "errorText" in answer:
            raise AssertionError(f"{url}: {answer['errorText']}")
        deadline = time.monotonic() + TIMEOUT
        while not self._loaded:
            self._receive(deadline)

    def size(self):
        """Return the width and the height of the contents of the page."""
        content = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return content["width"], content["height"]

    def screenshot(self):
        """Return a picture of the whole page, in PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def roles(self):
        """Return how many elements of each role a screen reader finds."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return Counter(each["role"]["value"] for each in nodes if not each["ignored"])

    def colors(self):
        """Return each text that is shown with its color and that behind it, each red, green, blue.

        A background must be opaque or transparent.
        """
        snapshot = self.call(
            "DOMSnapshot.captureSnapshot", computedStyles=["color", "fill", "background-color"]
        )
        strings, document = snapshot["strings"], snapshot["documents"][0]
        layout, parents = document["layout"], document["nodes"]["parentIndex"]
        styles = {
            node: [strings[each] for each in values]
            for node, values in zip(layout["nodeIndex"], layout["styles"], strict=True)
            if values
        }
        shown = []
        for node, text in zip(layout["nodeIndex"], layout["text"], strict=True):
            if text >= 0 and strings[text].strip():
                color, fill, _ = styles[node]
                around = node
                while styles.get(around, [_CLEAR])[-1] == _CLEAR:
                    around = parents[around]
                # Only text of SVG has another fill than black.
                front = color if fill == "rgb(0, 0, 0)" else fill
                shown.append((strings[text], _channels(front), _channels(styles[around][-1])))
        return shown

    def call(self, method, **parameters):
        """Call a method of the protocol; return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._output, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]

    def _receive(self, deadline):
        """Return the next answer or event."""
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._input], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self._input, 1 << 20) if ready else b""
            if not data:
                raise AssertionError("Chromium does not answer")
            self._received += data
        line, _, self._received = self._received.partition(b"\0")
        message = json.loads(line)
        method, parameters = message.get("method"), message.get("params")
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Log.entryAdded":
            self.problems.append(parameters["entry"]["text"])
        elif method == "Audits.issueAdded":
            self.problems.append(str(parameters["issue"]))
        elif method == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])
        return message

    def _stop(self, process):
        process.terminate()
        process.wait(TIMEOUT)
        os.close(self._input)
        os.close(self._output)


def _channels(color):
    """Return red, green and blue of an opaque color of CSS."""
    return tuple(map(int, re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", color).groups()))


def _pipe():
    """Return both ends of a pipe, with descriptors that are not less than 10."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high
