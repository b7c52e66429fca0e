"""Drives a browser without a screen over the pages of the admin side, as an operator would, and judges what it shows.

    drive.py CHROMIUM PORT TOKEN_FILE DEAD_ITEM OUT [keep]

OUT gets the screenshots, made small where they are to be kept. Exit status 0: all claims held. The protocol is Chromium's own (DevTools), spoken
over a web socket with nothing but Python.
"""

import base64
import collections
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib

PATIENCE = 60


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, program, pack):
        self.pack = pack
        self.home = tempfile.mkdtemp(prefix="copyist-pages-")
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
             "--no-first-run", "--disable-extensions", "--disable-background-networking", "--force-color-profile=srgb",
             "--lang=en-US", "--remote-debugging-port=0", f"--user-data-dir={self.home}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        file = os.path.join(self.home, "DevToolsActivePort")
        port = until("Chromium tells its port", lambda: os.path.exists(file) and open(file).read().split("\n")[0])
        listed = until("Chromium has a page", lambda: pages(port))
        host, path = re.match(r"ws://([^/]+)(/.*)", listed[0]["webSocketDebuggerUrl"]).groups()
        self.socket = open_web_socket(host, path)
        self.number = 0
        self.faults = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self):
        # All of its processes: those that are left would write on, into a directory that goes.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        until("the browser's files are gone", lambda: shutil.rmtree(self.home, ignore_errors=True) or not os.path.exists(self.home))

    def call(self, method, **params):
        self.number += 1
        send(self.socket, json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            told = json.loads(receive(self.socket))
            self.note(told)
            if told.get("id") == self.number:
                assert "error" not in told, f"{method}: {told}"
                return told["result"]

    def note(self, told):
        """What a page must never do: break its own policy, or an error in its script."""
        entry = told.get("params", {}).get("entry", {})
        if told.get("method") == "Runtime.exceptionThrown" or entry.get("source") in ("security", "javascript"):
            self.faults.append(told)

    def js(self, text):
        told = self.call("Runtime.evaluate", expression=text, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def settled(self, before):
        """Waits for the document that follows the one marked with this."""
        def is_there():
            try:
                return self.js(f"document.readyState === 'complete' && window.mark !== {before}")
            except AssertionError:
                return False  # between two documents
        until("the page is there", is_there)

    def go(self, url):
        self.mark = time.monotonic_ns()
        self.js(f"window.mark = {self.mark}")
        self.call("Page.navigate", url=url)
        self.settled(self.mark)

    def click(self, selector):
        """A real click: where something lies over it, that gets it."""
        self.mark = time.monotonic_ns()
        self.js(f"window.mark = {self.mark}")
        at = self.js(f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
            e.scrollIntoView({{block: "center", behavior: "instant"}});
            const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)
        self.settled(self.mark)

    def key(self, key, code, text=""):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                      **({"text": text} if text and kind == "keyDown" else {}))

    def type(self, selector, text):
        self.js(f"document.querySelector({json.dumps(selector)}).focus()")
        self.js(f"document.querySelector({json.dumps(selector)}).select?.()")
        self.call("Input.insertText", text=text)

    def dress(self, width, scheme):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def shoot(self, file, height):
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], height), "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True, optimizeForSpeed=False)
        with open(file, "wb") as out:
            out.write(self.pack(base64.b64decode(shot["data"])))


def small(png):
    """The same picture with a palette of its 256 most common colours: a third of the size."""
    width, height, depth, kind = struct.unpack("!IIBB", png[16:26])
    assert depth == 8 and kind in (2, 6), "8 bits a channel"
    size = 3 if kind == 2 else 4
    data, at = b"", 8
    while at < len(png):
        length, name = struct.unpack("!I4s", png[at:at + 8])
        data += png[at + 8:at + 8 + length] if name == b"IDAT" else b""
        at += length + 12
    data, above, rows = zlib.decompress(data), bytes(width * size), []
    for at in range(0, len(data), width * size + 1):
        above = unfiltered(data[at], bytearray(data[at + 1:at + 1 + width * size]), above, size)
        rows.append([bytes(above[x:x + 3]) for x in range(0, len(above), size)])
    counted = collections.Counter(pixel for row in rows for pixel in row)
    colours = [pixel for pixel, _ in counted.most_common(256)]
    place = {pixel: at for at, pixel in enumerate(colours)}
    far = lambda one, other: sum((a - b) ** 2 for a, b in zip(one, other))
    for pixel in counted:
        if pixel not in place:
            place[pixel] = place[min(colours, key=lambda colour: far(colour, pixel))]
    packed = b"".join(b"\0" + bytes(place[pixel] for pixel in row) for row in rows)
    chunk = lambda name, body: struct.pack("!I", len(body)) + name + body + struct.pack("!I", zlib.crc32(name + body))
    return (png[:8] + chunk(b"IHDR", struct.pack("!IIBBBBB", width, height, 8, 3, 0, 0, 0)) + chunk(b"PLTE", b"".join(colours))
            + chunk(b"IDAT", zlib.compress(packed, 9)) + chunk(b"IEND", b""))


def unfiltered(kind, row, above, size):
    """A row as PNG (third edition, 9.2) filters it."""
    if kind == 2:
        return bytearray((a + b) & 255 for a, b in zip(row, above))
    for x in range(len(row) if kind else 0):
        left = row[x - size] if x >= size else 0
        corner = above[x - size] if x >= size else 0
        if kind == 1:
            guess = left
        elif kind == 3:
            guess = (left + above[x]) // 2
        else:
            near = left + above[x] - corner
            guess = min((left, above[x], corner), key=lambda c: abs(near - c))
        row[x] = (row[x] + guess) & 255
    return row


def pages(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as told:
        return [page for page in json.load(told) if page["type"] == "page"]


def until(what, look):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise SystemExit(f"{what}: not after {PATIENCE} s")


def open_web_socket(host, path):
    name, port = host.split(":")
    connected = socket.create_connection((name, int(port)), timeout=PATIENCE)
    key = base64.b64encode(os.urandom(16)).decode()
    connected.sendall((f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n").encode())
    stream = connected.makefile("rwb")
    while stream.readline().strip():
        pass
    return stream


def send(stream, text):
    data = text.encode()
    mask = os.urandom(4)
    length = struct.pack("!BH", 0x80 | 126, len(data)) if len(data) < 65536 else struct.pack("!BQ", 0x80 | 127, len(data))
    stream.write(b"\x81" + length + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(data)))
    stream.flush()


def receive(stream):
    whole = b""
    while True:
        first, second = stream.read(2)
        length = second & 127
        if length > 125:
            length = struct.unpack("!H" if length == 126 else "!Q", stream.read(2 if length == 126 else 8))[0]
        data = stream.read(length)
        if first & 15 in (0, 1):
            whole += data
            if first & 128:
                return whole


# Of each element with a text of its own: the contrast of the text with what lies behind it (WCAG 2.2, 1.4.3).
CONTRAST = """(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] !== 0) return c; } return [255, 255, 255]; };
  let worst = [21, ""];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility() || e.disabled) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst[0]) worst = [ratio, e.outerHTML.slice(0, 120)];
  }
  return worst;
})()"""

# Fields without a label, tables without heads, images without a name, and texts that go out of the page.
LACKS = """(() => {
  const lacks = [];
  for (const e of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
    if (!e.labels?.length) lacks.push("no label: " + e.outerHTML);
  for (const e of document.querySelectorAll("table")) if (!e.querySelector("thead th[scope=col]")) lacks.push("no head: " + e.outerHTML.slice(0, 99));
  for (const e of document.querySelectorAll("svg")) if (!document.getElementById(e.getAttribute("aria-labelledby"))) lacks.push("no name");
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  if (new Set(ids).size < ids.length) lacks.push("an id twice: " + ids);
  if (document.querySelectorAll("h1").length !== 1) lacks.push("not one h1");
  const wide = document.documentElement.scrollWidth - innerWidth;
  if (wide > 0) lacks.push("the page scrolls sideways by " + wide);
  return lacks;
})()"""


def main(program, port, token_file, dead, out, keep=""):
    base = f"http://127.0.0.1:{port}"
    token = open(token_file).read().strip()
    os.makedirs(out, exist_ok=True)
    browser = Browser(program, small if keep else bytes)
    text = lambda: browser.js("document.body?.innerText ?? ''")
    try:
        # Nobody sees anything before the token.
        browser.dress(1280, "light")
        browser.go(f"{base}/queue?state=dead")
        assert "Log in" in text() and "archive.example" not in text(), text()
        browser.type("#token", "wrong")
        browser.click("form button")
        assert "Wrong token" in text(), text()
        browser.type("#token", token)
        browser.click("form button")
        assert browser.js("location.pathname + location.search") == "/queue?state=dead", text()
        assert browser.js("document.cookie") == "", "scripts do not see the cookie"

        # A dead letter is looked at and retried.
        browser.click(f"a[href='/queue/{dead}']")
        assert "dead letter" in text() and "550 5.1.1 <script>" in text(), text()
        browser.click("form[action$='/retry'] button")
        assert "Retry scheduled" in text() and "dead letter" not in text(), text()
        browser.click("form[action$='/hold'] button")
        assert "On hold until" in text(), text()
        browser.click("form[action$='/release'] button")
        assert "Released." in text(), text()

        # The keyboard alone: to the search field, type, Enter.
        browser.go(f"{base}/queue")
        browser.key("/", 191, "/")
        assert browser.js("document.activeElement.id") == "text"
        browser.call("Input.insertText", text=dead)
        browser.key("Enter", 13, "\r")
        until("the list is filtered", lambda: "1 item on this page" in text())
        browser.js("document.activeElement.blur(); window.scrollTo(0, 0)")
        browser.go(f"{base}/queue")
        browser.key("Tab", 9)
        assert browser.js("document.activeElement.className") == "skip", "the first stop leads to the content"
        outline = browser.js("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", outline

        # A filter by select, with the mouse's button.
        browser.js("document.querySelector('#direction').value = 'outbound'; document.querySelector('#order').value = 'attempts'")
        browser.click(".filters button")
        kinds = browser.js("[...document.querySelectorAll('tbody .about:first-of-type')].map((e) => e.innerText).join()")
        assert "outbound" in kinds and "inbound" not in kinds, kinds

        # The whole directory, and one decision.
        browser.go(f"{base}/coverage")
        browser.click("form[action='/coverage'] button")
        until("the directory is read", lambda: "problems first" in text())
        browser.go(f"{base}/explain")
        browser.type("#from", "somebody@elsewhere.example")
        browser.type("#to", "dan@example.com")
        browser.type("#client", "192.0.2.1")
        browser.click(".question button")
        assert "dan-journal@archive.example" in text() and "extensionAttribute10" in text(), text()
        explained = browser.js("location.pathname + location.search")

        # As another site would send a form: there is no cookie with it, and it is no form of ours.
        browser.go("about:blank")
        browser.js(f"""document.body.innerHTML = '<form method="post" action="{base}/queue/{dead}/hold"><button>x</button></form>'""")
        browser.click("button")
        assert "On hold until" not in text(), text()
        assert "another site" in text() or "Log in" in text(), text()

        # What came before anybody looked is counted as well.
        browser.go(base)
        day = browser.js("[...document.querySelectorAll('td[data-label=\"Last 24 h\"]')].map((e) => e.innerText).join()")
        assert day.startswith("18,6,6,"), day

        # Every page, at both widths, in both schemes.
        shown = {
            "overview": "/", "queue": "/queue", "item": f"/queue/{dead}", "explain": explained, "coverage": "/coverage",
            "settings": "/settings", "login": None,
        }
        for name, path in shown.items():
            for width in (1280, 375):
                for scheme in ("light", "dark"):
                    browser.dress(width, scheme)
                    if path is None:
                        browser.go(base)
                        if browser.js("!!document.querySelector('.leave button')"):
                            browser.click(".leave button")
                    else:
                        browser.go(base + path)
                    judge(browser, f"{name} at {width}, {scheme}")
                    browser.shoot(os.path.join(out, f"{name}-{width}-{scheme}.png"), 1500 if name == "overview" else 1000)
        assert not browser.faults, browser.faults
    finally:
        browser.close()
    print(f"{len(shown) * 4} screenshots in {out}")


def judge(browser, what):
    ratio, where = browser.js(CONTRAST)
    assert ratio >= 4.5, f"{what}: contrast {ratio:.2f} of {where}"
    lacks = browser.js(LACKS)
    assert not lacks, f"{what}: {lacks}"


if __name__ == "__main__":
    main(*sys.argv[1:])
