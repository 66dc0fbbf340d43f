// Rates of an hour as pictures of a minute each, so that scrolling is drawing a few images.

import { NO_DATA, lookup } from "./palette.js";

export const TILE_COLUMNS = 600;
export const COLUMNS_PER_S = 10;
export const TILE_S = TILE_COLUMNS / COLUMNS_PER_S;
const OVERVIEW_STEP = 10;
const OVERVIEW_FROM_S = 1200;
const MAX_BYTES = 160e6;
const MAX_FETCHES = 4;
const SCALED_EVERY_MS = 4000;
const N_SCALED = 1200; // columns that a population's scale is taken from

export class Tiles {
  constructor(palette, onChange) {
    this.palette = palette;
    this.onChange = onChange;
    this.nFetching = 0;
    this.setLayout({ populations: [], n_rows: 0 });
  }

  // Units are drawn by area, the largest first, and by depth within it.
  setLayout(layout) {
    this.nPopulations = layout.populations.length;
    this.nRows = layout.n_rows;
    this.nUnits = this.nRows - this.nPopulations;
    const { order, groups } = sorted(layout.units, this.nUnits);
    this.order = order;
    this.groups = groups;
    this.tiles = new Map();
    this.scales = Array.from({ length: this.nPopulations }, () => null);
    this.scaledAt = 0;
    this.onChange();
  }

  // The mean rate of many units changes little: each population is drawn from its own lowest to
  // its own highest level. The numbers are in the readout.
  scalePopulations(nowMs) {
    if (nowMs - this.scaledAt < SCALED_EVERY_MS || !this.nPopulations) return;
    this.scaledAt = nowMs;
    const recent = [...this.tiles.values()].filter((tile) => tile.kind === "full").sort((a, b) => b.number - a.number);
    let isChanged = false;
    for (let row = 0; row < this.nPopulations; row += 1) {
      const levels = [];
      for (const tile of recent) {
        for (let at = tile.columns - 1; at >= 0 && levels.length < N_SCALED; at -= 1) {
          const level = tile.levels[at * this.nRows + row];
          if (level !== NO_DATA) levels.push(level);
        }
      }
      if (levels.length < 5) continue;
      levels.sort((a, b) => a - b);
      const low = levels[Math.floor(levels.length * 0.02)];
      const high = Math.max(levels[Math.floor(levels.length * 0.99)], low + 6);
      const before = this.scales[row];
      if (before && Math.abs(before.low - low) < 3 && Math.abs(before.high - high) < 3) continue;
      this.scales[row] = { low, high, table: lookup(this.palette.ramp, low - 2, high) };
      isChanged = true;
    }
    if (isChanged) this.recolour();
  }

  // After an absence: what is known may lack columns.
  forgetFrom(number) {
    for (const [key, tile] of this.tiles) if (tile.number >= number) this.tiles.delete(key);
    this.onChange();
  }

  retheme() {
    this.scales.fill(null);
    this.scaledAt = 0;
    this.recolour();
  }

  recolour() {
    for (const tile of this.tiles.values()) this.paint(tile);
    this.onChange();
  }

  add(x0, x1, levels) {
    if (levels.length !== this.nRows) return;
    const first = Math.round(x0 * COLUMNS_PER_S);
    const stop = Math.max(first + 1, Math.round(x1 * COLUMNS_PER_S));
    for (let column = Math.max(first, stop - TILE_COLUMNS); column < stop; column += 1) {
      const number = Math.floor(column / TILE_COLUMNS);
      const tile = this.tiles.get(`full ${number}`) ?? this.open(number, "full");
      const at = column - number * TILE_COLUMNS;
      tile.levels.set(levels, at * this.nRows);
      this.paintColumns(tile, at, at + 1);
    }
  }

  // The pictures between two places of the axis that are there; others are asked for.
  visible(left, right) {
    const kind = right - left > OVERVIEW_FROM_S ? "overview" : "full";
    const found = [];
    for (let number = Math.floor(left / TILE_S); number <= Math.floor(right / TILE_S); number += 1) {
      const key = `${kind} ${number}`;
      const tile = this.tiles.get(key) ?? this.open(number, kind);
      if (!tile.isAsked && this.nRows) this.fetch(tile);
      if (kind === "overview" && performance.now() - tile.askedAt > 30_000 && tile.isRecent) {
        this.fetch(tile); // it grows
      }
      tile.usedAt = performance.now();
      found.push(tile);
    }
    return found;
  }

  open(number, kind) {
    const columns = kind === "full" ? TILE_COLUMNS : TILE_COLUMNS / OVERVIEW_STEP;
    const levels = new Uint8Array(columns * this.nRows).fill(NO_DATA);
    const units = canvas(columns, Math.max(1, this.nUnits));
    const populations = canvas(columns, Math.max(1, this.nPopulations));
    const tile = { number, kind, columns, levels, units, populations, isAsked: false, usedAt: 0 };
    this.tiles.set(`${kind} ${number}`, tile);
    this.dropUnused();
    return tile;
  }

  async fetch(tile) {
    if (this.nFetching >= MAX_FETCHES || !this.nRows) return;
    tile.isAsked = true;
    tile.askedAt = performance.now();
    this.nFetching += 1;
    const rows = this.nRows;
    try {
      const answer = await fetch(`tiles/${tile.kind}/${tile.number}`);
      if (!answer.ok) return;
      const levels = new Uint8Array(await answer.arrayBuffer());
      if (rows !== this.nRows || levels.length !== tile.levels.length) return;
      for (let at = 0; at < levels.length; at += 1) {
        if (tile.levels[at] === NO_DATA || tile.kind === "overview") tile.levels[at] = levels[at];
      }
      this.paint(tile);
      tile.isRecent = levels[levels.length - 1] === NO_DATA;
    } catch {
      tile.isAsked = false; // the server is away; asked again when the tile is drawn
    } finally {
      this.nFetching -= 1;
      this.onChange();
    }
  }

  paint(tile) {
    this.paintColumns(tile, 0, tile.columns);
  }

  paintColumns(tile, start, stop) {
    const width = stop - start;
    this.put(tile, tile.units, start, width, this.nUnits, () => this.palette.units, (row) => this.nPopulations + this.order[row]);
    this.put(tile, tile.populations, start, width, this.nPopulations, (row) => this.scales[row]?.table ?? this.palette.units, (row) => row);
  }

  put(tile, target, start, width, height, tableOf, rowOf) {
    if (!height) return;
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let row = 0; row < height; row += 1) {
      const source = rowOf(row);
      const table = tableOf(row);
      for (let column = 0; column < width; column += 1) {
        pixels[row * width + column] = table[tile.levels[(start + column) * this.nRows + source]];
      }
    }
    target.getContext("2d").putImageData(image, start, 0);
  }

  dropUnused() {
    const size = (tile) => tile.columns * this.nRows * 5;
    let bytes = 0;
    for (const tile of this.tiles.values()) bytes += size(tile);
    if (bytes <= MAX_BYTES) return;
    const byUse = [...this.tiles].sort((a, b) => a[1].usedAt - b[1].usedAt);
    for (const [key, tile] of byUse.slice(0, -4)) {
      this.tiles.delete(key);
      bytes -= size(tile);
      if (bytes <= MAX_BYTES) return;
    }
  }

  // The level of a unit's row or a population's row at a place of the axis; null without data.
  levelAt(x, row, isPopulation) {
    const number = Math.floor(x / TILE_S);
    const tile = this.tiles.get(`full ${number}`);
    if (!tile) return null;
    const column = Math.floor((x - number * TILE_S) * COLUMNS_PER_S);
    const source = isPopulation ? row : this.nPopulations + this.order[row];
    const level = tile.levels[column * this.nRows + source];
    return level === undefined || level === NO_DATA ? null : level;
  }
}

export function hzOfLevel(level) {
  return (level / 16) ** 2;
}

function canvas(width, height) {
  const made = document.createElement("canvas");
  made.width = width;
  made.height = height;
  return made;
}

function sorted(units, nUnits) {
  const order = Array.from({ length: nUnits }, (_, row) => row);
  if (!units || units.area.length !== nUnits) {
    return { order, groups: nUnits ? [{ name: "units", first: 0, n: nUnits }] : [] };
  }
  const sizes = new Map();
  for (const area of units.area) sizes.set(area, (sizes.get(area) ?? 0) + 1);
  const depth = (row) => units.depth_um?.[row] ?? 0;
  order.sort(
    (a, b) =>
      sizes.get(units.area[b]) - sizes.get(units.area[a]) ||
      units.area[a].localeCompare(units.area[b]) ||
      depth(a) - depth(b) ||
      a - b,
  );
  const groups = [];
  order.forEach((row, place) => {
    const name = units.area[row] || "no area";
    if (groups.at(-1)?.name === name) groups.at(-1).n += 1;
    else groups.push({ name, first: place, n: 1 });
  });
  return { order, groups };
}
