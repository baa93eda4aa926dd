"""Tests of popserv.messages.fields.text."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.messages.fields.harness import decode, downgrade, downgrade_to_line, parse, words


class UnstructuredTests(SynchronousTestCase):
    """RFC 6857 sections 3.1.1, 3.2.6 and 3.2.8."""

    @given(words, st.lists(st.sampled_from([" ", "  ", "\t", "\n "]), min_size=12, max_size=12))
    def test_subject(self, given_words, spaces):
        """A reader sees the same text, white space included."""
        text = "".join(map("".join, zip(spaces, given_words, strict=False)))
        result = downgrade("Subject:" + text)
        visible = text.replace("\n", "").strip(" \t")
        self.assertEqual(decode(result.partition(":")[2].replace("\n", "")).strip(" \t"), visible)
        self.assertEqual(str(parse(result)).strip(" \t"), visible)
        if not text.isascii():
            self.assertLessEqual(max(map(len, result.split("\n"))), 76)

    def test_words(self):
        """Words in ASCII stay readable; consecutive other words are encoded together."""
        self.assertEqual(
            downgrade("Subject: Gr\xfc\xdfe aus K\xf6ln und K\xf6ln \xfc"),
            "Subject: =?UTF-8?Q?Gr=C3=BC=C3=9Fe?= aus =?UTF-8?Q?K=C3=B6ln?= und\n"
            " =?UTF-8?Q?K=C3=B6ln_=C3=BC?=",
        )

    def test_encoded_words(self):
        """White space beside an existing encoded-word is encoded, so that readers show it."""
        for text, visible in [
            ("=?utf-8?q?x?= \xfc", "x \xfc"),
            ("\xfc =?utf-8?q?x?=", "\xfc x"),
            ("a =?utf-8?q?x?= \xfc\t=?utf-8?b?eA==?= b", "a x \xfc\tx b"),
        ]:
            self.assertEqual(decode(downgrade_to_line("X: " + text)[3:]), visible)

    def test_long(self):
        """The whole text is encoded if a word or a space is too long for a line."""
        for text in ("y" * 1200 + " \xfc", "a" + " " * 1200 + "\xfc"):
            result = downgrade("X: " + text)
            self.assertEqual(decode(result.replace("\n", ""))[3:], text)
            self.assertLessEqual(max(map(len, result.split("\n"))), 76)

    def test_space_before_encoded(self):
        """A wide space before an encoded-word is kept."""
        text = "a" + " " * 150 + "\xfc"
        self.assertEqual(decode(downgrade_to_line("X: " + text)), "X: " + text)


class CommentTests(SynchronousTestCase):
    """RFC 6857 sections 3.1.3 and 3.2.2."""

    def test_comments(self):
        """A comment is downgraded anywhere in a field (section 3.1.3)."""
        for text, result in [
            ("a@b (J\xf6rg)", "a@b (=?UTF-8?Q?J=C3=B6rg?=)"),
            ("(J\xf6rg (K\xf6ln) x) a@b", "(=?UTF-8?Q?J=C3=B6rg?= (=?UTF-8?Q?K=C3=B6ln?=) x) a@b"),
            ("x (a\\)\xf6) <a@b>", "x (=?UTF-8?Q?a=29=C3=B6?=) <a@b>"),
            ("x <a@b(\xf6\xf6)>(c)", "x <a@b> (=?UTF-8?B?w7bDtg==?=) (c)"),
            ("(\xf6\xf6", "(=?UTF-8?B?w7bDtg==?=)"),
            ("a@b (c (d) \xf6\xf6", "a@b (c (d) =?UTF-8?B?w7bDtg==?=)"),
            ("(a (b)(\xf6\xf6)) a@b", "(a (b)(=?UTF-8?B?w7bDtg==?=)) a@b"),
            ("(a(\xf6\xf6)) a@b", "(a(=?UTF-8?B?w7bDtg==?=)) a@b"),
            ("(a)\xd6st (c) <a@b>", "(a) =?UTF-8?Q?=C3=96st?= (c) <a@b>"),
        ]:
            self.assertEqual(downgrade("To: " + text), "To: " + result)

    def test_comments_only(self):
        """A date is unstructured if more than its comments is not ASCII (section 3.2.2)."""
        for text, result in [
            ("1 Jan 2020 00:00 +0100 (M\xe4rz)", "1 Jan 2020 00:00 +0100 (=?UTF-8?Q?M=C3=A4rz?=)"),
            ("(M\xe4rz)1 Jan (x)", "(=?UTF-8?Q?M=C3=A4rz?=) 1 Jan (x)"),
            ("1. M\xe4rz 2020", "1. =?UTF-8?Q?M=C3=A4rz?= 2020"),
        ]:
            self.assertEqual(downgrade("Date: " + text), "Date: " + result)


class KeywordsTests(SynchronousTestCase):
    """RFC 6857 section 3.2.7."""

    def test_keywords(self):
        """Phrases separated by commas are downgraded one by one."""
        self.assertEqual(
            downgrade('Keywords: a b, "\xd6st, West" c, d'),
            "Keywords: a b, =?UTF-8?Q?=C3=96st=2C_West?= c, d",
        )
