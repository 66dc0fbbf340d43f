// Numbers and times as people read them.

export function sessionTime(seconds, digits = 1) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const sign = seconds < 0 ? "−" : "";
  const total = Math.abs(seconds);
  const factor = 10 ** digits;
  const rounded = Math.floor(total * factor + 1e-6) / factor;
  const hours = Math.floor(rounded / 3600);
  const minutes = Math.floor((rounded % 3600) / 60);
  const rest = (rounded % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  return hours
    ? `${sign}${hours}:${String(minutes).padStart(2, "0")}:${rest}`
    : `${sign}${minutes}:${rest}`;
}

export function age(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const shown = Math.max(0, seconds);
  if (shown < 10) return `${shown.toFixed(1)} s`;
  if (shown < 100) return `${Math.round(shown)} s`;
  return shown < 5400 ? `${Math.round(shown / 60)} min` : `${(shown / 3600).toFixed(1)} h`;
}

export function milliseconds(ms) {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return "–";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

export function count(number) {
  return Math.round(number).toLocaleString("en");
}

export function fraction(value) {
  return value === null || value === undefined ? "–" : value.toFixed(2);
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

// Text is set as text, never as markup: what comes from outside stays what it is.
export function element(tag, className = "", text = null) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== null) made.textContent = text;
  return made;
}

export function svg(tag, attributes = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return made;
}

export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

// Rows of a <dl>: [name, value, isProblem]; only what has changed is touched.
export function setValues(list, rows) {
  while (list.children.length > 2 * rows.length) list.lastChild.remove();
  rows.forEach(([name, value, isProblem], row) => {
    if (!list.children[2 * row]) list.append(element("dt"), element("dd"));
    setText(list.children[2 * row], name);
    const cell = list.children[2 * row + 1];
    setText(cell, value);
    cell.classList.toggle("is-problem", Boolean(isProblem));
  });
}
