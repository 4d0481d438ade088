package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
)

func TestMain(m *testing.M) { natstest.Main(m) }

// fakeLog is a log in memory whose live copies go through a real NATS server, so
// that a test decides which copies get lost and what is still stored.
type fakeLog struct {
	nc   *nats.Conn
	size int // entries kept per key

	mu       sync.Mutex // guards the fields below
	keys     map[string][]Entry
	seq      uint64
	firstSeq uint64
	heads    int // calls of Head
	reads    int // calls of Read
	fail     error
	// beforeHead runs in Head before it looks, without the lock.
	beforeHead func()
}

func newFakeLog(nc *nats.Conn, size int) *fakeLog {
	return &fakeLog{nc: nc, size: size, keys: make(map[string][]Entry), firstSeq: 1}
}

// store appends without a live copy and returns the entry.
func (l *fakeLog) store(key, data string) Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	e := Entry{Number: 1, Life: fmt.Sprintf("life%d", l.seq), Seq: l.seq, Time: time.Now(), Data: []byte(data)}
	if n := len(l.keys[key]); n > 0 {
		last := l.keys[key][n-1]
		e.Number, e.Life = last.Number+1, last.Life
	}
	l.put(key, e)
	return e
}

// put adds e as the newest entry of key and evicts what is over size.
func (l *fakeLog) put(key string, e Entry) {
	l.keys[key] = append(l.keys[key], e)
	if over := len(l.keys[key]) - l.size; over > 0 {
		l.keys[key] = l.keys[key][over:]
	}
}

// live sends the live copy of e.
func (l *fakeLog) live(t testing.TB, key string, e Entry) {
	t.Helper()
	b, err := json.Marshal(e)
	if err == nil {
		err = l.nc.Publish("live."+key+".0", b)
	}
	if err == nil {
		err = l.nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// publish stores and sends.
func (l *fakeLog) publish(t testing.TB, key, data string) Entry {
	t.Helper()
	e := l.store(key, data)
	l.live(t, key, e)
	return e
}

func (l *fakeLog) counts() (heads, reads int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heads, l.reads
}

func (l *fakeLog) do(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func (l *fakeLog) head(key string) Entry {
	if n := len(l.keys[key]); n > 0 {
		return l.keys[key][n-1]
	}
	return Entry{}
}

func (l *fakeLog) Head(_ context.Context, key string) (Entry, error) {
	l.mu.Lock()
	before := l.beforeHead
	l.mu.Unlock()
	if before != nil {
		before()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heads++
	return l.head(key), l.fail
}

func (l *fakeLog) Read(_ context.Context, key string, after uint64, head Entry) ([]Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	var out []Entry
	for _, e := range l.keys[key] {
		if e.Life == head.Life && e.Number > after && e.Number <= head.Number {
			if len(out) > 0 && out[len(out)-1].Number+1 != e.Number {
				out = nil // only the unbroken run that ends at head counts
			}
			out = append(out, e)
		}
	}
	if len(out) > 0 && out[len(out)-1].Number != head.Number {
		return nil, Errorf(CodeConflict, "head overwritten")
	}
	return out, l.fail
}

func (l *fakeLog) Moved(_ context.Context, marks []Mark) (moved []string, rewound bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range marks {
		if h := l.head(m.Key); h.Seq > m.Seq {
			moved = append(moved, m.Key)
		}
		rewound = rewound || m.Seq > l.seq
	}
	return moved, rewound, l.fail
}

func (l *fakeLog) State(context.Context, string) (StreamState, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return StreamState{FirstSeq: l.firstSeq, LastSeq: l.seq}, l.fail
}

func (l *fakeLog) LastSeq(string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seq
}

func (l *fakeLog) Append(key string, e NewEntry, done func(Appended, error)) {
	entry := l.store(key, string(e.Data))
	b, _ := json.Marshal(entry)
	err := l.nc.Publish("live."+key+".0", b)
	done(Appended{Number: entry.Number, Epoch: LifeEpoch("inc", entry.Life)}, err)
}

func (l *fakeLog) Clear(context.Context, string) (Entry, error) {
	return Entry{}, errors.New("not used")
}
func (l *fakeLog) Incarnation(string) string     { return "inc" }
func (l *fakeLog) LiveSubject(key string) string { return "live." + key + ".*" }
func (l *fakeLog) DecodeLive(m *nats.Msg) (e Entry, err error) {
	return e, json.Unmarshal(m.Data, &e)
}

// fakeStore has one log for all namespaces.
type fakeStore struct {
	log     *fakeLog
	mu      sync.Mutex
	healthy error
}

func (s *fakeStore) Log(string) (Log, bool) { return s.log, true }

func (s *fakeStore) Keys(string) (KeyStore, bool) { return nil, false }
func (s *fakeStore) Healthy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.healthy
}

// fixture is a running node over a fake log and a real NATS server.
type fixture struct {
	t     *testing.T
	node  *Node
	log   *fakeLog
	store *fakeStore
	nc    *nats.Conn
}

var historyNamespace = Namespace{Name: "h", HistorySize: 10, Retention: time.Hour, Partitions: 1, Payload: PayloadJSON}

func newFixture(t *testing.T, ns Namespace) *fixture {
	t.Helper()
	s := natstest.Run(t)
	f := &fixture{t: t, nc: s.Conn()}
	f.log = newFakeLog(s.Conn(), ns.HistorySize)
	f.store = &fakeStore{log: f.log}
	var err error
	f.node, err = New(Config{NodeID: "n1", Namespaces: []Namespace{ns}, Core: f.nc, Store: f.store, Sessions: noSessions{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.node.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return f
}

type noSessions struct{}

func (noSessions) Message(Target, []byte) int                  { return 0 }
func (noSessions) Count() int                                  { return 0 }
func (noSessions) Post(string, []byte) error                   { return nil }
func (noSessions) Control(context.Context, Control) Controlled { return Controlled{} }

// client is a subscriber that records.
type client struct {
	sub    *Subscription
	result chan SubscribeResult
	failed chan error
	events chan string // "number:data" of publications, "dropped:code"
}

func (c *client) Deliver(_ *Subscription, b *Batch) {
	for _, p := range b.Pushes {
		switch {
		case p.Pub != nil:
			c.events <- fmt.Sprintf("%d:%s", p.Pub.Offset, p.Pub.Data)
		case p.Join != nil:
			c.events <- "join:" + p.Join.User
		default:
			c.events <- "leave:" + p.Leave.User
		}
	}
}

func (c *client) Dropped(_ *Subscription, reason UnsubscribeReason) {
	c.events <- fmt.Sprintf("dropped:%d", reason)
}

func (f *fixture) start(channel string, req SubscribeRequest) *client {
	c := &client{result: make(chan SubscribeResult, 1), failed: make(chan error, 1), events: make(chan string, 1000)}
	c.sub = &Subscription{Channel: channel, Subscriber: c, Info: &ClientInfo{Client: "c", User: "u"}}
	f.node.Subscribe(c.sub, req, func(r SubscribeResult, err error) {
		if err != nil {
			c.failed <- err
			return
		}
		c.result <- r
	})
	return c
}

func (f *fixture) subscribe(channel string, req SubscribeRequest) (*client, SubscribeResult) {
	f.t.Helper()
	c := f.start(channel, req)
	return c, f.await(c)
}

func (f *fixture) await(c *client) SubscribeResult {
	f.t.Helper()
	select {
	case r := <-c.result:
		return r
	case err := <-c.failed:
		f.t.Fatalf("subscribe: %v", err)
	case <-time.After(natstest.Patience(20 * time.Second)):
		f.t.Fatal("no answer to subscribe")
	}
	panic("unreachable")
}

func (f *fixture) expect(c *client, want ...string) {
	f.t.Helper()
	for _, w := range want {
		select {
		case got := <-c.events:
			if got != w {
				f.t.Fatalf("got %q, want %q", got, w)
			}
		case <-time.After(natstest.Patience(60 * time.Second)):
			f.t.Fatalf("nothing, want %q", w)
		}
	}
}
