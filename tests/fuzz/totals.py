"""How many inputs each target has had: in this run, and in all runs in this checkout."""


def _path(work, name):
    return work / "totals" / name


def read(work, names):
    """Return how many inputs each of the targets has had, by name."""
    return {
        name: int(path.read_text()) if (path := _path(work, name)).exists() else 0 for name in names
    }


def add(work, name, inputs):
    """Count inputs of a target; ``work`` is the directory of the files of runs."""
    path = _path(work, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{read(work, [name])[name] + inputs}\n")


def table(before, after):
    """Return the lines of a table of what was counted before a run, and after it."""
    rows = [(name, after[name] - before[name], after[name]) for name in after]
    rows.append(("all", *(sum(row[column] for row in rows) for column in (1, 2))))
    return [
        f"{'target':>10} {'inputs':>13} {'of all runs':>13}",
        *(f"{name:>10} {inputs:>13,} {total:>13,}" for name, inputs, total in rows),
    ]
