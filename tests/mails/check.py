#!/usr/bin/env python3
"""Judges whether a tool has put its texts rightly into mail messages.

    check.py --texts TEXTS.json [--strict] [--json] [--quiet] IN_DIR OUT_DIR
    check.py --texts TEXTS.json [--strict] [--json] [--quiet] IN_FILE OUT_FILE

TEXTS.json: {"prepend": {"plain": "...", "html": "..."} | null, "append": ... | null,
             "signed": "skip" | "wrap"}

Promises:

* Knows nothing of the tool: it reads both messages with Python's own `email` and `html.parser` and
  decides by itself which parts are the body that a reader shows first.
* Right is a message whose every body alternative reads as before with the texts at its ends, each once
  more, decoded by the charset that the message now declares; in HTML the texts are visible and stand
  inside the body, and all tags are there in order.
* Right is a message without any text body, if it now is multipart/mixed with the texts beside what it was.
* Right is a signed or encrypted message (unless "wrap"), a report or a piece of a message only if no octet
  has changed.
* All else must be as it was: the tree, every other part's header fields and raw octets, the preambles and
  epilogues, the top header's fields, the line endings; no line becomes longer than 998 octets, nothing
  that is declared 7bit gets octets of 8 bits.
* Where two readers could disagree about the message itself (broken MIME, contradictory fields, unknown
  charsets), the texts beside the whole, or beside the doubtful part, are right too, and so is no change at
  all; the latter is counted as "left". Lost text or a lost attachment is never right.
* --strict also compares, octet by octet, what no reader shows: delimiter lines, the folding of fields of
  inner parts, blank lines at the ends.
* Exits with 0 if all are right, 1 if any is wrong, 2 if it could not judge.
"""

import argparse
import binascii
import codecs
import collections
import concurrent.futures
import email.message
import email.parser
import email.policy
import email.utils
import html.parser
import itertools
import json
import os
import re
import sys

# --- Reading messages -------------------------------------------------------------------------------------

TYPE = re.compile(r'\s*([^\s/;()"<>,=]+)\s*/\s*([^\s/;()"<>,=]+)')
UNTEXTUAL = {  # text codecs of Python that are no charsets
    "idna", "mbcs", "oem", "palmos", "punycode", "raw_unicode_escape", "undefined", "unicode_escape",
}
OWN_FIELDS = {"content-type", "content-transfer-encoding", "mime-version", "content-md5"}


class Part(email.message.Message):
    """A MIME part; message/* is a leaf, so that its octets stay as they are."""

    def media_type(self):
        field = first(self, "content-type")
        found = None if field is None else TYPE.match(field)
        if found:
            return found[1].lower(), found[2].lower()
        return tuple((self.get_default_type() if field is None else "text/plain").split("/"))

    def get_content_type(self):
        main, sub = self.media_type()
        return "application/octet-stream" if main == "message" else f"{main}/{sub}"

    def get_content_maintype(self):
        return self.get_content_type().split("/")[0]

    def get_boundary(self, failobj=None):
        try:
            boundary = super().get_boundary(None)
        except (TypeError, ValueError, LookupError, AttributeError):
            boundary = None
        if boundary is None and self.media_type()[0] == "multipart":  # a semicolon is missing, say
            found = re.search(r'boundary\s*=\s*("[^"]+"|[^\s;"]+)', first(self, "content-type") or "", re.I)
            boundary = found and found[1].strip('"')
        if boundary is None:
            return failobj
        boundary = unfolded(boundary).strip()
        return boundary[1:] if boundary.startswith('"') and not boundary.endswith('"') else boundary

    def content(self):
        """The parts, or the octets as a text; get_payload() would decode the latter by their charset."""
        return self._payload


def unfolded(value):
    return re.sub(r"\r?\n(?=[ \t])", "", value)


def parse(octets):
    return email.parser.BytesParser(Part, policy=email.policy.compat32).parsebytes(octets)


def fields(part):
    return [(name.lower(), value) for name, value in part.raw_items()]


def first(part, name):
    return next((value for key, value in fields(part) if key == name), None)


def raw(text):
    return (text or "").encode("ascii", "surrogateescape")


def payload(part):
    content = part.content()
    return raw(content) if isinstance(content, str) else b""


def parameters(part, header="content-type"):
    """The parameters of a field as a list of pairs, the media type left out."""
    try:
        found = part.get_params(failobj=[], header=header)[1:]
        return [(k.lower(), unfolded(email.utils.collapse_rfc2231_value(v)).strip()) for k, v in found
                if k]
    except (TypeError, ValueError, LookupError, AttributeError):
        return []


def parameter(part, name, header="content-type"):
    return next((value for key, value in parameters(part, header) if key == name and value), None)


def disposition(part):
    value = first(part, "content-disposition")
    return None if value is None else re.split(r"[\s;]", value.strip(), maxsplit=1)[0].lower()


def is_attachment(part):
    names = {key.split("*")[0] for key, _ in parameters(part, "content-disposition")}
    return disposition(part) == "attachment" or "filename" in names


def transfer_encoding(part):
    return re.split(r"[\s;(]", (first(part, "content-transfer-encoding") or "").strip(), maxsplit=1)[0].lower()


def header_block(octets):
    """The fields of a message as (name, octets), as they stand."""
    found = []
    for line in re.split(rb"(?<=\n)", octets):
        if found and line[:1] in (b" ", b"\t") and line.strip():
            found[-1][1] += line
            continue
        if not re.match(rb"From |>From |[!-9;-~]*:", line):
            break
        found.append([line.split(b":")[0].strip().lower().decode("ascii"), line])
    return [(name, bytes(value)) for name, value in found]


def all_parts(part):
    yield part
    if part.is_multipart():
        for child in part.content():
            yield from all_parts(child)


def defects(root):
    return collections.Counter(type(defect).__name__ for part in all_parts(root) for defect in part.defects)


def has_8bit(part):
    return any(not raw(text).isascii() for leaf in all_parts(part)
               for text in ([leaf.preamble, leaf.epilogue] if leaf.is_multipart() else [leaf.content()]))


# --- Decoding ---------------------------------------------------------------------------------------------

def keep_octets(error):
    """Octets that a charset cannot decode become marks, one for each, so that none is lost."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + octet) for octet in error.object[error.start:error.end]), error.end


codecs.register_error("octets", keep_octets)

ALIASES = {"utf8mb4": "utf-8", "iso-8859-8-i": "iso-8859-8", "iso-8859-8-e": "iso-8859-8",
           "x-sjis": "cp932", "x-gbk": "gbk", "windows-874": "cp874", "x-euc-jp": "euc_jp",
           "dos-874": "cp874", "windows-949": "cp949", "cp-850": "cp850", "x-big5": "big5",
           "windows-31j": "cp932", "iso-8859-1-windows-3.1-latin-1": "cp1252", "ks_c_5601": "cp949",
           "unicode-1-1-utf-8": "utf-8", "x-mac-roman": "mac_roman", "x-unicode20utf8": "utf-8"}
# What readers take, for a declared charset, if its octets need more than it has.
WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "ascii": "cp1252", "iso8859-1": "cp1252", "euc_kr": "cp949",
         "shift_jis": "cp932", "big5": "big5hkscs", "iso8859-9": "cp1254", "tis_620": "cp874",
         "iso8859-11": "cp874", "iso2022_jp": "iso2022_jp_ext", "ksx1001": "cp949"}


def codec(charset):
    """The name of Python's codec for a charset, or None."""
    if not charset or not charset.isascii():
        return None
    name = re.split(r"[\s,]", charset.strip().strip("'\""), maxsplit=1)[0].lower()  # some write more behind it
    try:
        found = codecs.lookup(ALIASES.get(name, re.sub(r"\Ax-mac-", "mac-", name)))
    except (LookupError, ValueError, UnicodeError):
        return None
    return found.name if found._is_text_encoding and found.name not in UNTEXTUAL else None


def decode(octets, name, errors="octets"):
    try:
        return octets.decode(name, errors)
    except (UnicodeError, ValueError):
        return octets.decode("latin-1")


C1 = {o: bytes([o]).decode("cp1252") for o in range(0x80, 0xA0) if o not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)}


def windows_1252(octets):
    return octets.decode("latin-1").translate(C1)


def base64_runs(octets):
    """The octets that base64 stands for: up to the first padding, and with all that follows it."""
    first_end, everything = None, b""
    for run in re.findall(rb"[A-Za-z0-9+/]+=*", re.sub(rb"[^A-Za-z0-9+/=]", b"", octets)):
        body = run.rstrip(b"=")
        body = body[:-1] if len(body) % 4 == 1 else body
        everything += binascii.a2b_base64(body + b"=" * (-len(body) % 4))
        if b"=" in run and first_end is None:
            first_end = len(everything)
    return everything[:first_end], everything


def contents(part):
    """What the octets of a leaf may be after its transfer encoding, the likeliest first; doubts about it."""
    octets, name = payload(part), transfer_encoding(part)
    if name in ("", "7bit", "8bit", "binary"):
        return [octets], []
    if name == "quoted-printable":
        trimmed = re.sub(rb"[ \t]+(?=\r?\n|\Z)", b"", octets)
        return [binascii.a2b_qp(octets), binascii.a2b_qp(trimmed)], []
    if name == "base64":
        first_run, everything = base64_runs(octets)
        junk = re.search(rb"[^A-Za-z0-9+/=\s]", octets) or len(re.sub(rb"[^A-Za-z0-9+/=]", b"", octets)) % 4
        doubts = ["base64 with junk"] if junk or first_run != everything else []
        return [first_run] + ([everything] if first_run != everything else []), doubts
    return [octets], ["unknown transfer encoding"]


def new_reading(part):
    """How a reader shows a leaf that the tool wrote: by what it declares, and by nothing else."""
    octets = contents(part)[0][0]
    name = codec(parameter(part, "charset")) or "ascii"
    wide = WIDER.get(name)
    readings = [decode(octets, name)]
    if wide and wide != "cp1252":
        readings.append(decode(octets, wide))
    return readings


def old_readings(part, declared_now):
    """All that readers may see in a leaf before; doubts about it."""
    charset, (variants, doubts) = parameter(part, "charset"), contents(part)
    name = codec(charset)
    if charset and not name:
        doubts = doubts + ["unknown charset"]
    if name and re.match(r"utf_?-?(16|32|7)", name):
        doubts = doubts + ["charset that is no superset of ASCII"]
    readings = []
    for octets in variants:
        base = name or "ascii"
        readings.append(decode(octets, base))
        if base in WIDER:
            readings.append(decode(octets, WIDER[base]))
        broken = any(0xDC00 <= ord(c) <= 0xDCFF for c in readings[-1])
        broken = broken or any(0xDC00 <= ord(c) <= 0xDCFF for c in decode(octets, base))
        if name and broken:
            doubts = doubts + ["octets that are not of the charset"]
        if broken and not charset:
            doubts = doubts + ["octets without a charset"]
        if base == "ascii" and b"\x1b" in octets:
            doubts = doubts + ["escape sequences without a charset"]
        if broken or not name:
            readings += [decode(octets, declared_now or "ascii"), decode(octets, "utf-8"), windows_1252(octets),
                         decode(octets, "utf-8", "replace"), decode(octets, base, "replace")]
            meta = re.search(rb"""<meta[^>]{0,200}charset\s*=\s*["']?([A-Za-z0-9_:.-]+)""", octets[:4096], re.I)
            if meta and codec(meta[1].decode()):
                readings.append(decode(octets, codec(meta[1].decode())))
                readings.append(decode(octets, codec(meta[1].decode()), "replace"))
        elif base == "iso8859-1":
            readings.append(windows_1252(octets))
            if readings[0] != readings[-1]:
                doubts = doubts + ["octets that are not of the charset"]
    return list(dict.fromkeys(readings)), doubts


# What one octet sequence of a Japanese charset is, says one table; and another.
TWINS = str.maketrans("\u301c\u2016\u2212\u00a2\u00a3\u00ac\u2014\u00a5\u203e\u00a6",
                      "\uff5e\u2225\uff0d\uffe0\uffe1\uffe2\u2015\\~\uffe4")


def lines(text):
    text = re.sub("\ufffd+", "\ufffd", text.replace("\r\n", "\n"))
    return text[1:] if text.startswith("\ufeff") else text


# --- Where the body is ------------------------------------------------------------------------------------

class Untouchable(Exception):
    """No octet of this message may change."""


class Body:
    """The body of a message: its leaves, and what readers may take otherwise."""

    def __init__(self, root):
        self.doubts, self.rich = [], False
        self.sides = {}  # of leaves that hold only the beginning or the end of a body
        if defects(root):
            self.doubts.append("defects: " + ", ".join(sorted(defects(root))))
        if any(part.media_type() == ("application", "pgp-encrypted") for part in all_parts(root)):
            self.doubts.append("encrypted by PGP, and rearranged")  # where it is not, walk() finds the multipart
        self.leaves = self.walk(root, root, True)
        for leaf in self.leaves:
            if inline_pgp(leaf):
                raise Untouchable("PGP in the body")
            if b"-----BEGIN PGP " in contents(leaf)[0][0]:
                self.doubts.append("PGP inside a line")
            if leaf.media_type()[1] == "html" and Page(old_readings(leaf, None)[0][0]).hides_its_end():
                self.doubts.append("HTML that may hide what stands at its end")
            if leaf.media_type()[1] == "html" and b"<frameset" in contents(leaf)[0][0].lower():
                self.doubts.append("HTML that may be nothing but frames")

    def walk(self, part, root, shown=False):
        """The leaves of the body in a part; `shown` says that nothing else could be shown in its place."""
        main, sub = part.media_type()
        self.doubt(part, root)
        if main == "multipart":
            if sub in ("signed", "encrypted", "report"):
                if is_protected(part, sub):
                    raise Untouchable(sub)
                self.doubts.append(f"{sub} without what makes it that")
            return self.walk_children(part, sub, root)
        if main == "application" and sub in ("pkcs7-mime", "x-pkcs7-mime"):
            raise Untouchable("S/MIME")
        if part is root and main == "application" and (parameter(part, "name") or "").lower().endswith((".p7m", ".p7s")):
            raise Untouchable("S/MIME by its name")
        if main == "message" and sub in ("delivery-status", "disposition-notification", "partial", "external-body",
                                         "feedback-report", "global-delivery-status", "tracking-status"):
            if part is root:
                raise Untouchable(sub)
            self.doubts.append("a report beside the body")
        if first(part, "content-type") and not TYPE.match(first(part, "content-type")) and (
                parameter(part, "name") or is_attachment(part)):
            return []  # a file of whatever kind
        if is_attachment(part) and (not shown or disposition(part) == "attachment"):
            if part is root and main == "text":
                self.doubts.append("the message itself is an attachment")
            return []
        if main == "text" and sub in ("plain", "html"):
            return [part]
        if main == "text" and sub in ("richtext", "enriched", "rtf", "calendar") or (main, sub) in (
                ("application", "rtf"), ("application", "ms-tnef"), ("application", "vnd.ms-tnef")):
            self.rich = True
        elif main == "text":
            self.doubts.append("text of an unknown kind")
        return []

    def walk_children(self, part, sub, root):
        children = part.content() if part.is_multipart() else []
        if not children:
            self.doubts.append("multipart without parts")
        if sub == "alternative":
            return [leaf for child in children for leaf in self.walk(child, root)]
        if sub == "related" and children:
            start = (parameter(part, "start") or "").strip("<> ")
            heads = [c for c in children if start and (first(c, "content-id") or "").strip().strip("<> ") == start]
            if start and not heads:
                self.doubts.append("the start of multipart/related is not there")
            return self.walk((heads or children)[0], root, True)
        for number, child in enumerate(children):
            if found := self.walk(child, root):
                if found == [child] and (last := self.last_piece(child, children[number + 1:])):
                    self.sides[id(child)], self.sides[id(last)] = ["prepend"], ["append"]
                    found.append(last)
                return found
        return []

    def last_piece(self, leaf, rest):
        """The end of a body that Apple Mail has cut where files stand in the text, or None."""
        shown = [part for part in rest if disposition(part) == "inline" and part.media_type()[0] != "text"]
        behind = rest[rest.index(shown[0]):] if shown else []
        pieces = [part for part in behind if part.media_type() == leaf.media_type() and not is_attachment(part)]
        return pieces[-1] if pieces else None

    def doubt(self, part, root):
        names = collections.Counter(name for name, _ in fields(part))
        for name in ("content-type", "content-transfer-encoding", "content-disposition", "mime-version"):
            if names[name] > 1:
                self.doubts.append(f"{name} more than once")
        value = first(part, "content-type")
        if value is not None and not re.match(TYPE.pattern + r"\s*(;|\Z)", value):
            self.doubts.append("bad Content-Type")
        if (value or "").count('"') % 2 or part.media_type()[0] == "multipart" and not parameter(part, "boundary"):
            self.doubts.append("bad parameters")
        given = collections.Counter(key for key, _ in parameters(part))
        if given["charset"] > 1 or given["boundary"] > 1:
            self.doubts.append("a parameter more than once")
        if part.media_type()[0] == "multipart":
            mine = parameter(part, "boundary") or ""
            for inner in all_parts(part):
                other = parameter(inner, "boundary") if inner is not part else None
                if other and mine and (other.startswith(mine) or mine.startswith(other)):
                    self.doubts.append("boundaries that begin alike")
            if transfer_encoding(part) not in ("", "7bit", "8bit", "binary"):
                self.doubts.append("multipart with a transfer encoding")
        elif part.media_type()[0] == "text":
            self.doubts.extend(old_readings(part, None)[1])


def is_protected(part, sub):
    """Whether a multipart/signed has a signature, and so on; phishers call their mail so, and readers show it as any other."""
    children = part.content() if part.is_multipart() else []
    types = ["/".join(child.media_type()) for child in children]
    if sub == "signed":
        protocol = (parameter(part, "protocol") or "").lower()
        return any(name.startswith("application/") and ("signature" in name or name == protocol) for name in types[1:])
    if sub == "encrypted":
        return any(name.startswith("application/") for name in types)
    kind = (parameter(part, "report-type") or "").lower()
    attached = ("message/rfc822", "message/global", "message/partial", "message/external-body")
    return any(name.startswith("message/") and name not in attached or kind and name.startswith(f"application/{kind}")
               for name in types)


def inline_pgp(leaf):
    for octets in contents(leaf)[0]:
        if re.search(rb"^-----BEGIN PGP (SIGNED )?MESSAGE-----", octets, re.M):
            return True
    return False


# --- Comparing bodies -------------------------------------------------------------------------------------

def pattern(text, loose):
    """A regular expression for the text: its words, and its line breaks unless loose."""
    if loose:
        return r"\s+".join(re.escape(word) for word in text.split())
    rows = [r"[^\S\n]+".join(re.escape(word) for word in row.split()) for row in text.strip().split("\n")]
    return r"[^\S\n]*\n[^\S\n]*".join(rows)


def count(text, within):
    words = re.compile(pattern(text, True))
    return len(words.findall(within))


def wrong_plain(before, after, texts, flowed):
    """Why `after` is not `before` with the texts at its ends, or None."""
    prepend, append = (lines(texts[side]["plain"]) if texts.get(side) else "" for side in ("prepend", "append"))
    rest = after
    if append.strip():
        tail = rest[-(3 * len(append) + 4000):]
        start = r"(?:\A|(?<=\n))" if len(tail) == len(rest) else r"(?<=\n)"
        found = list(re.finditer(start + r"[^\S\n]*" + pattern(append, flowed) + r"\s*\Z", tail))
        if not found:
            return missing(append, before, after)
        rest = rest[:len(rest) - len(tail) + found[-1].start()]
        if flowed and re.search(r"[^\n-][ ]\n\Z", rest) and not rest.endswith("\n-- \n"):
            return "the text flows into the last line"
    if prepend.strip():
        found = re.match(r"\s*" + pattern(prepend, flowed) + r"[^\S\n]*(\n|\Z)", rest)
        if not found:
            return missing(prepend, before, after)
        rest = rest[found.end():]
    if count(append or prepend, after) - count(append or prepend, before) > 1:
        return "the text is there twice"
    trim = (lambda t: t.lstrip("\ufeff").strip()) if prepend.strip() else (lambda t: t.rstrip())
    if trim(rest) != trim(before):
        if "\n".join(map(str.rstrip, trim(rest).split("\n"))) == "\n".join(map(str.rstrip, trim(before).split("\n"))):
            return None
        return "the plain text of the body changed"
    return None


def missing(text, before, after):
    more = count(text, after) - count(text, before)
    return ("the text is not there" if more < 1 else
            "the text is there twice" if more > 1 else "the text is not at its end of the body")


class Page(html.parser.HTMLParser):
    """What a reader sees of HTML (`shown`), and its tags (`tags`).

    In `shown`, a mark stands for each <!DOCTYPE> and <html>, for each <body>, </body> and </html>.
    """

    MARKS = {"html": "\x01", "body": "\x02", "/body": "\x03", "/html": "\x04"}
    IN_HEAD = {"title", "meta", "link", "style", "script", "base", "noscript", "template", "bgsound", "basefont",
               "html", "head", "body"}
    HIDDEN = {"title", "style", "script", "template"}
    LITERAL = {"textarea", "title", "xmp", "iframe", "noembed", "noframes"}  # no tags inside, as in style

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.pieces, self.tags, self.head, self.hidden = [], [], False, None
        try:
            self.feed(source)
            if self.cdata_elem:
                self.handle_data(self.rawdata)
                self.rawdata = ""
            elif re.match(r"<[A-Za-z!/?]", self.rawdata):
                self.rawdata = ""  # a tag or comment that never ends shows nothing
            self.close()
        except (AssertionError, ValueError, IndexError) as error:
            self.pieces.append(f"\x05{type(error).__name__}")
        shown = re.sub(r"[\s\x00\xa0]+", " ", "".join(self.pieces))
        self.shown = joined(shown)

    def hides_its_end(self):
        """Whether an element is still open at the end in which readers may show nothing, or not as text."""
        opened = collections.Counter(found[1].lower() for kind, tag in self.tags if kind == "<"
                                     for found in [re.match(r"<([a-zA-Z]+)", tag or "")] if found)
        opened.subtract(tag for kind, tag in self.tags if kind == "</")
        return any(opened[tag] > 0 for tag in self.HIDDEN | self.LITERAL | {"frameset", "plaintext", "select", "svg", "noscript"})

    def handle_starttag(self, tag, attrs):
        self.tags.append(("<", self.get_starttag_text()))
        self.pieces.append(" ")
        if tag in ("html", "body"):
            self.pieces.append(self.MARKS[tag])
        if tag == "head":
            self.head = True
        elif tag == "body" or tag not in self.IN_HEAD:
            self.head = False
        if tag in self.LITERAL:
            self.set_cdata_mode(tag)
        if tag in self.HIDDEN:
            self.hidden = tag
        elif tag == "body":
            self.hidden = None

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.LITERAL:
            self.hidden = None

    def handle_endtag(self, tag):
        self.tags.append(("</", tag))
        self.pieces.append(" ")
        if tag in ("html", "body"):
            self.pieces.append(self.MARKS["/" + tag])
            self.hidden = None
        elif tag == "head":
            self.head, self.hidden = False, None
        elif tag == self.hidden:
            self.hidden = None

    def handle_data(self, data):
        if self.hidden or self.cdata_elem not in (None, "textarea", "xmp"):
            self.tags.append(("hidden", data.strip()))
            return
        if data.strip():
            self.head = False
        self.pieces.append(re.sub(r"[\x01-\x05]", "", data))

    def handle_comment(self, data):
        self.tags.append(("comment", data))

    def handle_decl(self, decl):
        self.tags.append(("decl", decl))
        if decl.lower().startswith("doctype"):
            self.pieces.append(self.MARKS["html"])

    def unknown_decl(self, data):
        self.tags.append(("decl", data))

    def handle_pi(self, data):
        self.tags.append(("pi", data))

    def parse_marked_section(self, i, report=1):
        end = self.rawdata.find(">", i)
        if end < 0:
            return -1
        self.unknown_decl(self.rawdata[i + 3:end])
        return end + 1


def joined(*pieces):
    text = re.sub(r" +", " ", " ".join(pieces))
    return re.sub(r" ?([\x01-\x04]) ?", r"\1", text).strip(" ")


def without_marks(shown):
    return joined(re.sub(r"[\x01-\x04]", " ", shown))


def append_places(shown):
    """Where a text at the end may stand in what is shown: before a </body>, or at the end without one."""
    blank = re.search(r"[\x03\x04 ]*\Z", shown).start()
    if re.search(r"[\x03\x04]", shown[:blank]):  # something is shown after </body> already
        return {found.start() for found in re.finditer(r"[\x03\x04]", shown)} | {blank, len(shown)}
    return {blank} | set(range(blank, shown.rfind("\x03") + 1))


def prepend_places(shown):
    blank = re.match(r"[\x01\x02 ]*", shown).end()
    if re.search(r"[\x01\x02]", shown[blank:]):
        return {found.end() for found in re.finditer(r"[\x01\x02]", shown)} | {blank, 0}
    return {blank} | (set(range(shown.find("\x02") + 1, blank)) if "\x02" in shown else set())


def wrong_html(before, after, texts):
    """Why `after` is not `before` with the texts inside its body, or None."""
    prepend, append = (Page(texts[side].get("html") or texts[side]["plain"]).shown if texts.get(side) else ""
                       for side in ("prepend", "append"))
    old, new = Page(before), Page(after)
    gone = tag_gone(old, new, texts)
    wanted = set()
    for i, j in itertools.product(prepend_places(old.shown) if prepend else {0},
                                  append_places(old.shown) if append else {len(old.shown)}):
        if i <= j:
            wanted.add(joined(old.shown[:i], prepend, old.shown[i:j], append, old.shown[j:]))
    added = (re.search(r"\A[\x01\x02]+", old.shown) is None or re.search(r"[\x03\x04]\Z", old.shown) is None) and (
        new.shown.strip("\x01\x02\x03\x04 ") in {text.strip("\x01\x02\x03\x04 ") for text in wanted})
    if new.shown not in wanted and not added:
        for text in filter(None, (prepend, append)):
            if count(text, new.shown) - count(text, old.shown) != 1:
                return missing(text, old.shown, new.shown)
        if without_marks(new.shown) in set(map(without_marks, wanted)):
            return "the text is outside the body of the HTML"
        rest = without_marks(new.shown)
        for text in filter(None, (prepend, append)):
            rest = re.sub(pattern(text, True), " ", rest)
        if joined(rest) == without_marks(old.shown):
            return "the text is not at its end of the body"
        return "the visible text of the HTML changed"
    return gone and f"a tag is gone: {str(gone[1])[:40]!r}"


def tag_gone(old, new, texts):
    """A tag of the old page that is not in the new one, in order and beside those of the texts; or None."""
    remaining, counts = iter(new.tags), collections.Counter(new.tags)
    counts.subtract(tag for side in ("prepend", "append") if texts.get(side)
                    for tag in Page(texts[side].get("html") or "").tags)
    for tag, times in collections.Counter(old.tags).items():
        if counts[tag] < times:
            return tag
    return next((tag for tag in old.tags if tag not in remaining), None)


# --- Comparing messages -----------------------------------------------------------------------------------

class Judgement:
    """One message before and after: `reasons` says why it is wrong; none if it is right."""

    def __init__(self, before, after, texts, strict=False):
        self.left, self.kind, self.reasons = False, "", []
        self.before, self.after, self.texts, self.strict = before, after, texts, strict
        self.old, self.new = parse(before), parse(after)
        try:
            self.body = Body(self.old)
            self.judge_body()
        except Untouchable as reason:
            self.body = None
            self.judge_untouchable(str(reason))

    def judge_untouchable(self, reason):
        self.kind = "not to be changed"
        closed = reason in ("signed", "encrypted", "S/MIME", "PGP in the body")
        if self.texts.get("signed") == "wrap" and closed:
            if self.before == self.after:
                self.reasons = [] if reason == "PGP in the body" else [f"{reason}: no text was added"]
            else:
                self.reasons = self.wrong_beside()
        elif self.before != self.after:
            self.reasons = [f"{reason}: the message was changed"]

    def judge_body(self):
        types = {leaf.media_type()[1] for leaf in self.body.leaves}
        self.kind = ("alternative" if len(types) > 1 else types.pop()) if types else "no text"
        if not any(self.texts.get(side) for side in ("prepend", "append")):
            self.reasons = [] if self.before == self.after else ["changed without a text"]
            return
        if self.before == self.after:
            if self.body.doubts or self.body.rich and not self.body.leaves:
                self.left = True
            else:
                self.reasons = ["no text was added"]
            return
        if self.body.leaves:
            edits = {id(leaf) for leaf in self.body.leaves}
            self.reasons = self.wrong_edit(edits)
            if not self.reasons:
                return
            if not self.body.doubts:
                return
        beside = self.wrong_beside()
        self.reasons = [] if not beside else self.reasons or beside

    # Text in the body

    def wrong_edit(self, edits):
        reasons = self.wrong_top_fields() + list(self.wrong_part(self.old, self.new, edits, True))
        if first(self.old, "mime-version") and (first(self.new, "mime-version") or "").strip() not in (
                first(self.old, "mime-version").strip(), "1.0"):
            reasons.append("MIME-Version is gone or changed")
        return reasons + self.wrong_octets(edits)

    def wrong_top_fields(self, dropped=lambda name: name in OWN_FIELDS):
        def kept(octets, mine):
            return [value.rstrip(b"\r\n") for name, value in header_block(octets)
                    if not dropped(name) and not (mine and name.startswith("x-copyist-"))]
        old, new = kept(self.before, False), kept(self.after, False)
        if old == new or old == kept(self.after, True):
            return []
        lost = [field for field in old if field not in new]
        if lost:
            return [f"a header field is gone or changed: {lost[0][:40].decode('latin-1')!r}"]
        return ["header fields were added or moved"]

    def wrong_part(self, old, new, edits, top=False):
        if id(old) in edits:
            reasons = self.wrong_leaf(old, new, top)
            if reasons and self.body and self.body.doubts and self.beside_part(old, new, top):
                reasons = []
            yield from reasons
            return
        if not top and squeezed(fields(old)) != squeezed(fields(new)):
            yield "header fields of a part changed"
        if top and (meaning(old) != meaning(new)):
            yield "the type of the message changed"
        if old.is_multipart() != new.is_multipart() or old.media_type() != new.media_type():
            yield "the tree of parts changed"
            return
        if not old.is_multipart():
            before, after = payload(old), payload(new)
            if self.body and self.body.doubts:  # a part that was not closed ends a line earlier now
                before, after = before.rstrip(b"\r\n"), after.rstrip(b"\r\n")
            if before != after:
                same = contents(old)[0][0] == contents(new)[0][0]
                yield "another part was encoded anew" if same else "another part changed"
            return
        for name in ("preamble", "epilogue"):
            if (getattr(old, name) or "").strip("\r\n") != (getattr(new, name) or "").strip("\r\n"):
                yield f"the {name} changed"
        if len(old.content()) != len(new.content()):
            yield "the tree of parts changed"
            return
        for old_child, new_child in zip(old.content(), new.content()):
            yield from self.wrong_part(old_child, new_child, edits)
        if first(new, "content-transfer-encoding") and transfer_encoding(new) == "7bit":
            if has_8bit(new) and not has_8bit(old):
                yield "8-bit octets inside a multipart that is declared 7bit"

    def wrong_leaf(self, old, new, top):
        if old.media_type() != new.media_type() or new.is_multipart():
            return ["the tree of parts changed"]
        reasons = []
        if not top and others(fields(old)) != others(fields(new)):
            reasons.append("header fields of the body part changed")
        if kept_parameters(old) != kept_parameters(new):
            reasons.append("parameters of the body's Content-Type changed")
        seven = ("", "7bit")
        if transfer_encoding(new) in seven and not payload(new).isascii() and (
                payload(old).isascii() or transfer_encoding(old) not in seven):
            reasons.append("8-bit octets in a part that is 7bit")
        wrong = self.wrong_text(old, new)
        return reasons + ([wrong] if wrong else [])

    def wrong_text(self, old, new):
        is_html, answer = old.media_type()[1] == "html", None
        flowed = (parameter(new, "format") or "").lower() == "flowed"
        readings, _ = old_readings(old, codec(parameter(new, "charset")))
        pairs = list(itertools.product(map(lines, new_reading(new)), map(lines, readings)))
        if re.match(r"(iso2022_jp|euc_?j|shift_?j|cp932)", codec(parameter(old, "charset")) or ""):
            pairs.append(tuple(text.translate(TWINS) for text in pairs[0]))
        sides = self.body.sides.get(id(old), ["prepend", "append"]) if self.body else ["prepend", "append"]
        texts = {side: self.texts.get(side) for side in sides}
        for after, before in pairs:
            wrong = (wrong_html(before, after, texts) if is_html else
                     wrong_plain(before, after, texts, flowed))
            if not wrong:
                return None
            answer = answer or wrong
        return answer

    def wrong_octets(self, edits=()):
        reasons = []
        if longest(self.after) > 998 >= longest(self.before):
            reasons.append("a line is longer than 998 octets")
        bare = [len(re.findall(rb"(?<!\r)\n", octets)) for octets in (self.before, self.after)]
        pairs = [octets.count(b"\r\n") for octets in (self.before, self.after)]
        if not bare[0] < bare[1] or not pairs[0]:
            bare[1] = 0
        if bare[1] and not bare[0] or pairs[1] and not pairs[0] and bare[0]:
            reasons.append("line endings of another kind")
        lone = [len(re.findall(rb"\r(?!\n)", octets)) for octets in (self.before, self.after)]
        if lone[1] > lone[0]:
            reasons.append("a bare CR was added")
        if more := defects(self.new) - defects(self.old):
            reasons.append("the MIME structure got broken: " + ", ".join(sorted(more)))
        if b"\0" in self.after and b"\0" not in self.before:
            reasons.append("a NUL was added")
        if self.strict and edits and not reasons:
            reasons += self.wrong_skeleton(edits)
        return reasons

    def wrong_skeleton(self, edits):
        pairs = list(body_pairs(self.old, self.new, edits))
        old, new = (skeleton(octets, [pair[side] for pair in pairs])
                    for side, octets in enumerate((self.before, self.after)))
        if old is None or new is None or old == new:
            return []
        return ["octets outside the body changed"]

    # Text beside the body

    def wrong_beside(self):
        """The texts as parts of their own: beside the whole message, or in its multipart/mixed."""
        if self.new.media_type() != ("multipart", "mixed") or not self.new.is_multipart():
            return ["no text was added, or not as a part beside the rest"]
        answers = [self.wrong_wrapping()]
        if self.old.media_type() == ("multipart", "mixed") and self.old.is_multipart():
            answers.append(self.wrong_addition())
        best = min(answers, key=len)
        return best and best + []

    def wrong_wrapping(self):
        reasons = self.wrong_top_fields(lambda name: name == "mime-version" or name.startswith("content-"))
        before, inner, after = split_children(self.new.content(), self.texts)
        if inner is None or len(inner) != 1:
            return reasons + ["the parts beside the message are not the texts"]
        reasons += self.wrong_text_parts(before, after)
        if content_fields(self.old) != content_fields(inner[0]):
            reasons.append("header fields of the message's content changed")
        if self.body_octets().rstrip(b"\r\n") not in self.after:
            reasons.append("the content of the message changed")
        elif not inner[0].is_multipart() and not self.old.is_multipart() and (
                payload(inner[0]).rstrip(b"\r\n") != payload(self.old).rstrip(b"\r\n")):
            reasons.append("the content of the message changed")
        if first(self.new, "mime-version") is None:
            reasons.append("multipart without MIME-Version")
        old_broken = set(defects(self.old))
        return reasons + [reason for reason in self.wrong_octets()
                          if not (reason.startswith("the MIME structure") and old_broken)]

    def wrong_addition(self):
        reasons = self.wrong_top_fields()
        before, inner, after = split_children(self.new.content(), self.texts)
        if inner is None or len(inner) != len(self.old.content()):
            return reasons + ["the parts beside the content are not the texts"]
        reasons += self.wrong_text_parts(before, after)
        for old, new in zip(self.old.content(), inner):
            reasons += self.wrong_part(old, new, ())
        if meaning(self.old) != meaning(self.new):
            reasons.append("the type of the message changed")
        for name in ("preamble", "epilogue"):
            if (getattr(self.old, name) or "").strip("\r\n") != (getattr(self.new, name) or "").strip("\r\n"):
                reasons.append(f"the {name} changed")
        return reasons + self.wrong_octets()

    def wrong_text_parts(self, before, after):
        for side, part in (("prepend", before), ("append", after)):
            if part is not None and not is_text_part(part, self.texts[side]):
                return ["the part beside the message is not the text"]
        return []

    def beside_part(self, old, new, top):
        """Whether a doubtful part now stands, as it was, in a multipart/mixed with the texts."""
        if top or new.media_type() != ("multipart", "mixed") or not new.is_multipart():
            return False
        before, inner, after = split_children(new.content(), self.texts)
        if inner is None or len(inner) != 1 or self.wrong_text_parts(before, after):
            return False
        return content_fields(old) == content_fields(inner[0]) and not list(self.wrong_part(
            strip_fields(old), strip_fields(inner[0]), ()))

    def body_octets(self):
        return self.before[sum(len(value) for _, value in header_block(self.before)):].lstrip(b"\r\n")


def split_children(children, texts):
    """(the part of the first text, the rest, the part of the last text); the rest is None if there is none."""
    before = after = None
    children = list(children)
    if texts.get("prepend") and children:
        before = children.pop(0)
    if texts.get("append") and children:
        after = children.pop()
    return before, children or None, after


def is_text_part(part, texts):
    main, sub = part.media_type()
    if is_attachment(part):
        return False
    if (main, sub) == ("multipart", "alternative") and part.is_multipart():
        return bool(part.content()) and all(is_text_part(child, texts) for child in part.content())
    if main != "text" or part.is_multipart() or not payload(part).isascii() and (
            transfer_encoding(part) in ("", "7bit")):
        return False
    shown = lines(new_reading(part)[0])
    if sub == "plain":
        return shown.split() == texts["plain"].split()
    return sub == "html" and without_marks(Page(shown).shown) == without_marks(
        Page(texts.get("html") or texts["plain"]).shown)


def strip_fields(part):
    twin = Part()
    twin.set_payload(part.content())
    twin.preamble, twin.epilogue = part.preamble, part.epilogue
    return twin


def squeezed(pairs):
    return [(name, re.sub(r"\s+", " ", value).strip()) for name, value in pairs]


def others(pairs):
    return squeezed((name, value) for name, value in pairs if name not in OWN_FIELDS)


def content_fields(part):
    return squeezed((name, value) for name, value in fields(part) if name.startswith("content-"))


def kept_parameters(part):
    return sorted((key, value) for key, value in parameters(part) if key != "charset")


def meaning(part):
    """What the fields that a tool may write anew say, of a part that it must not change."""
    return part.media_type(), sorted(parameters(part)), transfer_encoding(part)


def longest(octets):
    return max((len(line) for line in re.split(rb"\r?\n", octets)), default=0)


def body_pairs(old, new, edits):
    if id(old) in edits:
        yield old, new
    elif old.is_multipart() and new.is_multipart():
        for pair in zip(old.content(), new.content()):
            yield from body_pairs(*pair, edits)


def skeleton(octets, leaves):
    """The octets without the content of these leaves, and without the fields that may change; or None."""
    kept, position = [], 0
    for leaf in leaves:
        content = payload(leaf)
        start = octets.find(content, position) if len(content) > 20 else -1
        if start < 0:
            return None
        kept.append(octets[position:start])
        position = start + len(content)
    kept.append(octets[position:])
    text = b"\0".join(kept)
    text = re.sub(rb"(?im)^(content-type|content-transfer-encoding|mime-version|x-copyist-[^:\r\n]*):[^\n]*\n"
                  rb"([ \t][^\n]*\n)*", b"", text)
    return re.sub(rb"[\r\n]+\0", b"\0", text).rstrip(b"\r\n\0")


# --- The command ------------------------------------------------------------------------------------------

def judge_files(before, after, texts, strict=False):
    """(right, kind, left, reasons) of a message in two files."""
    with open(before, "rb") as file:
        old = file.read()
    try:
        with open(after, "rb") as file:
            new = file.read()
    except FileNotFoundError:
        return False, "no output", False, ["no message came out"]
    try:
        judgement = Judgement(old, new, texts, strict)
    except RecursionError:
        return old == new, "too deep", old == new, [] if old == new else ["nested too deeply to judge"]
    return not judgement.reasons, judgement.kind, judgement.left, list(dict.fromkeys(judgement.reasons))


def pairs_of(before, after):
    if os.path.isfile(before):
        return [(os.path.basename(before), before, after)]
    return [(name, os.path.join(before, name), os.path.join(after, name))
            for name in sorted(os.listdir(before))
            if name.endswith((".eml", ".msg", ".txt")) and os.path.isfile(os.path.join(before, name))]


def summary(results):
    kinds = collections.Counter((kind, right) for _, right, kind, _, _ in results)
    by_kind = ", ".join(f"{kind} {kinds[kind, True]}/{kinds[kind, True] + kinds[kind, False]}"
                        for kind in sorted({kind for kind, _ in kinds}))
    right = sum(1 for result in results if result[1])
    left = sum(1 for result in results if result[3])
    return f"{right} right, {len(results) - right} wrong of {len(results)} (right by class: {by_kind}; left: {left})"


def main(arguments=None):
    options = argparse.ArgumentParser(description="Judges messages with texts put into them.")
    options.add_argument("--texts", required=True, help="the texts, as JSON")
    options.add_argument("--strict", action="store_true", help="compare also what no reader shows")
    options.add_argument("--json", action="store_true", help="print one JSON object for each message")
    options.add_argument("--quiet", action="store_true", help="print only the sum")
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options.add_argument("before")
    options.add_argument("after")
    given = options.parse_args(arguments)
    try:
        with open(given.texts, encoding="utf-8") as file:
            texts = json.load(file)
        pairs = pairs_of(given.before, given.after)
    except (OSError, ValueError) as error:
        print(f"check.py: {error}", file=sys.stderr)
        return 2
    columns = ([pair[1] for pair in pairs], [pair[2] for pair in pairs],
               itertools.repeat(texts), itertools.repeat(given.strict))
    if given.jobs > 1 and len(pairs) > 20:
        with concurrent.futures.ProcessPoolExecutor(given.jobs) as pool:
            judged = list(pool.map(judge_files, *columns, chunksize=16))
    else:
        judged = list(map(judge_files, *columns))
    results = [(pair[0], *verdict) for pair, verdict in zip(pairs, judged)]
    for name, right, kind, left, reasons in results:
        if given.json:
            print(json.dumps({"file": name, "right": right, "class": kind, "left": left, "reasons": reasons}))
        elif not right and not given.quiet:
            print(f"{name} ({kind}): {'; '.join(reasons)}")
    print(summary(results), file=sys.stderr if given.json else sys.stdout)
    return 0 if all(result[1] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
