"""Shows documents in a browser without a screen and judges whether a text in them can be seen.

    drive.py CHROMIUM DIR WORDS above|below

Each DIR/*.html is loaded twice, without and with scripts. The words have to stand in it, visible, in no link or the like, and above or below all other
text. DIR gets a picture of each.
Prints a line for each document; exit status 0: all of them show the text.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "pages"))
from drive import Browser  # noqa: E402

JUDGE = """((words, side) => {
    const all = [];
    for (const root of [document.documentElement])
        for (let walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT), node; (node = walk.nextNode());)
            if (node.data.trim()) all.push(node);
    const rects = (node) => {
        const range = document.createRange();
        range.selectNodeContents(node);
        return [...range.getClientRects()].filter(r => r.width > 0 && r.height > 0);
    };
    const luminance = (colour) => {
        const [r, g, b, a = 1] = colour.match(/[0-9.]+/g).map(Number);
        return {l: 0.2126 * r + 0.7152 * g + 0.0722 * b, a};
    };
    const isOnTop = (node, r) => {
        const hit = document.elementFromPoint(Math.max(r.x + Math.min(r.width, 20) / 2, 0), r.y + r.height / 2);
        return !!hit && (hit === node.parentElement || node.parentElement.contains(hit));
    };
    const isShown = (node) => {
        const style = getComputedStyle(node.parentElement);
        return node.parentElement.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})
            && parseFloat(style.fontSize) >= 6 && luminance(style.color).a > 0.3
            && luminance(style.webkitTextFillColor).a > 0.3;
    };
    const letters = (text) => text.replace(/\\s+/g, "");
    const ours = all.filter(node => letters(words).includes(letters(node.data)) && node.data.trim().length > 3);
    if (letters(ours.map(node => node.data).join("")).indexOf(letters(words)) < 0) return "the text is not there";
    if (side === "below") ours[0].parentElement.scrollIntoView({block: "center", behavior: "instant"});
    let top = Infinity, bottom = -Infinity;
    for (const node of ours) {
        const holder = node.parentElement.closest("a, button, details, dialog, marquee, noscript, object, option, select, svg");
        if (holder) return `the text is part of <${holder.localName}>`;
        const at = rects(node);
        if (!at.length) return "the text has no size";
        if (!isShown(node)) return "the text is hidden";
        const style = getComputedStyle(node.parentElement);
        let behind = node.parentElement;
        while (behind && luminance(getComputedStyle(behind).backgroundColor).a < 0.5) behind = behind.parentElement;
        const back = behind ? luminance(getComputedStyle(behind).backgroundColor).l : 255;
        if (Math.abs(luminance(style.color).l - back) < 60) return "the text has the colour of what is behind it";
        for (const r of at) {
            if (r.x < 0 || r.y < 0 || r.x > innerWidth - 20 || r.y > innerHeight) return `the text stands at ${r.x}, ${r.y}`;
            if (!isOnTop(node, r)) return "something lies over the text";
            top = Math.min(top, r.y); bottom = Math.max(bottom, r.bottom);
        }
    }
    for (const node of all.filter(node => !ours.includes(node)))
        for (const r of rects(node))
            if (isShown(node) && r.bottom > 0 && (side === "above" ? r.y < top : r.bottom > bottom) && isOnTop(node, r))
                return `${JSON.stringify(node.data.trim().slice(0, 30))} does not stand ${side === "above" ? "below" : "above"} the text`;
    return "";
})"""


def main():
    chromium, place, words, side = sys.argv[1:]
    wrong = 0
    browser = Browser(chromium, lambda png: png)
    try:
        browser.dress(800, "light")
        for file in sorted(pathlib.Path(place).glob("*.html")):
            for scripts in (False, True):
                browser.call("Emulation.setScriptExecutionDisabled", value=not scripts)
                browser.go(file.resolve().as_uri())
                answer = browser.js(f"{JUDGE}({json.dumps(words)}, {json.dumps(side)})")
                browser.shoot(file.with_suffix(".png"), 600)
                wrong += bool(answer)
                print(f"{file.stem}{' (scripts)' if scripts else ''}: {answer or 'seen'}", flush=True)
    finally:
        browser.close()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
