// Sentences: one in front, the others side by side, and the controls beside them, always.

import { setCompared } from "./compare.js";
import { age, count, element, fraction, plural, sessionTime, setText, svg } from "./format.js";

const UNSURE_BELOW = 0.5;
const OLD_S = 5;
const CONTROLS = ["shuffled", "silent"];
const N_SHOWINGS = 4;

export class Narrations {
  constructor(store, view) {
    Object.assign(this, { store, view });
    this.lead = document.getElementById("lead");
    this.boxes = { units: document.getElementById("populations"), controls: document.getElementById("controls") };
    this.cards = new Map();
    this.shown = document.getElementById("shown");
    this.frame = document.getElementById("frame");
    this.frameText = document.getElementById("frame-text");
    this.hasFrames = true;
    this.frame.addEventListener("error", () => this.withoutPicture());
    this.frame.addEventListener("load", () => {
      this.frame.hidden = false;
      this.shown.classList.remove("has-no-picture");
      this.isFetching = false;
      if (this.nextFrame) this.showFrame(...this.nextFrame);
    });
    this.makeLead();
  }

  makeLead() {
    this.truth = element("p", "truth-line");
    this.truth.append(element("span", "name", "shown"), element("span", "caption"));
    this.leadParts = parts(this.lead);
    this.lead.replaceChildren(this.truth, this.leadParts.sentence, this.leadParts.features, this.leadParts.facts, this.leadParts.older);
  }

  draw() {
    const names = this.store.names();
    const lead = names.includes(this.view.lead) ? this.view.lead : names[0];
    const shown = names.filter((name) => !this.view.hidden.has(name));
    [this.reference] = lead ? this.store.upTo(lead, this.view.moment, 1) : [];
    if (lead) this.fill(this.lead, this.leadParts, lead, 2);
    this.drawTruth(lead);
    const units = shown.filter((name) => name !== lead && !this.store.facts(name).isControl);
    const controls = shown.filter((name) => this.store.facts(name).isControl);
    this.arrange(this.boxes.units, units, []);
    const missing = CONTROLS.filter((name) => !names.includes(name));
    this.arrange(this.boxes.controls, controls, missing);
  }

  arrange(box, names, missing) {
    const cards = names.map((name) => this.card(name));
    const notes = missing.map((name) => this.absent(name));
    const wanted = [...cards, ...notes];
    box.dataset.columns = String(columnsFor(wanted.length));
    if (wanted.length !== box.children.length || wanted.some((card, at) => box.children[at] !== card)) {
      box.replaceChildren(...wanted);
    }
    names.forEach((name) => this.fill(this.card(name), this.cards.get(name).parts, name, 1));
  }

  card(name) {
    if (!this.cards.has(name)) {
      const card = element("article", "card");
      const made = parts(card);
      card.append(made.head, made.sentence, made.features, made.older, made.facts, made.score);
      card.setAttribute("aria-label", this.store.facts(name).label);
      this.cards.set(name, { card, parts: made });
    }
    return this.cards.get(name).card;
  }

  absent(name) {
    const key = `absent ${name}`;
    if (!this.cards.has(key)) {
      const note = element("p", "absent", `${name}: not narrated. Add it to --populations.`);
      this.cards.set(key, { card: note });
    }
    return this.cards.get(key).card;
  }

  fill(target, made, name, nOlder) {
    const [newest, ...older] = this.store.upTo(name, this.view.moment, 1 + nOlder);
    const facts = this.store.facts(name);
    setText(made.title, facts.label);
    setText(made.units, plural(facts.nUnits, "unit"));
    made.narration = newest ?? null;
    const isFailed = newest?.status === "failed";
    const confidence = newest?.confidence ?? null;
    const isUnsure = confidence !== null && confidence < UNSURE_BELOW;
    this.fillSentence(made.sentence, newest);
    fillFeatures(made.features, newest?.features ?? []);
    target.classList.toggle("is-unsure", isUnsure);
    target.classList.toggle("is-failed", Boolean(isFailed));
    setText(made.confidence, confidence === null ? "" : `confidence ${fraction(confidence)}${isUnsure ? ", unsure" : ""}`);
    setText(made.flaw, newest ? flaws(newest) : "");
    if (this.view.isComparing && made === this.leadParts) this.fillShowings(made.older, newest);
    else made.older.replaceChildren(...older.map((one) => element("li", "", one.text || `[${one.reason}]`)));
    this.fillScore(made, name);
    this.fillAge(made);
  }

  // While comparing, the words that the sentence in front has not are marked in the others.
  fillSentence(target, narration) {
    const text = narration ? narration.text || `[${narration.reason || "no words"}]` : "…";
    const other = this.view.isComparing && narration !== this.reference ? this.reference?.text : null;
    if (other && narration?.text) setCompared(target, text, other);
    else if (target.textContent !== text || target.firstElementChild) target.textContent = text;
  }

  // What the population said when the same was shown before.
  fillShowings(list, newest) {
    const before = newest ? this.store.showingsBefore(newest, N_SHOWINGS) : [];
    const items = before.map((one) => {
      const item = element("li", "showing");
      const sentence = element("span");
      this.fillSentence(sentence, one);
      item.append(element("span", "when", sessionTime(one.stop_s)), " ", sentence);
      return item;
    });
    const none = newest?.truth ? "not shown before, as far as this page knows" : "no caption says what is shown";
    list.replaceChildren(...(items.length ? items : [element("li", "", none)]));
  }

  // Called several times a second: an age grows whether or not anything comes.
  drawAges() {
    this.fillAge(this.leadParts);
    for (const { parts: made } of this.cards.values()) if (made) this.fillAge(made);
  }

  fillAge(made) {
    const { narration } = made;
    if (!narration) {
      setText(made.age, "");
      return;
    }
    const late = narration.latency_ms.total / 1000;
    const since = this.view.isLive
      ? (this.store.now() - narration.at) / 1000
      : this.view.edge - narration.x;
    const seconds = late + Math.max(0, since);
    setText(made.age, `${age(seconds)} old`);
    made.age.classList.toggle("is-old", seconds > OLD_S);
  }

  fillScore(made, name) {
    const score = this.store.newest.scores?.[name];
    const isKnown = Boolean(score) && score.matched !== null;
    made.score.hidden = !isKnown;
    if (!isKnown) return;
    const key = JSON.stringify(score);
    if (made.scoreKey === key) return;
    made.scoreKey = key;
    made.score.replaceChildren(element("span", "", "F1"), strip(score), element("span", "", scoreText(score)));
    made.score.title = scoreSentence(score);
  }

  // What is in front, in words.
  leadSentence() {
    const { narration } = this.leadParts;
    return narration ? `${this.leadParts.title.textContent}: ${this.leadParts.sentence.textContent}` : "";
  }

  drawTruth(lead) {
    const [newest] = lead ? this.store.upTo(lead, this.view.moment, 1) : [];
    const caption = newest?.truth ?? "";
    this.truth.hidden = !caption;
    setText(this.truth.lastChild, caption);
    this.drawShown();
  }

  drawShown() {
    const { mark } = this.store.newest;
    const at = this.view.isLive ? null : this.store.captionAt(this.view.edge);
    const shown = this.view.isLive ? mark : at;
    this.shown.hidden = !shown;
    if (!shown) return;
    const frame = shown.frame === null ? "" : `, frame ${shown.frame}`;
    setText(this.frameText, `on the screen: ${shown.stimulus}${frame}`);
    if (shown.frame !== null) this.showFrame(shown.stimulus, shown.frame, shown.caption);
    else this.withoutPicture();
  }

  // One picture at a time: a frame that comes while another is fetched waits, the newest alone.
  showFrame(stimulus, number, caption) {
    const key = `${stimulus} ${number}`;
    if (!this.hasFrames || this.frameKey === key) return;
    if (this.isFetching) {
      this.nextFrame = [stimulus, number, caption];
      return;
    }
    this.nextFrame = null;
    this.frameKey = key;
    this.isFetching = true;
    this.frame.alt = caption || "the frame that is on the screen";
    const path = stimulus.split("/").map(encodeURIComponent).join("/");
    this.frame.src = `frames/${number}/${path}`;
  }

  withoutPicture() {
    this.isFetching = false;
    this.frame.hidden = true;
    this.shown.classList.add("has-no-picture");
  }
}

// As many columns as leave the fewest places empty: six in three columns, eight in four.
function columnsFor(n) {
  const empty = (columns) => (columns - (n % columns)) % columns;
  return [4, 3, 2].reduce((best, columns) => (empty(columns) < empty(best) ? columns : best), n <= 4 ? Math.max(n, 1) : 4);
}

function parts(target) {
  const made = {
    title: element("span", "title"),
    units: element("span", "units"),
    confidence: element("span", "confidence"),
    flaw: element("span", "flaw"),
    age: element("span", "age"),
    sentence: element("p", "sentence"),
    features: element("p", "features"),
    older: element("ol", "older"),
    score: element("div", "score"),
    facts: element("p", "facts-line"),
    narration: null,
  };
  made.score.hidden = true;
  if (target.id === "lead") {
    made.facts.append(made.title, made.units, made.confidence, made.flaw, made.age, made.score);
  } else {
    made.head = element("p", "facts-line");
    made.head.append(made.title, made.age);
    made.facts.append(made.units, made.confidence, made.flaw);
  }
  return made;
}

// What stands out in the decoded patches, each with its height in standard deviations.
function fillFeatures(line, features) {
  line.hidden = !features.length;
  const key = JSON.stringify(features);
  if (line.dataset.key === key) return;
  line.dataset.key = key;
  line.title = "Sparse features that are most above their mean over the training frames, in standard deviations";
  const found = features.map((feature) => {
    const one = element("span", "feature");
    one.append(element("span", "name", feature.name), " ", element("span", "height", `+${feature.z.toFixed(1)} sd`));
    return one;
  });
  line.replaceChildren(element("span", "height", "features"), ...found);
}

function flaws(narration) {
  const found = [];
  if (narration.status !== "ok") found.push(narration.status);
  if (narration.n_gap_bins) found.push(`${count(narration.n_gap_bins)} gap bins`);
  if (narration.n_missing_units) found.push(`${plural(narration.n_missing_units, "unit")} missing`);
  if (narration.blind.length) found.push(`blind: ${narration.blind.join(", ")}`);
  return found.join(", ");
}

// Matched as a filled mark, chance as an open one, each with its interval of 95 %.
function strip(score) {
  const picture = svg("svg", { viewBox: "0 0 100 16", preserveAspectRatio: "none", "aria-hidden": "true" });
  const line = (name, x1, x2, y) =>
    svg("line", { class: name, x1: 100 * x1, x2: 100 * x2, y1: y, y2: y, "stroke-width": 2, "vector-effect": "non-scaling-stroke" });
  const tick = (name, x, y) =>
    svg("line", { class: name, x1: 100 * x, x2: 100 * x, y1: y - 4, y2: y + 4, "stroke-width": 3, "vector-effect": "non-scaling-stroke" });
  picture.append(line("axis", 0, 1, 15));
  if (score.shuffled !== null) {
    picture.append(line("chance", score.shuffled_low, score.shuffled_high, 11), tick("chance", score.shuffled, 11));
  }
  if (score.matched_low !== null) picture.append(line("matched", score.matched_low, score.matched_high, 5));
  picture.append(tick("matched", score.matched, 5));
  return picture;
}

function scoreText(score) {
  return score.shuffled === null
    ? fraction(score.matched)
    : `${fraction(score.matched)} / ${fraction(score.shuffled)}`;
}

export function scoreSentence(score) {
  const interval = (low, high) => (low === null ? "" : ` (${fraction(low)} to ${fraction(high)})`);
  return (
    `Matched ${fraction(score.matched)}${interval(score.matched_low, score.matched_high)}, ` +
    `shuffled ${fraction(score.shuffled)}${interval(score.shuffled_low, score.shuffled_high)}: ` +
    `F1 of the objects named, of ${plural(score.n, "narration")} of ${plural(score.n_captions, "caption")}; intervals of 95 %`
  );
}

