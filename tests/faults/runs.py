"""Runs a scenario with one fault, and checks what holds for all of them."""

import re
import traceback

from tests.faults.base import Broken, require
from tests.faults.power import REPLIED, Disk, read_records
from tests.faults.scenarios import SCENARIOS
from tests.faults.shim import CLASSES, KILL, faults_of


def run(bench, name, fault):
    """Run a scenario with a fault; return its :class:`~tests.faults.shim.Outcome`.

    :raises Broken: a promise does not hold; the text tells the call that has failed.
    """
    scenario = SCENARIOS[name](bench, fault)
    scenario.prepare()
    logged = bench.logged()
    with bench.shim.armed(scenario.root, fault) as outcome:
        replies = [*scenario.act()]
    killed = fault.error == KILL and outcome.hits > 0
    try:
        if killed:
            scenario.recover()
        scenario.check(killed)
        bench.check_bystander()
        if outcome.hits and not killed:
            scenario.check_told(replies, bench.log(logged))
    except (AssertionError, OSError) as error:
        text = f"{bench.kind} {name} {fault}: {outcome.last}: {error}"
        if not isinstance(error, Broken):
            text += "\n" + traceback.format_exc()
        raise Broken(f"{text}\n{[*replies]}\n{bench.log(logged)[-3000:]}") from error
    return outcome


def count_calls(bench, name):
    """Return how many calls of each class a scenario makes without a fault."""
    scenario = SCENARIOS[name](bench)
    scenario.prepare()
    with bench.shim.armed(scenario.root) as outcome:
        scenario.act()
    scenario.check(False)
    return outcome.counts


def all_faults(bench, name):
    """Return all faults of a scenario: every call of each class, with everything that can be."""
    counts = count_calls(bench, name)
    return [
        fault
        for calls in CLASSES
        for number in range(1, counts[calls] + 1)
        for fault in faults_of(calls, number)
    ]


def summary(text):
    """Return the first line of a failure without what differs from run to run."""
    return re.sub(r"/u\d+\b|popserv-\w+|\d{6,}\S*", "", text.partition("\n")[0])


def lose_power(bench, name, choose, number=None):
    """Run a scenario, and check what each power loss during it may leave; return their number.

    With ``number``, only so many of them are checked.

    :raises Broken: what was confirmed is not on disk, or mail is lost.
    """
    scenario = SCENARIOS[name](bench)
    scenario.prepare()
    disk = Disk(scenario.disk)
    with bench.shim.recording(scenario.disk):
        replies = [*scenario.act()]
    told, states = b"", []
    for record in (None, *read_records(bench.shim.records)):
        if record is not None:
            disk.apply(record)
            told += record.data if record.kind == REPLIED else b""
        states += [(told, record, each) for each in disk.outcomes(choose)]
    is_recorded = scenario.is_command or all(reply in told for reply in replies)
    require(is_recorded, f"of the replies {replies} one is not in {told!r}")
    told += scenario.confirmation
    states += [(told, None, each) for each in disk.outcomes(choose)]
    require(told, "nothing was told")
    states = [each for each in states if scenario.is_known(each[0])]
    if number is not None and number < len(states):
        # The last ones are those after the confirmation.
        states = [*choose.sample(states[:-4], number - 4), *states[-4:]]
    for told, record, contents in states:
        try:
            scenario.lose_power(told, contents)
        except (AssertionError, OSError) as error:
            when = record and (record.kind, record.path, record.to)
            raise Broken(
                f"{bench.kind} {name}: power loss after {when}: {error}\n"
                f"{ {path: value and len(value[0]) for path, value in contents.items()} }"
            ) from error
    return len(states)
