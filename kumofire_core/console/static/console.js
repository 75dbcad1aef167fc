// What the pages do by themselves: keys, choosing rows, times that stay current, questions, live update.
// Everything else comes from the server. No page needs this script to be read, or to change something.
"use strict";

const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

function remembered(name) {
  try { return localStorage.getItem(name); } catch { return null; }
}

function remember(name, value) {
  try { localStorage.setItem(name, value); } catch { /* the browser keeps nothing for this site */ }
}

// ---- Times -------------------------------------------------------------------------------------------------------

const clockOffset = Number(document.body.dataset.clockOffset || 0);

function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 172800) {
    const hours = Math.floor(seconds / 3600), minutes = Math.floor(seconds / 60) % 60;
    return minutes && hours < 10 ? `${hours}h ${minutes}m` : `${hours}h`;
  }
  return `${Math.floor(seconds / 86400)}d`;
}

// A time in the reader's zone, as the server writes it in another.
function localTime(moment) {
  const two = (number) => String(number).padStart(2, "0");
  const ahead = -moment.getTimezoneOffset(), far = Math.abs(ahead);
  const day = `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())}`;
  const time = [moment.getHours(), moment.getMinutes(), moment.getSeconds()].map(two).join(":");
  const offset = `${ahead < 0 ? "-" : "+"}${two(Math.floor(far / 60))}:${two(far % 60)}`;
  return `${moment.toLocaleDateString("en", { weekday: "short" })} ${day} ${time} ${offset}`;
}

function tellTimes(within = document) {
  const now = Date.now() + clockOffset;
  for (const element of $$("time[datetime]", within)) {
    const moment = new Date(element.getAttribute("datetime"));
    if (Number.isNaN(moment.getTime())) continue;
    if (!element.dataset.exact) {
      element.dataset.exact = element.title;
      element.title = `${element.title}\n${moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" })}`;
    }
    if ("zoneLocal" in element.dataset) element.textContent = localTime(moment);
    if ("clock" in element.dataset) continue;
    const seconds = Math.round((moment - now) / 1000);
    const text = seconds === 0 ? "now" : seconds > 0 ? `in ${duration(seconds)}` : `${duration(-seconds)} ago`;
    if (element.textContent !== text) element.textContent = text;
  }
}
setInterval(tellTimes, 1000);

// ---- Live update -------------------------------------------------------------------------------------------------

let isLive = remembered("kumofire-live") !== "off";

function showLive() {
  const button = $("[data-live-toggle]");
  if (!button) return;
  button.hidden = !$("[data-live]");
  button.setAttribute("aria-pressed", String(isLive));
  $("[data-label]", button).textContent = isLive ? "Live" : "Not live";
}

function showTools() {
  for (const tool of $$("[data-theme-toggle], [data-help]")) tool.hidden = false;
}

function toggleLive() {
  isLive = !isLive;
  remember("kumofire-live", isLive ? "on" : "off");
  showLive();
  if (isLive) document.body.dispatchEvent(new Event("refresh"));
}

document.addEventListener("htmx:beforeRequest", (event) => {
  const { elt, requestConfig } = event.detail;
  const byTimer = requestConfig.triggeringEvent === undefined || requestConfig.triggeringEvent === null;
  // A part that was not loaded yet is loaded in any case.
  if (!("live" in elt.dataset) || "pending" in elt.dataset || !byTimer) return;
  // A list whose rows may change places waits while somebody points at it or works in it.
  const isHeld = "hold" in elt.dataset && (elt.matches(":hover") || elt.contains(document.activeElement));
  if (!isLive || document.hidden || isHeld || $("dialog[open]")) event.preventDefault();
});

// A timer waits for the answer that is under way. To replace it by another question would end it, so that a page of a
// slow table would never change, and the console would work on more and more of them.
document.addEventListener("htmx:confirm", (event) => {
  const { elt, triggeringEvent } = event.detail;
  if ("live" in elt.dataset && !triggeringEvent && elt.classList.contains("htmx-request")) event.preventDefault();
});

// A part that keeps other elements up to date asks for those on the screen only: data-visible selects them, and each
// one's data-row is sent as an `id`.
const MOST_VISIBLE = 100;
document.addEventListener("htmx:configRequest", (event) => {
  const { elt, parameters } = event.detail;
  if (!elt.dataset.visible) return;
  const seen = $$(elt.dataset.visible).filter((each) => {
    const box = each.getBoundingClientRect();
    return box.height > 0 && box.bottom > 0 && box.top < innerHeight;
  });
  parameters.id = seen.slice(0, MOST_VISIBLE).map((each) => each.dataset.row);
});

// The list that the address names is there already: to leave a field that has not changed must not load it again, and
// lose what is chosen. A person who presses Enter means it.
document.addEventListener("htmx:beforeRequest", (event) => {
  const { elt, requestConfig } = event.detail;
  if (elt.id !== "filters" || requestConfig.triggeringEvent?.type === "submit") return;
  const asked = new URLSearchParams([...new FormData(elt)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value));
  const there = new URLSearchParams(location.search);
  for (const name of ["page", "steps", "contains"]) there.delete(name);
  for (const each of [asked, there]) each.sort();
  if (asked.toString() === there.toString()) event.preventDefault();
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && isLive) document.body.dispatchEvent(new Event("refresh"));
});

document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful) $("#trouble").replaceChildren();
});

function tellTrouble(text) {
  const banner = document.createElement("div");
  const line = document.createElement("p");
  banner.className = "banner";
  line.textContent = text;
  banner.append(line);
  $("#trouble").replaceChildren(banner);
}

document.addEventListener("htmx:sendError", () => tellTrouble("The console does not answer. What you see is as it was before."));
document.addEventListener("htmx:timeout", () => tellTrouble("The console takes too long to answer. What you see is as it was before."));

// What a person has opened or chosen stays so when a part of the page is replaced.
const KEPT = new Set(["open", "data-current", "aria-selected"]);
Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name) => !KEPT.has(name);
Idiomorph.defaults.callbacks.beforeNodeMorphed = (before, after) => {
  if (before.nodeType === Node.ELEMENT_NODE && before.matches("input[data-choice]")) {
    after.toggleAttribute("checked", before.checked);
  }
  // A part with data-still, whose rows may change places, stays as it is while somebody points at it or works in it.
  return !(before.nodeType === Node.ELEMENT_NODE && before.matches("[data-still]:is(:hover, :focus-within)"));
};

// ---- Rows --------------------------------------------------------------------------------------------------------

const rows = () => $$("tr[data-row]").filter((row) => row.offsetParent !== null);
const currentRow = () => $("tr[data-current]");

function makeCurrent(row) {
  currentRow()?.removeAttribute("data-current");
  if (!row) return;
  row.setAttribute("data-current", "");
  row.scrollIntoView({ block: "nearest" });
  $("a[data-open]", row)?.focus({ preventScroll: true });
}

function step(by) {
  const all = rows();
  const index = all.indexOf(currentRow());
  makeCurrent(all[Math.max(0, Math.min(all.length - 1, index < 0 ? (by > 0 ? 0 : all.length - 1) : index + by))]);
}

function showChosen() {
  const chosen = $$("input[data-choice]:checked");
  for (const box of $$("input[data-choice]")) box.closest("tr")?.setAttribute("aria-selected", String(box.checked));
  const bar = $("#chosen");
  if (!bar) return;
  bar.hidden = chosen.length === 0;
  const number = $("[data-number]", bar);
  if (number) number.textContent = `${chosen.length.toLocaleString("en")} chosen`;
  const all = $("input[data-choose-all]");
  const boxes = $$("input[data-choice]");
  if (all) {
    all.checked = boxes.length > 0 && chosen.length === boxes.length;
    all.indeterminate = chosen.length > 0 && !all.checked;
  }
}

// A run that moved on while pages of a list were read can be on two of them; it is shown once.
function showOnce() {
  const seen = new Set();
  for (const row of $$("tr[data-row][id]")) {
    if (seen.has(row.id)) row.remove();
    seen.add(row.id);
  }
}

function choose(boxes, value) {
  for (const box of boxes) box.checked = value;
  showChosen();
}

// A form with data-clears has dealt with what was chosen, unless its answer is a question in the dialog.
document.addEventListener("htmx:afterRequest", (event) => {
  const { elt, successful, xhr } = event.detail;
  if (!("clears" in elt.dataset) || !successful || xhr.getResponseHeader("HX-Retarget") === "#dialog") return;
  choose($$("input[data-choice]"), false);
});

let lastChosen = null;
document.addEventListener("click", (event) => {
  const box = event.target.closest("input[data-choice]");
  if (box) {
    const boxes = $$("input[data-choice]");
    if (event.shiftKey && lastChosen && boxes.includes(lastChosen)) {
      const [from, to] = [boxes.indexOf(lastChosen), boxes.indexOf(box)].sort((a, b) => a - b);
      choose(boxes.slice(from, to + 1), box.checked);
    }
    lastChosen = box;
  }
  const notice = event.target.closest("[data-dismiss]")?.closest(".notice");
  if (notice) notice.remove();
  if (event.target.closest("[data-choose-none]")) choose($$("input[data-choice]"), false);
  if (event.target.closest("[data-theme-toggle]")) toggleTheme();
  if (event.target.closest("[data-live-toggle]")) toggleLive();
  if (event.target.closest("[data-help]")) showKeys();
  if (event.target.closest("[data-close]")) event.target.closest("dialog").close();
  const copied = event.target.closest("[data-copy]");
  if (copied) copy(copied);
});

document.addEventListener("change", (event) => {
  if (event.target.matches("input[data-choose-all]")) choose($$("input[data-choice]"), event.target.checked);
  if (event.target.matches("input[data-choice]")) showChosen();
});

function copy(button) {
  // The clipboard's own interface exists on secure pages only; a selection can be copied everywhere.
  const area = document.createElement("textarea");
  area.value = button.dataset.copy;
  area.className = "sr";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  button.focus();
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
}

// ---- Questions ---------------------------------------------------------------------------------------------------

function ask(question, label, go) {
  const dialog = $("#dialog");
  const title = document.createElement("h2");
  const buttons = document.createElement("div");
  const no = document.createElement("button");
  const yes = document.createElement("button");
  title.id = "dialog-title";
  title.textContent = question;
  buttons.className = "buttons";
  no.type = yes.type = "button";
  no.textContent = "Don’t";
  yes.textContent = label;
  yes.className = "danger";
  no.addEventListener("click", () => dialog.close());
  yes.addEventListener("click", () => { dialog.close(); go(); });
  buttons.append(no, yes);
  dialog.replaceChildren(title, buttons);
  dialog.showModal();
  no.focus();
}

document.addEventListener("htmx:confirm", (event) => {
  const button = event.detail.triggeringEvent?.submitter;
  const question = button?.dataset.confirm;
  if (!question) return;
  event.preventDefault();
  ask(question, button.textContent.trim().replace(/…$/, ""), () => event.detail.issueRequest(true));
});

$("#dialog").addEventListener("close", () => $("#dialog").replaceChildren());

// A form in the dialog ends with it, unless what it gave is wrong, or there was no answer: then it stays, and says so.
document.addEventListener("htmx:beforeSwap", (event) => {
  const form = event.detail.requestConfig.elt.closest("#dialog form");
  const answer = form && event.detail.xhr.getResponseHeader("HX-Retarget");
  if (answer === "#notices") $("#dialog").close();
  if (answer === "#trouble") event.detail.target = $("[data-trouble]", form) ?? event.detail.target;
});

// A button is disabled while its request is under way, and the answer may replace it. The focus comes back to it, or to
// what stands in its place, unless the person has moved on.
let left = null;
document.addEventListener("htmx:beforeRequest", (event) => {
  const { elt } = event.detail;
  const focused = document.activeElement;
  if ("live" in elt.dataset || !elt.contains(focused)) return;
  const places = [];
  for (let each = focused.parentElement; each; each = each.parentElement) if (each.id) places.push(each.id);
  left = { focused, places, label: focused.textContent };
});
document.addEventListener("htmx:afterRequest", (event) => {
  if (!left || "live" in event.detail.elt.dataset) return;
  const { focused, places, label } = left;
  left = null;
  if (document.activeElement !== document.body) return;
  const place = places.map((id) => document.getElementById(id)).find((each) => each && each.id !== "content");
  const instead = place ? $$("button, a[href]", place) : [];
  const next = focused.isConnected ? focused : instead.find((each) => each.textContent === label) ?? instead[0];
  if (next && next.offsetParent !== null) next.focus();
  else if (currentRow()) $("a[data-open]", currentRow())?.focus({ preventScroll: true });
});

// ---- Notices -----------------------------------------------------------------------------------------------------

document.addEventListener("htmx:afterSettle", (event) => {
  tellTimes();
  showOnce();
  showChosen();
  showLive();
  showTools();
  const opened = $("#dialog [data-show]");
  if (opened && !$("#dialog").open) $("#dialog").showModal();
  const notices = $$("#notices .notice");
  for (const old of notices.slice(4)) old.remove();
  // Only the latest change can be undone by its key.
  for (const old of notices.slice(1)) $("[data-key]", old)?.removeAttribute("data-key");
  for (const notice of notices) {
    if (notice.dataset.timed || !notice.matches(".done") || $("form, a", notice)) continue;
    notice.dataset.timed = "yes";
    setTimeout(() => notice.remove(), 8000);
  }
  if (event.target.id === "content") makeCurrent(null);
});

// An action that leads to another page: what it told goes along.
document.addEventListener("htmx:beforeOnLoad", (event) => {
  const to = event.detail.xhr.getResponseHeader("HX-Location");
  if (!to) return;
  event.preventDefault();
  try { sessionStorage.setItem("kumofire-notice", event.detail.xhr.responseText); } catch { /* it is lost */ }
  location.assign(to);
});

function showBrought() {
  try {
    const notice = sessionStorage.getItem("kumofire-notice");
    if (!notice) return;
    sessionStorage.removeItem("kumofire-notice");
    htmx.swap("#notices", notice, { swapStyle: "afterbegin" });
  } catch { /* the browser keeps nothing for this site */ }
}

// What a notice offers is used once. It stays in the page until the answer is there, which needs its place in it.
document.addEventListener("submit", (event) => {
  const notice = event.target.closest("#notices .notice");
  if (notice) notice.hidden = true;
});
document.addEventListener("htmx:afterRequest", (event) => {
  const { elt, xhr } = event.detail;
  const notice = elt.closest("#notices .notice");
  if (!notice) return;
  if (xhr.status >= 200 && xhr.status < 500) setTimeout(() => notice.remove(), 0);
  else notice.hidden = false;
});

// ---- Colours -----------------------------------------------------------------------------------------------------

function toggleTheme() {
  const order = ["system", "light", "dark"];
  const now = document.documentElement.dataset.theme || "system";
  const next = order[(order.indexOf(now) + 1) % order.length];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  // A cookie, so that the page comes in these colours: a script would have to run before the first paint.
  const age = next === "system" ? 0 : 31536000;
  document.cookie = `kumofire_theme=${next}; path=${document.body.dataset.root}; max-age=${age}; samesite=strict`;
}

// ---- Keys --------------------------------------------------------------------------------------------------------

const PAGES = { o: "", r: "runs", j: "jobs", s: "schedules", d: "dead-letters" };
let goes = false;

function press(key) {
  const button = $$(`[data-key="${CSS.escape(key)}"]`).find((each) => each.offsetParent !== null && !each.disabled);
  button?.click();
  return Boolean(button);
}

// The keys that do something on this page: those with data-needs do where the page has what it selects.
function showKeys() {
  for (const each of $$("#keys [data-needs]")) each.hidden = !$(each.dataset.needs);
  $("#keys").showModal();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const isWriting = event.target.matches("input:not([type='checkbox']):not([type='radio']), textarea, select");
  if (event.key === "Escape") {
    if (isWriting) event.target.blur();
    else if (!$("dialog[open]")) {
      choose($$("input[data-choice]"), false);
      makeCurrent(null);
    }
    return;
  }
  if (isWriting || $("dialog[open]")) return;
  if (goes) {
    goes = false;
    if (event.key in PAGES) {
      location.assign(document.body.dataset.root + PAGES[event.key]);
      event.preventDefault();
    }
    return;
  }
  const act = {
    "/": () => $("input[type='search']")?.focus(),
    "?": showKeys,
    j: () => step(1),
    k: () => step(-1),
    x: () => {
      const box = currentRow() && $("input[data-choice]", currentRow());
      if (box) choose([box], !box.checked);
    },
    X: () => {
      const boxes = $$("input[data-choice]");
      choose(boxes, boxes.some((box) => !box.checked));
    },
    g: () => { goes = true; },
    l: toggleLive,
    t: toggleTheme,
  }[event.key];
  if (act) act();
  else if (event.key === "r" || event.key === "c") {
    // What is chosen, else the current row, else the run that the page shows.
    const box = currentRow() && $("input[data-choice]", currentRow());
    if (!$("input[data-choice]:checked") && box) choose([box], true);
    if (!press(event.key)) return;
  } else if (!/^[a-z]$/i.test(event.key) || !press(event.key)) return;
  event.preventDefault();
}
document.addEventListener("keydown", onKey);

document.addEventListener("focusin", (event) => {
  const row = event.target.closest?.("tr[data-row]");
  if (row && row !== currentRow()) {
    currentRow()?.removeAttribute("data-current");
    row.setAttribute("data-current", "");
  }
});

showTools();
showLive();
showChosen();
tellTimes();
showBrought();
