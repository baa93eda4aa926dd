"""Compare the SQL store with Maildirs: ``make bench-sql``, or ``python benchmarks/sql.py``.

There are three parts: operations beside those of Maildirs, operations by the number of maildrops in
the database, and sessions by several servers.  The CPU time of the server and that of PostgreSQL
are measured apart.  README.rst has the method.
"""

import argparse
import sys
import time
from statistics import median

import growth
import report
from peers import Popserv
from run import (
    Bench,
    add_common_options,
    comma_separated,
    environment,
    exit_code,
    measure,
    parse,
    print_status,
    schedule,
    work_directory,
)
from sql_growth import MAILDROPS, measure_growth, measure_servers
from sql_servers import Database, SQLObjects, SQLPopserv, program
from sql_workloads import workloads

PARTS = ("stores", "growth", "servers")


def parse_command_line(argv):
    """Return the arguments of a command line."""
    names = [each.name for each in workloads()]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--part",
        type=comma_separated(PARTS),
        default=["stores"],
        help=f"parts, separated by commas: {', '.join(PARTS)} [default: stores]",
    )
    parser.add_argument(
        "--workload",
        type=comma_separated(names),
        default=names,
        help=f"workloads of stores, separated by commas: {', '.join(names)} [default: all]",
    )
    parser.add_argument(
        "--maildrops",
        type=int,
        default=MAILDROPS[-1],
        help=f"maximum number of maildrops for growth [default: {MAILDROPS[-1]}]",
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds, 1 to 9")
    add_common_options(parser)
    return parse(parser, argv)


def behind(bench, peers, steps):
    """Measure all steps; return the results, and the database's seconds per operation.

    They are lists by the name of the workload and the name of the peer.
    """
    seconds = {}

    def noted(workload, peer):
        peer.front = peer.behind = 0.0
        run = workload.measure(bench, peer)
        share = run.value * peer.behind / peer.front if peer.front else 0.0
        seconds.setdefault((workload.name, peer.name), []).append(share)
        return run

    results, _ = measure(bench, [(_Noting(each, noted), *rest) for each, *rest in steps])
    return results, seconds


class _Noting:
    """A workload whose measurements are noted."""

    def __init__(self, workload, noted):
        self._workload, self._noted = workload, noted
        self.name, self.title, self.estimate = workload.name, workload.title, workload.estimate

    def measure(self, bench, peer):
        """See Workload."""
        return self._noted(self._workload, peer)


def stores(arguments, bench, directory, database, peers):
    """Measure the workloads; return the header and the rows of their table, and the exit code."""
    selected = [each for each in workloads(tiny=arguments.tiny) if each.name in arguments.workload]
    servers = [Popserv(directory), SQLPopserv(directory, database)]
    servers.append(SQLObjects(directory, database))
    peers += servers
    print_status("generating mail")
    for workload in selected:
        for peer in servers:
            workload.prepare(bench, peer)
    bench.wait_for_mail()
    rounds = 1 if arguments.tiny else arguments.rounds
    results, seconds = behind(bench, servers, schedule(selected, servers, rounds))
    for peer in servers:
        peer.stop()
    header = ["operation", "Maildir"]
    for kind in ("inline", "objects"):
        header += [kind, f"{kind}, database", f"{kind} / Maildir"]
    return header, list(rows(selected, results, seconds)), exit_code(results)


def rows(selected, results, seconds):
    """Yield the cells of each workload: server and database, and the ratio to Maildirs."""
    for workload in selected:
        by_peer = results[workload.name]
        cells = [workload.title]
        for name, runs in by_peer.items():
            if isinstance(runs, str):
                cells += [f"failed: {runs}"] if name == "popserv" else [f"failed: {runs}", "", ""]
                continue
            cells.append(report.format_quantity(median(run.value for run in runs), "s"))
            if name != "popserv":
                ratio = report.ratio(runs, by_peer["popserv"])
                cells.append(report.format_quantity(median(seconds[workload.name, name]), "s"))
                cells.append(f"{ratio[0]:.2f}" if ratio else "")
        yield cells


def about(arguments, minutes):
    """Return the text above a table."""
    here = environment()
    lines = [
        f"Python {here['python']}, Twisted {here['twisted']}, Linux {here['kernel']}, "
        f"{here['cores']} cores; median of {1 if arguments.tiny else arguments.rounds} rounds, "
        f"{minutes} minutes."
    ]
    if arguments.tiny:
        lines.append("Run with --tiny, which only tests the code: the figures are meaningless.")
    return "\n\n".join(lines)


def write(arguments, name, title, table, text, points=None):
    """Write the table of a part, and a plot if there are points; return the text to print."""
    plots = points is not None and report.has_matplotlib(print_status)
    for folder in filter(None, (arguments.results, arguments.docs)):
        folder.mkdir(parents=True, exist_ok=True)
        report.write_csv(folder / f"{name}.csv", *table)
        (folder / f"{name}-about.txt").write_text(f"{text}\n")
        if plots:
            labels = ("maildrops in the database", "CPU time of an operation")
            growth.plot(folder / f"{name}.png", points, labels, "s")
    return f"# {title}\n\n{text}\n\n{report.table(*table)}\n"


def main(argv=None):
    """Run the benchmark; return the exit code."""
    arguments = parse_command_line(argv)
    if program("initdb") is None:
        print_status("PostgreSQL is missing: Debian's package postgresql")
        return 2
    code = 0
    with work_directory(arguments) as (directory, peers):
        bench = Bench(arguments, directory)
        database = Database(directory)
        try:
            database.start()
            for part in arguments.part:
                start = time.monotonic()
                where = (arguments, bench, directory, database, peers)
                points = None
                if part == "stores":
                    name, title = "sql", "The SQL store"
                    *table, code = stores(*where)
                elif part == "growth":
                    name, title = "sql-growth", "Many maildrops in a database"
                    points = measure_growth(*where)
                    table = growth.points_table("maildrops", points, "s")
                else:
                    name, title = "sql-servers", "Several servers over a database"
                    table = measure_servers(*where)
                text = about(arguments, round((time.monotonic() - start) / 60, 1))
                print(write(arguments, name, title, table, text, points))
        finally:
            # The database is stopped last.
            for peer in (*peers, database):
                peer.stop()
    return code


if __name__ == "__main__":
    sys.exit(main())
