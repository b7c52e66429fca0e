// A little comfort; every page works without it.
"use strict";

// The overview and a reading of the directory keep themselves up to date, while somebody looks.
const live = document.getElementById("live");
const underWay = document.getElementById("under-way");
if (live || underWay) {
  setInterval(async () => {
    if (document.hidden) return;
    if (underWay) return location.reload();
    try {
      const answer = await fetch(location.href, { credentials: "same-origin" });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("live");
      // Not under somebody's fingers.
      if (fresh && !live.contains(document.activeElement)) live.replaceChildren(...fresh.childNodes);
    } catch {
      // The service stops or starts; the next try tells.
    }
  }, underWay ? 2000 : 30000);
}

// "/" goes to the search field.
addEventListener("keydown", (event) => {
  const field = document.querySelector("input[type=search]");
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "/" && field && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    field.focus();
  }
});
