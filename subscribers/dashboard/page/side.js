// Latency, health and facts.

import uPlot from "./vendor/uPlot.esm.js";
import { count, element, milliseconds, sessionTime, setText, setValues, svg } from "./format.js";
import { after } from "./store.js";

const STAGES = ["cut", "encode", "wait", "prefill", "decode", "publish"];
const SILENT_S = 5; // as in `neurrate watch`
const STREAM_PROBLEMS = ["blind", "aside"];

export class Latency {
  constructor(store, view, palette) {
    Object.assign(this, { store, view, palette });
    this.list = document.getElementById("waterfall");
    this.box = document.getElementById("percentiles");
    this.total = document.getElementById("latency-total");
    this.values = document.getElementById("percentile-values");
    this.rows = STAGES.map((stage) => this.row(stage));
    this.list.replaceChildren(...this.rows.map((row) => row.item));
    new ResizeObserver(() => this.plotAnew()).observe(this.box);
  }

  row(stage) {
    const item = element("li");
    const picture = svg("svg", { viewBox: "0 0 100 9", preserveAspectRatio: "none", "aria-hidden": "true" });
    const bar = svg("rect", { class: `stage-${stage}`, y: 0, height: 9, x: 0, width: 0 });
    picture.append(svg("rect", { class: "track", x: 0, y: 4, width: 100, height: 1 }), bar);
    const value = element("span", "value");
    item.append(element("span", "", stage), picture, value);
    return { item, bar, value };
  }

  draw() {
    const lead = this.store.names().includes(this.view.lead) ? this.view.lead : this.store.names()[0];
    const [narration] = lead ? this.store.upTo(lead, this.view.moment, 1) : [];
    const stages = narration?.latency_ms;
    const number = stages ? milliseconds(stages.total) : "–";
    if (this.total.firstChild?.textContent !== number) {
      this.total.replaceChildren(number, element("span", "name", "newest"));
    }
    let reached = 0;
    STAGES.forEach((stage, at) => {
      const ms = stages ? Math.max(0, stages[stage]) : 0;
      const total = stages ? Math.max(stages.total, 0.001) : 1;
      this.rows[at].bar.setAttribute("x", String((100 * reached) / total));
      this.rows[at].bar.setAttribute("width", String(Math.max(stages ? 0.7 : 0, (100 * ms) / total)));
      setText(this.rows[at].value, stages ? milliseconds(ms) : "–");
      reached += ms;
    });
  }

  plotAnew() {
    this.plot?.destroy();
    this.plot = null;
    this.drawPercentiles();
  }

  drawPercentiles() {
    const { latency } = this.store;
    const stop = this.view.isLive ? latency.length : after(latency, this.view.edge);
    const shown = latency.slice(Math.max(0, after(latency, this.view.edge - Math.max(this.view.span, 120))), stop);
    const data = [
      shown.map((one) => this.store.sessionAt(one.x)),
      ...["p50", "p95", "p99"].map((name) => shown.map((one) => one[name])),
    ];
    const increases = data[0].every((value, at) => at === 0 || value > data[0][at - 1]);
    if (shown.length && increases && this.box.clientWidth > 40) {
      this.plot ??= this.make(data);
      this.plot.setData(data);
    }
    const newest = shown.at(-1);
    const texts = ["p50", "p95", "p99"].map((name) => [name, milliseconds(newest?.[name])]);
    this.values.replaceChildren(
      ...texts.map(([name, value]) => {
        const pair = element("div");
        pair.append(element("dt", "", name), element("dd", "", value));
        return pair;
      }),
    );
    const words = texts.map((pair) => pair.join(" ")).join(", ");
    this.box.setAttribute("aria-label", `Percentiles of the latency over time; now ${words}`);
  }

  make(data) {
    const { palette } = this;
    const font = `${window.innerWidth >= 1700 ? 14 : 11}px ${palette.sans}`;
    const axis = { stroke: palette["ink-3"], font, grid: { stroke: palette.line, width: 1 }, ticks: { show: false } };
    const line = (label, stage, width, dash) => ({ label, stroke: palette.time[stage], width, dash, points: { show: false } });
    return new uPlot(
      {
        width: this.box.clientWidth,
        height: this.box.clientHeight,
        cursor: { show: false },
        legend: { show: false },
        padding: [8, 6, 0, 0],
        scales: { x: { time: false }, y: { range: (_, low, high) => [0, Math.max(high, 1) * 1.1] } },
        axes: [
          { ...axis, size: 22, values: (_, ticks) => ticks.map((tick) => sessionTime(tick, 0)), space: 60 },
          { ...axis, size: 54, values: (_, ticks) => ticks.map((tick) => milliseconds(tick).replace(".0 ms", " ms")), space: 26 },
        ],
        series: [{}, line("p50", 4, 2.5), line("p95", 3, 1.6), line("p99", 2, 1.4, [4, 3])],
      },
      data,
      this.box,
    );
  }
}

export class Health {
  constructor(store) {
    this.store = store;
    this.state = document.getElementById("state");
    this.problems = document.getElementById("problems");
    this.streams = document.getElementById("streams");
    this.counts = document.getElementById("counts");
    this.notes = document.getElementById("notes");
    this.isConnected = false;
  }

  draw() {
    const { stats } = this.store.newest;
    const reasons = this.reasons(stats);
    const word = !stats && !reasons.length ? "waiting" : reasons.length ? "problem" : "ready";
    this.state.dataset.state = word;
    const text = word === "ready" ? "ready" : word === "waiting" ? "waiting" : "not ready";
    setText(this.state, text);
    this.problems.hidden = !reasons.length;
    if (this.problemText !== reasons.join("\n")) {
      this.problemText = reasons.join("\n");
      this.problems.replaceChildren(...reasons.map((reason) => element("p", "", reason)));
    }
    if (!stats) return;
    this.drawStreams(stats);
    this.drawCounts(stats);
    this.notes.replaceChildren(...stats.notes.map((note) => element("li", "", note)));
  }

  reasons(stats) {
    if (!this.isConnected) return ["this page has lost its server; it tries again each second. Is `neurrate dashboard` up?"];
    const silent = (this.store.now() - this.store.lastEventAt) / 1000;
    const { endpoint } = this.store;
    if (!this.store.lastEventAt) {
      return silentSince(this.store) > SILENT_S ? [`waiting for ${endpoint}: no message yet; is \`neurrate run\` up?`] : [];
    }
    if (silent > SILENT_S) return [`${endpoint} has been silent for ${5 * Math.floor(silent / 5)} s; has the daemon stopped?`];
    return stats?.reasons ?? [];
  }

  drawStreams(stats) {
    const rows = Object.entries(stats.streams).map(([name, stream]) => {
      const item = element("li");
      const word = element("span", "state-word", stream.state);
      word.classList.toggle("is-problem", STREAM_PROBLEMS.includes(stream.state));
      item.append(element("span", "title", name), word, element("span", "name", `until ${sessionTime(stream.covered_until_s)}`));
      return item;
    });
    this.streams.replaceChildren(...(rows.length ? rows : [element("li", "absent", "no source has said hello")]));
  }

  drawCounts(stats) {
    const { counters } = stats;
    const sum = (value) => (typeof value === "object" && value ? Object.values(value).reduce((a, b) => a + b, 0) : (value ?? 0));
    const dropped = Object.entries(counters.windows_dropped ?? {}).filter(([, n]) => n);
    const rows = [
      ["spikes binned", count(sum(counters.spikes_binned))],
      ["windows", count(sum(counters.windows))],
      ["narrations", count(sum(counters.narrations))],
      ["windows dropped", dropped.map(([reason, n]) => `${count(n)} ${reason.replaceAll("_", " ")}`).join(", ") || "0"],
      ["gap bins", count(sum(counters.gap_bins)), sum(counters.gap_bins) > 0],
      ["batches lost", count(sum(counters.batches_lost)), sum(counters.batches_lost) > 0],
      ["late spikes", count(sum(counters.spikes_late)), sum(counters.spikes_late) > 0],
      ["waiting for the narrator", `${count(stats.queue.waiting)} windows`],
    ];
    setValues(this.counts, rows);
  }
}

const startedMs = performance.now();

function silentSince() {
  return (performance.now() - startedMs) / 1000;
}

export function drawFacts(store) {
  const { encoder, daemon, sources } = store.newest;
  const rows = [];
  for (const source of sources.values()) {
    const begun = source.session_start_utc ? `, begun ${source.session_start_utc}` : "";
    rows.push(["source", `${source.source}: ${count(source.n_units)} units${begun}`]);
    if (source.table) rows.push(["units from", source.table]);
  }
  if (encoder) {
    const scores = Object.entries(encoder.scores).map(([name, value]) => `${name.replaceAll("_", " ")} ${value.toPrecision(3)}`);
    rows.push(
      ["bundle", `${encoder.bundle.slice(0, 12)}${encoder.trained ? "" : ": random weights, its narrations are noise"}`, !encoder.trained],
      ["trained on", [encoder.recording, encoder.session_id].filter(Boolean).join(", ")],
      ["held-out scores", scores.slice(0, 4).join(", ") || "none"],
      ["window", `${milliseconds(1000 * encoder.window.duration_s)}, one each ${milliseconds(1000 * encoder.window.stride_s)}`],
      ["lag", milliseconds(1000 * encoder.window.lag_s)],
      ["confidence", encoder.has_confidence ? "calibrated on the training session" : "not calibrated"],
      ["language model", encoder.language_model],
    );
  }
  if (daemon) {
    const version = [daemon.software.version, daemon.software.commit?.slice(0, 12)].filter(Boolean).join(" ");
    rows.push(["daemon", `neurrate ${version}, ${daemon.backend}, hand-over ${daemon.policy}`]);
  }
  setValues(document.getElementById("facts"), rows.length ? rows : [["daemon", "not heard of yet"]]);
  const source = [...sources.values()].map((one) => one.source).join(", ");
  setText(document.getElementById("source"), source);
}
