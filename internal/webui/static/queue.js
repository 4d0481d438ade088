// The queue page: pushes jobs and works on them with the official SDK as it is.
const $ = (id) => document.getElementById(id);
const queue = /^[A-Za-z0-9_-]{1,64}$/.test(new URLSearchParams(location.search).get('queue') || '') ? new URLSearchParams(location.search).get('queue') : 'jobs';
const shownLetters = 20;

function stored(key, make) {
  let value = null;
  try { value = sessionStorage.getItem(key); } catch { /* storage is blocked: forget at reload */ }
  if (value === null) {
    value = make();
    try { sessionStorage.setItem(key, value); } catch { /* as above */ }
  }
  return value;
}
// The device id is a secret, shared with the chat page: the server derives the user id from it.
const device = stored('headrace.device', () => crypto.getRandomValues(new Uint32Array(6)).join('-'));

function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text; // never markup: payloads and errors are anyone's
  return e;
}

function trouble(err) {
  $('trouble').textContent = err ? err.message || String(err) : '';
  $('trouble').hidden = !err;
}

async function fetchToken() {
  const reply = await fetch('demo/token', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ device, name: stored('headrace.name', () => '').slice(0, 32) || 'worker', color: '#0b7285' }),
  });
  if (!reply.ok) throw new Error(await reply.text());
  return (await reply.json()).token;
}

const address = new URL('connection/websocket', location.href);
address.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
address.search = address.hash = '';
const client = new Centrifuge(address.href, { token: '', getToken: fetchToken });
window.headrace = { client }; // for the console

const call = async (method, request) => (await client.rpc(`queue.${method}`, { queue, ...request })).data;

// Jobs ---------------------------------------------------------------------

const jobs = new Map(); // job id → {job, card} in this tab's hands

function card(title, facts, payload, error) {
  const e = element('li', 'card');
  const head = element('div', 'head');
  head.append(element('b', '', title), ...facts.map((f) => element('span', '', f)));
  e.append(head, element('code', '', payload));
  if (error) e.append(element('div', 'error', error));
  const buttons = element('div', 'buttons');
  e.append(buttons);
  return { e, button: (text, act) => {
    const b = element('button', '', text);
    b.type = 'button';
    b.onclick = act;
    buttons.append(b);
  } };
}

const payloadOf = (x) => ('data' in x ? JSON.stringify(x.data) : x.b64data ? `base64 ${x.b64data}` : 'empty');

function forget(job) {
  const known = jobs.get(job.id);
  if (known && known.job.token === job.token) {
    known.card.remove();
    jobs.delete(job.id);
  }
  $('idle').hidden = jobs.size > 0;
}

async function settle(job, method, request) {
  try {
    await call(method, { token: job.token, ...request });
    trouble(null);
  } catch (err) { trouble(new Error(`job ${job.id}: ${err.message}`)); }
  forget(job);
}

const done = (job) => settle(job, 'ack', {});
const fail = (job) => settle(job, 'nack', { error: 'failed in a browser tab' });

function received(job) {
  const known = jobs.get(job.id);
  if (known) forget(known.job); // it came again: the attempt before has run out
  const c = card(`${job.priority}`, [`attempt ${job.attempt} of ${job.max_attempts}`, job.redriven ? `redriven ×${job.redriven}` : '', job.id].filter(Boolean), payloadOf(job), job.last_error);
  c.button('Done', () => done(job));
  c.button('Fail', () => fail(job));
  c.button('Fail for good', () => settle(job, 'nack', { error: 'failed for good in a browser tab', final: true }));
  c.button('More time', () => call('extend', { token: job.token }).catch(trouble));
  c.button('Ignore', () => forget(job)); // it comes again after the queue's ack wait
  jobs.set(job.id, { job, card: c.e });
  $('jobs').append(c.e);
  $('idle').hidden = true;
  const mode = $('mode').value;
  if (mode === 'done' || (mode === 'flaky' && job.attempt > 1)) setTimeout(() => done(job), 1000);
  else if (mode === 'flaky') setTimeout(() => fail(job), 500);
}

const credits = () => Math.min(Math.max(Math.trunc($('credits').valueAsNumber) || 1, 1), 100);
let sub = null;

$('work').addEventListener('click', () => {
  if (sub) {
    sub.unsubscribe();
    client.removeSubscription(sub);
    sub = null;
    for (const { job } of [...jobs.values()]) forget(job); // the server gives them to others
  } else {
    sub = client.newSubscription(`queue:${queue}`, { data: { credits: credits() } });
    sub.on('publication', (pub) => received(pub.data));
    sub.on('error', ({ error }) => trouble(error));
    sub.on('unsubscribed', (ctx) => { if (ctx.code !== 0) trouble(new Error(`no longer working: ${ctx.reason}`)); });
    sub.subscribe();
  }
  $('work').textContent = sub ? 'Stop' : 'Start';
  $('work').setAttribute('aria-pressed', String(Boolean(sub)));
});

$('credits').addEventListener('change', () => {
  if (!sub) return;
  sub.setData({ credits: credits() }); // for when it subscribes again
  call('credits', { credits: credits() }).catch(trouble);
});

$('push').addEventListener('submit', async (event) => {
  event.preventDefault();
  try {
    const request = { data: JSON.parse($('payload').value), priority: $('priority').value, max_attempts: $('attempts').valueAsNumber || 4 };
    if ($('delay').valueAsNumber > 0) request.delay = `${$('delay').valueAsNumber}s`;
    $('pushed').textContent = `pushed ${(await call('push', request)).id}`;
    trouble(null);
    look();
  } catch (err) { trouble(err); }
});

// State and dead letters ---------------------------------------------------

let dead = -1;

async function look() {
  if (document.hidden) return;
  try {
    const reply = await fetch('demo/queues');
    if (!reply.ok) throw new Error(await reply.text());
    const state = (await reply.json()).queues.find((q) => q.queue === queue);
    if (!state) throw new Error(`there is no queue ${queue}`);
    for (const key of ['high', 'medium', 'low', 'in_flight', 'scheduled', 'dead']) $(key).textContent = state[key];
    $('oldest').textContent = state.paused ? 'paused' : `${Math.round(state.oldest_seconds)} s`;
    if (state.dead !== dead && client.state === 'connected') {
      await letters();
      dead = state.dead;
    }
  } catch (err) { trouble(err); }
}

async function letters() {
  const page = (await call('dead', { limit: shownLetters })).dead;
  $('letters').replaceChildren(...page.map((d) => {
    const c = card(`#${d.seq} ${d.reason}`, [d.priority, `${d.attempts} attempts`, new Date(d.time).toLocaleTimeString()], d.omitted ? 'too large to show' : payloadOf(d), d.error);
    c.button('Redrive', () => redrive({ seqs: [d.seq] }));
    return c.e;
  }));
  $('no-letters').hidden = page.length > 0;
  $('redrive-all').disabled = page.length === 0;
}

async function redrive(which) {
  try {
    await call('redrive', which);
    dead = -1; // look again
    await look();
  } catch (err) { trouble(err); }
}

$('redrive-all').addEventListener('click', () => redrive({ all: true }));

// Connection ---------------------------------------------------------------

const state = (value, text) => { $('state').dataset.state = value; $('state').textContent = text; };
client.on('connecting', () => state('connecting', 'connecting…'));
client.on('connected', () => { state('connected', 'connected'); trouble(null); look(); });
client.on('disconnected', (ctx) => {
  state('disconnected', `offline: ${ctx.reason}`);
  if (ctx.code === 3500) { // the server started anew and signs with another secret
    client.setToken('');
    client.connect();
  }
});

$('queue-name').textContent = queue;
document.title = `${queue} · Headrace queue`;
client.connect();
setInterval(look, 1000);
