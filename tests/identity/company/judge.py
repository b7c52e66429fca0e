#!/usr/bin/env python3
"""Says who must have a copy of which message, from what Postfix delivered and what the directory holds.

Standard library only, and nothing of Copyist's. Reads from standard input a JSON object with

    ldif       the directory
    log        Postfix's log
    mail       the messages, each with id, queue_id, client ("outside", "inside", "login"), login, sender, author, recipients
    domains    the organization's domains
    local      host names of the MTA
    default    the domain of a name without one
    same       a list of domains that share their local parts
    delimiter  the character before an address extension

and prints one JSON object: for each message its copies {journal address: [all addresses of those because of whom]}, in
which a setting's journal address has nobody, and what is wrong with the log, if anything.

The rules, from the description of the product:

 1. Who is inside. A client that authenticated is. A trusted client is if its reverse path is null or of the
    organization. Whoever else sends is outside; a trusted client may still send to outside addresses (outbound).
 2. Directions. A message goes to each recipient in the direction of the address as the client wrote it, and in the
    direction of each address that Postfix delivered it to for this recipient: from inside to inside is internal, to
    outside outbound, everything else inbound.
 3. Whose an address is. An address that an object holds exactly (mail, proxyAddresses) is that object's. Only if none
    holds it: without a BATV tag, without its extension, at the domains that share their local parts, at the
    default domain instead of a host name of the MTA, by login name there.
 4. Recipients. Those who hold an address that Postfix delivered to count in the direction of that address. Members of
    groups, owners of aliases and those who are forwarded to are found this way.
 5. Senders. The reverse path, as it was written or as Postfix rewrote it, and the login. An alias is a name of the
    sender if it leads to one person and to nothing else. If none of these is a person, and the client is trusted and did
    not authenticate, the author in the header counts as well: this only adds copies. If the reverse path is foreign, the
    message counts as inbound, and as what it would be from the author, too.
 6. Attributes. Inbound counts the recipients', internal both sides', outbound the sender's and those of a contact that is
    the recipient. Nothing is copied because of somebody exempt.
 7. Settings. Each direction has a journal of its own. It gets no copy of a pair of which all people of the
    organization are exempt: inbound the recipient's side, outbound the sender's, internal both. A group is exempt if its
    object and all its members are. A side on which there is somebody unknown is not exempt.
 8. If a client authenticated and neither reverse path nor login is anybody's, mail that is not inbound has a copy at the
    fallback journal.
"""

import base64
import json
import re
import sys
from collections import defaultdict

ATTRIBUTES = {
    "inbound": "copyistinboundjournal",
    "outbound": "copyistoutboundjournal",
    "internal": "copyistinternaljournal",
}
EXEMPT = "extensionattribute11"
FALLBACK = "fallback@archive.test"


def dn_key(dn):
    """A DN as it is compared; those of this company have neither escapes nor several values in one part."""
    return ",".join("=".join(s.strip() for s in part.split("=", 1)) for part in dn.lower().split(","))


class Entry(defaultdict):
    """An object: its attributes by their names in lower case, and its addresses."""

    names = frozenset()


class Directory:
    def __init__(self, ldif):
        self.by_address = defaultdict(list)
        self.by_login = {}
        self.by_dn = {}
        for block in re.split(r"\n\n+", re.sub(r"\n ", "", ldif)):
            entry = Entry(list)
            for line in block.splitlines():
                name, _, value = line.partition(":")
                if value.startswith(":"):
                    value = base64.b64decode(value[1:]).decode()
                entry[name.lower()].append(value.strip())
            if "dn" not in entry:
                continue
            self.by_dn[dn_key(entry["dn"][0])] = entry
            names = {value.lower() for value in entry["mail"]}
            names |= {value[5:].lower() for value in entry["proxyaddresses"] if value.lower().startswith("smtp:")}
            entry.names = names
            for name in names:
                self.by_address[name].append(entry)
            for login in entry["uid"]:
                self.by_login[login.lower()] = entry

    @staticmethod
    def is_exempt(entry):
        return "TRUE" in (value.upper() for value in entry[EXEMPT])

    @staticmethod
    def is_group(entry):
        return any(value.lower().startswith("groupof") or value.lower() == "posixgroup" for value in entry["objectclass"])

    def group_is_exempt(self, group, seen=()):
        """Whether a group's object and all its members are exempt."""
        if not self.is_exempt(group):
            return False
        if group["memberuid"] or group["memberurl"]:
            members = [self.by_login.get(uid.lower()) for uid in group["memberuid"]]
            if group["memberurl"]:
                return False
        else:
            members = [self.by_dn.get(dn_key(dn)) for dn in group["member"] + group["uniquemember"]]
        for member in members:
            if member is None or id(member) in seen:
                continue
            if self.is_group(member):
                if not self.group_is_exempt(member, (*seen, id(group))):
                    return False
            elif not self.is_exempt(member):
                return False
        return bool(members)


class Site:
    def __init__(self, given):
        self.directory = Directory(given["ldif"])
        self.domains = {domain.lower() for domain in given["domains"]}
        self.local = {domain.lower() for domain in given["local"]}
        self.default = given["default"]
        self.same = given["same"]
        self.delimiter = given["delimiter"]

    def whole(self, address):
        address = address.lower()
        return address if "@" in address else f"{address}@{self.default}"

    def is_ours(self, address):
        domain = address.rsplit("@", 1)[-1].lower()
        return domain in self.domains or domain in self.local

    def readings(self, address):
        """The readings of an address, in the order in which they count."""
        all_of = [address]

        def vary(change):
            for one in list(all_of):
                for other in change(*one.rsplit("@", 1)):
                    if other not in all_of:
                        all_of.append(other)

        def untagged(local, domain):
            found = re.fullmatch(r"prvs=[^=]*=(.+)", local)
            return [f"{found[1]}@{domain}"] if found and self.is_ours(f"x@{domain}") else []

        def unextended(local, domain):
            at = local.find(self.delimiter)
            return [f"{local[:at]}@{domain}"] if at > 0 else []

        def shared(local, domain):
            domains = self.same if domain in self.same else []
            if domain in self.local:
                domains = [self.default, *self.same] if self.default in self.same else [self.default]
            return [f"{local}@{other}" for other in domains]

        for change in (untagged, unextended, shared):
            vary(change)
        return all_of

    def holders(self, address):
        """The objects whose an address is."""
        address = address.lower()
        readings = self.readings(address)
        for reading in readings:
            if reading in self.directory.by_address:
                return self.directory.by_address[reading]
        for reading in readings:
            local, domain = reading.rsplit("@", 1)
            if domain in self.local and local in self.directory.by_login:
                return [self.directory.by_login[local]]
        return []

    def login(self, name):
        """The object of somebody who authenticated."""
        if "@" in name and self.directory.by_address.get(name.lower()):
            return self.directory.by_address[name.lower()]
        bare = re.split(r"[\\/]", name)[-1].split("@")[0].lower()
        found = self.directory.by_login.get(bare)
        return [found] if found else []


class Log:
    """What became of each message, by queue ID."""

    LINE = re.compile(r"postfix/(\w+)\[\d+\]: (\w+): (.*)")
    TO = re.compile(r"to=<([^>]*)>,(?: orig_to=<([^>]*)>,)? .*?status=(\w+) \((.*)\)$")

    def __init__(self, text):
        self.deliveries = defaultdict(list)
        self.senders = {}
        self.wrong = []
        for line in text.splitlines():
            found = self.LINE.search(line)
            if not found:
                continue
            program, queue_id, rest = found.groups()
            if program == "qmgr" and rest.startswith("from=<"):
                self.senders[queue_id] = rest[6:].split(">", 1)[0]
            elif rest.startswith("to=<"):
                to = self.TO.match(rest)
                if not to or to[3] != "sent":
                    self.wrong.append(line)
                    continue
                self.deliveries[queue_id].append((to[1], to[2] or to[1], to[4]))

    def mailboxes(self, queue_id, recipient=None):
        """The addresses that a message was delivered to in the end, for one recipient or for all."""
        found = set()
        for to, original, how in self.deliveries.get(queue_id, ()):
            if recipient is not None and original.lower() != recipient.lower():
                continue
            if how.startswith("forwarded as "):
                found |= self.mailboxes(how.removeprefix("forwarded as "))
            else:
                found.add(to.lower())
        return found


class Judge:
    def __init__(self, given):
        self.site = Site(given)
        self.log = Log(given["log"])
        self.mail = given["mail"]
        # What mail to one address alone leads to shows whose name it is.
        self.leads_to = {}
        for message in self.mail:
            for recipient in message["recipients"]:
                boxes = self.log.mailboxes(message["queue_id"], recipient)
                self.leads_to[self.site.whole(recipient)] = boxes

    def sender(self, address):
        """The objects of a reverse path."""
        found = self.site.holders(address)
        if found:
            return found
        people = []
        for box in self.leads_to.get(address.lower(), ()):
            holders = self.site.holders(box)
            if not holders:
                return []
            people += [one for one in holders if not any(one is known for known in people)]
        return people if len(people) == 1 else []

    def judge(self, message):
        site, log = self.site, self.log
        queue_id = message["queue_id"]
        copies = defaultdict(set)
        written = message["sender"]
        is_authenticated = message["client"] == "login"
        is_trusted = message["client"] == "inside"
        is_foreign = written != "" and not site.is_ours(written)
        from_us = is_authenticated or (is_trusted and not is_foreign)
        may_relay = is_authenticated or is_trusted

        # Each name that the envelope has for the sender, with whom it stands for.
        names = []
        if written:
            holders = self.sender(written) or self.sender(log.senders.get(queue_id) or written)
            names.append(holders)
        if is_authenticated:
            names.append(site.login(message["login"]))
        if is_trusted and not any(names):
            # As Postfix wrote the field, which rewrites nothing of these clients.
            names.append(self.sender(message["author"]))
        people = [one for holders in names for one in holders]
        sender_is_exempt = bool(names) and all(
            holders and all(site.directory.is_exempt(one) for one in holders) for holders in names
        )

        def copy(direction, entries):
            for entry in entries:
                if site.directory.is_exempt(entry):
                    continue
                for value in entry[ATTRIBUTES[direction]]:
                    copies[value.lower()] |= entry.names

        def direction(address, inside):
            if inside and site.is_ours(address):
                return "internal"
            if may_relay and not site.is_ours(address):
                return "outbound"
            return "inbound"

        for recipient in message["recipients"]:
            boxes = log.mailboxes(queue_id, recipient)
            if not boxes:
                self.log.wrong.append(f"{message['id']}: nothing is delivered for {recipient}")
            whole = site.whole(recipient)
            directions = {direction(whole, from_us)} | {direction(box, from_us) for box in boxes}
            is_exempt = self.is_exempt(whole, boxes)
            for one in directions:
                if one != "inbound":
                    copy(one, people)
                for box in boxes:
                    if direction(box, from_us) == one:
                        copy(one, site.holders(box))
                side = {
                    "inbound": is_exempt,
                    "outbound": sender_is_exempt,
                    "internal": is_exempt and (sender_is_exempt or not names),
                }
                if not side[one]:
                    copies[f"all-{one}@archive.test"] |= set()
                if is_authenticated and one != "inbound" and not people:
                    copies[FALLBACK] |= set()
            if is_trusted and is_foreign and people:
                one = direction(whole, True)
                copy(one, people)
                author_is_exempt = all(site.directory.is_exempt(author) for author in people)
                if not author_is_exempt or (one == "internal" and not is_exempt):
                    copies[f"all-{one}@archive.test"] |= set()
        return {journal: sorted(because) for journal, because in copies.items()}

    def is_exempt(self, recipient, boxes):
        """Whether everybody of ours behind a recipient is exempt."""
        site = self.site
        groups = [one for one in site.holders(recipient) if site.directory.is_group(one)]
        if groups:
            return all(site.directory.group_is_exempt(one) for one in groups)
        ours = [site.holders(box) for box in boxes if site.is_ours(box)]
        return bool(ours) and all(
            holders and all(site.directory.is_exempt(one) for one in holders) for holders in ours
        )


def main():
    judge = Judge(json.load(sys.stdin))
    copies = {message["id"]: judge.judge(message) for message in judge.mail}
    json.dump({"copies": copies, "wrong": judge.log.wrong}, sys.stdout)


if __name__ == "__main__":
    main()
