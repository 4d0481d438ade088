package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
)

var roomNamespace = Namespace{Name: "p", Payload: PayloadJSON, Presence: true, JoinLeave: true}

const room = "p:room"

// memberNode is a node of a small cluster whose way to NATS a test can break.
type memberNode struct {
	*Node
	t     *testing.T
	store *fakeStore
	nc    *nats.Conn
	stop  func()
	once  sync.Once
	srv   *natstest.Server

	mu    sync.Mutex // guards the fields below
	cut   bool
	conns []*stillConn
}

// InProcessConn is how the node dials NATS.
func (m *memberNode) InProcessConn() (net.Conn, error) {
	conn, err := m.srv.Server.InProcessConn()
	if err != nil {
		return nil, err
	}
	c := &stillConn{Conn: conn}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cut {
		c.Close()
		return nil, errors.New("cut")
	}
	m.conns = append(m.conns, c)
	return c, nil
}

// stillConn is read only while nobody makes its node stand still.
type stillConn struct {
	net.Conn
	until atomic.Pointer[chan struct{}] // closed when it may be read; nil is now
}

func (c *stillConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if until := c.until.Load(); until != nil {
		<-*until
	}
	return n, err
}

// standStill makes the node read nothing for d, unless it does already, or is just
// connecting: nats.go holds a lock then.
func (m *memberNode) standStill(d time.Duration) {
	m.mu.Lock()
	var c *stillConn
	if len(m.conns) > 0 && m.nc.IsConnected() {
		c = m.conns[len(m.conns)-1]
	}
	m.mu.Unlock()
	until := make(chan struct{})
	if c != nil && c.until.CompareAndSwap(nil, &until) {
		time.Sleep(d) // virtual
		c.until.Store(nil)
		close(until)
	}
}

func (m *memberNode) setCut(cut bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut = cut
	if cut {
		for _, c := range m.conns {
			c.Close()
		}
		m.conns = nil
	}
}

// startMembers starts a node with that id.
func startMembers(t *testing.T, srv *natstest.Server, id string, tune ...func(*Config)) *memberNode {
	t.Helper()
	m := &memberNode{t: t, srv: srv, store: &fakeStore{}}
	var err error
	m.nc, err = nats.Connect("", nats.InProcessServer(m), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectBufSize(-1), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // the default prints what tests cause
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{NodeID: id, Namespaces: []Namespace{roomNamespace}, Core: m.nc, Store: m.store, Sessions: noSessions{}, Linger: time.Hour}
	for _, f := range tune {
		f(&cfg)
	}
	if m.Node, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	m.stop = func() {
		m.once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("run %s: %v", id, err)
			}
			m.nc.Close()
		})
	}
	t.Cleanup(m.stop)
	return m
}

// startCluster starts n nodes and returns when each knows the others.
func startCluster(t *testing.T, n int, tune ...func(*Config)) []*memberNode {
	t.Helper()
	srv := natstest.Run(t)
	var nodes []*memberNode
	for i := range n {
		nodes = append(nodes, startMembers(t, srv, fmt.Sprintf("n%d", i+1), tune...))
	}
	time.Sleep(4 * time.Second) // virtual: heartbeats tell of joins and leaves from now on
	return nodes
}

// kill ends the node without a word to the others.
func (m *memberNode) kill() {
	m.setCut(true)
	m.nc.Close()
	m.stop()
}

// deafen makes the node lose, or not any more, what others tell of members.
func (m *memberNode) deafen(deaf bool) {
	for _, sh := range m.shards {
		onShard(context.Background(), sh, func() {
			for r := range sh.followed() {
				if deaf {
					delete(sh.bySub, r.sub)
				} else {
					sh.bySub[r.sub] = r.c
				}
			}
		})
	}
}

// person is a subscriber that keeps a picture of who is there.
type person struct {
	sub    *Subscription
	exact  bool
	failed chan error

	mu     sync.Mutex // guards the fields below
	told   bool       // exact: who was there is in there
	there  map[string]bool
	events []string // "+client" and "-client"
	faults []string
	ended  UnsubscribeReason
}

func (p *person) Deliver(_ *Subscription, b *Batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exact && !p.told {
		return
	}
	for _, push := range b.Pushes {
		switch {
		case push.Join != nil:
			id := push.Join.Client
			p.events = append(p.events, "+"+id)
			if p.there[id] {
				p.faults = append(p.faults, "a second join of "+id)
			}
			p.there[id] = true
		case push.Leave != nil:
			id := push.Leave.Client
			p.events = append(p.events, "-"+id)
			if p.exact && !p.there[id] {
				p.faults = append(p.faults, "a leave without a join of "+id)
			}
			delete(p.there, id)
		}
	}
}

func (p *person) Dropped(_ *Subscription, reason UnsubscribeReason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = reason
}

// enter subscribes client id; user is the id up to a dot.
func (m *memberNode) enter(id string) *person {
	m.t.Helper()
	user, _, _ := strings.Cut(id, ".")
	p := m.join(&Subscription{Channel: room, Info: &ClientInfo{Client: id, User: user}}, SubscribeRequest{JoinLeave: true})
	if err := <-p.failed; err != nil {
		m.t.Fatalf("%s: %v", id, err)
	}
	return p
}

func (m *memberNode) join(s *Subscription, req SubscribeRequest) *person {
	p := &person{sub: s, exact: req.Exact, failed: make(chan error, 1), there: make(map[string]bool)}
	s.Subscriber = p
	m.Subscribe(s, req, func(_ SubscribeResult, err error) {
		if err != nil || !req.Exact {
			p.failed <- err
			return
		}
		m.Members(s, func(infos []*ClientInfo, err error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.told = true
			for _, info := range infos {
				p.there[info.Client] = true
			}
			p.failed <- err
		})
	})
	return p
}

// watch subscribes to the members, as subscriptions of type 2 do.
func (m *memberNode) watch() (*person, error) {
	p := m.join(&Subscription{Channel: room, Info: &ClientInfo{Client: "watcher"}, NoPresence: true, NoJoinLeave: true}, SubscribeRequest{JoinLeave: true, Exact: true})
	return p, <-p.failed
}

// mustWatch is watch where it is known who is there.
func (m *memberNode) mustWatch() *person {
	m.t.Helper()
	time.Sleep(10 * time.Millisecond) // virtual: what is on its way arrives
	p, err := m.watch()
	if err != nil {
		m.t.Fatal(err)
	}
	return p
}

// leave unsubscribes.
func (m *memberNode) leave(p *person) {
	done := make(chan struct{})
	m.Unsubscribe(p.sub, func() { close(done) })
	<-done
}

// expect checks the joins and leaves since the last call, in any order.
func (p *person) expect(t *testing.T, what string, want ...string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	slices.Sort(p.events)
	slices.Sort(want)
	if !slices.Equal(p.events, want) {
		t.Errorf("%s: got %q, want %q", what, p.events, want)
	}
	p.events = nil
	p.check(t, what)
}

// check reports what contradicts itself. Callers hold mu.
func (p *person) check(t *testing.T, what string) {
	t.Helper()
	for _, f := range p.faults {
		t.Errorf("%s: %s", what, f)
	}
	p.faults = nil
}

// sees checks who is there in p's picture, and in presence at its node.
func (p *person) sees(t *testing.T, at *memberNode, want ...string) {
	t.Helper()
	slices.Sort(want)
	p.mu.Lock()
	got := slices.Sorted(maps.Keys(p.there))
	p.mu.Unlock()
	if !slices.Equal(got, want) {
		t.Errorf("%s sees %q, want %q", p.sub.Info.Client, got, want)
	}
	at.present(t, want...)
}

// present checks presence.
func (m *memberNode) present(t *testing.T, want ...string) {
	t.Helper()
	members, err := m.Presence(t.Context(), room)
	if got := slices.Sorted(maps.Keys(members)); err != nil || !slices.Equal(got, want) {
		t.Errorf("presence at %s is %q (%v), want %q", m.cfg.NodeID, got, err, want)
	}
}
