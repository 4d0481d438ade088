package router

import (
	"fmt"
	"testing"
	"time"
)

// countingSubscriber stands for a session: it takes the shared frame.
type countingSubscriber struct{ bytes int }

func (c *countingSubscriber) Deliver(_ *Subscription, b *Batch) {
	c.bytes += len(b.Frame(0, func(b *Batch) []byte { return b.Pushes[0].Pub.Data }))
}
func (c *countingSubscriber) Dropped(*Subscription, UnsubscribeReason) {}

// BenchmarkDeliver is the router's own part of a fan-out: one operation is one
// publication handed to all subscribers of a channel.
func BenchmarkDeliver(b *testing.B) {
	for _, n := range []int{1, 100, 10000} {
		b.Run(fmt.Sprintf("subscribers=%d", n), func(b *testing.B) {
			c := &liveChannel{name: "a", sh: &shard{n: &Node{cfg: Config{Metrics: NewMetrics(nil)}}}}
			for i := range n {
				c.subs = append(c.subs, &Subscription{Subscriber: &countingSubscriber{}, index: i})
			}
			pub := &Publication{Data: make([]byte, 128)}
			b.ReportAllocs()
			for offset := uint64(1); b.Loop(); offset++ {
				pub.Offset = offset
				c.out = append(c.out, Push{Pub: pub})
				c.flush()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/delivery")
		})
	}
}

// BenchmarkRecover is what one recovering client costs a node that holds the
// channel's ring.
func BenchmarkRecover(b *testing.B) {
	r := &ring{}
	for n := uint64(1); n <= 100; n++ {
		r.push(ringEntry{number: n, pub: &Publication{Offset: n}, size: 1}, 100)
	}
	b.ReportAllocs()
	for b.Loop() {
		if pubs, ok := r.after(90, 100, time.Time{}); !ok || len(pubs) != 10 {
			b.Fatal("not covered")
		}
	}
}
