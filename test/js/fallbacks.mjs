// Unmodified centrifuge-js over HTTP streaming or SSE, HEADRACE_KIND, through the
// balancer at HEADRACE_URL that sends each request to another edge. It prints
// "kill n" when an edge is to die, reads a line when that is done, and ends with
// status 0 when nothing was lost, doubled or out of order.
import assert from 'node:assert/strict';
import { createInterface } from 'node:readline';
import EventSource from 'eventsource';
import { Centrifuge as JSONClient } from 'centrifuge';
import { Centrifuge as ProtobufClient } from 'centrifuge/build/protobuf';

const base = process.env.HEADRACE_URL;
const [transport, protobuf] = process.env.HEADRACE_KIND.split('-');
const Client = protobuf ? ProtobufClient : JSONClient;
const encode = (v) => (protobuf ? new TextEncoder().encode(JSON.stringify(v)) : v);
const decode = (v) => (protobuf ? JSON.parse(new TextDecoder().decode(v)) : v);

// centrifuge-js posts commands without looking at what becomes of the request.
process.on('unhandledRejection', (err) => { if (!/fetch failed/.test(err)) throw err; });

function connect() {
  const client = new Client([{ transport, endpoint: `${base}/connection/${transport}` }], {
    emulationEndpoint: `${base}/emulation`, eventsource: EventSource, minReconnectDelay: 10, maxReconnectDelay: 200, timeout: 5000,
  });
  client.connect();
  return client;
}

// collect subscribes and resolves with what was published, when it is n publications.
async function collect(client, channel, n) {
  const sub = client.newSubscription(channel, { recoverable: true });
  const got = [];
  let lost = 0;
  const done = new Promise((resolve) => {
    sub.on('publication', ({ data }) => { got.push(decode(data).n); if (got.length >= n) setTimeout(resolve, 100); });
  });
  sub.on('subscribed', (ctx) => { if (ctx.wasRecovering && !ctx.recovered) lost++; });
  sub.subscribe();
  await sub.ready(10000);
  return { done: done.then(() => got), lost: () => lost };
}

const numbers = (n) => Array.from({ length: n }, (_, i) => i);
const channel = `h:fallback-${process.env.HEADRACE_KIND}`;
const reader = connect();
const writer = connect();
await Promise.all([reader.ready(10000), writer.ready(10000)]);

// Each publication is a request of its own, and none waits for the one before.
const inOrder = await collect(reader, `${channel}-order`, 100);
await Promise.all(numbers(100).map((n) => writer.publish(`${channel}-order`, encode({ n }))));
assert.deepEqual(await inOrder.done, numbers(100));

// The reader's edge dies again and again. The API takes an idempotency key, so that
// a publication may be repeated.
let connects = 0;
let killed = Promise.resolve();
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
reader.on('connected', () => connects++);
const survived = await collect(reader, channel, 60);
for (const n of numbers(60)) {
  if (n % 10 === 5) {
    await killed; // it took as long as ten publications, or longer
    console.log('kill', n / 10 | 0);
    killed = answers.next();
  }
  for (let sent = false; !sent;) {
    const res = await fetch(`${base}/api/publish`, { method: 'POST', body: JSON.stringify({ channel, data: { n }, idempotency_key: `${channel}${n}` }) }).catch(() => null);
    sent = res?.ok && (await res.json()).error === undefined;
  }
}
await killed;
assert.deepEqual(await survived.done, numbers(60));
assert.equal(survived.lost(), 0);
assert.ok(connects > 0, 'no edge died under the reader');
reader.disconnect();
writer.disconnect();
console.log(`${process.env.HEADRACE_KIND}: ${connects} reconnects`);
process.exit(0);
