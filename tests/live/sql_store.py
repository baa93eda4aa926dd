"""The file of an SQL store, for servers and commands of tests."""

from tests.live.harness import require_programs, run, temporary_directory
from tests.live.postgresql import create_database, program, shared_server


def sql_file(test, *lines):
    """Return the path of a file for ``--store sql:FILE``, in which ``lines`` are added.

    Its database is new, with the schema of popserv; large messages are in the directory
    ``objects`` beside the file.
    """
    if not program("initdb"):
        require_programs(test, "initdb")
    directory = temporary_directory(test)
    (directory / "objects").mkdir()
    host = shared_server().directory
    file = directory / "store.toml"
    file.touch(0o600)
    text = [
        f'conninfo = "host={host} user=mail dbname={create_database()}"',
        *lines,
        "[objects]",
        f'url = "file://{directory}/objects"',
    ]
    file.write_text("\n".join(text) + "\n")
    made = run("popserv", "schema", "create", "--store", f"sql:{file}")
    test.assertEqual(made.returncode, 0, repr(made))
    return file
