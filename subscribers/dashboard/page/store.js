// What the page knows: the newest of everything, and the hour that the server keeps, as asked for.

import { Tiles } from "./tiles.js";

const CHUNK_S = 600;
const MAX_SERIES = 80_000;
const MAX_NARRATIONS = 30_000;

export class Store extends EventTarget {
  constructor(palette) {
    super();
    this.narrations = new Map(); // by population, oldest first
    this.populations = new Map(); // name to {label, isControl, nUnits}
    this.triggers = [];
    this.probes = new Map(); // by rule: {facts, xs, ys}
    this.captions = [];
    this.gaps = [];
    this.latency = [];
    this.newest = { sources: new Map() };
    this.spans = [];
    this.head = 0;
    this.lastEventAt = 0;
    this.skewMs = 0;
    this.oldest = null;
    this.loadedFrom = Infinity;
    this.isLoading = false;
    this.seen = new Set();
    this.tiles = new Tiles(palette, () => this.changed("activity"));
  }

  // Milliseconds of UTC by the server's clock: a phone's own may be wrong by minutes.
  now() {
    return Date.now() + this.skewMs;
  }

  changed(what, detail = null) {
    this.dispatchEvent(new CustomEvent(what, { detail }));
  }

  hello(snapshot) {
    this.skewMs = snapshot.now - Date.now();
    this.endpoint = snapshot.endpoint;
    this.lastEventAt = snapshot.received;
    this.oldest = snapshot.oldest;
    this.spans = snapshot.spans;
    if (snapshot.head < this.head - 60) this.forget(); // another server, whose axis begins anew
    const before = this.head;
    this.head = snapshot.head;
    for (const event of snapshot.newest) this.take(event, true);
    if (snapshot.is_new) {
      this.tiles.forgetFrom(Math.floor(before / 60));
      this.loadedFrom = Infinity;
      this.load(this.head - CHUNK_S);
    }
    this.changed("hello");
  }

  forget() {
    for (const list of [this.triggers, this.captions, this.gaps, this.latency]) list.length = 0;
    this.narrations.clear();
    this.probes.clear();
    this.seen.clear();
    this.tiles.forgetFrom(-Infinity);
    this.head = 0;
  }

  // Ask for history from a place on the axis; once at a time, ten minutes each.
  async load(from) {
    if (this.isLoading || from >= this.loadedFrom || this.loadedFrom <= (this.oldest ?? Infinity)) return;
    this.isLoading = true;
    const stop = Number.isFinite(this.loadedFrom) ? this.loadedFrom : this.head + 60;
    const start = stop - CHUNK_S;
    try {
      const answer = await fetch(`history?start=${start}&stop=${stop}`);
      if (!answer.ok) return;
      for (const event of await answer.json()) this.take(event, true);
      this.loadedFrom = start;
      this.changed("activity");
      this.changed("narration");
      this.changed("latency");
    } catch {
      // The server is away: asked again with the next hello.
    } finally {
      this.isLoading = false;
      if (from < this.loadedFrom && Number.isFinite(this.loadedFrom)) this.load(from);
    }
  }

  take(event, isHistory = false) {
    if (!isHistory) this.lastEventAt = Math.max(this.lastEventAt, event.at);
    const taken = this[`take_${event.k}`];
    if (taken) taken.call(this, event, isHistory);
  }

  take_rates(event) {
    this.head = Math.max(this.head, event.x1);
    const text = atob(event.levels);
    const levels = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
    this.tiles.add(event.x0, event.x1, levels);
    this.changed("activity");
  }

  take_narration(event, isHistory) {
    if (this.isSeen(event.id)) return;
    if (!isHistory) this.head = Math.max(this.head, event.x);
    this.populations.set(event.population, {
      label: event.label,
      isControl: event.is_control,
      nUnits: event.n_units,
    });
    if (!this.narrations.has(event.population)) this.narrations.set(event.population, []);
    insert(this.narrations.get(event.population), event, MAX_NARRATIONS);
    if (!isHistory) this.changed("narration", event);
  }

  take_trigger(event) {
    if (this.isSeen(event.id)) return;
    insert(this.triggers, event);
    this.changed("trigger", event);
  }

  take_probes(event) {
    for (const [name, rule] of Object.entries(event.rules)) {
      if (!this.probes.has(name)) this.probes.set(name, { points: [] });
      const series = this.probes.get(name);
      series.rule = rule;
      insert(series.points, { x: event.x, y: rule.score }, MAX_SERIES, true);
    }
  }

  take_latency(event, isHistory) {
    insert(this.latency, event, MAX_SERIES, true);
    if (!isHistory) this.changed("latency");
  }

  take_caption(event) {
    insert(this.captions, event, MAX_SERIES, true);
  }

  take_gap(event) {
    insert(this.gaps, { ...event, x: event.x0 }, MAX_SERIES, true);
    this.changed("activity");
  }

  take_mark(event) {
    this.newest.mark = event;
    this.changed("mark");
  }

  take_source(event) {
    this.newest.sources.set(event.stream, event);
    this.changed("facts");
  }

  take_layout(event) {
    const text = JSON.stringify([event.populations, event.n_rows, event.unit_step, event.units]);
    if (text === this.layoutText) return;
    this.layoutText = text;
    this.newest.layout = event;
    this.tiles.setLayout(event);
  }

  take_spans(event) {
    this.spans = event.spans;
  }

  take_encoder(event) {
    this.newest.encoder = event;
    this.changed("facts");
    this.changed("narration");
  }

  take_daemon(event) {
    this.newest.daemon = event;
    this.changed("facts");
  }

  take_scores(event) {
    this.newest.scores = event.populations;
    this.changed("narration");
  }

  take_stats(event) {
    if (event.at < (this.newest.stats?.at ?? 0)) return;
    this.newest.stats = event;
    this.changed("stats");
  }

  isSeen(id) {
    if (this.seen.has(id)) return true;
    this.seen.add(id);
    if (this.seen.size > 400_000) this.seen = new Set([...this.seen].slice(200_000));
    return false;
  }

  // Session seconds of a place on the axis, by the span that it lies in.
  sessionAt(x) {
    const span = this.spans.findLast((one) => one.x <= x + 1e-6) ?? this.spans[0];
    return x - (span?.offset_s ?? 0);
  }

  xOfSession(seconds) {
    return seconds + (this.spans.at(-1)?.offset_s ?? 0);
  }

  // The newest narrations of a population up to a place on the axis, newest first.
  upTo(population, x, n) {
    const list = this.narrations.get(population) ?? [];
    const stop = x === Infinity ? list.length : after(list, x);
    return list.slice(Math.max(0, stop - n), stop).reverse();
  }

  // The last narrations of a population of up to `n` earlier showings of the same, the newest first.
  showingsBefore(narration, n) {
    const found = [];
    let isSame = true; // the one before, in time, is of the same showing
    for (const one of this.upTo(narration.population, narration.x, MAX_NARRATIONS)) {
      const wasSame = isSame;
      isSame = Boolean(narration.truth) && one.truth === narration.truth;
      if (isSame && !wasSame) found.push(one);
      if (found.length === n) break;
    }
    return found;
  }

  captionAt(x) {
    return this.captions[after(this.captions, x) - 1] ?? null;
  }

  // Everything, then areas and cell types in the daemon's order, then the controls.
  names() {
    const order = this.newest.encoder?.populations.map((one) => one.name) ?? [];
    const rank = (name) => (name === "all" ? -1 : order.includes(name) ? order.indexOf(name) : order.length);
    const known = new Set([...order, ...this.populations.keys()]);
    return [...known].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
  }

  facts(name) {
    const stated = this.newest.encoder?.populations.find((one) => one.name === name);
    const received = this.populations.get(name);
    return {
      label: stated?.label ?? received?.label ?? name,
      isControl: stated ? stated.kind !== "units" : Boolean(received?.isControl),
      nUnits: stated?.n_units ?? received?.nUnits ?? 0,
    };
  }
}

// Index of the first entry after x, in a list that is sorted by x.
export function after(list, x) {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle].x <= x) low = middle + 1;
    else high = middle;
  }
  return low;
}

function insert(list, entry, longest = MAX_SERIES, isUnique = false) {
  if (!list.length || list.at(-1).x < entry.x) {
    list.push(entry);
  } else {
    const at = after(list, entry.x);
    if (isUnique && list[at - 1]?.x === entry.x) list[at - 1] = entry;
    else list.splice(at, 0, entry);
  }
  if (list.length > longest) list.splice(0, list.length - longest);
}
