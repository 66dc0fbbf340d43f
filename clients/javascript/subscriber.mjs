// Print narrations and triggers as they come: node subscriber.mjs [ADDRESS]
//
// A number above 2^53, as the stamps of host_ns may be, is rounded by JSON.parse; nothing here uses
// them. What the fields mean: docs/narration-format.md.
import { Subscriber } from "zeromq";

const socket = new Subscriber();
socket.subscribe("narration.", "trigger.");
socket.connect(process.argv[2] ?? "tcp://127.0.0.1:5571");

const last = new Map(); // by topic: run of the daemon, number of the message

// Return how many messages are missing before one; -1 if it was received before.
function missing(topic, message) {
  const run = message.id.slice(0, message.id.lastIndexOf(`-${topic.split(".")[1]}-`));
  const before = last.get(topic);
  const expected = before === undefined ? message.seq : before.run === run ? before.seq + 1 : 0;
  if (message.seq < expected) return -1;
  last.set(topic, { run, seq: message.seq });
  return message.seq - expected;
}

for await (const [topicBytes, payload] of socket) {
  const topic = topicBytes.toString();
  let message;
  try {
    message = JSON.parse(payload.toString());
  } catch {
    message = {};
  }
  if (message.version !== 1) {
    console.error(`not read, of another version: ${topic}`);
    continue;
  }
  const n = missing(topic, message);
  if (n < 0) continue;
  if (n > 0) console.log(`missed ${n} of ${topic}`);
  if (message.repeat) continue; // sent before we came: a display may show it
  if (topic.startsWith("narration.")) {
    console.log(`${message.population}: ${message.text}`);
  } else {
    console.log(`${message.name} at ${message.window.frame_s.toFixed(2)} s`);
  }
}
