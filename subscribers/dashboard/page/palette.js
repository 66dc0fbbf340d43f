// The colours of canvases, taken from the style sheet, so that each has one meaning everywhere.

const STOPS = 5;
export const NO_DATA = 255;

export class Palette {
  constructor() {
    this.read();
  }

  read() {
    const style = getComputedStyle(document.documentElement);
    const named = (name) => style.getPropertyValue(`--${name}`).trim();
    for (const name of ["panel", "line", "ink", "ink-2", "ink-3", "truth", "trigger", "problem", "hatch", "raised"]) {
      this[name] = named(name);
    }
    this.time = [1, 2, 3, 4, 5, 6].map((stage) => named(`time-${stage}`));
    this.sans = named("sans");
    this.serif = named("serif");
    const ramp = Array.from({ length: STOPS }, (_, stop) => rgb(named(`activity-${stop}`)));
    this.activity = ramp.map(([r, g, b]) => `rgb(${r} ${g} ${b})`);
    this.units = lookup(ramp, 0, 130);
    this.ramp = ramp;
  }
}

// From a level (16 times the root of the spikes a second) to a pixel; no data is transparent.
export function lookup(ramp, darkest, brightest) {
  const table = new Uint32Array(256);
  const bytes = new Uint8Array(table.buffer);
  for (let level = 0; level < 255; level += 1) {
    const share01 = (level - darkest) / Math.max(1, brightest - darkest);
    const place = Math.min(Math.max(share01, 0), 1) * (STOPS - 1);
    const at = Math.min(Math.floor(place), STOPS - 2);
    const share = place - at;
    for (let channel = 0; channel < 3; channel += 1) {
      bytes[4 * level + channel] = Math.round(
        ramp[at][channel] * (1 - share) + ramp[at + 1][channel] * share,
      );
    }
    bytes[4 * level + 3] = 255;
  }
  return table;
}

function rgb(hex) {
  const number = Number.parseInt(hex.slice(1), 16);
  return [number >> 16, (number >> 8) & 255, number & 255];
}
