// What is looked at: live or a moment, how much time, which populations; in the address too.

const SPANS = [15, 60, 600, 3600];

export class View extends EventTarget {
  constructor(store) {
    super();
    this.store = store;
    this.span = 60;
    this.right = null; // null while live
    this.shownNow = 0; // the right edge while live, which moves smoothly
    this.hidden = new Set();
    this.lead = "all";
    this.isComparing = false;
    this.wanted = null; // a session time that the address asks for
    this.readAddress();
  }

  get isLive() {
    return this.right === null;
  }

  get edge() {
    return this.right ?? this.shownNow;
  }

  // The place on the axis up to which narrations are shown.
  get moment() {
    return this.right ?? Infinity;
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  // Move the live edge towards the newest data: as fast as time, and smoothly.
  advance(seconds) {
    const head = this.store.head;
    const behind = head - this.shownNow;
    if (behind < 0 || behind > 5) this.shownNow = head;
    else this.shownNow = Math.min(head, this.shownNow + seconds * Math.max(0, 1 + 2 * (behind - 0.2)));
  }

  goLive() {
    this.right = null;
    this.wanted = null;
    this.writeAddress();
    this.changed();
  }

  goTo(x) {
    if (x >= this.store.head) {
      this.goLive();
      return;
    }
    this.right = Math.max(x, this.store.oldest ?? x);
    this.store.load(this.right - this.span);
    this.changed();
  }

  // The oldest moment, with something of it in view.
  goToStart() {
    this.goTo((this.store.oldest ?? this.store.head) + Math.min(5, this.span / 2));
  }

  pause() {
    this.goTo(Math.min(this.edge, this.store.head - 0.01));
    this.writeAddress();
  }

  pan(seconds) {
    this.goTo(this.edge + seconds);
  }

  setSpan(seconds) {
    this.span = seconds;
    this.store.load(this.edge - seconds);
    this.changed();
  }

  zoom(steps) {
    const at = SPANS.indexOf(this.span);
    this.setSpan(SPANS[Math.min(Math.max(at + steps, 0), SPANS.length - 1)]);
  }

  setLead(name) {
    this.lead = name;
    this.writeAddress();
    this.changed();
  }

  nextLead() {
    const names = this.store.names().filter((name) => !this.hidden.has(name));
    if (names.length) this.setLead(names[(names.indexOf(this.lead) + 1) % names.length]);
  }

  setComparing(isComparing) {
    this.isComparing = isComparing;
    this.writeAddress();
    this.changed();
  }

  setHidden(name, isHidden) {
    if (isHidden) this.hidden.add(name);
    else this.hidden.delete(name);
    this.writeAddress();
    this.changed();
  }

  // A link has the session time, which means the same to everybody who looks at this session.
  link() {
    const address = new URL(location.href);
    address.search = "";
    const x = this.right ?? this.store.head;
    address.hash = this.hash(this.store.sessionAt(x).toFixed(2));
    return address.href;
  }

  hash(time) {
    const parts = new URLSearchParams();
    if (time !== null) parts.set("t", time);
    if (this.lead !== "all") parts.set("lead", this.lead);
    if (this.hidden.size) parts.set("hide", [...this.hidden].join(","));
    if (this.isComparing) parts.set("compare", "1");
    return parts.toString();
  }

  writeAddress() {
    const time = this.isLive ? null : this.store.sessionAt(this.right).toFixed(2);
    history.replaceState(null, "", `${location.pathname}#${this.hash(time)}`);
  }

  readAddress() {
    const parts = new URLSearchParams(location.hash.slice(1));
    const time = Number.parseFloat(parts.get("t") ?? "");
    this.wanted = Number.isFinite(time) ? time : null;
    this.lead = parts.get("lead") ?? "all";
    this.isComparing = parts.get("compare") === "1";
    this.hidden = new Set((parts.get("hide") ?? "").split(",").filter(Boolean));
  }

  // Once the session is known, go where the address says.
  openWanted() {
    if (this.wanted === null || !this.store.spans.length) return;
    const x = this.store.xOfSession(this.wanted);
    this.wanted = null;
    if (x < this.store.head) this.goTo(x);
  }
}
