// Refreshes the parts of a page that have data-live, and asks before something is destroyed.
// Every page and form works without it.
"use strict";

(() => {
  const seconds = Number(document.body.dataset.refresh);
  const button = document.getElementById("refresh");
  // A page that answers a form names the page to ask again.
  const source = new URL(document.body.dataset.source ?? location.href, location.href);
  const offline = document.getElementById("offline");
  const KEY = "formrelay-updates-paused";
  let timer = 0;
  let isAsking = false;
  let failures = 0;

  // -- asking before something is destroyed ------------------------------------------------

  document.addEventListener("submit", (event) => {
    const asker = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
    if (asker && !window.confirm(asker)) event.preventDefault();
  });

  // The Tab key must reach a table that scrolls, and skip a table that does not.
  const markScrolling = () => {
    for (const box of document.querySelectorAll(".scroll")) {
      const scrolls = box.scrollWidth > box.clientWidth;
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  markScrolling();
  for (const link of document.querySelectorAll(".tabs [aria-current], .top [aria-current]")) {
    link.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  window.addEventListener("resize", markScrolling);

  // -- replacing changed elements, one by one ----------------------------------------------

  // Attributes that belong to the person at the page, not to the server.
  const OWN = new Set(["open", "tabindex", "value", "checked", "selected"]);

  const keyOf = (node) =>
    node.nodeType === Node.ELEMENT_NODE ? node.dataset?.key ?? (node.id || null) : null;

  const isBlank = (node) => node?.nodeType === Node.TEXT_NODE && !node.nodeValue.trim();

  const isSame = (a, b) =>
    a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

  const syncAttributes = (old, fresh) => {
    for (const { name, value } of [...fresh.attributes]) {
      if (!OWN.has(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    for (const { name } of [...old.attributes]) {
      if (!OWN.has(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
    }
  };

  // Browsers without moveBefore take the focus from an element that moves.
  const move = (parent, child, place) => {
    if (parent.moveBefore && child.nodeType === Node.ELEMENT_NODE) parent.moveBefore(child, place);
    else parent.insertBefore(child, place);
  };

  const sync = (old, fresh) => {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.isEqualNode(fresh)) return;
    syncAttributes(old, fresh);
    // A field keeps the text that the user has typed.
    if (old.matches("input, textarea, select")) return;
    const wanted = new Set([...fresh.childNodes].map(keyOf));
    const keyed = new Map();
    for (const child of [...old.childNodes]) {
      const key = keyOf(child);
      if (key === null) continue;
      // First, so that the others keep their place: an element that moves loses the focus.
      if (wanted.has(key)) keyed.set(key, child);
      else child.remove();
    }
    let place = old.firstChild;
    const dropBlanks = () => {
      while (isBlank(place)) {
        const next = place.nextSibling;
        place.remove();
        place = next;
      }
    };
    for (const child of [...fresh.childNodes]) {
      if (isBlank(child)) {
        if (isBlank(place)) place = place.nextSibling;
        else old.insertBefore(document.importNode(child), place);
        continue;
      }
      dropBlanks(); // left by removed elements; otherwise all later elements would have to move
      const key = keyOf(child);
      let match = key !== null ? keyed.get(key) : place;
      while (key === null && match && keyOf(match) !== null) match = match.nextSibling;
      if (match && isSame(match, child)) {
        if (match !== place) move(old, match, place);
        sync(match, child);
        place = match.nextSibling;
      } else {
        old.insertBefore(document.importNode(child, true), place);
      }
    }
    while (place) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
  };

  const apply = (text) => {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const found = fresh.getElementById(part.id);
      if (found) sync(part, found);
    }
    markScrolling();
  };

  // -- asking for the page again -----------------------------------------------------------

  const isPaused = () => {
    try {
      return sessionStorage.getItem(KEY) === "1";
    } catch {
      return false;
    }
  };

  const plan = (wait) => {
    clearTimeout(timer);
    if (!document.hidden && !isPaused()) timer = setTimeout(refresh, wait * 1000);
  };

  const refresh = async () => {
    if (isAsking) return;
    isAsking = true;
    try {
      const answer = await fetch(source, {
        headers: { "X-Formrelay-Refresh": "1" },
        signal: AbortSignal.timeout(15000),
      });
      if (answer.redirected && new URL(answer.url).pathname !== source.pathname) {
        location.assign(source); // the session has ended
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      if (!isPaused()) apply(await answer.text());
      failures = 0;
    } catch {
      failures += 1;
    } finally {
      isAsking = false;
    }
    if (offline) offline.hidden = failures < 2;
    plan(Math.min(seconds * 2 ** failures, 60));
  };

  const show = () => {
    button.textContent = isPaused() ? "Resume updates" : "Pause updates";
  };

  if (button && document.querySelector("[data-live]") && seconds > 0) {
    button.hidden = false;
    show();
    button.addEventListener("click", () => {
      try {
        sessionStorage.setItem(KEY, isPaused() ? "0" : "1");
      } catch { /* without storage, updates cannot be paused */ }
      show();
      if (!isPaused()) refresh();
      else clearTimeout(timer);
    });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) clearTimeout(timer);
      else if (!isPaused()) refresh();
    });
    plan(seconds);
  }
})();
