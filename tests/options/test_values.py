"""Tests of popserv.options.values."""

from tests.options.harness import OptionsCase


class MessagesTests(OptionsCase):
    """The messages for invalid values."""

    def test_invalid_values(self):
        """Each invalid value is rejected with a message that names the valid values."""
        self.assert_messages(
            [
                (
                    ["--timeout", "soon"],
                    "--timeout must be a number of seconds above 0, such as 600, not 'soon'",
                ),
                (["--timeout", "0"], "--timeout must be a number of seconds"),
                (["--timeout", "inf"], "--timeout must be a number of seconds"),
                (
                    ["--sasl", "plain,kerberos"],
                    "--sasl KERBEROS: must be one of SCRAM-SHA-256-PLUS, SCRAM",
                ),
                (["--sasl", ""], "--sasl '': must be one of SCRAM"),
                *(
                    (
                        ["--auth=dovecot:/s", f"--sasl={name}"],
                        f"--sasl {shown}: must be one of SCRAM",
                    )
                    for name, shown in (("", "''"), ("NT LM", "NT LM"), ("x" * 21, "X" * 21))
                ),
                *(
                    (
                        ["--since", age],
                        f"--since must be a number above 0 and h, d or w, such as 30d, not '{age}'",
                    )
                    for age in ("30", "0d", "d", "-1d", "1.5d", "1234567d", "30D")
                ),
                (
                    ["--since=30d", "--expire=31"],
                    "--expire 31: --since hides messages after 30 days; remove --expire, or give",
                ),
                (["--folder=a/b"], "--folder: 'a/b' contains a slash; separate the levels by dots"),
                *(
                    (
                        [f"--folder-delimiter={delimiter}"],
                        "--folder-delimiter must be one of + - _ = ~ ! #, not ",
                    )
                    for delimiter in ("++", "+-", "@", "/", ".", "a", "%", " ", "ü")
                ),
                (
                    ["--expire", "never"],
                    "--expire must be a whole number of days from 0 to 999999, not 'never'",
                ),
                *(
                    (
                        [f"--default-domain={domain}"],
                        "--default-domain must be a domain such as example.org, not ",
                    )
                    for domain in ("@example.org", "example org", "a/b", "a:b", "x\n")
                ),
                (
                    ["--hostname", "two words"],
                    "--hostname must be a host name such as pop.example.org, not 'two words'",
                ),
                (
                    ["--workarounds", "oe-ns-eoh,x"],
                    "--workarounds x: must be one of outlook-no-nuls, oe-",
                ),
                (
                    ["--language", "tlh"],
                    "--language tlh: must be one of i-default, en, de, fr",
                ),
                (["--without", "STAT"], "--without STAT: must be one of TOP, UIDL, APOP, CAPA"),
                (["--without", "ümlaut"], "--without ÜMLAUT: must be one of"),
                (["--without", "LANG,STAT"], "--without STAT: must be one of"),
                (
                    ["--dialect", "pop2"],
                    "--dialect pop2: must be one of modern, rfc1725, rfc1460, rfc1225, pop-revised",
                ),
            ]
        )
