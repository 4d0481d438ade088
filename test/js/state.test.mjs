// Two devices of one user edit the same keys with unmodified centrifuge-js, each
// connected to an edge of its own, online and offline. HEADRACE_EDGES and
// HEADRACE_TOKEN are as in clients.test.mjs.
import { test } from 'node:test';
import assert from 'node:assert/strict';
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

const options = { websocket: Balanced, token: process.env.HEADRACE_TOKEN, minReconnectDelay: 10, maxReconnectDelay: 200, timeout: 10000 };

const kinds = {
  json: { make: () => new JSONClient('ws://balancer', options), call: async (c, method, data) => (await c.rpc(method, data)).data, decode: (v) => v },
  protobuf: {
    make: () => new ProtobufClient('ws://balancer', options),
    call: async (c, method, data) => JSON.parse(new TextDecoder().decode((await c.rpc(method, new TextEncoder().encode(JSON.stringify(data)))).data)),
    decode: (v) => JSON.parse(new TextDecoder().decode(v)),
  },
};

let serial = 0;
const fresh = (namespace) => `${namespace}:js-${process.pid}-${serial++}`;

for (const [kind, { make, call, decode }] of Object.entries(kinds)) {
  const value = async (client, channel, key) => (await call(client, 'state.get', { channel, key, fresh: true })).entry?.data;

  // update reads a key, changes its value and stores it, again and again until
  // nobody else has changed it in between.
  async function update(client, channel, key, change) {
    let { entry } = await call(client, 'state.get', { channel, key });
    for (;;) {
      const there = entry && !entry.removed;
      const res = await call(client, 'state.set', {
        channel, key, data: change(there ? entry.data : undefined),
        expect: there ? { version: entry.version, life: entry.life } : { version: 0 },
      });
      if (res.applied) return res.entry;
      entry = res.entry;
    }
  }

  // Outbox keeps changes until they are answered. Sending twice does no harm.
  class Outbox {
    changes = [];
    constructor(client, channel) {
      this.client = client;
      this.channel = channel;
    }
    add(change) {
      this.changes.push({ time: Date.now(), idempotency_key: crypto.randomUUID(), ...change });
    }
    async send() {
      const all = [];
      while (this.changes.length > 0) {
        const { results } = await call(this.client, 'state.sync', { channel: this.channel, changes: this.changes.slice(0, 100) });
        this.changes.splice(0, results.length);
        all.push(...results);
      }
      return all;
    }
  }

  const devices = (name, body) => test(`${kind}: ${name}`, async () => {
    const clients = [make(), make()];
    try {
      clients.forEach((c) => c.connect());
      await Promise.all(clients.map((c) => c.ready(10000)));
      await body(...clients);
    } finally {
      clients.forEach((c) => c.disconnect());
    }
  });

  // offline runs edit without a connection of client, which comes back through
  // another edge.
  async function offline(client, edit) {
    client.disconnect();
    await edit();
    client.connect();
    await client.ready(10000);
  }

  devices('a counter that both count loses nothing', async (a, b) => {
    const channel = fresh('doc');
    const count = async (c) => {
      for (let i = 0; i < 20; i++) await update(c, channel, 'n', (n) => (n ?? 0) + 1);
    };
    await Promise.all([count(a), count(b)]);
    assert.equal(await value(a, channel, 'n'), 40);
    const { entries } = await call(b, 'state.history', { channel, key: 'n' });
    assert.deepEqual(entries.map((e) => [e.version, e.data]), Array.from({ length: 10 }, (_, i) => [40 - i, 40 - i]));
  });

  devices('reject: the change made offline is refused, and made again on what is current', async (a, b) => {
    const channel = fresh('doc');
    const first = await update(a, channel, 'title', () => 'draft');
    const outbox = new Outbox(a, channel);
    await offline(a, async () => {
      outbox.add({ key: 'title', data: 'mine', expect: { version: first.version, life: first.life } });
      await update(b, channel, 'title', () => 'theirs');
    });
    const [refused] = await outbox.send();
    assert.deepEqual([refused.applied, refused.reason, refused.entry.data, refused.entry.version], [false, 'conflict', 'theirs', 2]);
    const merged = await update(a, channel, 'title', (current) => `${current} and mine`);
    assert.equal(merged.version, 3);
    assert.equal(await value(b, channel, 'title'), 'theirs and mine');
  });

  devices('lastWriteWins: the later change stays, whichever arrives first', async (a, b) => {
    const channel = fresh('note');
    const outbox = new Outbox(a, channel);
    const now = Date.now() - 10000;
    await offline(a, async () => {
      outbox.add({ key: 'later', data: 'offline', time: now + 2000 });
      outbox.add({ key: 'earlier', data: 'offline', time: now });
      outbox.add({ key: 'gone', remove: true, time: now + 2000 });
      for (const key of ['later', 'earlier', 'gone']) {
        assert.equal((await call(b, 'state.set', { channel, key, data: 'online', time: now + 1000 })).applied, true);
      }
    });
    const [later, earlier, gone] = await outbox.send();
    assert.deepEqual([later.applied, later.entry.data], [true, 'offline']);
    assert.deepEqual([earlier.applied, earlier.reason, earlier.entry.data], [false, 'older', 'online']);
    assert.deepEqual([gone.applied, gone.entry.removed], [true, true]);
    assert.equal(await value(b, channel, 'later'), 'offline');
    assert.equal(await value(b, channel, 'earlier'), 'online');
    assert.equal(await value(b, channel, 'gone'), undefined);
    const late = await call(b, 'state.set', { channel, key: 'gone', data: 'before the removal', time: now + 1500 });
    assert.deepEqual([late.applied, late.reason], [false, 'older']);
  });

  devices('merge: both changes of one object stay', async (a, b) => {
    const channel = fresh('form');
    await call(a, 'state.set', { channel, key: 'f', data: { name: 'Ann', phone: 1, address: { city: 'Ulm', zip: 1 } } });
    const outbox = new Outbox(a, channel);
    await offline(a, async () => {
      outbox.add({ key: 'f', data: { phone: 2, address: { city: 'Bonn' } } });
      await call(b, 'state.set', { channel, key: 'f', data: { name: 'Anna', address: { zip: null } } });
    });
    const [res] = await outbox.send();
    assert.equal(res.applied, true);
    assert.deepEqual(await value(b, channel, 'f'), { name: 'Anna', phone: 2, address: { city: 'Bonn' } });
  });

  devices('custom: the back end decides about each change', async (a, b) => {
    const channel = fresh('stock');
    await call(a, 'state.set', { channel, key: 'apples', data: { add: 5 } });
    const outbox = new Outbox(a, channel);
    await offline(a, async () => {
      outbox.add({ key: 'apples', data: { add: -3 } });
      outbox.add({ key: 'apples', data: { add: -3 } });
      outbox.add({ key: 'apples', data: { add: -1 } });
      await call(b, 'state.set', { channel, key: 'apples', data: { add: -1 } });
    });
    const results = await outbox.send();
    // Changes by a back end are made in order too: 4 - 3, not - 3, - 1.
    assert.deepEqual(results.map((r) => [r.applied, r.reason ?? '', r.message ?? '']), [[true, '', ''], [false, 'rejected', 'sold out'], [true, '', '']]);
    assert.deepEqual(await value(b, channel, 'apples'), { left: 0 });
  });

  devices('an outbox whose answer is lost is sent again, and nothing happens twice', async (a, b) => {
    const channel = fresh('doc');
    const outbox = new Outbox(a, channel);
    for (let i = 0; i < 250; i++) outbox.add({ key: `k${i % 50}`, data: i });
    const sent = [...outbox.changes];
    const once = await outbox.send();
    assert.equal(once.length, 250);
    assert.ok(once.every((r) => r.applied), JSON.stringify(once.find((r) => !r.applied)));
    await offline(a, async () => { outbox.changes = sent; });
    const twice = await outbox.send();
    assert.ok(twice.every((r) => r.applied), JSON.stringify(twice.find((r) => !r.applied)));
    // What is among the last 100 changes (history_size) is still there to be told of.
    for (const [i, r] of twice.entries()) {
      if (i >= 150 && r.duplicate) assert.equal(r.entry.version, once[i].entry?.version ?? r.entry.version);
    }
    assert.ok(twice.filter((r) => r.duplicate).length > 200);
    for (let i = 0; i < 50; i++) {
      const { entry } = await call(b, 'state.get', { channel, key: `k${i}`, fresh: true });
      assert.deepEqual([entry.version, entry.data], [5, 200 + i]);
    }
  });

  devices('errors are the server\'s, and name what is wrong', async (a) => {
    const channel = fresh('doc');
    const refused = async (method, data, code, text) => assert.rejects(() => call(a, method, { channel, key: 'k', ...data }),
      (e) => e.code === code && e.message.includes(text) || assert.fail(`${method}: ${e.code} ${e.message}`));
    await refused('state.get', { version: 7 }, 112, 'version 7');
    await refused('state.set', { data: 1, strategy: 'firstWriteWins' }, 107, 'unknown strategy');
    await refused('state.set', { data: 1, key: 'k'.repeat(129) }, 106, 'key has 129 bytes');
    await refused('state.set', { data: 'x'.repeat(1000) }, 106, 'value has 1002 bytes');
    await refused('state.set', { data: 1, channel: 'h:x' }, 108, 'no maps');
    await refused('state.set', { data: 1, expected: 1 }, 107, 'unknown field "expected"');
    await refused('state.nonsense', {}, 104, 'method not found');
  });

  devices('a value that expires is gone for everybody, and its version is not used again', async (a, b) => {
    const channel = fresh('doc');
    const { entry } = await call(a, 'state.set', { channel, key: 'lock', data: 'a', ttl: '1s', expect: { version: 0 } });
    assert.equal((await call(b, 'state.set', { channel, key: 'lock', data: 'b', expect: { version: 0 } })).reason, 'exists');
    for (;;) {
      const res = await call(b, 'state.set', { channel, key: 'lock', data: 'b', expect: { version: 0 } });
      if (res.applied) {
        assert.ok(res.entry.version > entry.version && res.entry.life === entry.life, JSON.stringify(res));
        break;
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  });

  devices('who watches a map has what the store has, while both devices change it', async (a, b) => {
    const channel = fresh('doc');
    await call(a, 'state.set', { channel, key: 'k0', data: 'before' });
    const sub = b.newMapSubscription(channel);
    const map = new Map();
    sub.on('sync', ({ entries }) => {
      map.clear();
      for (const e of entries) map.set(e.key, decode(e.data));
    });
    sub.on('update', (e) => (e.removed ? map.delete(e.key) : map.set(e.key, decode(e.data))));
    sub.subscribe();
    await sub.ready(10000);
    await Promise.all([a, b].map(async (c, who) => {
      for (let i = 0; i < 60; i++) {
        const key = `k${(i * 7 + who) % 10}`;
        if (i % 5 === 4) await call(c, 'state.delete', { channel, key });
        else await update(c, channel, key, () => `${who} ${i}`);
      }
    }));
    await offline(b, async () => {
      await call(a, 'state.set', { channel, key: 'k3', data: 'meanwhile' });
      await call(a, 'state.delete', { channel, key: 'k4' });
    });
    await call(a, 'state.set', { channel, key: 'end', data: 1 });
    for (const deadline = Date.now() + 10000; !map.has('end') && Date.now() < deadline;) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const stored = new Map();
    for (const key of ['end', ...Array.from({ length: 10 }, (_, i) => `k${i}`)]) {
      const data = await value(a, channel, key);
      if (data !== undefined) stored.set(key, data);
    }
    assert.deepEqual(Object.fromEntries([...map].sort()), Object.fromEntries([...stored].sort()));
    assert.equal(map.get('k3'), 'meanwhile');
  });
}
