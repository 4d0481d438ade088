// Unmodified centrifuge-js, JSON and Protobuf, against edges whose addresses are
// in HEADRACE_EDGES (comma-separated). Every new connection goes to the next edge,
// as behind a balancer without affinity. HEADRACE_TOKEN names a channel to be
// subscribed by the server.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { once, EventEmitter } from 'node:events';
import WebSocket from 'ws';
import { Centrifuge as JSONClient } from 'centrifuge';
import { Centrifuge as ProtobufClient } from 'centrifuge/build/protobuf';

const edges = process.env.HEADRACE_EDGES.split(',');
let turn = 0;

class Balanced extends WebSocket {
  constructor(url, protocols) {
    super(edges[turn++ % edges.length].replace('http', 'ws') + '/connection/websocket', protocols);
  }
}

const kinds = {
  json: { make: (more) => new JSONClient('ws://balancer', { ...options(), ...more }), encode: (v) => v, decode: (v) => v },
  protobuf: {
    make: (more) => new ProtobufClient('ws://balancer', { ...options(), ...more }),
    encode: (v) => new TextEncoder().encode(JSON.stringify(v)),
    decode: (v) => JSON.parse(new TextDecoder().decode(v)),
  },
};

function options() {
  return { websocket: Balanced, minReconnectDelay: 10, maxReconnectDelay: 200, timeout: 10000 };
}

// waitFor resolves with the first event of emitter that satisfies ok.
function waitFor(emitter, event, ok = () => true) {
  return new Promise((resolve) => {
    const on = (ctx) => {
      if (ok(ctx)) {
        emitter.removeListener(event, on);
        resolve(ctx);
      }
    };
    emitter.on(event, on);
  });
}

// serverSide is the channel that the token in HEADRACE_TOKEN subscribes to.
const serverSide = 'h:server-js';

let serial = 0;
const fresh = (namespace) => `${namespace}:js-${process.pid}-${serial++}`;

for (const [kind, { make, encode, decode }] of Object.entries(kinds)) {
  const withClients = (n, body) => async () => {
    const clients = Array.from({ length: n }, () => make());
    try {
      clients.forEach((c) => c.connect());
      await Promise.all(clients.map((c) => c.ready(10000)));
      await body(...clients);
    } finally {
      clients.forEach((c) => c.disconnect());
    }
  };

  test(`${kind}: a map is read in pages and followed from edge to edge, under writes`, withClients(2, async (a, b) => {
    const channel = fresh('map');
    const written = new Map();
    let writing = true;
    const writer = (async () => {
      for (let n = 0; writing; n++) {
        const key = `key ${n % 40}`;
        if (n % 9 === 8) {
          await b.mapRemove(channel, key);
          written.delete(key);
        } else {
          await b.mapPublish(channel, key, encode({ n }));
          written.set(key, n);
        }
      }
    })();
    const sub = a.newMapSubscription(channel, { pageSize: 7 });
    const seen = new Map();
    let at = 0;
    sub.on('sync', ({ entries }) => {
      seen.clear();
      at = 0;
      for (const e of entries) { seen.set(e.key, decode(e.data).n); at = Math.max(at, e.offset); }
    });
    let doubles = 0;
    sub.on('update', (u) => {
      if (u.offset <= at) doubles++;
      at = u.offset;
      if (u.removed) seen.delete(u.key); else seen.set(u.key, decode(u.data).n);
    });
    let recovered = 0;
    sub.on('subscribed', (ctx) => { if (ctx.recovered) recovered++; });
    sub.subscribe();
    await sub.ready(10000);
    for (let i = 0; i < 6; i++) {
      a.disconnect();
      if (i === 3) sub._invalidateState(); // as the server would: read everything again
      a.connect();
      await sub.ready(10000);
      await new Promise((resolve) => setTimeout(resolve, 100)); // the load goes on
    }
    writing = false;
    await writer;
    const same = () => seen.size === written.size && [...written].every(([k, n]) => seen.get(k) === n);
    for (const end = Date.now() + 10000; !same() && Date.now() < end;) {
      await new Promise((resolve) => setTimeout(resolve, 20)); // a poll with a deadline
    }
    assert.deepEqual(new Map([...seen].sort()), new Map([...written].sort()));
    assert.equal(doubles, 0);
    assert.ok(recovered >= 3, `${recovered} recoveries`);
  }));

  test(`${kind}: deltas of streams and maps, across edges`, withClients(2, async (a, b) => {
    const value = (n) => ({ n, text: 'größer <und> "gleich" '.repeat(1 + (n % 7)), at: n * n });
    for (const namespace of ['h', 'map']) {
      const channel = fresh(namespace);
      const sub = namespace === 'map' ? a.newMapSubscription(channel, { delta: 'fossil' }) : a.newSubscription(channel, { delta: 'fossil' });
      const seen = [];
      const news = new EventEmitter();
      const see = (p) => { seen.push(p.removed ? `${p.key} removed` : `${p.key ?? ''} ${JSON.stringify(decode(p.data))}`); news.emit('seen'); };
      sub.on('sync', ({ entries }) => entries.forEach(see));
      sub.on(namespace === 'map' ? 'update' : 'publication', see);
      const want = [];
      const send = async (n) => {
        if (namespace === 'h') {
          want.push(`${JSON.stringify(value(n))}`.replace(/^/, ' '));
          await b.publish(channel, encode(value(n)));
        } else if (n % 11 === 10) {
          want.push('k1 removed');
          await b.mapRemove(channel, 'k1');
        } else {
          want.push(`k${n % 3} ${JSON.stringify(value(n))}`);
          await b.mapPublish(channel, `k${n % 3}`, encode(value(n)));
        }
      };
      await send(1);
      if (namespace === 'h') want.pop(); // before it came
      sub.subscribe();
      await sub.ready(10000);
      for (let n = 2; n < 60; n++) {
        if (n % 12 === 0) a.disconnect(); // the next edge
        await send(n);
        if (n % 12 === 3) {
          a.connect();
          await sub.ready(10000);
        }
      }
      a.connect();
      while (seen.length < want.length) await once(news, 'seen');
      assert.deepEqual(seen, want);
      const stats = sub.deltaStats();
      assert.ok(stats.numDeltaPayloads > 20, JSON.stringify(stats));
    }
  }));

  test(`${kind}: the members of a channel are a map`, withClients(2, async (a, b) => {
    const channel = fresh('mapown');
    const members = b.newMapClientsSubscription(`who:${channel}`);
    const came = waitFor(members, 'update', (u) => !u.removed);
    members.subscribe();
    await members.ready(10000);
    const sub = a.newMapSubscription(channel);
    const connected = new Promise((resolve) => { a.once('connected', (ctx) => resolve(ctx.client)); });
    a.disconnect();
    a.connect();
    const client = await connected;
    sub.subscribe();
    await sub.ready(10000);
    assert.equal((await came).key, client);
    const left = waitFor(members, 'update', (u) => u.removed);
    a.disconnect();
    assert.equal((await left).key, client);
  }));

  test(`${kind}: the users in a channel are a map`, withClients(1, async (b) => {
    const channel = fresh('room');
    const twice = [1, 2].map(() => make({ token: process.env.HEADRACE_TOKEN }));
    const users = b.newMapUsersSubscription(`users:${channel}`);
    const updates = [];
    users.on('update', (u) => updates.push([u.key, !u.removed]));
    users.subscribe();
    await users.ready(10000);
    for (const c of twice) {
      c.connect();
      const sub = c.newSubscription(channel, { joinLeave: true });
      sub.subscribe();
      await sub.ready(10000);
    }
    const left = waitFor(users, 'update', (u) => u.removed);
    twice.forEach((c) => c.disconnect());
    await left;
    assert.deepEqual(updates, [['js', true], ['js', false]]);
  }));

  test(`${kind}: a publication reaches a client of another edge`, withClients(2, async (a, b) => {
    for (const namespace of ['h', 'eph']) {
      const channel = fresh(namespace);
      const sub = a.newSubscription(channel);
      sub.subscribe();
      await sub.ready(10000);
      const got = waitFor(sub, 'publication');
      // Interest spreads through NATS in its own time; without history a
      // publication may come too early, so it is repeated until one arrives.
      let arrived = false;
      got.then(() => { arrived = true; });
      do {
        await b.publish(channel, encode({ n: 1 }));
      } while (namespace === 'eph' && !arrived);
      assert.deepEqual(decode((await got).data), { n: 1 });
    }
  }));

  test(`${kind}: what was missed comes after reconnecting to another edge`, withClients(2, async (a, b) => {
    const channel = fresh('h');
    const seen = [];
    const news = new EventEmitter();
    const sub = a.newSubscription(channel);
    sub.on('publication', (ctx) => { seen.push(decode(ctx.data)); news.emit('seen'); });
    sub.subscribe();
    await sub.ready(10000);
    await b.publish(channel, encode(1));
    while (seen.length < 1) await once(news, 'seen');
    a.disconnect();
    await b.publish(channel, encode(2));
    await b.publish(channel, encode(3));
    const back = waitFor(sub, 'subscribed');
    a.connect();
    const ctx = await back;
    assert.equal(ctx.wasRecovering, true);
    assert.equal(ctx.recovered, true);
    await b.publish(channel, encode(4));
    while (seen.length < 4) await once(news, 'seen');
    assert.deepEqual(seen, [1, 2, 3, 4]);
  }));

  test(`${kind}: history, presence and unknown things`, withClients(2, async (a, b) => {
    const channel = fresh('h');
    const sub = a.newSubscription(channel);
    sub.subscribe();
    await sub.ready(10000);
    for (const n of [1, 2, 3]) await b.publish(channel, encode(n));
    const history = await sub.history({ limit: 2 });
    assert.deepEqual(history.publications.map((p) => decode(p.data)), [1, 2]);
    assert.equal(history.offset, 3);
    const stats = await sub.presenceStats();
    assert.equal(stats.numClients, 1);
    const other = b.newSubscription(channel);
    other.subscribe();
    await other.ready(10000);
    assert.equal(Object.keys((await sub.presence()).clients).length, 2);
    await assert.rejects(a.rpc('nobody', encode(1)), (err) => err.code === 104);
    const unknown = b.newSubscription('nowhere:x');
    const refused = waitFor(unknown, 'unsubscribed');
    unknown.subscribe();
    assert.equal((await refused).code, 102);
  }));

  test(`${kind}: rpc reaches back ends`, withClients(1, async (a) => {
    assert.deepEqual(decode((await a.rpc('echo', encode({ n: 1 }))).data), { n: 1 });
    await assert.rejects(a.rpc('shop.buy', encode(1)), (err) => err.code === 402 && err.message === 'Payment Required');
  }));

  test(`${kind}: jobs pushed by one client are done by another, retried, and redriven`, withClients(2, async (pusher, worker) => {
    const queue = 'q0';
    const call = async (client, method, data) => decode((await client.rpc(`queue.${method}`, encode({ queue, ...data }))).data);
    const sub = worker.newSubscription(`queue:${queue}`, { data: encode({ credits: 2 }) });
    const jobs = [];
    const more = new EventEmitter();
    sub.on('publication', (ctx) => { jobs.push(decode(ctx.data)); more.emit('job'); });
    const next = async () => {
      while (jobs.length === 0) await once(more, 'job');
      return jobs.shift();
    };
    sub.subscribe();
    await sub.ready(10000);

    const { id } = await call(pusher, 'push', { data: { kind }, headers: { 'Träce': '1' }, priority: 'high' });
    let job = await next();
    assert.deepEqual([job.id, job.attempt, job.data, job.headers], [id, 1, { kind }, { 'Träce': '1' }]);
    await call(worker, 'nack', { token: job.token, error: 'not yet', delay: '50ms' });
    job = await next();
    assert.deepEqual([job.id, job.attempt, job.last_error], [id, 2, 'not yet']);
    await call(worker, 'extend', { token: job.token });
    await call(worker, 'nack', { token: job.token, error: 'never', final: true });
    const { dead } = await call(worker, 'dead', {});
    const letter = dead.find((d) => d.id === id);
    assert.deepEqual([letter.reason, letter.error, letter.attempts], ['final', 'never', 2]);
    assert.deepEqual(await call(pusher, 'redrive', { seqs: [letter.seq] }), { redriven: 1 });
    job = await next();
    assert.deepEqual([job.redriven, job.attempt, job.headers], [1, 1, { 'Träce': '1' }]);

    // It holds the job across a reconnect to another edge, and settles it there.
    worker.disconnect();
    worker.connect();
    await worker.ready(10000);
    await call(worker, 'ack', { token: job.token });
    await assert.rejects(call(worker, 'nack', { token: job.token }), (err) => err.message === 'the job was ended before');
    await assert.rejects(call(pusher, 'push', { data: 1, priorty: 'high' }), (err) => err.code === 107 && err.message.includes('priorty'));
    await assert.rejects(sub.presence(), (err) => err.code === 108);
    assert.equal(jobs.length, 0);
  }));

  test(`${kind}: server-side subscriptions recover on another edge`, withClients(1, async (b) => {
    const a = make({ token: process.env.HEADRACE_TOKEN });
    const seen = [];
    const news = new EventEmitter();
    a.on('publication', (ctx) => { seen.push(`${ctx.channel} ${decode(ctx.data)}`); news.emit('seen'); });
    const first = waitFor(a, 'subscribed');
    a.connect();
    assert.equal((await first).channel, serverSide);
    try {
      await b.publish(serverSide, encode(1));
      while (seen.length < 1) await once(news, 'seen');
      a.disconnect();
      await b.publish(serverSide, encode(2));
      await b.publish(serverSide, encode(3));
      const back = waitFor(a, 'subscribed');
      a.connect();
      assert.equal((await back).recovered, true);
      await b.publish(serverSide, encode(4));
      while (seen.length < 4) await once(news, 'seen');
      assert.deepEqual(seen, [1, 2, 3, 4].map((n) => `${serverSide} ${n}`));
    } finally {
      a.disconnect();
    }
  }));
}
