// The demo chat, with the official SDK as it is. No build step: edit and reload.
const $ = (id) => document.getElementById(id);
const palette = ['#0b7285', '#5f3dc4', '#c2255c', '#2b8a3e', '#d9480f', '#1864ab', '#862e9c', '#846358'];
const historyShown = 50;

// The device id is a secret: the server derives the user id from it.
const device = stored('headrace.device', () => crypto.getRandomValues(new Uint32Array(6)).join('-'));
const color = stored('headrace.color', () => palette[Math.floor(Math.random() * palette.length)]);

function stored(key, make) {
  let value = null;
  try { value = sessionStorage.getItem(key); } catch { /* storage is blocked: forget at reload */ }
  if (value === null) {
    value = make();
    remember(key, value);
  }
  return value;
}

function remember(key, value) {
  try { sessionStorage.setItem(key, value); } catch { /* see stored */ }
}

function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text; // never markup: names and messages are anyone's
  return e;
}

function avatar(info) {
  const e = element('span', 'avatar', [...info.name][0].toUpperCase());
  if (/^#[0-9a-f]{6}$/.test(info.color)) e.style.background = info.color;
  return e;
}

function person(info) {
  const known = info && info.connInfo && typeof info.connInfo.name === 'string' && info.connInfo.name;
  return { user: info ? info.user : '', name: known ? info.connInfo.name : 'someone', color: known ? info.connInfo.color : '' };
}

// Messages -----------------------------------------------------------------

class Messages {
  constructor(me) {
    this.me = me;
    this.list = $('messages');
    this.list.replaceChildren();
    this.seen = new Set(); // ids of publications shown
    this.pending = new Map(); // id → element, of what we sent
    this.last = null; // user of the last message, to group
  }

  atEnd() { return this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 60; }

  toEnd() { this.list.scrollTop = this.list.scrollHeight; $('newer').hidden = true; }

  append(e, force) {
    const stay = !force && !this.atEnd();
    this.list.append(e);
    while (this.list.children.length > 500) this.list.firstChild.remove();
    if (stay) $('newer').hidden = false; else this.toEnd();
  }

  note(text, warn) {
    this.last = null;
    this.append(element('li', warn ? 'note warn' : 'note', text));
  }

  draw(from, text, time) {
    const mine = from.user === this.me;
    const e = element('li', 'message' + (mine ? ' mine' : '') + (this.last === from.user ? ' follow' : ''));
    const head = element('div', 'from');
    if (!mine) head.append(element('b', '', from.name));
    head.append(element('time', '', time.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' })));
    e.append(avatar(from), head, element('div', 'bubble', text));
    this.last = from.user;
    return e;
  }

  // received shows a publication, once: history and live may both bring it.
  received(pub) {
    const data = pub.data;
    if (!data || typeof data.text !== 'string') {
      if (pub.info) return;
      this.append(this.draw({ user: 'server', name: 'server', color: '' }, JSON.stringify(data), new Date()));
      return;
    }
    const id = typeof data.id === 'string' ? data.id : `offset ${pub.offset}`;
    if (this.seen.has(id)) return;
    this.seen.add(id);
    const waiting = this.pending.get(id);
    if (waiting && pub.info && pub.info.user === this.me) {
      waiting.classList.remove('pending', 'failed');
      waiting.onclick = null;
      this.pending.delete(id);
      return;
    }
    const from = pub.info ? person(pub.info) : { user: 'server', name: 'server', color: '' };
    this.append(this.draw(from, data.text, new Date(data.at || Date.now())));
  }

  sending(id, text, retry) {
    const e = this.draw({ user: this.me, name: 'me', color }, text, new Date());
    e.classList.add('pending');
    this.pending.set(id, e);
    this.append(e, true);
    return {
      failed: () => {
        if (this.seen.has(id)) return;
        e.classList.replace('pending', 'failed');
        e.onclick = () => { e.classList.replace('failed', 'pending'); e.onclick = null; retry(); };
      },
    };
  }
}

// Members ------------------------------------------------------------------

class Members {
  constructor(me) { this.me = me; this.clients = new Map(); this.draw(); }

  reset(clients) { this.clients = new Map(Object.entries(clients)); this.draw(); }

  // add and remove return the person when the last or first of their windows did it.
  add(info) {
    const known = this.has(info.user);
    this.clients.set(info.client, info);
    this.draw();
    return known ? null : person(info);
  }

  remove(info) {
    const known = this.clients.delete(info.client);
    this.draw();
    return known && !this.has(info.user) ? person(info) : null;
  }

  has(user) { return [...this.clients.values()].some((c) => c.user === user); }

  draw() {
    const users = new Map();
    for (const info of this.clients.values()) {
      const u = users.get(info.user) || { ...person(info), windows: 0 };
      u.windows++;
      users.set(info.user, u);
    }
    const sorted = [...users.values()].sort((a, b) => (b.user === this.me) - (a.user === this.me) || a.name.localeCompare(b.name));
    $('members').replaceChildren(...sorted.map((u) => {
      const li = element('li');
      li.append(avatar(u), element('span', 'who', u.name));
      if (u.user === this.me) li.append(element('small', '', 'you'));
      if (u.windows > 1) li.append(element('small', '', `×${u.windows}`));
      return li;
    }));
    $('count').textContent = users.size;
  }
}

// Room ---------------------------------------------------------------------

const invalidToken = 3500; // disconnect code of the protocol

async function fetchToken(name) {
  const reply = await fetch('demo/token', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ device, name, color }),
  });
  if (!reply.ok) throw new Error(await reply.text());
  return reply.json();
}

function enter(name, room, first) {
  const url = new URL('connection/websocket', location.href);
  url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
  url.hash = '';
  const client = new Centrifuge(url.href, {
    token: first.token,
    getToken: async () => (await fetchToken(name)).token,
  });
  const messages = new Messages(first.user);
  const members = new Members(first.user);
  window.headrace = { client, messages }; // for the console

  const state = (value, text) => { $('state').dataset.state = value; $('state').textContent = text; };
  client.on('connecting', () => state('connecting', 'connecting…'));
  client.on('connected', () => state('connected', 'connected'));
  client.on('disconnected', (ctx) => {
    state('disconnected', `offline: ${ctx.reason}`);
    if (ctx.code === invalidToken) { // the server started anew and signs with another secret
      client.setToken('');
      client.connect();
    }
  });

  const sub = client.newSubscription(`chat:${room}`, { recoverable: true, joinLeave: true });
  const showHistory = async () => {
    const past = await sub.history({ limit: historyShown, reverse: true });
    past.publications.reverse().forEach((pub) => messages.received(pub));
  };
  let subscribedOnce = false;
  sub.on('subscribed', async (ctx) => {
    try {
      if (!subscribedOnce) await showHistory();
      else if (ctx.wasRecovering && !ctx.recovered) {
        messages.note('You were away for too long: older messages may be missing here.', true);
        await showHistory();
      } else if (ctx.wasRecovering) messages.note('Back again, nothing was missed.');
      subscribedOnce = true;
      members.reset((await sub.presence()).clients);
    } catch (err) {
      messages.note(`Could not load everything: ${err.message}`, true);
    }
  });
  sub.on('publication', (pub) => messages.received(pub));
  sub.on('join', ({ info }) => { const p = members.add(info); if (p && p.user !== first.user) messages.note(`${p.name} joined`); });
  sub.on('leave', ({ info }) => { const p = members.remove(info); if (p && p.user !== first.user) messages.note(`${p.name} left`); });
  sub.on('unsubscribed', (ctx) => messages.note(`You are no longer in this room: ${ctx.reason}`, true));
  sub.subscribe();
  client.connect();
  return { client, sub, messages };
}

function post({ sub, messages }, text) {
  const data = { id: Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join(''), text, at: Date.now() };
  let shown = null;
  const send = () => sub.publish(data).catch(() => shown.failed());
  shown = messages.sending(data.id, text, send);
  send();
}

let current = null;

function showApp(room) {
  $('welcome').close();
  $('app').hidden = false;
  $('room-title').textContent = room;
  document.title = `#${room} · Headrace chat`;
  history.replaceState(null, '', `#${room}`);
  $('text').focus();
}

$('join').addEventListener('submit', async (event) => {
  event.preventDefault();
  const name = $('name').value.trim();
  const room = $('room').value.trim();
  try {
    const first = await fetchToken(name);
    $('join-error').hidden = true;
    remember('headrace.name', name);
    showApp(room);
    current = enter(name, room, first);
  } catch (err) {
    $('join-error').textContent = `Could not join: ${err.message}`;
    $('join-error').hidden = false;
  }
});

$('compose').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = $('text').value.trim();
  if (!text || !current) return;
  $('text').value = '';
  post(current, text);
});

$('leave').addEventListener('click', () => {
  if (current) current.client.disconnect();
  current = null;
  $('app').hidden = true;
  $('welcome').showModal();
});
$('people').addEventListener('click', () => {
  const open = $('members-panel').classList.toggle('open');
  $('people').setAttribute('aria-expanded', String(open));
});
$('newer').addEventListener('click', () => current && current.messages.toEnd());
$('messages').addEventListener('scroll', () => { if (current && current.messages.atEnd()) $('newer').hidden = true; });
$('welcome').addEventListener('cancel', (event) => event.preventDefault());

$('name').value = stored('headrace.name', () => '');
if (/^#[A-Za-z0-9_-]{1,40}$/.test(location.hash)) $('room').value = location.hash.slice(1);
$('welcome').showModal();
