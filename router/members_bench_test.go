package router

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
)

// benchNodes starts n nodes of one server in this process.
func benchNodes(b *testing.B, n int) []*Node {
	b.Helper()
	srv := natstest.Run(b)
	var nodes []*Node
	for i := range n {
		nc := srv.Conn(nats.ReconnectBufSize(-1))
		node, err := New(Config{NodeID: fmt.Sprint("n", i+1), Namespaces: []Namespace{roomNamespace}, Core: nc, Store: &fakeStore{}, Sessions: noSessions{}, PresenceMembers: 200_000})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- node.Run(ctx) }()
		b.Cleanup(func() { cancel(); <-done })
		nodes = append(nodes, node)
	}
	for _, node := range nodes {
		for len(node.members.alive()) < n || node.members.settled(b.Context()) != nil {
			time.Sleep(time.Millisecond) // a poll; the benchmark has a timeout
		}
	}
	return nodes
}

// countingWatcher counts joins and leaves.
type countingWatcher struct{ joins, leaves atomic.Int64 }

func (c *countingWatcher) Deliver(_ *Subscription, b *Batch) {
	for _, p := range b.Pushes {
		switch {
		case p.Join != nil:
			c.joins.Add(1)
		case p.Leave != nil:
			c.leaves.Add(1)
		}
	}
}
func (c *countingWatcher) Dropped(*Subscription, UnsubscribeReason) {}

// benchInfo is what a client with a name tells of itself.
func benchInfo(i int) *ClientInfo {
	return &ClientInfo{Client: fmt.Sprintf("49659f42-198d-43ec-8b92-%012d", i), User: fmt.Sprint("user-", i), ConnInfo: []byte(`{"name":"Somebody Else"}`)}
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkJoin is a join and a leave at one node of three, told to a subscriber at
// another. All nodes and NATS are in this process, and so is their CPU.
func BenchmarkJoin(b *testing.B) {
	for name, together := range map[string]int{"one at a time": 1, "a thousand at once": 1000} {
		b.Run(name, func(b *testing.B) {
			nodes := benchNodes(b, 3)
			watch := &countingWatcher{}
			ready := make(chan error, 1)
			nodes[0].Subscribe(&Subscription{Channel: room, Subscriber: watch, NoPresence: true, NoJoinLeave: true}, SubscribeRequest{JoinLeave: true},
				func(_ SubscribeResult, err error) { ready <- err })
			if err := <-ready; err != nil {
				b.Fatal(err)
			}
			var subs []*Subscription
			for i := range together {
				subs = append(subs, &Subscription{Channel: room, Info: benchInfo(i)})
			}
			want := int64(0)
			level := func(count *atomic.Int64) {
				for count.Load() < want {
					time.Sleep(20 * time.Microsecond) // a poll; the benchmark has a timeout
				}
			}
			start := cpuTime(b)
			b.ResetTimer()
			for i := 0; i < b.N; i += together {
				want += int64(together)
				for j, s := range subs {
					subs[j] = &Subscription{Channel: room, Subscriber: &countingWatcher{}, Info: s.Info}
					nodes[1].Subscribe(subs[j], SubscribeRequest{}, func(SubscribeResult, error) {})
				}
				level(&watch.joins)
				for _, s := range subs {
					nodes[1].Unsubscribe(s, nil)
				}
				level(&watch.leaves)
			}
			b.ReportMetric(float64(cpuTime(b)-start)/float64(want), "cpu-ns/pair")
		})
	}
}

// BenchmarkMemberBytes measures what a member at another node takes here.
func BenchmarkMemberBytes(b *testing.B) {
	const members = 100_000
	for range b.N {
		nodes := benchNodes(b, 1)
		sh := nodes[0].shardOf(room)
		onShard(b.Context(), sh, func() {
			c := &liveChannel{sh: sh, name: room, ns: &roomNamespace}
			c.members = newChannelMembers(c)
			r := &replica{c: c, m: c.members, views: make(map[string]*memberView)}
			before := heap()
			copies := make([]member, 0, members)
			for i := range members {
				w := member{info: benchInfo(i)}.wire()
				who, _ := w.decode()
				copies = append(copies, who)
			}
			r.replace(r.view("n9"), viewAnswer{version: 2, count: members, members: copies})
			copies = nil
			b.ReportMetric(float64(heap()-before)/members, "B/member")
			runtime.KeepAlive(r)
			r.forget()
		})
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkHeartbeat reports the bytes of heartbeats that tell of so many channels.
func BenchmarkHeartbeat(b *testing.B) {
	for _, channels := range []int{0, 1, 100, 1000} {
		b.Run(fmt.Sprint(channels, " channels changed"), func(b *testing.B) {
			var bytes int
			for range b.N {
				var list []toldVersion
				for i := range channels {
					list = append(list, toldVersion{hash: uint64(i+1) * 0x9e3779b97f4a7c15, version: 1_000_000 + uint64(i)*3})
				}
				bytes = 0
				for _, n := range newNews(list, 999_000, 1_010_000) {
					body, err := json.Marshal(heartbeat{Views: true, NodeInfo: NodeInfo{ID: "49659f42-198d-43ec-8b92-097ecd99c1d9", Name: "edge-7f9c", Version: "v1.0.0", Clients: 20000, Channels: 5000, Subs: 40000, Uptime: 86400}, News: n})
					if err != nil {
						b.Fatal(err)
					}
					bytes += len(body)
				}
			}
			b.ReportMetric(float64(bytes), "B")
		})
	}
}
