// Print narrations and triggers as they come: node subscriber.mjs [ADDRESS [KEY SERVER_KEY]]
//
// Where the daemon has keys, KEY is the file NAME.key_secret of a pair of one's own, and SERVER_KEY
// the daemon's NAME.key: docs/security.md.
//
// A number above 2^53, as the stamps of host_ns may be, is rounded by JSON.parse; nothing here uses
// them. What the fields mean: docs/narration-format.md.
import { readFileSync, statSync } from "node:fs";
import { Subscriber } from "zeromq";

const [address = "tcp://127.0.0.1:5571", keyFile, serverKeyFile] = process.argv.slice(2);

// Return a key of a file that `neurrate keys new` has made.
function readKey(path, kind) {
  const found = new RegExp(`^\\s*${kind}\\s*=\\s*"(.{40})"`, "m").exec(readFileSync(path, "utf8"));
  if (found === null) throw new Error(`${path} holds no ${kind}`);
  return found[1];
}

// Return what to connect with: nothing, or a pair of keys and the daemon's public one.
function curveOptions() {
  if (keyFile === undefined) return {};
  if (serverKeyFile === undefined) throw new Error("KEY and SERVER_KEY are given together");
  if (statSync(keyFile).mode & 0o077) throw new Error(`others can read it: chmod 600 ${keyFile}`);
  return {
    curveServerKey: readKey(serverKeyFile, "public-key"),
    curvePublicKey: readKey(keyFile, "public-key"),
    curveSecretKey: readKey(keyFile, "secret-key"),
  };
}

// A machine that lost its power has ended no connection: look whether it is there.
const alive = { tcpKeepalive: 1, tcpKeepaliveIdle: 2, tcpKeepaliveInterval: 2, tcpKeepaliveCount: 4 };
const socket = new Subscriber({ ...alive, ...curveOptions() });
socket.subscribe("narration.", "trigger.");
socket.connect(address);

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
