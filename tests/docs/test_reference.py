"""What the documentation lists is what the code has."""

import ast
import importlib
import json
import re

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.passwords.schemes import SCHEMES
from popserv.auth.sasl.mechanisms import MECHANISMS
from popserv.auth.users.extra_fields import EVALUATED, HARMLESS, HARMLESS_PREFIXES, REFUSING
from popserv.commandline.doctor_options import OWN_OPTIONS, DoctorOptions
from popserv.commandline.parsing import parser
from popserv.commandline.session import Options as SessionOptions
from popserv.commands import capa, rfc1460, rfc1725
from popserv.commands.dialects import DIALECTS
from popserv.core.command import CommandTable
from popserv.core.session import Session, State
from popserv.logs.journal import entry_fields
from popserv.logs.json_lines import json_line
from popserv.logs.records import FIELDS, record_of
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.options.server import Options
from tests.docs.harness import (
    DOCS,
    KEYWORDS,
    README,
    ROOT,
    VERBS,
    tables,
    words,
)


class Everybody:
    """A place to log in that offers everything."""

    def supports(self, credentials):
        """Offer it."""
        return True

    def relayed_mechanisms(self):
        """Relay none."""
        return {}


class ListingTests(SynchronousTestCase):
    """What the documentation lists is what there is."""

    def test_commands(self):
        """The table of commands.rst has every command in order, its states and its module."""
        shown = [(row[0], row[1], row[4]) for row in tables(DOCS / "reference/commands.rst")[0]]
        there = [
            (
                entry.keyword.decode("ascii"),
                ", ".join(state.name for state in State if state in entry.states),
                module.__name__.rpartition(".")[2],
            )
            for module in VERBS
            for entry in module.COMMANDS
        ]
        self.assertEqual(shown, there)

    def test_dialects(self):
        """The table of history.rst has every command of every dialect, and where it is from."""
        rows = tables(DOCS / "history.rst")[0]
        names = ["pop-revised", "rfc1225", "rfc1460", "rfc1725", "modern"]
        self.assertEqual(set(names), set(DIALECTS))
        shown = {
            name: {row[0].encode("ascii"): row[at] for row in rows if row[at]}
            for at, name in enumerate(names, 1)
        }
        for name, sections in shown.items():
            dialect = DIALECTS[name]
            self.assertEqual(set(sections), {entry.keyword for entry in dialect.commands}, name)
            form = {"pop-revised": "[ATUO](, U)?", "rfc1225": "[ATUO](, U)?", "modern": ".+: .+"}
            for section in sections.values():
                self.assertRegex(section, f"^{form.get(name, '[4-7](, 6)?')}$")

    def test_readme_modules(self):
        """Every module that the README's table of RFCs names can be imported."""
        rows = tables(README)[0]
        self.assertGreater(len(rows), 10)
        for _, _, module in rows:
            self.assertEqual(importlib.import_module(module).__name__, module)

    def test_readme_commands(self):
        """The README's table names every command."""
        shown = {word for _, what, _ in tables(README)[0] for word in what.split(", ")}
        self.assertLessEqual(KEYWORDS, shown)

    def test_help_commands(self):
        """--help names every command, its module, and which can be left out."""
        shown = str(Options())
        for module in (*VERBS, rfc1460):
            name = module.__name__.rpartition(".")[2]
            first = module.COMMANDS[0].keyword.decode("ascii")
            self.assertRegex(shown, rf"RFC \d{{4}} +{name} +{first}\b")
        for keyword in {*KEYWORDS, "LAST", "RPOP"}:
            self.assertRegex(shown, rf"\b{keyword}\b")
        self.assertIn("AUTH and LANG can be removed with --without", shown)

    def test_mechanisms(self):
        """The table of commands.rst has every mechanism, in order."""
        shown = [row[0] for row in tables(DOCS / "reference/commands.rst")[3]]
        self.assertEqual(shown, [each.name.decode("ascii") for each in MECHANISMS])

    def test_capabilities(self):
        """The table of commands.rst has every capability that there is."""
        shown = {
            name
            for row in tables(DOCS / "reference/commands.rst")[2]
            for name in row[0].split(", ")
        }
        commands = capa.commands(implementation=b"x", login_delay=1)
        table = CommandTable(rfc1725.COMMANDS, commands, *(each.COMMANDS for each in VERBS[2:]))
        session = Session(
            Everybody(),
            can_start_tls=True,
            downgrader=Downgrader,
            capabilities=table.capabilities,
        )
        reply = table.find(session, b"CAPA").run(session)
        there = {line.split()[0].decode("ascii") for line in b"".join(reply.body).splitlines()}
        self.assertEqual(shown, there)

    def test_options(self):
        """options.rst has every option with its short form, and shows which take an argument."""
        shown, with_argument = option_terms(between("options", DOCS / "reference/options.rst"))
        options = Options()
        there = {f"--{name.rstrip('=')}" for name in options.longOpt}
        there |= {f"-{letter}" for letter in options.shortOpt if letter != ":"}
        self.assertEqual(shown, there)
        takes = {f"--{name[:-1]}" for name in options.longOpt if name.endswith("=")}
        takes |= {f"-{letter}" for letter in re.findall("(.):", options.shortOpt)}
        self.assertEqual(with_argument, takes)

    def test_session_options(self):
        """popserv-command.rst has every option of popserv session."""
        text = between("command", DOCS / "reference/popserv-command.rst")
        text = text.partition("``popserv session`` speaks")[2]
        shown, with_argument = option_terms(text)
        shared = re.search(r"^The other options are .*$", text, re.MULTILINE)[0]
        options, server = SessionOptions(), Options()
        there = {f"--{name.rstrip('=')}" for name in options.longOpt}
        self.assertEqual(
            {name for name in shown if name.startswith("--")}
            | set(re.findall("``(--[a-z0-9-]+)``", shared)),
            there,
        )
        self.assertEqual(
            shown,
            {f"--{name.rstrip('=')}" for name in set(options.longOpt) - set(server.longOpt)}
            | {f"-{letter}" for letter in set(options.shortOpt) - set(server.shortOpt)},
        )
        self.assertEqual(with_argument, {"--user", "-u"})

    def test_command_options(self):
        """popserv-command.rst has the options of each command, and which take an argument."""
        text = between("command", DOCS / "reference/popserv-command.rst")
        _, *parts = re.split(r"^popserv ([a-z, -]+)\n~+$", text, flags=re.MULTILINE)
        sections = dict(zip(parts[::2], parts[1::2], strict=True))
        del sections["session"]
        doctor = DoctorOptions().longOpt
        there = {
            **command_options(parser()),
            "doctor": {name: f"{name}=" in doctor for name in OWN_OPTIONS},
        }
        del there["session"]
        self.assertEqual({name for names in sections for name in names.split(", ")}, set(there))
        for names, section in sections.items():
            shown, with_argument = option_terms(section)
            options = {}
            for name in names.split(", "):
                options.update(there[name])
            self.assertEqual(shown, {f"--{name}" for name in options}, names)
            takes = {f"--{name}" for name, argument in options.items() if argument}
            self.assertEqual(with_argument, takes, names)

    def test_schemes(self):
        """users-file.rst's table has every password scheme, and no other."""
        found = [
            table for table in tables(DOCS / "reference/users-file.rst") if "APOP" in table[-1]
        ]
        shown = [scheme for row in found[0] for scheme in row[0].split(", ")]
        self.assertEqual(len(shown), len(set(shown)))
        self.assertEqual(set(shown), {scheme.decode("ascii") for scheme in SCHEMES})

    def test_extra_fields(self):
        """users-file.rst's table has every extra field with its effect, and no other."""
        found = [
            table for table in tables(DOCS / "reference/users-file.rst") if "userdb" in table[-1][0]
        ]
        shown = {
            field.strip("`"): effect for names, effect in found[0] for field in names.split(", ")
        }
        harmless = {*HARMLESS, *(f"{prefix}*" for prefix in HARMLESS_PREFIXES)}
        self.assertEqual(set(shown), {*EVALUATED, *REFUSING, *harmless})
        for field, effect in shown.items():
            self.assertEqual(effect.startswith("no login"), field in REFUSING, field)
            self.assertEqual(effect.startswith("none: "), field in harmless, field)

    def test_sasl_conditions(self):
        """sasl.rst's table has every mechanism of AUTH, and no other."""
        rows = tables(DOCS / "reference/sasl.rst")[0]
        shown = [name for row in rows for name in row[0].split(", ")]
        self.assertEqual(len(shown), len(set(shown)))
        self.assertEqual(set(shown), {each.name.decode("ascii") for each in MECHANISMS})

    def test_clients(self):
        """Each test that clients.rst names is there."""
        rows = [row for table in tables(DOCS / "reference/clients.rst") for row in table if row[2]]
        self.assertGreater(len(rows), 25)
        for *_, named in rows:
            places, _, test = named.partition(": ")
            for place in places.split(", "):
                path = ROOT / "tests" / place
                is_transcript = place.startswith("transcripts/")
                text = path.with_suffix(".txt" if is_transcript else ".py").read_text("latin-1")
                self.assertIn(f"def {test}(" if test else "", text, named)

    def test_log(self):
        """A page quotes every line that popserv writes to the log, as a literal and as a whole."""
        pages = [*(DOCS / "reference").glob("*.rst"), *(DOCS / "howto").glob("*.rst")]
        quoted = {text for page in pages for text in re.findall("``(.+?)``", words(page))}
        found = [text for path in (ROOT / "popserv").rglob("*.py") for text in logged(path)]
        self.assertGreater(len(found), 8)
        for text in found:
            pieces = map(re.escape, re.split(r"\{[^}]*\}", text))
            whole = re.compile(".+".join(pieces))
            self.assertTrue(any(map(whole.fullmatch, quoted)), text)

    def test_log_fields(self):
        """log-fields.rst's table has every field of the lines with events, and FIELDS, too."""
        there = {name for call in session_events() for name in call}
        shown = [
            row[0].strip("`") for row in tables(DOCS / "reference/log-fields.rst")[2] if row[0]
        ]
        self.assertEqual(sorted(shown), sorted(there))
        self.assertEqual(sorted(FIELDS), sorted(there))

    def test_log_events(self):
        """log-fields.rst's table has every event, and its fields."""
        there = {}
        for call in session_events():
            event = ast.literal_eval(call["event"])
            there.setdefault(event, set()).update(set(call) - {"event"})
        shown, event = {}, ""
        for name, _, fields in tables(DOCS / "reference/log-fields.rst")[1]:
            event = name.strip("`") or event
            shown.setdefault(event, set()).update(re.findall(r"\w+", fields))
        self.assertEqual(shown, there)

    def test_log_parts(self):
        """log-fields.rst's table has what every line of JSON and every entry of the journal has."""
        rows = tables(DOCS / "reference/log-fields.rst")[0]
        event = {"log_format": "x", "log_worker": 1, "log_failure": Failure(ValueError("x"))}
        shown = [row[0].strip("`") for row in rows if row[0]]
        self.assertEqual(shown, list(json.loads(json_line(event))))
        entry = b"".join(entry_fields(record_of(event))).decode()
        for row in rows:
            for name in re.findall("``([A-Z_]+)``", row[1]):
                self.assertRegex(entry, rf"(?m)^{name}(=|$)")

    def test_response_codes(self):
        """commands.rst's table has every response code that an error carries."""
        shown = {row[0].strip("[]") for row in tables(DOCS / "reference/commands.rst")[1]}
        source = (ROOT / "popserv" / "errors.py").read_text("utf-8")
        self.assertEqual(shown, set(re.findall(r'    code = b"(.+)"', source)))


def session_events():
    """Return the fields of each call that logs an event of a session or a delivery, by name.

    The values are source.
    """
    paths = ("server/session_events.py", "delivery/events.py")
    return [
        {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        for path in paths
        for node in ast.walk(ast.parse((ROOT / "popserv" / path).read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("_log.")
    ]


def between(name, path):
    """Return a page's text between its comments ``name-begin`` and ``name-end``."""
    begin, end = f"\n.. {name}-begin\n", f"\n.. {name}-end\n"
    return path.read_text("utf-8").partition(begin)[2].partition(end)[0]


def option_terms(text):
    """Return the options that are terms of a definition list, and those that take an argument."""
    form = r"``--?[a-z0-9-]+(?: [A-Z]+)?``"
    terms = re.findall(rf"^ *{form}(?:, {form})?$", text, re.MULTILINE)
    options = [option.split(" ") for term in terms for option in re.findall("``(.+?)``", term)]
    return {name for name, *_ in options}, {name for name, *argument in options if argument}


def command_options(parser):
    """Return the options of each command of a parser: whether they take an argument, by name."""
    (commands,) = [each for each in parser._actions if isinstance(each.choices, dict)]
    return {name: dict(_options(each)) for name, each in commands.choices.items()}


def _options(parser):
    for action in parser._actions:
        for each in action.choices.values() if isinstance(action.choices, dict) else ():
            yield from _options(each)
        for option in action.option_strings:
            if option.startswith("--") and option != "--help":
                yield option[2:], action.nargs != 0


def logged(path):
    """Yield the format of each line that a module may log."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("debug", "info", "warn", "error", "critical", "failure")
            and "log" in ast.unparse(node.func.value)
        ):
            yield ast.literal_eval(node.args[0])
