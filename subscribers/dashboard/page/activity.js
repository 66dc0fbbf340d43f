// The time line: captions, units, populations, probes and triggers, drawn on one axis.

import { sessionTime } from "./format.js";
import { after } from "./store.js";
import { COLUMNS_PER_S, TILE_S, hzOfLevel } from "./tiles.js";

const MAX_RULES = 6;

export class Activity {
  constructor(canvas, store, view, palette) {
    Object.assign(this, { canvas, store, view, palette });
    this.context = canvas.getContext("2d", { alpha: true });
    this.pointerX = null;
    this.lanes = [];
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
    this.resize();
  }

  resize() {
    this.width = this.canvas.parentElement.clientWidth;
    this.isDirty = true;
  }

  // Where each lane is. Heights follow the width of the window, so that all of it fits a screen.
  layOut() {
    const isLarge = window.innerWidth >= 1700;
    const isPhone = window.innerWidth <= 640;
    const text = isLarge ? 15 : 11.5;
    const rules = this.rules().length;
    const nPopulations = this.store.tiles.nPopulations;
    const heights = {
      axis: text * 1.8,
      captions: this.store.captions.length ? text * 2 : 0,
      units: isPhone ? 210 : isLarge ? 360 : 286,
      populations: nPopulations * (isLarge ? 19 : 15),
      rules: rules * (isLarge ? 46 : 36),
    };
    const gap = isLarge ? 12 : 9;
    let y = 0;
    this.lanes = {};
    for (const [name, height] of Object.entries(heights)) {
      this.lanes[name] = { y, height };
      if (height) y += height + gap;
    }
    this.text = text;
    this.left = Math.min(this.width * 0.24, isLarge ? 132 : isPhone ? 74 : 98);
    const height = Math.ceil(y);
    const ratio = window.devicePixelRatio || 1;
    const size = [Math.round(this.width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== size[0] || this.canvas.height !== size[1]) {
      [this.canvas.width, this.canvas.height] = size;
      this.canvas.style.height = `${height}px`;
    }
    this.height = height;
    this.ratio = ratio;
  }

  get right() {
    return this.width - 1;
  }

  get pixelsPerS() {
    return (this.right - this.left) / this.view.span;
  }

  xOf(place) {
    return this.right - (this.view.edge - place) * this.pixelsPerS;
  }

  placeOf(pixel) {
    return this.view.edge - (this.right - pixel) / this.pixelsPerS;
  }

  draw() {
    this.layOut();
    const { context } = this;
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    this.from = this.view.edge - this.view.span;
    this.drawAxis();
    this.drawCaptions();
    this.drawRates();
    this.drawGaps();
    this.drawRules();
    this.drawCursor();
    this.isDirty = false;
  }

  font(weight = 400, size = this.text, family = this.palette.sans) {
    this.context.font = `${weight} ${size}px ${family}`;
  }

  label(text, y, colour = this.palette["ink-2"], weight = 500) {
    const { context } = this;
    this.font(weight);
    context.fillStyle = colour;
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.fillText(shortened(context, text, this.left - 10), this.left - 9, y);
  }

  clipped(lane, draw) {
    const { context } = this;
    context.save();
    context.beginPath();
    context.rect(this.left, lane.y, this.right - this.left, lane.height);
    context.clip();
    draw();
    context.restore();
  }

  drawAxis() {
    const { context, palette } = this;
    const lane = this.lanes.axis;
    const least = (this.text * 8) / this.pixelsPerS;
    const step = [1, 2, 5, 10, 30, 60, 120, 300, 600, 1200].find((one) => one >= least) ?? 1800;
    this.font();
    context.textAlign = "center";
    context.textBaseline = "middle";
    const offset = this.view.edge - this.store.sessionAt(this.view.edge);
    const first = Math.ceil((this.from - offset) / step) * step + offset;
    for (let place = first; place <= this.view.edge; place += step) {
      const x = this.xOf(place);
      if (x < this.left + 18 || x > this.right - 22) continue;
      context.fillStyle = palette["ink-3"];
      context.fillText(sessionTime(this.store.sessionAt(place), 0), x, lane.y + lane.height / 2);
      context.fillStyle = palette.line;
      context.fillRect(Math.round(x), lane.y + lane.height, 1, this.height - lane.y - lane.height);
    }
    this.label("session", lane.y + lane.height / 2, palette["ink-3"], 400);
  }

  drawCaptions() {
    const lane = this.lanes.captions;
    if (!lane.height) return;
    const { context, palette } = this;
    const { captions } = this.store;
    this.label("shown", lane.y + lane.height / 2, palette.truth);
    this.clipped(lane, () => {
      for (let at = Math.max(0, after(captions, this.from) - 1); at < captions.length; at += 1) {
        const x = Math.max(this.xOf(captions[at].x), this.left);
        if (x > this.right) break;
        const next = captions[at + 1];
        const stop = Math.min(next ? this.xOf(next.x) : this.right, this.right);
        if (!captions[at].caption || stop - x < 2) continue;
        context.fillStyle = palette.truth;
        context.globalAlpha = 0.16;
        context.fillRect(x + 1, lane.y, stop - x - 2, lane.height);
        context.globalAlpha = 1;
        context.fillRect(x + 1, lane.y, 2, lane.height);
        if (stop - x > 46) {
          this.font(420, this.text + 1.5, palette.serif);
          context.textAlign = "left";
          context.textBaseline = "middle";
          context.fillText(shortened(context, captions[at].caption, stop - x - 14), x + 8, lane.y + lane.height / 2 + 1);
        }
      }
    });
  }

  drawRates() {
    const { context, palette, store } = this;
    const { units, populations } = this.lanes;
    const { tiles } = store;
    for (const lane of [units, populations]) {
      if (!lane.height) continue;
      context.fillStyle = palette.hatch;
      this.clipped(lane, () => {
        context.globalAlpha = 0.55; // where there is no data
        for (let x = this.left - lane.height; x < this.right; x += 9) {
          context.fillRect(x, lane.y, 1, lane.height);
        }
        context.globalAlpha = 1;
      });
    }
    const visible = tiles.nRows ? tiles.visible(this.from, this.view.edge) : [];
    const gap = tiles.groups.length > 1 ? 2 : 0;
    const perUnit = (units.height - gap * (tiles.groups.length - 1)) / Math.max(1, tiles.nUnits);
    this.places = [];
    let y = units.y;
    for (const group of tiles.groups) {
      const height = group.n * perUnit;
      this.places.push({ ...group, y, height });
      this.stamp(visible, "units", group.first, group.n, y, height);
      y += height + gap;
    }
    this.labelGroups(this.places);
    const names = store.newest.layout?.populations ?? [];
    const perPopulation = populations.height / Math.max(1, names.length);
    names.forEach((name, row) => {
      const top = populations.y + row * perPopulation;
      this.stamp(visible, "populations", row, 1, top, perPopulation - 2);
      const facts = store.facts(name);
      this.label(facts.label, top + perPopulation / 2 - 1, facts.isControl ? palette["ink-3"] : palette["ink-2"], name === this.view.lead ? 650 : 450);
    });
  }

  stamp(visible, picture, row, n, y, height) {
    const { context } = this;
    context.imageSmoothingEnabled = n > height * this.ratio;
    this.clipped({ y, height }, () => {
      for (const tile of visible) {
        const x = this.xOf(tile.number * TILE_S);
        context.drawImage(tile[picture], 0, row, tile.columns, n, x, y, TILE_S * this.pixelsPerS, height);
      }
    });
  }

  // Areas that are too low for a label of their own have none: the readout names them.
  labelGroups(places) {
    let free = -Infinity;
    for (const { name, y, height } of places) {
      const middle = y + height / 2;
      if (middle - this.text * 0.55 < free) continue;
      this.label(name, middle);
      free = middle + this.text * 0.6;
    }
  }

  drawGaps() {
    const { context, palette } = this;
    const { units } = this.lanes;
    const gaps = this.store.gaps;
    const lane = { y: units.y - 4, height: units.height + 8 };
    this.clipped(lane, () => {
      context.fillStyle = palette.problem;
      for (let at = Math.max(0, after(gaps, this.from) - 1); at < gaps.length; at += 1) {
        const x = this.xOf(gaps[at].x0);
        if (x > this.right) break;
        const width = Math.max(2, this.xOf(gaps[at].x1) - x);
        context.globalAlpha = 0.3;
        context.fillRect(x, units.y, width, units.height);
        context.globalAlpha = 1;
        context.fillRect(x, lane.y, width, 4);
      }
    });
  }

  rules() {
    const names = new Set([...this.store.probes.keys(), ...this.store.triggers.map((one) => one.name)]);
    return [...names].sort().slice(0, MAX_RULES);
  }

  drawRules() {
    const lane = this.lanes.rules;
    const { palette, store } = this;
    const names = this.rules();
    const height = lane.height / Math.max(1, names.length);
    names.forEach((name, row) => {
      const top = lane.y + row * height;
      const inner = { y: top + 2, height: height - 7 };
      const fired = store.triggers.filter((one) => one.name === name && one.x > this.from);
      const series = store.probes.get(name);
      this.label(name, inner.y + inner.height / 2, fired.length ? palette.trigger : palette["ink-2"]);
      this.context.fillStyle = palette.line;
      this.context.fillRect(this.left, inner.y + inner.height, this.right - this.left, 1);
      this.clipped({ y: top - 2, height }, () => {
        if (series) this.drawTrace(series, inner);
        for (const trigger of fired) this.drawFired(trigger, inner);
      });
    });
  }

  drawTrace({ points, rule }, lane) {
    const { context, palette } = this;
    const yOf = (value) => lane.y + lane.height * (1 - value);
    context.strokeStyle = palette.trigger;
    context.lineWidth = 1;
    context.setLineDash([4, 4]);
    context.beginPath();
    context.moveTo(this.left, yOf(rule.threshold));
    context.lineTo(this.right, yOf(rule.threshold));
    context.stroke();
    context.setLineDash([]);
    context.strokeStyle = palette["ink-2"];
    context.lineWidth = 1.4;
    context.lineJoin = "round";
    context.beginPath();
    const start = Math.max(0, after(points, this.from) - 2);
    const step = Math.max(1, Math.floor((points.length - start) / (2 * this.width)));
    let before = -Infinity;
    for (let at = start; at < points.length; at += step) {
      const { x, y } = points[at];
      if (x > this.view.edge + 2) break;
      if (x - before > 2 * Math.max(step / 5, 1)) context.moveTo(this.xOf(x), yOf(y));
      else context.lineTo(this.xOf(x), yOf(y));
      before = x;
    }
    context.stroke();
  }

  drawFired(trigger, lane) {
    const { context, palette } = this;
    const x = this.xOf(trigger.x);
    if (x < this.left || x > this.right) return;
    context.globalAlpha = trigger.dry_run ? 0.55 : 1;
    context.fillStyle = palette.trigger;
    context.fillRect(Math.round(x) - 1, lane.y, 2, lane.height);
    context.beginPath();
    context.moveTo(x - 5, lane.y - 2);
    context.lineTo(x + 5, lane.y - 2);
    context.lineTo(x, lane.y + 6);
    context.closePath();
    context.fill();
    context.globalAlpha = 1;
  }

  drawCursor() {
    const { context, palette } = this;
    if (!this.view.isLive) {
      context.fillStyle = palette.ink;
      context.fillRect(this.right - 1, 0, 2, this.height);
    }
    if (this.pointerX === null || this.pointerX < this.left) return;
    context.fillStyle = palette["ink-2"];
    context.fillRect(Math.round(this.pointerX), this.lanes.axis.height, 1, this.height);
  }

  // What is under the pointer, in words.
  readout(x, y) {
    if (x < this.left) return "";
    const place = this.placeOf(x);
    const parts = [`${sessionTime(this.store.sessionAt(place), 1)}`];
    const { units, populations } = this.lanes;
    const { tiles } = this.store;
    const rate = (level) => (level === null ? "no data" : `${hzOfLevel(level).toFixed(0)} spikes/s`);
    if (y >= units.y && y < units.y + units.height) {
      const group = this.places.findLast((one) => y >= one.y);
      if (group) {
        const within = Math.floor(((y - group.y) / group.height) * group.n);
        const row = group.first + Math.min(Math.max(within, 0), group.n - 1);
        const table = this.store.newest.layout?.units;
        const unit = table?.unit_id[tiles.order[row]];
        const depth = table?.depth_um?.[tiles.order[row]];
        parts.push(group.name, unit === undefined ? "" : `unit ${unit}`);
        parts.push(depth === null || depth === undefined ? "" : `${Math.round(depth)} µm`);
        parts.push(rate(tiles.levelAt(place, row, false)));
      }
    } else if (y >= populations.y && y < populations.y + populations.height) {
      const names = this.store.newest.layout?.populations ?? [];
      const row = Math.floor(((y - populations.y) / populations.height) * names.length);
      if (names[row]) parts.push(this.store.facts(names[row]).label, rate(tiles.levelAt(place, row, true)));
    }
    return parts.filter(Boolean).join("  ·  ");
  }

  // For people who do not see the canvas.
  describe() {
    const names = this.store.newest.layout?.populations ?? [];
    const place = this.view.edge - 1.5 / COLUMNS_PER_S;
    const rates = names
      .map((name, row) => [this.store.facts(name).label, this.store.tiles.levelAt(place, row, true)])
      .filter(([, level]) => level !== null)
      .map(([label, level]) => `${label} ${hzOfLevel(level).toFixed(1)}`);
    const fired = this.store.triggers.filter((one) => one.x > this.view.edge - this.view.span).length;
    const { nUnits, groups } = this.store.tiles;
    return (
      `Activity of ${nUnits} units in ${groups.length} areas over ${this.view.span} seconds, ` +
      `until ${sessionTime(this.store.sessionAt(this.view.edge))}. ` +
      `Spikes a second and unit: ${rates.join(", ") || "none yet"}. ${fired} triggers.`
    );
  }
}

function shortened(context, text, width) {
  if (width < 8) return "";
  if (context.measureText(text).width <= width) return text;
  let length = Math.max(1, Math.floor((text.length * width) / context.measureText(text).width));
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > width) length -= 1;
  return `${text.slice(0, length).trimEnd()}…`;
}
