package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/nats-io/nats.go"
)

// Node is the router of one edge: it knows the channels that its sessions are
// interested in and keeps each of them level with its log.
type Node struct {
	// Set by New, read-only afterwards.
	cfg        Config
	log        *slog.Logger
	namespaces map[string]*Namespace
	shards     []*shard
	members    *membership
	// Matchers of Config.RPC; nil without patterns.
	rpcAllow, rpcAllowAnonymous []func(string) bool
	io                          chan struct{} // slots for joins and repairs: bounds requests in flight
	controls                    chan struct{} // slots for controls, see maxControls
	api                         *API          // nil until ServeAPI
	inbox                       *Inbox        // nil without inboxes
	replies                     replies       // to questions of this node; see askSmall

	versions    atomic.Uint64 // of members: one for each message that tells of changes; never 0
	heldMembers atomic.Int64  // in all replicas
	memberClock atomic.Uint64 // advances when messages of members begin to be held for an answer

	started time.Time
	running atomic.Bool
	serving chan struct{} // closed when running becomes true for the first time

	// Owned by Run.
	ctx context.Context // ends with Run
	wg  sync.WaitGroup  // every goroutine of the node
}

// maxIO bounds the store requests of joins and repairs in flight per node, so
// that a mass reconnect queues here instead of timing out in NATS.
const maxIO = 256

// ioTimeout bounds one step of a join or repair.
const ioTimeout = 10 * time.Second

// New returns a Node; Run makes it work.
func New(cfg Config) (*Node, error) {
	setDefault(&cfg.Prefix, "hr")
	setDefault(&cfg.Linger, 30*time.Second)
	setDefault(&cfg.SweepInterval, 30*time.Second)
	setDefault(&cfg.HeartbeatInterval, time.Second)
	setDefault(&cfg.MaxJoinBuffer, 4096)
	setDefault(&cfg.RingCacheBytes, 64<<20)
	setDefault(&cfg.PresenceMembers, 10_000)
	setDefault(&cfg.PresenceNodeMembers, 500_000)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil)
	}
	if cfg.NodeID == "" {
		return nil, errors.New("router: node id is empty")
	}
	n := &Node{
		cfg:        cfg,
		log:        cfg.Log,
		namespaces: make(map[string]*Namespace, len(cfg.Namespaces)),
		io:         make(chan struct{}, maxIO),
		controls:   make(chan struct{}, maxControls),
		serving:    make(chan struct{}),
		started:    time.Now(),
	}
	n.versions.Store(1)
	for i := range cfg.Namespaces {
		ns := cfg.Namespaces[i].WithDefaults()
		if err := ns.Validate(); err != nil {
			return nil, fmt.Errorf("router: %w", err)
		}
		ns.nameRule, _ = compileNameRule(ns.ChannelRegex) // Validate has looked at it
		if n.namespaces[ns.Name] != nil {
			return nil, fmt.Errorf("router: namespace %q is declared twice", ns.Name)
		}
		n.namespaces[ns.Name] = &ns
	}
	for range runtime.GOMAXPROCS(0) {
		n.shards = append(n.shards, newShard(n))
	}
	n.members = newMembership(n)
	n.rpcAllow, n.rpcAllowAnonymous = matchers(cfg.RPC.Allow), matchers(cfg.RPC.AllowAnonymous)
	var err error
	n.inbox, err = newInbox(n, cfg.Inbox)
	return n, err
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Run serves until ctx ends and has released everything when it returns.
// Subscriptions that are left then simply get nothing more.
func (n *Node) Run(ctx context.Context) error {
	var cancel context.CancelFunc
	n.ctx, cancel = context.WithCancel(ctx)
	defer cancel()

	nc := n.cfg.Core
	reconnected, failed := nc.ReconnectHandler(), nc.ErrorHandler()
	defer nc.SetReconnectHandler(reconnected)
	defer nc.SetErrorHandler(failed)
	nc.SetReconnectHandler(func(c *nats.Conn) {
		n.Disturbed("nats reconnect")
		if reconnected != nil {
			reconnected(c)
		}
	})
	nc.SetErrorHandler(func(c *nats.Conn, s *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrSlowConsumer) {
			n.Disturbed("nats slow consumer")
		}
		if failed != nil {
			failed(c, s, err)
		}
	})

	stopControl, err := n.startControl()
	if err != nil {
		return fmt.Errorf("router: control subscriptions: %w", err)
	}
	stopAPI, err := n.startAPI()
	if err != nil {
		stopControl()
		return fmt.Errorf("router: nats service: %w", err)
	}
	for _, sh := range n.shards {
		n.wg.Go(sh.run)
	}
	n.wg.Go(n.members.run)
	// So that who sees the node ready is heard by it. Without NATS it is not ready.
	flushing, flushed := context.WithTimeout(ctx, time.Second)
	nc.FlushWithContext(flushing) //nolint:errcheck // see above
	flushed()
	n.running.Store(true)
	close(n.serving)

	<-ctx.Done()
	n.running.Store(false)
	stopAPI()
	stopControl()
	cancel()
	n.wg.Wait()
	return nil
}

// Serving is closed when Run has told NATS all that the node listens to.
func (n *Node) Serving() <-chan struct{} { return n.serving }

// Ready returns nil while the node can do its work, else the reason.
func (n *Node) Ready() error {
	if !n.running.Load() {
		return errors.New("router is not running")
	}
	if s := n.cfg.Core.Status(); s != nats.CONNECTED {
		return fmt.Errorf("nats connection is %s", s)
	}
	return n.cfg.Store.Healthy()
}

// Disturbed tells the node that live copies may have been lost on the way, so
// that it compares every channel with its log: now, and again a little later
// (restored interest reaches the leader late, rule J1).
func (n *Node) Disturbed(reason string) {
	n.log.Warn("live flow disturbed; checking all channels", "reason", reason)
	n.cfg.Metrics.disturbances.Inc()
	for _, sh := range n.shards {
		sh.post(sh.suspectAll)
	}
}

// Namespace returns the rules of channel, or an *Error for a bad or unknown one.
func (n *Node) Namespace(channel string) (*Namespace, error) {
	_, ns, err := n.resolve(channel)
	return ns, err
}

func (n *Node) resolve(channel string) (Channel, *Namespace, error) {
	ch, err := ParseChannel(channel)
	if err != nil {
		return Channel{}, nil, err
	}
	ns := n.namespaces[ch.Namespace]
	if ns == nil {
		if ch.Namespace == DefaultNamespace {
			return Channel{}, nil, Errorf(CodeUnknownChannel, "channels without a namespace are not configured")
		}
		return Channel{}, nil, Errorf(CodeUnknownChannel, "unknown namespace %q", ch.Namespace)
	}
	return ch, ns, nil
}

// resolveLog resolves a channel that has history.
func (n *Node) resolveLog(channel string) (Channel, *Namespace, Log, error) {
	ch, ns, err := n.resolve(channel)
	if err != nil {
		return Channel{}, nil, nil, err
	}
	if ns.HistorySize == 0 {
		return Channel{}, nil, nil, Errorf(CodeNotAvailable, "namespace %q keeps no history", ns.Name)
	}
	log, ok := n.cfg.Store.Log(ns.Name)
	if !ok {
		return Channel{}, nil, nil, fmt.Errorf("router: no log for namespace %q", ns.Name)
	}
	return ch, ns, log, nil
}

func (n *Node) shardOf(channel string) *shard {
	return n.shards[xxhash.Sum64String(channel)%uint64(len(n.shards))]
}

// Subscribe adds s to its channel. done is called exactly once, on the channel's
// shard, before anything is delivered to s; it must not block. On error s was
// not added. It does not check access.
func (n *Node) Subscribe(s *Subscription, req SubscribeRequest, done func(SubscribeResult, error)) {
	ch, ns, err := n.resolve(s.Channel)
	if err != nil {
		done(SubscribeResult{}, err)
		return
	}
	sh := n.shardOf(s.Channel)
	if !sh.post(func() { sh.subscribe(ch, ns, &joiner{sub: s, req: req, done: done}) }) {
		done(SubscribeResult{}, Unavailable("this node", errStopped))
	}
}

// Unsubscribe ends s; nothing is delivered to it once done is called (on the
// shard). done may be nil. Ending a subscription twice is allowed.
func (n *Node) Unsubscribe(s *Subscription, done func()) {
	sh := n.shardOf(s.Channel)
	if !sh.post(func() { sh.unsubscribe(s, done) }) && done != nil {
		done()
	}
}

var errStopped = errors.New("router has stopped")

// async runs f on a goroutine of the node, with a context that ends with it.
func (n *Node) async(f func(ctx context.Context)) { n.asyncIn(n.io, f) }

// asyncIn is async with other slots.
func (n *Node) asyncIn(slots chan struct{}, f func(ctx context.Context)) {
	n.wg.Go(func() {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-n.ctx.Done():
			return
		}
		ctx, cancel := context.WithTimeout(n.ctx, ioTimeout)
		defer cancel()
		f(ctx)
	})
}
