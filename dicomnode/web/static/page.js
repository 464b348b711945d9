// Times in the reader's own time zone, and pages that keep themselves up to date. Nothing else needs a script.
"use strict";

const asLocal = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
  hourCycle: "h23",
});

function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    const part = Object.fromEntries(asLocal.formatToParts(moment).map(({ type, value }) => [type, value]));
    time.title = time.dateTime.replace("T", " ").replace("Z", " UTC");
    time.textContent = `${part.year}-${part.month}-${part.day} ${part.hour}:${part.minute}:${part.second}`;
  }
}

// A page with data-refresh-s fetches itself again and puts its content in place, unless somebody is using it.
async function refresh() {
  const content = document.getElementById("content");
  const used = content.contains(document.activeElement) && document.activeElement !== content;
  if (!document.hidden && !used && !String(window.getSelection())) {
    try {
      const answer = await fetch(location.href, { headers: { "X-Refresh": "1" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("content");
      if (answer.redirected || !fresh) { location.reload(); return; }
      showLocalTimes(fresh);
      content.replaceChildren(...fresh.childNodes);
    } catch { /* the node is being restarted: the next attempt tells */ }
  }
}

showLocalTimes(document);
const everyS = Number(document.body.dataset.refreshS);
if (everyS) setInterval(refresh, 1000 * everyS);

// The arrow keys go to the neighbours of a picture or of a page of a list.
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, .scroll")) return;
  const wanted = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  const link = wanted && document.querySelector(`a[rel=${wanted}]`);
  if (link) link.click();
});
