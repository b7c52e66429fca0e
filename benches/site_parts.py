"""The processes and load of benches/compare and benches/growth. Needs root: they run as the user nobody."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
PEOPLE = 1000
# carLicense is an attribute of many values that every slapd knows.
SLAPD = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
suffix dc=t
directory {directory}
maxsize 1073741824
dbnosync
index objectClass eq
index mail eq
index carLicense eq,pres
sizelimit unlimited
"""
CONFIG = """
state_dir = "{directory}/state"
[organization]
domains = ["example.test"]
[directory]
urls = ["ldap://127.0.0.1:{ldap}"]
base = "dc=t"
address_attributes = ["mail"]
[directory.cache]
ttl = "1h"
negative_ttl = "1h"
[inbound]
journal_attribute = "carLicense"
journal_ndr = "ndr@example.test"
[relay]
host = "127.0.0.1:{relay}"
tls = "none"
[admin]
listen = "off"
[hook.milter]
listen = "inet:127.0.0.1:{port}"
[limits]
connections = 2000
"""


def fail(why):
    sys.exit(f"{Path(sys.argv[0]).name}: {why}")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(port):
    for _ in range(1000):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.01)
    fail(f"nothing listens on port {port} after ten seconds")


def bench(name):
    """Builds one of the benches, and says where it is."""
    completed = subprocess.run(
        ["cargo", "bench", "--locked", "--bench", name, "--no-run", "--message-format=json", "--quiet"],
        stdout=subprocess.PIPE, cwd=HERE, check=True)
    made = [json.loads(line) for line in completed.stdout.splitlines()]
    return next(one["executable"] for one in made if one.get("executable") and one["target"]["name"] == name)


def copyist(directory):
    """Builds the service, and copies it where the user nobody may run it."""
    subprocess.run(["cargo", "build", "--locked", "--release", "--quiet"], cwd=HERE, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target"))
    shutil.copy(target / "release/copyist", directory / "copyist")


class Site:
    """Parts on ports of their own, until it is closed."""

    def __init__(self, directory):
        if os.geteuid():
            fail("only root can start the parts as the user nobody")
        self.directory, self.started, self.spools = directory, [], []
        directory.chmod(0o755)
        self.relay = free_port()
        self.start(["smtp-sink", "-u", "postfix", f"127.0.0.1:{self.relay}", "1000"], self.relay)

    def copyist(self, name, journal):
        """A service whose people have these journal addresses, by their number; gives its milter port."""
        place = self.directory / name
        (place / "state").mkdir(parents=True)
        ldap, port = self.slapd(place, journal), free_port()
        config = place / "copyist.toml"
        config.write_text(CONFIG.format(directory=place, relay=self.relay, port=port, ldap=ldap))
        for one in [place, *place.rglob("*")]:
            shutil.chown(one, "nobody", "nogroup")
        (place / "state").chmod(0o700)
        log = open(place / "log", "wb")
        self.start(["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups",
                    self.directory / "copyist", "run", "--config", config], port, log)
        self.spools.append(config)
        return port

    def slapd(self, place, journal):
        """A directory with these people; gives its port."""
        (place / "people").mkdir()
        people = ["dn: dc=t\nobjectClass: dcObject\nobjectClass: organization\ndc: t\no: t\n"]
        for n in range(PEOPLE):
            lines = "".join(f"carLicense: {address}\n" for address in journal(n))
            people.append(f"dn: cn=u{n},dc=t\nobjectClass: inetOrgPerson\ncn: u{n}\nsn: u{n}\nmail: u{n}@example.test\n{lines}")
        (place / "people.ldif").write_text("\n".join(people))
        conf = place / "slapd.conf"
        conf.write_text(SLAPD.format(directory=place / "people"))
        loaded = subprocess.run(["slapadd", "-q", "-f", conf, "-l", place / "people.ldif"])
        if loaded.returncode:
            fail("slapadd fails, see above (apt-get install slapd)")
        port = free_port()
        # -d keeps it in the foreground.
        self.start(["slapd", "-d", "none", "-f", conf, "-h", f"ldap://127.0.0.1:{port}"], port)
        return port

    def start(self, command, port, log=subprocess.DEVNULL):
        try:
            self.started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory))
        except FileNotFoundError:
            fail(f"{command[0]} is not here: apt-get install postfix slapd util-linux")
        wait_for(port)

    def drain(self):
        """Waits for an empty queue: deliveries would disturb the next measurement."""
        for config in self.spools:
            for _ in range(6000):
                completed = subprocess.run(
                    [self.directory / "copyist", "queue", "list", "--json", "--limit", "1", "--config", config],
                    stdout=subprocess.PIPE, check=True).stdout
                if json.loads(completed)["total"] == 0:
                    break
                time.sleep(0.1)
            else:
                fail("the queue does not drain in ten minutes")

    def close(self):
        for one in self.started:
            one.terminate()
        for one in self.started:
            one.wait()


def play(load, port, *arguments):
    """Plays a load; every message must be accepted."""
    command = [load, "--connect", f"127.0.0.1:{port}", "--people", str(PEOPLE), "--json", *map(str, arguments)]
    ran = subprocess.run(command, stdout=subprocess.PIPE)
    if ran.returncode:
        fail("the load was not answered as it should be, see above")
    seen = json.loads(ran.stdout)
    if seen["accepted"] != seen["messages"]:
        fail(f"not every message was accepted: {seen}")
    return seen
