package natstest

import (
	"fmt"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Cluster is a JetStream cluster on loopback whose nodes can be stopped, started
// again and cut off from each other. It is stopped when the test ends. Its
// methods belong to one goroutine at a time.
type Cluster struct {
	tb    testing.TB
	nodes []*node
	links []*link // between any two nodes
}

type node struct {
	opts    server.Options
	server  *server.Server
	running bool
}

// clusterReady bounds the wait for a leader: an election takes up to 9 s
// (nats-server raft.go), and tests may share few cores.
const clusterReady = 60 * time.Second

// NewCluster starts n nodes and returns when they agree on a leader and know
// each other. Options apply to every node.
//
// Nodes reach each other through proxies only, one for each direction of a pair.
// That no other route comes up is ensured by having all advertise an address
// where nobody listens.
func NewCluster(tb testing.TB, n int, options ...Option) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb}
	tb.Cleanup(c.stop)
	for i := range n {
		o := server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: server.RANDOM_PORT,
			JetStream: true, StoreDir: storeDir(tb), NoLog: true, NoSigs: true,
			Cluster: server.ClusterOpts{
				Name: "test", Host: "127.0.0.1", Port: server.RANDOM_PORT,
				PoolSize: -1, NoAdvertise: true, Advertise: "127.0.0.1:1",
			},
		}
		for _, option := range options {
			option(&o)
		}
		for j := range n {
			if j == i {
				continue
			}
			l := newLink(tb, i, j)
			c.links = append(c.links, l)
			o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", Host: l.address()})
		}
		c.nodes = append(c.nodes, &node{opts: o})
	}
	for i := range c.nodes {
		c.start(i)
	}
	c.WaitReady()
	return c
}

// start starts the node, from the second time on at the same addresses.
func (n *node) start(tb testing.TB) {
	tb.Helper()
	opts := n.opts
	s, err := server.NewServer(&opts)
	if err != nil {
		tb.Fatalf("natstest: new server: %v", err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		tb.Fatalf("natstest: node %s did not start within 10s", n.opts.ServerName)
	}
	n.server, n.running = s, true
	n.opts.Port = s.Addr().(*net.TCPAddr).Port
	n.opts.Cluster.Port = s.ClusterAddr().Port
}

func (c *Cluster) start(i int) {
	c.tb.Helper()
	n := c.nodes[i]
	n.start(c.tb)
	for _, l := range c.links {
		if l.to == i {
			l.setTarget(n.server.ClusterAddr().String())
		}
	}
}

func (c *Cluster) stop() {
	for i := range c.nodes {
		c.Stop(i)
	}
	for _, l := range c.links {
		l.close()
	}
}

// Conn connects a client to node i. It stays with that node.
func (c *Cluster) Conn(i int, options ...nats.Option) *nats.Conn {
	c.tb.Helper()
	return connect(c.tb, c.nodes[i].server.ClientURL(), append(options, nats.IgnoreDiscoveredServers())...)
}

// ConnAll connects a client that prefers node i and may move to any other.
func (c *Cluster) ConnAll(i int, options ...nats.Option) *nats.Conn {
	c.tb.Helper()
	urls := c.nodes[i].server.ClientURL()
	for j, n := range c.nodes {
		if j != i {
			urls += "," + n.server.ClientURL()
		}
	}
	return connect(c.tb, urls, append(options, nats.DontRandomize())...)
}

// Server returns node i.
func (c *Cluster) Server(i int) *server.Server { return c.nodes[i].server }

// Stop shuts node i down in an orderly way: it hands over what it leads.
func (c *Cluster) Stop(i int) {
	n := c.nodes[i]
	if !n.running {
		return
	}
	n.running = false
	n.server.Shutdown()
	n.server.WaitForShutdown()
}

// Kill ends node i without a word to the others.
func (c *Cluster) Kill(i int) {
	c.Cut(i)
	c.Stop(i)
}

// Start starts node i again on what it had stored and joins it to the others.
func (c *Cluster) Start(i int) {
	c.tb.Helper()
	c.start(i)
	c.Heal(i)
}

// Cut breaks all routes of node i. Its clients stay connected.
func (c *Cluster) Cut(i int) { c.setCut(i, true) }

// Heal undoes Cut.
func (c *Cluster) Heal(i int) { c.setCut(i, false) }

func (c *Cluster) setCut(i int, cut bool) {
	for _, l := range c.links {
		if l.from == i || l.to == i {
			l.setCut(cut)
		}
	}
}

// WaitReady returns when one running node leads JetStream, knows all nodes, and
// the running ones are current.
func (c *Cluster) WaitReady() {
	c.tb.Helper()
	Eventually(c.tb, clusterReady, "a JetStream leader that knows all nodes", func() bool {
		leaders, current, running := 0, 0, 0
		for _, n := range c.nodes {
			if !n.running {
				continue
			}
			running++
			if n.server.JetStreamIsLeader() && len(n.server.JetStreamClusterPeers()) == len(c.nodes) {
				leaders++
			}
			if n.server.JetStreamIsCurrent() {
				current++
			}
		}
		return leaders == 1 && current == running
	})
}

// StreamLeader returns the node that leads stream, waiting for an election.
func (c *Cluster) StreamLeader(stream string) int {
	c.tb.Helper()
	leader := -1
	Eventually(c.tb, clusterReady, "a leader of "+stream, func() bool {
		for i, n := range c.nodes {
			if n.running && n.server.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream) {
				leader = i
				return true
			}
		}
		return false
	})
	return leader
}

// Eventually returns once cond is true, and fails the test after Patience(bound).
func Eventually(tb testing.TB, bound time.Duration, what string, cond func() bool) {
	tb.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	bound = Patience(bound)
	for start := time.Now(); !cond(); <-tick.C {
		if time.Since(start) > bound {
			tb.Fatalf("no %s within %v", what, bound)
		}
	}
}

// Patience is how long a test waits for what takes at most bound on an idle machine:
// bound in virtual time, where that is exact, else ten times as long.
func Patience(bound time.Duration) time.Duration {
	if time.Now().Year() == 2000 { // where the clock of a testing/synctest bubble starts
		return bound
	}
	return 10 * bound
}
