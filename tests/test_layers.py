"""The house: which room may know which.  Imports go downward only."""

import ast
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "popserv"

GROUND = {"errors", "texts"}
CORE = GROUND | {"interfaces", "wire", "fields", "downgrade", "maildrop"}
SERVICES = CORE | {"threads"}
VERB = GROUND | {"wire", "session", "command"}

MAY_IMPORT = {
    "texts": set(),
    "errors": {"texts"},
    "interfaces": set(),
    "wire": GROUND,
    "fields": set(),
    "downgrade": {"fields", "wire"},
    "maildrop": GROUND | {"downgrade"},
    "access": {"interfaces", "maildrop"},
    "session": GROUND | {"access", "interfaces", "maildrop", "workarounds"},
    "command": GROUND | {"session", "wire"},
    "commands.rfc1725": CORE | VERB | {"auth.credentials", "workarounds"},
    "commands.rfc1460": VERB | {"access", "commands.rfc1725"},
    "commands.rfc1225": CORE | VERB | {"auth.credentials", "commands.rfc1725"},
    "commands.capa": VERB,
    "commands.stls": VERB,
    "commands.sasl": VERB | {"auth.mechanisms"},
    "commands.utf8": VERB | {"auth.prepare", "languages"},
    "dialects": {
        *("command", "commands.capa", "commands.rfc1225", "commands.rfc1460", "commands.rfc1725"),
        *("commands.sasl", "commands.stls", "commands.utf8"),
    },
    "languages": {"texts"},
    "threads": {"errors"},
    "networks": set(),
    "crowd": set(),
    "exchange": set(),
    "coroutines": set(),
    "listeners": set(),
    "workers.share": {"exchange"},
    "workers.link": set(),
    "workers.sockets": set(),
    "workers.launch": set(),
    "workers.supervisor": {"listeners", "workers.launch", "workers.link", "workers.sockets"},
    "workers.worker": {
        *("exchange", "listeners", "tap"),
        *("workers.link", "workers.share", "workers.sockets"),
    },
    "workarounds": set(),
    "channel": {"session"},
    "tls": {"channel"},
    "transports": {"channel", "session"},
    "maildrops.warm": set(),
    "maildrops.layout": {"maildrops.warm"},
    "maildrops.delivery": {"maildrops.layout"},
    "maildrops.memory": CORE,
    "maildrops.folders": CORE | {"maildrops.warm"},
    "maildrops.uniques": {"maildrop"},
    "maildrops.sizes_file": {"maildrops.folders", "maildrops.uniques"},
    "maildrops.maildir": SERVICES
    | {"maildrops.folders", "maildrops.layout", "maildrops.sizes_file", "maildrops.uniques"},
    "auth.schemes": {"wire"},
    "auth.users_file": {"auth.schemes"},
    "auth.credentials": {"interfaces"},
    "auth.prepare": set(),
    "auth.scram": CORE | {"session", "auth.schemes"},
    "auth.mechanisms": CORE | {"session", "auth.credentials", "auth.scram"},
    "auth.verified": set(),
    "auth.passwd": SERVICES
    | {"auth.prepare", "auth.schemes", "auth.scram", "auth.users_file", "auth.verified"}
    | {"session"},
    "auth.delay": {"errors", "exchange"},
    "auth.penalties": {"exchange"},
    "auth.turns": {"errors"},
    "auth.gate": {"auth.penalties", "auth.turns", "exchange", "interfaces", "session"},
    "auth.provider": set(),
    "auth.tokens": SERVICES | {"auth.provider"},
    "auth.oauth": SERVICES | {"auth.provider", "auth.tokens", "auth.users_file"},
    "auth.host_names": {"session", "threads"},
    "auth.rhosts_file": {"auth.host_names", "auth.prepare", "auth.users_file"},
    "auth.rhosts": {
        *("auth.credentials", "auth.host_names", "auth.prepare", "auth.rhosts_file"),
        *("auth.users_file", "errors", "interfaces"),
    },
    "auth.realm": CORE,
    "auth.avatar": CORE,
    "auth.login": CORE | {"auth.avatar", "session"},
    "idle": {"transports"},
    "body": {"wire"},
    "protocol": CORE
    | {"auth.gate", "auth.login", "body", "command", "coroutines", "crowd"}
    | {"exchange", "idle", "networks", "session", "transports"},
    "testing": CORE | {"protocol"},
    "auth.preauth": {"interfaces"},
    "system_users": {"errors", "threads"},
    "preauth": {"auth.preauth", "command", "protocol", "session", "wire"},
    "stdio": {"transports"},
    "session_options": {
        *("auth.mechanisms", "auth.passwd", "auth.rhosts", "auth.rhosts_file", "auth.users_file"),
        *("dialects", "idle", "interfaces", "languages", "maildrops.layout", "tls", "workarounds"),
    },
    "options": {"session_options", "system_users"},
    "factories": {
        *("auth.login", "auth.mechanisms", "auth.preauth", "command"),
        *("commands.capa", "commands.rfc1460", "commands.sasl", "commands.utf8"),
        *("idle", "preauth", "protocol", "session_options"),
    },
    "session_log": {"stdio"},
    "session_command": {
        *("auth.prepare", "auth.realm", "factories", "maildrops.layout", "maildrops.maildir"),
        *("preauth", "protocol", "session", "session_log", "session_options", "stdio"),
        *("transports", "wire"),
    },
    "cli": {"session_command"}
    | {"auth.prepare", "auth.schemes", "auth.users_file", "maildrops.layout"},
}
"""What each module may import of popserv; ``tap``, which puts all together, anything."""

WITHOUT_REACTOR = (
    *("texts", "errors", "wire", "fields", "downgrade", "maildrop", "access", "session"),
    *("command", "dialects"),
    *(
        f"commands.{verb}"
        for verb in ("rfc1725", "rfc1460", "rfc1225", "capa", "stls", "sasl", "utf8")
    ),
)
"""They only await what they are handed."""


def imports(path):
    """Yield the names of the modules that a file imports, but for those for types alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = f"{node.module}."
            for alias in node.names:
                is_module = (ROOT / (parent + alias.name).replace(".", "/")).with_suffix(".py")
                yield parent + alias.name if is_module.exists() else node.module


def modules():
    """Yield (name below popserv, path) of every module that is not a package's front page."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "__init__.py":
            yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


class LayerTests(SynchronousTestCase):
    """The table above is true, and whole."""

    def test_every_module_has_its_place(self):
        """A new module needs a line in the table, and a gone one has none."""
        self.assertEqual({name for name, _ in modules()} - {"tap"}, set(MAY_IMPORT))

    def test_imports_go_downward(self):
        """No module imports what its line does not name."""
        for name, path in modules():
            ours = {
                found.removeprefix("popserv.")
                for found in imports(path)
                if found.startswith("popserv.")
            }
            self.assertLessEqual(ours - MAY_IMPORT.get(name, ours), set(), name)

    def test_core_knows_no_reactor(self):
        """The core and the verbs import nothing of twisted.internet."""
        for name, path in modules():
            if name in WITHOUT_REACTOR:
                found = [each for each in imports(path) if each.startswith("twisted.internet")]
                self.assertEqual(found, [], name)

    def test_no_reactor_at_import(self):
        """No module imports the reactor before it is chosen."""
        for name, path in modules():
            body = ast.parse(path.read_text()).body
            found = [
                ast.unparse(node)
                for node in body
                if isinstance(node, ast.ImportFrom)
                and node.module == "twisted.internet"
                and "reactor" in [alias.name for alias in node.names]
            ]
            self.assertEqual(found, [], name)
