// Convenience only: every page works without it.
"use strict";

// Refreshes the overview and the progress of a directory scan while the page is visible.
const live = document.getElementById("live");
const progress = document.getElementById("under-way");
if (live || progress) {
  setInterval(async () => {
    if (document.hidden) return;
    if (progress) return location.reload();
    try {
      const answer = await fetch(location.href, { credentials: "same-origin" });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("live");
      // Not while the user interacts with it.
      if (fresh && !live.contains(document.activeElement)) live.replaceChildren(...fresh.childNodes);
    } catch {
      // The service is restarting; try again later.
    }
  }, progress ? 2000 : 30000);
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
