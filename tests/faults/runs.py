"""Runs a scenario with one fault, and checks what holds for all of them."""

import re
import traceback

from tests.faults.scenarios import SCENARIOS, TEMPORARY, Broken, require
from tests.faults.shim import CLASSES, KILL, KILLED, Fault, faults_of


def run(bench, name, fault):
    """Run a scenario with a fault; return its :class:`~tests.faults.shim.Outcome`.

    :raises Broken: a promise does not hold; the text tells the call that has failed.
    """
    scenario = SCENARIOS[name](bench, fault.error in ("ENOENT", "EACCES"))
    scenario.prepare()
    logged = bench.logged()
    with bench.shim.armed(scenario.root, fault) as outcome:
        replies = [*scenario.act()]
    killed = fault.error == KILL and outcome.hits > 0
    try:
        if killed:
            require(bench.stop(0) == KILLED, "the server has ended by itself")
            bench.age_dotlocks()
            bench.start()
        scenario.check(killed)
        bench.check_bystander()
        if outcome.hits and not killed:
            _check_replies(bench, fault, replies, bench.log(logged))
    except (AssertionError, OSError) as error:
        text = f"{bench.kind} {name} {fault}: {outcome.last}: {error}"
        if not isinstance(error, Broken):
            text += "\n" + traceback.format_exc()
        raise Broken(f"{text}\n{[*replies]}\n{bench.log(logged)[-3000:]}") from error
    return outcome


def _check_replies(bench, fault, replies, log):
    """Clients are not told the reason, the log is."""
    for reply in replies:
        leaks = [fault.text.encode()] if fault.text else []
        for text in (*leaks, str(bench.root).encode(), b"Errno", b"errno"):
            require(text not in reply, f"a client is told {reply!r}")
        require(b"[IN-USE]" not in reply or fault.calls == "lock", f"a client is told {reply!r}")
    if any(reply.startswith((*TEMPORARY, b"4")) for reply in replies):
        # A text of its own tells what is missing, or who may not do it.
        text = fault.text if fault.error not in ("ENOENT", "EACCES") else ""
        require(text in log, f"the log does not tell {text!r}")
        require(re.search("#(warn|error|critical)]", log), "the log does not tell the reason")
    require("Unhandled" not in log, "the log tells an unhandled error")


def count_calls(bench, name, calls):
    """Return how many calls of a class a scenario makes without a fault."""
    scenario = SCENARIOS[name](bench)
    scenario.prepare()
    with bench.shim.armed(scenario.root, calls=calls) as outcome:
        scenario.act()
    scenario.check(False)
    return outcome.count


def all_faults(bench, name):
    """Return all faults of a scenario: every call of each class, with everything that can be."""
    return [
        Fault(calls, error, number)
        for calls in CLASSES
        for number in range(1, count_calls(bench, name, calls) + 1)
        for error in (*faults_of(calls), KILL)
    ]


def summary(text):
    """Return the first line of a failure without what differs from run to run."""
    return re.sub(r"/u\d+\b|popserv-\w+|\d{6,}\S*", "", text.partition("\n")[0])
