package natstest

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

func TestMain(m *testing.M) { Main(m) }

func TestClusterNodeIsCutOffAndHealed(t *testing.T) {
	c := NewCluster(t, 3)
	a, b := c.Conn(0), c.Conn(1)
	heard := make(chan *nats.Msg, 1000)
	if _, err := b.ChanSubscribe("x", heard); err != nil {
		t.Fatal(err)
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	arrives := func(within time.Duration) bool {
		tick, end := time.NewTicker(10*time.Millisecond), time.After(within)
		defer tick.Stop()
		for {
			select {
			case <-heard:
				return true
			case <-end:
				return false
			case <-tick.C:
				_ = a.Publish("x", nil)
			}
		}
	}
	if !arrives(5 * time.Second) {
		t.Fatal("nodes 0 and 1 are not connected")
	}
	c.Cut(0)
	for arrives(200 * time.Millisecond) { // what was under way
	}
	if !a.IsConnected() || !b.IsConnected() {
		t.Error("clients lost their nodes")
	}
	c.Heal(0)
	if !arrives(20 * time.Second) {
		t.Error("node 0 did not come back")
	}
}
