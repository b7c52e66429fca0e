"""Reads a non-delivery report with Python's email package, with nothing of Copyist's.

    read.py < NDR

Prints the fields of message/delivery-status, a line each; then what is attached: its type, its encoding, whether its octets keep to that, and the subject in it.
Fails if it is no multipart/report of three parts, or a field is not ASCII.
"""

import email
import email.policy
import re
import sys

octets = sys.stdin.buffer.read()
ndr = email.message_from_bytes(octets, policy=email.policy.default)
assert ndr.get_content_type() == "multipart/report", ndr.get_content_type()
assert ndr.get_param("report-type") == "delivery-status", ndr["Content-Type"]
assert not ndr.defects, ndr.defects
people, programs, attached = ndr.get_payload()
assert people.get_content_type() == "text/plain" and people.get_content().strip()
assert programs.get_content_type() == "message/delivery-status"
for group in programs.get_payload():
    for name, value in group.items():
        assert str(value).isascii(), value
        print(f"{name}: {value}")
encoding = attached["Content-Transfer-Encoding"]
raw = re.split(rb"\n--" + ndr.get_boundary().encode() + rb"(?:--)?\n", octets)[3]
print(f"attached: {attached.get_content_type()} {encoding} {'ASCII' if raw.isascii() else '8 bits'}")
inner = attached.get_payload(0)
print(f"about: {inner['Subject']}")
