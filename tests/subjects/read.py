"""Reads subjects as RFC 2047 says, with nothing of Copyist's: an independent reading for tests/subjects.rs.

    read.py FILE

FILE has a value of a Subject field on each line, in hexadecimal. Prints what each says, in hexadecimal UTF-8. Characters that are split between
encoded words of one charset are joined first, as mail clients do.
"""

import base64
import codecs
import re
import sys

WORD = re.compile(rb"=\?([^?\s=\"<>*]+)(?:\*[^?]*)?\?([QqBb])\?(.*?)\?=", re.S)
# Labels whose codecs Python knows by another name, as the WHATWG Encoding standard reads them.
NAMES = {"windows-874": "cp874", "iso-8859-8-i": "iso-8859-8", "x-mac-cyrillic": "mac_cyrillic", "macintosh": "mac_roman",
         "euc-kr": "cp949", "gbk": "gb18030", "gb2312": "gb18030", "shift_jis": "cp932", "big5": "big5hkscs", "iso-8859-1": "cp1252",
         "iso-8859-9": "cp1254", "iso-8859-11": "cp874"}


def content(encoding, text):
    if encoding in b"Qq":
        text = text.replace(b"_", b" ")
        return re.sub(rb"=([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), text)
    text = re.sub(rb"[^A-Za-z0-9+/]", b"", text)
    return base64.b64decode(text + b"=" * (-len(text) % 4))


def decode(charset, octets):
    name = charset.decode("ascii").lower()
    return codecs.decode(octets, NAMES.get(name, name), "replace")


def read(value):
    value = re.sub(rb"[\r\n]", b"", value)
    pieces, at = [], 0
    for found in WORD.finditer(value):
        between = value[at:found.start()]
        if not (pieces and pieces[-1][0] and not between.strip()):
            pieces.append([None, between])
        charset, octets = found[1].lower(), content(found[2], found[3])
        if pieces[-1][0] == charset:
            pieces[-1][1] += octets
        else:
            pieces.append([charset, octets])
        at = found.end()
    pieces.append([None, value[at:]])
    text = "".join(decode(charset, octets) if charset else octets.decode("utf-8", "replace") for charset, octets in pieces)
    return "".join(" " if c == "\t" else c for c in text.strip()
                   if c == "\t" or not (ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or c in "\u2028\u2029"))


for line in open(sys.argv[1]):
    print(read(bytes.fromhex(line.strip())).encode("utf-8").hex())
