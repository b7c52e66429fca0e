#!/usr/bin/env python3
"""Tests the judge of check.py with right and wrong edits of small messages: python3 check_test.py"""

import base64
import json
import pathlib
import quopri
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True

import check  # noqa: E402

APPEND = {"append": {"plain": "Kind regards,\nthe firm", "html": "<p>Kind regards, the <b>firm</b></p>"}}
BOTH = {"prepend": {"plain": "To all", "html": "<div>To all</div>"}, **APPEND}
EURO = {"append": {"plain": "Grüße für 5 € 🙂", "html": "<p>Grüße für 5 € 🙂</p>"}}
END = "Kind regards,\r\nthe firm\r\n"
END_HTML = "<p>Kind regards, the <b>firm</b></p>"


def message(body, fields="", top="From: a@example.com\nSubject: =?utf-8?q?=C3=A4?=\n  folded\nMIME-Version: 1.0\n"):
    text = top + fields + "\n" + body
    return text.replace("\r\n", "\n").replace("\n", "\r\n").encode("latin-1")


def part(content, fields=""):
    return fields + "\n" + content


def multipart(sub, *parts, boundary="b", parameters="", preamble="", epilogue=""):
    """The fields and the body of a multipart."""
    fields = f'Content-Type: multipart/{sub}; boundary="{boundary}"{parameters}\n'
    body = "".join(f"--{boundary}\n{each}\n" for each in parts)
    return fields, f"{preamble}{body}--{boundary}--\n{epilogue}"


def whole(sub, *parts, **more):
    fields, body = multipart(sub, *parts, **more)
    return message(body, fields)


def nested(sub, *parts, **more):
    fields, body = multipart(sub, *parts, **more)
    return fields + "\n" + body


HTML = "Content-Type: text/html; charset=us-ascii\n"
PDF = part("JVBERi0xLjQK", 'Content-Type: application/pdf; name="a.pdf"\nContent-Transfer-Encoding: base64\n'
                           'Content-Disposition: attachment; filename="a.pdf"\n')


SIGNATURE = part("s", "Content-Type: application/pgp-signature\n")


class Case(unittest.TestCase):
    def reasons(self, before, after, texts=APPEND, strict=True):
        return check.Judgement(before, after, texts, strict).reasons

    def right(self, before, after, texts=APPEND, left=False):
        judgement = check.Judgement(before, after, texts, True)
        self.assertEqual(judgement.reasons, [])
        self.assertEqual(judgement.left, left)

    def wrong(self, why, before, after, texts=APPEND):
        found = self.reasons(before, after, texts, False)
        self.assertTrue(any(why in reason for reason in found), f"{why!r} is not among {found}")


class Plain(Case):
    before = message("Hello\n")

    def test_right(self):
        self.right(self.before, message("Hello\n" + END))
        self.right(self.before, message("Hello\n\n" + END))
        self.right(self.before, message("To all\n\nHello\n" + END), BOTH)
        self.right(message(""), message(END))
        self.right(message("Hello"), message("Hello\n" + END))
        self.right(message(END), message(END + "\n" + END))
        self.right(self.before, message("Hello\n" + END, "X-Copyist-Marked: yes\n"))

    def test_wrong(self):
        self.wrong("no text was added", self.before, self.before)
        self.wrong("not at its end", self.before, message(END + "Hello\n"))
        self.wrong("there twice", self.before, message("Hello\n" + END + END))
        self.wrong("not there", message(END), message(END + "Kind regards,"))
        self.wrong("not there", self.before, message("Hello\nKind regards\n"))
        self.wrong("not there", self.before, message("Hello\n" + END), BOTH)
        self.wrong("text is not", self.before, message("Hello" + END))
        self.wrong("plain text of the body changed", message("Hello\nyou\n"), message("Hello\n" + END))
        self.wrong("plain text of the body changed", message("Hello\n you\n"), message("Hello\nyou\n" + END))

    def test_line_breaks_of_the_text_stay(self):
        self.wrong("not at its end", self.before, message("Hello\nKind regards, the firm\n"))

    def test_flowed(self):
        flowed = "Content-Type: text/plain; format=flowed\n"
        self.right(message("Hello \nyou\n", flowed), message("Hello \nyou\n Kind regards,\n the firm\n", flowed))
        self.wrong("flows", message("Hello \n", flowed), message("Hello \n" + END, flowed))
        self.wrong("parameters", message("Hello\n", flowed), message("Hello\n" + END, "Content-Type: text/plain\n"))

    def test_header(self):
        body = "Hello\n" + END
        self.wrong("gone or changed", self.before, message(body, top="From: a@example.com\nMIME-Version: 1.0\n"))
        self.wrong("added or moved", self.before, message(body, "X-Other: 1\n"))
        self.wrong("MIME-Version is gone", self.before, message(body).replace(b"MIME-Version: 1.0\r\n", b""))
        folded = message(body).replace(b"\r\n  folded", b" folded")
        self.wrong("gone or changed", self.before, folded)
        self.right(message("Hello\n", top="From: a\n"), message(body, top="From: a\nMIME-Version: 1.0\n"))

    def test_lines(self):
        self.wrong("line endings", self.before, self.before + b"Kind regards,\nthe firm\n")
        self.wrong("bare CR", self.before, message("Hello\n" + END) + b"\r")
        lf = self.before.replace(b"\r\n", b"\n")
        self.right(lf, lf + b"Kind regards,\nthe firm\n")
        self.wrong("line endings", lf, lf + b"Kind regards,\r\nthe firm\r\n")
        long = {"append": {"plain": "word " * 300, "html": "x"}}
        self.wrong("998", self.before, message("Hello\n" + "word " * 300), long)


class Charsets(Case):
    text = EURO["append"]["plain"]

    def fields(self, charset, encoding):
        return f"Content-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: {encoding}\n"

    def after(self, charset, encoding="8bit", body="Hällo", label=None):
        octets = f"{body}\r\n{self.text}\r\n".encode(charset, "replace")
        if encoding == "base64":
            octets = base64.encodebytes(octets)
        elif encoding == "quoted-printable":
            octets = quopri.encodestring(octets.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")
        return message("", self.fields(label or charset, encoding)) + octets

    def test_right(self):
        before = message("Hällo\n", self.fields("iso-8859-1", "8bit"))
        for encoding in ("8bit", "quoted-printable"):
            self.right(before, self.after("utf-8", encoding), EURO)
        self.right(before, message("", self.fields("utf-8", "base64")) + base64.encodebytes(
            f"Hällo\r\n{self.text}\r\n".encode()).replace(b"\n", b"\r\n"), EURO)

    def test_another_charset_is_wrong(self):
        before = message("Hällo\n", self.fields("iso-8859-1", "8bit"))
        self.wrong("not there", before, before + (self.text + "\r\n").encode(), EURO)
        self.wrong("not there", before, self.after("iso-8859-1"), EURO)
        relabelled = before.replace(b"iso-8859-1", b"utf-8") + (self.text + "\r\n").encode()
        self.wrong("body changed", before, relabelled, EURO)

    def test_8bit_in_7bit(self):
        before = message("Hello\n", self.fields("utf-8", "7bit"))
        self.wrong("7bit", before, before + (self.text + "\r\n").encode(), EURO)
        self.wrong("not there", message("Hello\n"), message("Hello\n") + (self.text + "\r\n").encode(), EURO)

    def test_text_after_the_end_of_base64(self):
        encoded = base64.b64encode(b"Hello\r\n").decode()
        before = message(encoded + "\n", self.fields("utf-8", "base64"))
        self.right(before, message(base64.b64encode(b"Hello\r\n" + END.encode()).decode() + "\n",
                                   self.fields("utf-8", "base64")))
        self.wrong("not there", before, message(encoded + "\n" + END, self.fields("utf-8", "base64")))
        self.wrong("not there", before, message(
            encoded + "\n" + base64.b64encode(END.encode()).decode() + "\n", self.fields("utf-8", "base64")))

    def test_octets_without_a_charset(self):
        before = message("") + "Hällo\r\n".encode()
        self.right(before, before + END.encode())
        self.right(before, self.after("utf-8"), EURO)
        latin = message("") + "Hällo\r\n".encode("cp1252")
        self.right(latin, self.after("utf-8"), EURO)
        self.wrong("body changed", latin, self.after("utf-8", body="Hllo"), EURO)

    def test_unknown_charset(self):
        before = message("", self.fields("x-klingon", "8bit")) + b"H\xe4llo\r\n"
        self.right(before, before, left=True)
        self.right(before, before + END.encode())
        self.wrong("not there", before, before + (self.text + "\r\n").encode(), EURO)
        self.wrong("", before, message(END, self.fields("x-klingon", "8bit")))

    def test_iso_2022_jp(self):
        fields = self.fields("iso-2022-jp", "7bit")
        octets = "日本語\r\n".encode("iso-2022-jp")
        before = message("", fields) + octets
        self.right(before, before + END.encode())
        self.wrong("not there", message("", fields) + octets.replace(b"\x1b(B", b""),
                   message("", fields) + octets.replace(b"\x1b(B", b"") + END.encode())


class Html(Case):
    page = "<html><head><title>T</title></head><body><p>Hi &amp; ho</p>%s</body></html>%s\n"

    def both(self, inside="", behind="", page=None):
        return message((page or self.page) % (inside, behind), HTML)

    def test_right(self):
        self.right(self.both(), self.both(END_HTML))
        self.right(self.both(), self.both("\n" + END_HTML + "\n"))
        self.right(message("Hi", HTML), message("Hi" + END_HTML, HTML))
        self.right(message("<p>Hi</p></html>", HTML), message("<p>Hi</p>" + END_HTML + "</html>", HTML))
        prepended = self.page.replace("<body>", "<body><div>To all</div>")
        self.right(self.both(), self.both(END_HTML, page=prepended), BOTH)
        self.right(self.both(), self.both("<p>Gr&#252;&#xDF;e f&uuml;r 5 &euro; &#128578;</p>"), EURO)
        broken = "<body>Hi%s</body></html>more%s"
        self.right(self.both(page=broken), self.both(behind=END_HTML, page=broken))

    def test_outside(self):
        self.wrong("outside", self.both(), self.both(behind=END_HTML))
        self.wrong("outside", self.both(), self.both(page=self.page.replace("</html>", END_HTML + "</html>")))
        early = self.page.replace("<html>", "<div>To all</div><html>")
        self.wrong("outside", self.both(), self.both(END_HTML, page=early), BOTH)
        self.wrong("not there", self.both(), self.both(page=self.page.replace("T<", "T" + END_HTML + "<")))
        self.wrong("not there", self.both(), self.both(f"<!-- {END_HTML} -->"))
        self.wrong("not at its end", self.both(), self.both(page=self.page.replace("<p>", END_HTML + "<p>")))

    def test_wrong(self):
        self.wrong("twice", self.both(), self.both(END_HTML + END_HTML))
        self.wrong("a tag is gone", self.both(), self.both(END_HTML, page=self.page.replace("<p>", "")))
        self.wrong("visible text", self.both(), self.both(END_HTML, page=self.page.replace("ho", "")))
        self.wrong("no text", self.both(), self.both())
        styled = self.page.replace("<title>", "<style>a{}</style><title>")
        self.wrong("a tag is gone", self.both(page=styled), self.both(END_HTML, page=styled.replace("a{}", "b{}")))


class Trees(Case):
    def test_alternative(self):
        before = whole("alternative", part("Hi\n"), part("<p>Hi</p>\n", HTML))
        self.right(before, whole("alternative", part("Hi\n" + END), part("<p>Hi</p>" + END_HTML, HTML)))
        self.wrong("not there", before, whole("alternative", part("Hi\n" + END), part("<p>Hi</p>\n", HTML)))
        self.wrong("not there", before, whole("alternative", part("Hi\n"), part("<p>Hi</p>" + END_HTML, HTML)))
        self.wrong("tree", before, whole("alternative", part("Hi\n" + END)))

    def test_related_inside(self):
        image = part("R0lG", "Content-Type: image/gif\nContent-ID: <i>\nContent-Transfer-Encoding: base64\n")

        def made(end="", gif=image):
            related = nested("related", part("<p>Hi</p>" + end, HTML + "Content-ID: <h>\n"), gif, boundary="r",
                             parameters='; start="<h>"')
            return whole("alternative", part("Hi\n" + (END if end else "")), related)
        self.right(made(), made(END_HTML))
        self.wrong("header fields of a part", made(), made(END_HTML, image.replace("<i>", "<j>")))
        self.wrong("another part changed", made(), made(END_HTML, image.replace("R0lG", "R0lH")))

    def test_attachments(self):
        text_file = part("notes\n", 'Content-Type: text/plain; name="n.txt"\n'
                                    'Content-Disposition: attachment; filename="n.txt"\n')
        before = whole("mixed", text_file, part("Hi\n"), PDF, preamble="For old readers\n", epilogue="The end\n")
        after = whole("mixed", text_file, part("Hi\n" + END), PDF, preamble="For old readers\n", epilogue="The end\n")
        self.right(before, after)
        self.wrong("another part changed", before, after.replace(b"notes", b"notes\r\nKind regards"))
        self.wrong("another part was encoded anew", before, after.replace(b"JVBERi0x", b"JVBE\r\nRi0x"))
        self.wrong("header fields of a part", before, after.replace(b'name="a.pdf"', b'name="b.pdf"'))
        self.wrong("preamble", before, after.replace(b"For old", b"For new"))
        self.wrong("epilogue", before, after.replace(b"The end", b"An end"))
        self.wrong("tree", before, whole("mixed", text_file, part("Hi\n" + END)))
        self.wrong("", before, after.replace(b"--b--", b""))
        self.wrong("tree", before, after.replace(b"--b\r\nContent-Type: app", b"--c\r\nContent-Type: app"))

    def test_attached_messages(self):
        inner = 'From: b\nContent-Type: multipart/mixed; boundary="i"\n\n--i\n\nInner\n--i--\n'
        before = whole("mixed", part("Hi\n"), part(inner, "Content-Type: message/rfc822\n"))
        after = whole("mixed", part("Hi\n" + END), part(inner, "Content-Type: message/rfc822\n"))
        self.right(before, after)
        self.wrong("another part changed", before, after.replace(b"Inner", b"Inner\r\nKind regards"))
        self.wrong("another part changed", before, after.replace(b"From: b", b"From:  b"))

    def test_octets_nobody_sees(self):
        before = whole("mixed", part("Hi, this is long enough\n"), PDF)
        after = whole("mixed", part("Hi, this is long enough\n" + END), PDF)
        spaced = after.replace(b"--b\r\nContent-Type: app", b"--b \r\nContent-Type: app")
        self.assertEqual(self.reasons(before, spaced, strict=False), [])
        self.assertEqual(self.reasons(before, spaced, strict=True), ["octets outside the body changed"])

    def test_7bit_multiparts(self):
        field = "Content-Transfer-Encoding: 7bit\n"
        utf8 = "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n"
        fields, body = multipart("mixed", part("Hi\n"), PDF)
        after = multipart("mixed", part("Hi\n" + EURO["append"]["plain"].encode().decode("latin-1") + "\n", utf8), PDF)
        self.wrong("declared 7bit", message(body, fields + field), message(after[1], fields + field), EURO)
        self.right(message(body, fields), message(after[1], fields), EURO)


class Untouched(Case):
    def untouched(self, before):
        self.right(before, before)
        self.wrong("changed", before, before.replace(b"Hi", b"Hi\r\n" + END.encode()))

    def test_closed(self):
        self.untouched(whole("signed", part("Hi\n"), part("s", "Content-Type: application/pgp-signature\n")))
        self.untouched(whole("mixed", nested("signed", part("Hi\n"), SIGNATURE, boundary="s"), part("Footer\n")))
        self.untouched(whole("encrypted", part("Version: 1\n"), part("Hi\n", "Content-Type: application/octet-stream\n")))
        self.untouched(whole("report", part("Hi\n"), part("x", "Content-Type: message/delivery-status\n")))
        self.untouched(message("Hi\n", "Content-Type: application/pkcs7-mime\n"))
        self.untouched(message("Hi\n", "Content-Type: message/partial; id=a\n"))
        self.untouched(message("Hi\n-----BEGIN PGP MESSAGE-----\n"))
        self.untouched(message("-----BEGIN PGP SIGNED MESSAGE-----\nHi\n"))

    def test_what_only_calls_itself_so_is_ordinary(self):
        for sub in ("signed", "encrypted", "report"):
            self.right(whole(sub, part("Hi\n")), whole(sub, part("Hi\n" + END)))

    def test_signed_messages_beside_the_body_do_not_close_it(self):
        signed = nested("signed", part("Ho\n"), part("s"), boundary="s")
        self.right(whole("mixed", part("Hi\n"), signed), whole("mixed", part("Hi\n" + END), signed))
        self.right(message("> -----BEGIN PGP MESSAGE-----\n"), message("> -----BEGIN PGP MESSAGE-----\n" + END))

    def test_wrapped(self):
        fields, body = multipart("signed", part("Hi\n"), SIGNATURE, boundary="s")
        wrap = {**APPEND, "signed": "wrap"}
        wrapped = whole("mixed", fields + "\n" + body, part(END))
        self.right(message(body, fields), wrapped, wrap)
        self.wrong("no text", message(body, fields), message(body, fields), wrap)
        self.wrong("changed", message(body, fields), wrapped.replace(b"Hi", b"Ha"), wrap)
        self.wrong("changed", message(body, fields), wrapped)


class WithoutText(Case):
    pdf = 'Content-Type: application/pdf\nContent-Transfer-Encoding: base64\n'

    def test_beside(self):
        before = message("JVBERi0xLjQK\n", self.pdf)
        self.right(before, whole("mixed", part("JVBERi0xLjQK", self.pdf), part(END)))
        self.right(before, whole("mixed", part("JVBERi0xLjQK", self.pdf), part(END_HTML, HTML)))
        self.right(before, whole("mixed", part("To all\n"), part("JVBERi0xLjQK", self.pdf), part(END)), BOTH)
        self.wrong("not the text", before, whole("mixed", part(END), part("JVBERi0xLjQK", self.pdf)))
        self.wrong("no text", before, before)
        self.wrong("content", before, whole("mixed", part("JVBERi0xLjQL", self.pdf), part(END)))
        self.wrong("header fields", before, whole("mixed", part("JVBERi0xLjQK"), part(END)))

    def test_into_the_mixed(self):
        before = whole("mixed", PDF)
        self.right(before, whole("mixed", PDF, part(END)))
        self.right(before, whole("mixed", part("To all\n"), PDF, part(END)), BOTH)
        self.wrong("not the text", before, whole("mixed", part(END), PDF))
        self.wrong("", before, whole("mixed", part(END)))

    def test_rich_text(self):
        before = message("{\\rtf1}\n", "Content-Type: text/rtf\n")
        self.right(before, before, left=True)
        self.wrong("", before, message("{\\rtf1}\n" + END, "Content-Type: text/rtf\n"))


class Doubtful(Case):
    def test_contradictory_fields(self):
        before = message("<p>Hi</p>\n", HTML + "Content-Type: text/plain\n")
        self.right(before, before, left=True)
        self.right(before, whole("mixed", part("<p>Hi</p>", HTML + "Content-Type: text/plain\n"), part(END)))
        self.wrong("tree", before, whole("mixed", part("<p></p>", HTML + "Content-Type: text/plain\n"), part(END)))

    def test_doubtful_parts(self):
        odd = "Content-Type: text/plain; charset=x-odd\n"
        before = whole("alternative", part("H\xe4\n", odd), part("<p>Hi</p>\n", HTML))
        beside = nested("mixed", part("H\xe4\n", odd), part(END), boundary="m")
        self.right(before, whole("alternative", beside, part("<p>Hi</p>" + END_HTML, HTML)))
        lost = nested("mixed", part("H\n", odd), part(END), boundary="m")
        self.wrong("", before, whole("alternative", lost, part("<p>Hi</p>" + END_HTML, HTML)))

    def test_an_unclosed_multipart(self):
        before = whole("mixed", part("Hi\n"), PDF).replace(b"--b--", b"")
        self.right(before, before, left=True)
        self.right(before, before.replace(b"Hi\r\n", b"Hi\r\n" + END.encode()))
        self.wrong("", before, before.replace(b"Hi\r\n", b"Hi\r\n" + END.encode()).replace(b"JVBE", b"JVBF"))


class Command(unittest.TestCase):
    def test_the_command(self):
        with tempfile.TemporaryDirectory() as name:
            place = pathlib.Path(name)
            for side in ("in", "out"):
                (place / side).mkdir()
            (place / "texts.json").write_text(json.dumps(APPEND), encoding="utf-8")
            (place / "in" / "a.eml").write_bytes(message("Hi\n"))
            (place / "out" / "a.eml").write_bytes(message("Hi\n" + END))
            (place / "in" / "b.eml").write_bytes(message("Hi\n"))
            run = [sys.executable, str(pathlib.Path(check.__file__)), "--texts", place / "texts.json"]
            both = subprocess.run([*run, place / "in", place / "out"], capture_output=True, text=True, check=False)
            self.assertEqual(both.returncode, 1)
            self.assertIn("b.eml (no output): no message came out", both.stdout)
            self.assertIn("1 right, 1 wrong of 2", both.stdout)
            one = subprocess.run([*run, "--json", place / "in" / "a.eml", place / "out" / "a.eml"],
                                 capture_output=True, text=True, check=False)
            self.assertEqual(one.returncode, 0)
            self.assertEqual(json.loads(one.stdout), {"file": "a.eml", "right": True, "class": "plain",
                                                      "left": False, "reasons": []})


if __name__ == "__main__":
    unittest.main()
