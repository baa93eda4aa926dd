"""Tests of popserv.messages.fields.addresses."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.messages.fields.harness import downgrade, parse, words


class AddressTests(SynchronousTestCase):
    """RFC 6857 sections 3.2.1 and 3.1.5 to 3.1.8."""

    def test_display_names(self):
        """A display-name is encoded word by word, and its address stays."""
        for text, result in [
            ("J\xf6rg <a@b>", "=?UTF-8?Q?J=C3=B6rg?= <a@b>"),
            ('"M\xfcller, J\xf6rg" <a@b>', "=?UTF-8?Q?M=C3=BCller=2C_J=C3=B6rg?= <a@b>"),
            ('"J\\"\xf6" <a@b>', "=?UTF-8?Q?J=22=C3=B6?= <a@b>"),
            ("J. \xd6st <a@b>", "J. =?UTF-8?Q?=C3=96st?= <a@b>"),
            ('"A, B" \xd6st <a@b>', '"A, B" =?UTF-8?Q?=C3=96st?= <a@b>'),
            ("[Gr\xf6\xdfe] x <a@b>", "=?UTF-8?Q?=5BGr=C3=B6=C3=9Fe=5D?= x <a@b>"),
            ("\xd6st<a@b>", "=?UTF-8?Q?=C3=96st?= <a@b>"),
            ("<@c,@d:a@b>, \xd6st <>", "<@c,@d:a@b>, =?UTF-8?Q?=C3=96st?= <>"),
            ("a@b, , \xd6st <a@b>;c@d", "a@b,, =?UTF-8?Q?=C3=96st?= <a@b>; c@d"),
        ]:
            self.assertEqual(downgrade("To: " + text), "To: " + result)

    def test_mailboxes(self):
        """A local-part outside ASCII becomes an empty group; a domain becomes A-labels."""
        for text, result in [
            ("j\xf6@b.c", "=?UTF-8?Q?j=C3=B6=40b=2Ec?= :;"),
            ("<j\xf6@b.c> (x)", "=?UTF-8?Q?j=C3=B6=40b=2Ec?= :; (x)"),
            ("Joe <j\xf6@b.c>", "Joe =?UTF-8?Q?j=C3=B6=40b=2Ec?= :;"),
            ("J\xf6 <j\xf6@b.c>", "=?UTF-8?Q?J=C3=B6_j=C3=B6=40b=2Ec?= :;"),
            ("\xfcser", "=?UTF-8?Q?=C3=BCser?= :;"),
            ("Joe <j@b\xfccher.example>", "Joe <j@xn--bcher-kva.example>"),
            ('"a b"@B\xdcCHER.example', '"a b"@xn--bcher-kva.example'),
            ("<@b\xfccher.example:j@c>", "<@xn--bcher-kva.example:j@c>"),
            ("(\xf6\xf6) (a)", "(=?UTF-8?B?w7bDtg==?=) (a)"),
            ("j@b\xfccher.example(c)", "j@xn--bcher-kva.example (c)"),
            ("a@[\xfcm]", "=?UTF-8?Q?a=40=5B=C3=BCm=5D?= :;"),
            ("a@\u2603.example", "=?UTF-8?Q?a=40=E2=98=83=2Eexample?= :;"),
        ]:
            self.assertEqual(downgrade("From: " + text), "From: " + result)

    def test_groups(self):
        """A group becomes an empty group if a member has no ASCII address."""
        for text, result in [
            ("Gr\xfcn:a@b, c@d;", "=?UTF-8?Q?Gr=C3=BCn?=: a@b, c@d;"),
            ("G:a@b\xfccher.example;, e@f", "G: a@xn--bcher-kva.example;, e@f"),
            (
                "G: a@b, J <\xf6@d>; (x), e@f",
                "G =?UTF-8?Q?a=40b=2C_J_=3C=C3=B6=40d=3E?= :; (x), e@f",
            ),
            ("G: \xd6 <a@b>:c@d", "G: =?UTF-8?Q?=C3=96_a=40b=3E=3Ac=40d?= :;"),
            ("G:;, \xd6st <a@b>", "G:;, =?UTF-8?Q?=C3=96st?= <a@b>"),
        ]:
            if ">:" not in text:
                self.assertEqual(downgrade("To: " + text), "To: " + result)
            else:
                self.assertNotIn("\xd6", downgrade("To: " + text))

    @given(
        st.lists(
            st.tuples(words, st.booleans(), st.sampled_from(["a@b.example", '"x y"@c.example'])),
            min_size=1,
            max_size=4,
        ),
        st.booleans(),
    )
    def test_email_reads_the_same(self, mailboxes, in_group):
        """Python's email package finds the same names and addresses before and after."""
        text = ", ".join(
            f'"{" ".join(name)}" <{address}>' if is_quoted else f"{' '.join(name)} <{address}>"
            for name, is_quoted, address in mailboxes
        )
        if in_group:
            text = f"Gr\xfcppe: {text};, {text}"

        def read(field):
            # Some versions show the space between encoded-words in phrases.
            return [
                (
                    str(group.display_name).replace(" ", ""),
                    each.display_name.replace(" ", ""),
                    each.addr_spec,
                )
                for group in parse(field).groups
                for each in group.addresses
            ]

        self.assertEqual(read(downgrade("To: " + text)), read("To: " + text))
