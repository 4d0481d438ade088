package test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	centrifuge "github.com/centrifugal/centrifuge-go"

	"github.com/headrace/headrace/edge"
)

// TestQ2CentrifugeGo works on a queue with the unmodified Go SDK, in both encodings,
// while the edge it is connected to is killed again and again.
func TestQ2CentrifugeGo(t *testing.T) {
	for kind, newClient := range map[string]func(string, centrifuge.Config) *centrifuge.Client{
		"json": centrifuge.NewJsonClient, "protobuf": centrifuge.NewProtobufClient,
	} {
		t.Run(kind, func(t *testing.T) {
			h := newQueueHarness(t, 1, 2, testQueues(1), func(c *edge.Config) { c.WorkerGrace = 200 * time.Millisecond })
			b := newBalancer(t, h)
			defer b.Close()
			client := newClient(b.url(), centrifuge.Config{MinReconnectDelay: 10 * time.Millisecond, MaxReconnectDelay: 100 * time.Millisecond})
			defer client.Close()
			sub, err := client.NewSubscription("queue:q0", centrifuge.SubscriptionConfig{Data: []byte(`{"credits":3}`)})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan string, 100)
			sub.OnPublication(func(e centrifuge.PublicationEvent) {
				var j workerJob
				if err := json.Unmarshal(e.Data, &j); err != nil {
					t.Errorf("job %s: %v", e.Data, err)
				}
				ack := fmt.Sprintf(`{"queue":"q0","token":%q}`, j.Token)
				// The SDK reads nothing while a handler runs, so it must not wait here.
				go func() {
					// Without an answer it may be done or not: a repetition tells, at any edge.
					for t.Context().Err() == nil {
						if _, err := client.RPC(t.Context(), "queue.ack", []byte(ack)); err == nil {
							done <- string(j.Data)
							return
						}
					}
				}()
			})
			if err := client.Connect(); err != nil {
				t.Fatal(err)
			}
			if err := sub.Subscribe(); err != nil {
				t.Fatal(err)
			}
			p := h.client(t, h.list()[1])
			for n := range 30 {
				p.push("q0", n)
				if n%10 == 9 {
					h.replace(0)
				}
			}
			seen := map[string]bool{}
			for len(seen) < 30 {
				seen[within(t, done, "job")] = true
			}
			h.empty(t, "q0")
		})
	}
}
