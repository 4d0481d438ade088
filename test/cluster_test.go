package test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/headrace/headrace/edge"
	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/persistence/queue"
	"github.com/headrace/headrace/router"
)

func TestMain(m *testing.M) {
	natstest.Main(m,
		// The Go SDK lets the timeouts of its commands run out after Close.
		goleak.IgnoreTopFunction("github.com/centrifugal/centrifuge-go.(*Client).sendAsync.func1"),
		// It answers an RPC twice when its connection ends while the command is written
		// (client.go: sendAsync adds the request first), and the second answer waits for ever.
		goleak.IgnoreTopFunction("github.com/centrifugal/centrifuge-go.(*Client).RPC.func1"),
	)
}

// tokenSecret signs the tests' tokens; clients without one are user "".
const tokenSecret = "secret"

// namespaces are what the tests' edges serve.
func namespaces() []router.Namespace {
	base := router.Namespace{
		HistorySize: 300, Retention: time.Hour, Partitions: 1, Payload: router.PayloadJSON,
		Presence: true, Recover: true, DeltaTypes: []string{router.DeltaFossil},
	}
	history, small, ephemeral := base, base, router.Namespace{Name: "eph", Payload: router.PayloadJSON, Presence: true, DeltaTypes: []string{router.DeltaFossil}}
	history.Name = "h"
	small.Name, small.HistorySize, small.Partitions = "small", 20, 2
	def := base
	def.Name = router.DefaultNamespace
	inbox := router.InboxNamespace("inbox", 50, time.Hour, 2, false)
	return slices.Concat([]router.Namespace{history, small, ephemeral, def, inbox}, mapNamespaces(), strategyNamespaces())
}

// storeConfig is what the tests' edges keep.
func storeConfig(namespaces []router.Namespace) persistence.Config {
	return persistence.Config{Namespaces: namespaces, Cursors: persistence.CursorsConfig{Enabled: true, TTL: time.Hour}}
}

// inboxes are those of the tests' edges.
func inboxes(store *persistence.Store) *router.InboxConfig {
	return &router.InboxConfig{Namespace: "inbox", MaxMessageBytes: 4096, MaxDevices: 4, DeviceTTL: time.Hour, Cursors: store.Cursors()}
}

// harness runs edges in this process over one NATS server or a cluster of three.
type harness struct {
	t       testing.TB
	server  *natstest.Server  // nil in a cluster
	cluster *natstest.Cluster // nil with one server
	faults  *faults
	tune    []func(*edge.Config)
	queues  []router.Queue
	nextID  atomic.Int64

	mu    sync.Mutex // guards edges
	edges []*edgeProc
}

func newHarness(t testing.TB, replicas, edges int, tune ...func(*edge.Config)) *harness {
	return newQueueHarness(t, replicas, edges, nil, tune...)
}

// newQueueHarness is newHarness with durable queues.
func newQueueHarness(t testing.TB, replicas, edges int, queues []router.Queue, tune ...func(*edge.Config)) *harness {
	h := &harness{t: t, faults: newFaults(), tune: tune, queues: queues}
	if replicas > 1 {
		h.cluster = natstest.NewCluster(t, replicas, withUsers(namespaces(), queues...))
	} else {
		h.server = natstest.Run(t, natstest.Listen(), withUsers(namespaces(), queues...))
	}
	h.provision()
	for range edges {
		h.edges = append(h.edges, h.startEdge())
	}
	t.Cleanup(func() {
		for _, e := range h.list() {
			e.kill()
		}
	})
	return h
}

func (h *harness) list() []*edgeProc {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*edgeProc(nil), h.edges...)
}

// any returns a random live edge.
func (h *harness) any() *edgeProc {
	l := h.list()
	return l[rand.IntN(len(l))]
}

// replace kills edge i as kill -9 would, and starts another.
func (h *harness) replace(i int) {
	h.list()[i].kill()
	fresh := h.startEdge()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.edges[i] = fresh
}

// connect connects a user who may do everything.
func (h *harness) connect(options ...nats.Option) *nats.Conn {
	options = append(persistence.ConnectOptions(), options...)
	if h.cluster != nil {
		return h.cluster.ConnAll(rand.IntN(3), options...)
	}
	return h.server.Conn(options...)
}

// edgeProc is one edge: what a process would be.
type edgeProc struct {
	url    string
	id     string
	node   *router.Node
	srv    *edge.Server
	store  *persistence.Store
	queues *queue.Store
	cancel context.CancelFunc
	http   *http.Server
	conns  []*nats.Conn
	net    *cutListener
	wg     sync.WaitGroup
	once   sync.Once
}

func (h *harness) startEdge() *edgeProc {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	e := &edgeProc{cancel: cancel, id: fmt.Sprintf("edge-%d", h.nextID.Add(1))}
	core, jets := h.connectAs(edgeUser, e.id), h.connectAs(edgeUser, e.id)
	e.conns = []*nats.Conn{core, jets}
	opening, stop := context.WithTimeout(ctx, 60*time.Second)
	defer stop()
	var err error
	kept := storeConfig(namespaces())
	kept.Replicas = h.replicas()
	e.store, err = persistence.Open(opening, jets, kept)
	if err != nil {
		h.t.Fatalf("open store: %v", err)
	}
	e.queues = h.openQueues(opening, jets)
	sessions := edge.NewSessions()
	e.node, err = router.New(router.Config{
		NodeID: e.id, NodeName: e.id, Namespaces: namespaces(), Core: core, Store: h.faults.wrap(e.store), Sessions: sessions,
		RPC:           router.RPCRules{Allow: []string{"*"}, AllowAnonymous: []string{"open.*"}},
		Inbox:         inboxes(e.store),
		SweepInterval: 3 * time.Second, Linger: time.Second, Log: h.logger(),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	cfg := edge.DefaultConfig()
	cfg.NodeID = e.id
	cfg.Insecure, cfg.APIInsecure, cfg.Tokens.HMACSecret = true, true, tokenSecret
	cfg.DrainWindow = 2 * time.Second
	cfg.Queues, cfg.QueueRules = e.queues, h.queues
	cfg.Inbox = edge.InboxConfig{Service: e.node.Inbox(), Namespace: "inbox", AllowSend: true}
	for _, change := range h.tune {
		change(&cfg)
	}
	e.srv, err = edge.New(cfg, e.node, sessions)
	if err != nil {
		h.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	e.net = &cutListener{Listener: l}
	e.url = "http://" + l.Addr().String()
	e.http = &http.Server{Handler: e.srv.Handler()}
	for _, run := range []func(context.Context) error{e.store.Run, e.queues.Run, e.node.Run, e.srv.Run} {
		e.wg.Go(func() {
			if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				h.t.Errorf("%s: %v", e.id, err)
			}
		})
	}
	e.wg.Go(func() { e.http.Serve(e.net) }) //nolint:errcheck // ends with kill
	for deadline := time.Now().Add(30 * time.Second); e.node.Ready() != nil; {
		if time.Now().After(deadline) {
			h.t.Fatalf("%s is not ready after 30s: %v", e.id, e.node.Ready())
		}
		time.Sleep(time.Millisecond) // a poll with a deadline
	}
	return e
}

func (h *harness) logger() *slog.Logger { return slog.New(slog.DiscardHandler) }

// kill ends the edge as kill -9 does, as far as others can see: its connections
// to clients and to NATS break first, so that nothing it does afterwards shows.
func (e *edgeProc) kill() {
	e.once.Do(func() {
		for _, c := range e.conns {
			c.Close()
		}
		e.net.cut()
		e.http.Close()
		e.cancel()
		e.wg.Wait()
	})
}

// cutListener remembers its connections so that they can be cut.
type cutListener struct {
	net.Listener
	mu    sync.Mutex // guards the fields below
	conns map[net.Conn]struct{}
	gone  bool
}

func (l *cutListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		c.Close()
		return c, nil
	}
	if l.conns == nil {
		l.conns = make(map[net.Conn]struct{})
	}
	l.conns[c] = struct{}{}
	return c, nil
}

func (l *cutListener) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = true
	l.Listener.Close()
	for c := range l.conns {
		c.Close()
	}
	l.conns = nil
}

// faults spoil the live flow on purpose: copies are dropped, and for a while
// after interest was taken none arrive.
type faults struct {
	dropPerMille atomic.Int64
	interestLag  atomic.Int64 // nanoseconds, at most
	dropped      atomic.Int64
}

func newFaults() *faults { return &faults{} }

func (f *faults) wrap(s router.Store) router.Store {
	return &faultyStore{Store: s, f: f, logs: make(map[string]*faultyLog)}
}

type faultyStore struct {
	router.Store
	f    *faults
	mu   sync.Mutex // guards logs
	logs map[string]*faultyLog
}

func (s *faultyStore) Log(ns string) (router.Log, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.logs[ns]; l != nil {
		return l, true
	}
	inner, ok := s.Store.Log(ns)
	if !ok {
		return nil, false
	}
	l := &faultyLog{Log: inner, f: s.f}
	s.logs[ns] = l
	return l, true
}

type faultyLog struct {
	router.Log
	f     *faults
	quiet sync.Map // live subject without its last token → time.Time
}

func (l *faultyLog) LiveSubject(key string) string {
	subject := l.Log.LiveSubject(key)
	if lag := l.f.interestLag.Load(); lag > 0 {
		l.quiet.Store(subject[:len(subject)-1], time.Now().Add(time.Duration(rand.Int64N(lag))))
	}
	return subject
}

var errLost = errors.New("copy lost on purpose")

func (l *faultyLog) DecodeLive(m *nats.Msg) (router.Entry, error) {
	e, err := l.Log.DecodeLive(m)
	if err != nil {
		return e, err
	}
	if rand.Int64N(1000) < l.f.dropPerMille.Load() {
		l.f.dropped.Add(1)
		return e, errLost
	}
	slot := len(m.Subject) - 1
	for m.Subject[slot] != '.' {
		slot--
	}
	if until, ok := l.quiet.Load(m.Subject[:slot+1]); ok && time.Now().Before(until.(time.Time)) {
		l.f.dropped.Add(1)
		return e, errLost
	}
	return e, nil
}
