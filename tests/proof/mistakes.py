#!/usr/bin/env python3
"""Plants mistakes in a site that works, one at a time, and asks the tools about each.

Run by `tests/proof/newcomer --mistakes` behind docs/install.md, in its root: Postfix, slapd and
Copyist run there. For each mistake: plant it; restart or reload what an administrator would; ask
`copyist check --online` and `copyist doctor --online` and read the log of the start. Then follow
the remedy to the letter, ask again, and see that mail from Ben to Ana is journaled. Prints a table
in Markdown. Status 1 if a mistake stays silent or a remedy does not work.

  mistakes.py [NAME...]     only these
"""
import re
import smtplib
import subprocess
import sys
import time
from pathlib import Path

TOML = Path("/etc/copyist/copyist.toml")
LOG = Path("/var/log/copyist.log")
GOOD = Path("/root/good")
KEPT = ["/etc/postfix", "/etc/copyist", "/etc/ldap/slapd.d", "/var/lib/ldap", "/etc/aliases"]

HELPERS = r"""
conf() { sed -i "$1" /etc/copyist/copyist.toml; }
line() { printf '%s\n' "$1" >> /etc/copyist/copyist.toml; }
table() { printf '\n%s\n' "$1" >> /etc/copyist/copyist.toml; }
people() { ldapmodify -x -D cn=admin,dc=example,dc=com -y /root/ldap-admin.password >/dev/null; }
config() { ldapmodify -Q -Y EXTERNAL -H ldapi:/// >/dev/null; }
ana() { printf 'dn: uid=ana,ou=people,dc=example,dc=com\nchangetype: modify\n%s\n' "$1" | people; }
acl() { printf 'dn: olcDatabase={1}mdb,cn=config\nchangetype: modify\nreplace: olcAccess\n%s\n' "$1" | config; }
listen_on() { setsid python3 -c "
import socket, time
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', $1)); s.listen(9)
time.sleep(600)" >/dev/null 2>&1 & echo $! > /root/other.pid; sleep 0.3; }
"""


def sh(script, quiet=False):
    done = subprocess.run(["bash", "-c", HELPERS + script], capture_output=True, text=True)
    if done.returncode and not quiet:
        sys.exit(f"failed ({done.returncode}): {script}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def tool(*arguments):
    try:
        done = subprocess.run(["copyist", *arguments], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "(no answer within a minute)", 124
    return done.stdout + done.stderr, done.returncode


def slapd(what):
    if what == "stop":
        sh("pkill -x slapd; while pgrep -x slapd >/dev/null; do sleep 0.05; done", quiet=True)
    else:
        sh("slapd -h 'ldap://127.0.0.1/ ldapi:///' -u openldap -g openldap -F /etc/ldap/slapd.d;"
           "for _ in $(seq 100); do ldapwhoami -x -H ldap://127.0.0.1 >/dev/null 2>&1 && break; sleep 0.05; done")


def start():
    """Restarts the service and returns what it logged."""
    LOG.write_text("")
    sh("systemctl restart copyist", quiet=True)
    return LOG.read_text()


def save():
    if GOOD.exists():
        return
    slapd("stop")
    for path in KEPT:
        to = GOOD / path[1:]
        to.parent.mkdir(parents=True, exist_ok=True)
        sh(f"rm -rf {to}; cp -a {path} {to}")
    slapd("start")


def restore():
    """The site as the guide left it."""
    if Path("/root/other.pid").exists():
        sh("kill $(cat /root/other.pid); rm /root/other.pid", quiet=True)
    slapd("stop")
    for path in KEPT:
        sh(f"rm -rf {path}; cp -a {GOOD / path[1:]} {path}")
    sh("chmod 700 /var/lib/copyist; chown -R copyist:copyist /var/lib/copyist; rm -f /etc/postfix/*.lock")
    slapd("start")
    sh("postfix reload", quiet=True)
    start()


def journaled():
    """Whether a message from Ben to Ana, by sendmail(1) and by SMTP, reaches the journal mailbox."""
    subject = f"probe {time.time_ns()}"
    sh(f"printf 'Subject: {subject} local\\n\\nHello.\\n' | sendmail -f ben@example.com ana@example.com")
    for _ in range(50):
        try:
            with smtplib.SMTP("127.0.0.1", timeout=20) as server:
                server.sendmail("ben@example.com", "ana@example.com", f"Subject: {subject} smtp\r\n\r\nHello.\r\n")
            break
        except (OSError, smtplib.SMTPException):
            time.sleep(0.2)
    for _ in range(100):
        mail = Path("/var/mail/journal")
        text = mail.read_text(errors="replace") if mail.exists() else ""
        if f"{subject} local" in text and f"{subject} smtp" in text:
            return True
        sh("postqueue -f; true", quiet=True)
        time.sleep(0.1)
    return False


def with_line(line, table):
    """Writes a line into a table of copyist.toml, in place of another with the same key."""
    key = line.split(" = ")[0]
    out, here, done = [], False, False
    for old in TOML.read_text().splitlines():
        if old.startswith("["):
            here = old == f"[{table}]"
        if here and old.startswith(f"{key} ="):
            continue
        out.append(old)
        if here and old == f"[{table}]":
            out.append(line)
            done = True
    if not done:
        out += [f"[{table}]", line]
    TOML.write_text("\n".join(out) + "\n")


COMMANDS = ("postconf ", "chmod ", "chown ", "chgrp ", "postalias ", "postmap ", "systemctl ", "copyist ", "install ", "sed ")


def follow(fix):
    """Does what a finding says, to the letter. Whether it says anything that can be done so."""
    if fix.startswith(COMMANDS):
        sh(fix.split(", once")[0])
        return True
    found = re.match(r"(?:if so: )?(\S+ = .+?) in \[(\w[\w.]*)\](.*)", fix)
    if not found:
        return False
    with_line(found[1], found[2])
    if "and: " in found[3]:
        follow(found[3].split("and: ", 1)[1])
    return True


def findings(text):
    """The findings of doctor: (name, words, fix)."""
    out = []
    for line in text.splitlines():
        found = re.match(r"(error|warning|hint) +([\w-]+): (.*)", line.strip())
        if found:
            out.append([found[2], found[3], "", found[1]])
        elif line.strip().startswith("fix: ") and out:
            out[-1][2] = line.strip()[5:]
    return out


# name, what somebody did, the plant, what is restarted, the tool and words expected, what a person
# does who follows the words where they are no command.
exec(Path(__file__).with_name("mistakes.list").read_text())


def words(said, wanted):
    """The line that says it."""
    for line in said.splitlines():
        if re.search(wanted, line):
            return re.sub(r"^\d{4}-\S+ +", "", line.strip())
    return None


def one(row):
    name, title, plant, restarts, tools, wanted, by_hand = row
    sh(plant)
    log = ""
    if "postfix" in restarts:
        sh("postfix reload", quiet=True)
    if "copyist" in restarts:
        log = start()
    said = {}
    for which in tools:
        if which == "log":
            said[which] = log
        else:
            said[which], _ = tool(*which.split())
    teller = next((which for which in tools if words(said[which], wanted)), None)
    if not teller:
        return teller, "\n".join(f"--- {k}\n{v}" for k, v in said.items()), "silent"
    line = words(said[teller], wanted)
    fix = ""
    if teller.startswith("doctor"):
        fix = next((f[2] for f in findings(said[teller]) if re.search(wanted, f"{f[0]}: {f[1]}")), "")
    done = [by_hand.strip() if by_hand else fix]
    if by_hand:
        sh(by_hand)
    elif not follow(fix):
        return teller, line + "\n" + fix, "no remedy that can be followed"
    # What stood behind the mistake is found now, and followed in the same way.
    for _ in range(4):
        if "postfix" in restarts or "postconf" in done[-1]:
            sh("postfix reload", quiet=True)
        if "copyist" in restarts or "in [" in done[-1]:
            start()
        said, _ = tool("doctor", "--online")
        # Hints are questions that only a person can answer.
        left = [f for f in findings(said) if f[0] != "clock-unsynchronized" and f[3] != "hint"]
        if not left or not follow(left[0][2]):
            break
        done.append(left[0][2])
    check, status = tool("check", "--online")
    if left or status:
        return teller, f"{line}\n{done}\nleaves {left}\n{check if status else ''}", "the remedy does not end it"
    if not journaled():
        return teller, f"{line}\n{done}", "not journaled after the remedy"
    return teller, (line, "; then ".join(done)), "works"


def main():
    chosen = sys.argv[1:]
    save()
    failed = 0
    print("| mistake | said by | in these words | followed | then |\n|---|---|---|---|---|")
    for row in MISTAKES:
        if chosen and row[0] not in chosen:
            continue
        teller, said, result = one(row)
        cell = lambda text: str(text).replace("|", "\\|").replace("\n", " ; ")
        if result == "works":
            print(f"| {row[1]} | `{teller}` | {cell(said[0])} | `{cell(said[1])}` | {result} |", flush=True)
        else:
            failed += 1
            print(f"| {row[1]} | {teller} | **{result}** ({row[0]}) | | |", flush=True)
            print(f"{row[0]}: {result}\n{said}", file=sys.stderr, flush=True)
        restore()
    print(f"{len(chosen) or len(MISTAKES)} mistakes, {failed} without a way out", file=sys.stderr)
    sys.exit(1 if failed else 0)


main()
