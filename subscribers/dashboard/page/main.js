// Starts the page: events come in, the panels are drawn, keys and buttons move the view.

import { Activity } from "./activity.js";
import { element, plural, sessionTime, setText } from "./format.js";
import { Narrations } from "./narrations.js";
import { Palette } from "./palette.js";
import { Health, Latency, drawFacts } from "./side.js";
import { Store } from "./store.js";
import { View } from "./view.js";

const AGES_EVERY_MS = 200;
const DESCRIBED_EVERY_MS = 5000;

const find = (id) => document.getElementById(id);

const stored = (() => {
  try {
    return localStorage.getItem("neurrate-theme");
  } catch {
    return null; // a browser that keeps nothing
  }
})();
setTheme(stored ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark"));

const palette = new Palette();
const store = new Store(palette);
const view = new View(store);
const activity = new Activity(find("timeline"), store, view, palette);
const narrations = new Narrations(store, view);
const latency = new Latency(store, view, palette);
const health = new Health(store);
const dirty = new Set(["narrations", "latency", "facts", "health", "picker"]);
const isStill = matchMedia("(prefers-reduced-motion: reduce)");

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  setText(find("theme"), theme === "dark" ? "Light" : "Dark");
}

function switchTheme() {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  setTheme(theme);
  try {
    localStorage.setItem("neurrate-theme", theme);
  } catch {
    // It holds for this page alone.
  }
  palette.read();
  store.tiles.retheme();
  latency.plotAnew();
  activity.isDirty = true;
}

function connect() {
  const source = new EventSource("events");
  source.addEventListener("open", () => {
    health.isConnected = true;
    dirty.add("health");
  });
  source.addEventListener("error", () => {
    health.isConnected = false;
    dirty.add("health");
    // After some answers a browser gives up by itself: begin anew.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 1000);
  });
  source.addEventListener("message", (message) => {
    const event = JSON.parse(message.data);
    if (event.k === "hello") {
      store.hello(event);
      view.openWanted();
    } else {
      store.take(event);
    }
  });
}

for (const [event, what] of Object.entries({
  narration: ["narrations", "latency", "picker"],
  mark: ["shown"],
  stats: ["health"],
  latency: ["percentiles"],
  facts: ["facts", "picker"],
  hello: ["narrations", "latency", "percentiles", "facts", "health", "picker"],
})) {
  store.addEventListener(event, () => what.forEach((one) => dirty.add(one)));
}
for (const event of ["activity", "trigger", "hello"]) {
  store.addEventListener(event, () => (activity.isDirty = true));
}
view.addEventListener("change", () => {
  for (const one of ["narrations", "latency", "percentiles", "moment", "picker"]) dirty.add(one);
  activity.isDirty = true;
});

const draw = {
  narrations: () => narrations.draw(),
  shown: () => narrations.drawShown(),
  latency: () => latency.draw(),
  percentiles: () => latency.drawPercentiles(),
  facts: () => drawFacts(store),
  health: () => health.draw(),
  moment: drawMoment,
  picker: drawPicker,
};

let lastMs = performance.now();
let agesMs = 0;
let describedMs = 0;

function step(nowMs) {
  const seconds = Math.min(0.2, (nowMs - lastMs) / 1000);
  lastMs = nowMs;
  if (view.isLive) {
    const before = view.shownNow;
    if (isStill.matches) view.shownNow = Math.floor(store.head);
    else view.advance(seconds);
    if (view.shownNow !== before) activity.isDirty = true;
  }
  const wanted = [...dirty];
  dirty.clear();
  for (const one of wanted) draw[one]();
  if (activity.isDirty) activity.draw();
  if (nowMs - agesMs > AGES_EVERY_MS) {
    agesMs = nowMs;
    narrations.drawAges();
    health.draw();
    store.tiles.scalePopulations(nowMs);
    setText(find("clock"), sessionTime(store.sessionAt(view.isLive ? store.head : view.edge)));
  }
  if (nowMs - describedMs > DESCRIBED_EVERY_MS) {
    describedMs = nowMs;
    find("timeline").setAttribute("aria-label", activity.describe());
    // For who listens: not every sentence, and no age that changes five times a second.
    setText(find("spoken"), narrations.leadSentence());
    const { nUnits, groups } = store.tiles;
    setText(find("activity-hint"), nUnits ? `${plural(nUnits, "unit")} by area (${groups.length}) and depth` : "no rates yet");
  }
  requestAnimationFrame(step);
}

function drawMoment() {
  const button = find("live");
  button.setAttribute("aria-pressed", String(view.isLive));
  setText(button, view.isLive ? "Live" : "Go live");
  const line = find("moment");
  line.hidden = view.isLive;
  if (view.isLive) return;
  const text = `Session ${sessionTime(store.sessionAt(view.edge))}, not live. Space goes on.`;
  if (line.textContent !== text) line.textContent = text;
}

function drawPicker() {
  const picker = find("picker");
  const names = store.names();
  const key = JSON.stringify([names, [...view.hidden], view.lead, names.map((name) => store.facts(name).label)]);
  if (picker.dataset.key === key) return;
  picker.dataset.key = key;
  const labels = names.map((name) => {
    const label = element("label");
    const box = element("input");
    box.type = "checkbox";
    box.checked = !view.hidden.has(name);
    // A claim without its controls is none: they cannot be hidden.
    box.disabled = store.facts(name).isControl || name === view.lead;
    box.addEventListener("change", () => view.setHidden(name, !box.checked));
    label.append(box, element("span", "", store.facts(name).label));
    return label;
  });
  picker.replaceChildren(picker.querySelector("legend"), ...labels);
}

async function share() {
  const link = view.link();
  try {
    await navigator.clipboard.writeText(link);
    say("The link to this moment is copied.");
  } catch {
    view.pause(); // the address bar has it
    say("The link to this moment is in the address bar.");
  }
}

function say(text) {
  const spoken = find("said");
  spoken.textContent = text;
  setText(find("readout"), text);
}

function togglePicker() {
  const picker = find("picker");
  picker.hidden = !picker.hidden;
  find("pick").setAttribute("aria-expanded", String(!picker.hidden));
  if (!picker.hidden) picker.querySelector("input:not(:disabled)")?.focus();
}

function toggleLive() {
  if (view.isLive) view.pause();
  else view.goLive();
}

const KEYS = {
  " ": toggleLive,
  ArrowLeft: () => view.pan(-view.span / 10),
  ArrowRight: () => view.pan(view.span / 10),
  PageUp: () => view.pan(-view.span),
  PageDown: () => view.pan(view.span),
  Home: () => view.goToStart(),
  End: () => view.goLive(),
  "+": () => view.zoom(-1),
  "=": () => view.zoom(-1),
  "-": () => view.zoom(1),
  n: () => view.nextLead(),
  p: togglePicker,
  d: () => view.setComparing(!view.isComparing),
  c: share,
  t: switchTheme,
  "?": () => find("keys").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || find("keys").open) return;
  const isControl = event.target.closest?.("button, input, a, [contenteditable]");
  if (isControl && [" ", "Enter"].includes(event.key)) return;
  if (event.key === "Escape" && !find("picker").hidden) {
    togglePicker();
    find("pick").focus();
    return;
  }
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
  view.writeAddress();
});

find("live").addEventListener("click", toggleLive);
find("pick").addEventListener("click", togglePicker);
find("compare").addEventListener("click", () => view.setComparing(!view.isComparing));
find("share").addEventListener("click", share);
find("theme").addEventListener("click", switchTheme);
find("help").addEventListener("click", () => find("keys").showModal());
for (const button of document.querySelectorAll("[data-span]")) {
  button.addEventListener("click", () => view.setSpan(Number(button.dataset.span)));
}
view.addEventListener("change", () => {
  find("compare").setAttribute("aria-pressed", String(view.isComparing));
  for (const button of document.querySelectorAll("[data-span]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.span) === view.span));
  }
});
window.addEventListener("hashchange", () => {
  view.readAddress();
  if (view.wanted === null) view.goLive();
  else view.openWanted();
  view.changed();
});

// Dragging moves through time; so do wheels and fingers that move sideways.
const timeline = find("timeline");
let dragged = null;
timeline.addEventListener("pointerdown", (event) => {
  dragged = { x: event.clientX, edge: view.edge };
  timeline.setPointerCapture(event.pointerId);
});
timeline.addEventListener("pointermove", (event) => {
  const box = timeline.getBoundingClientRect();
  activity.pointerX = event.clientX - box.left;
  activity.isDirty = true;
  if (dragged) {
    const moved = (dragged.x - event.clientX) / activity.pixelsPerS;
    if (Math.abs(event.clientX - dragged.x) > 3) view.goTo(dragged.edge + moved);
  }
  setText(find("readout"), activity.readout(activity.pointerX, event.clientY - box.top));
});
for (const name of ["pointerup", "pointercancel"]) {
  timeline.addEventListener(name, () => {
    dragged = null;
    view.writeAddress();
  });
}
timeline.addEventListener("pointerleave", () => {
  activity.pointerX = null;
  activity.isDirty = true;
  setText(find("readout"), "");
});
timeline.addEventListener(
  "wheel",
  (event) => {
    if (Math.abs(event.deltaX) <= Math.abs(event.deltaY)) return;
    event.preventDefault();
    view.pan(event.deltaX / activity.pixelsPerS);
  },
  { passive: false },
);

// For tests, and for curious people at the console.
window.neurrate = { store, view, activity };

connect();
requestAnimationFrame(step);
