package test

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/headrace/headrace/router"
)

// cpuTime is what this process, with all servers in it, has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkInboxSend is a message to one of 999 users through one of three edges,
// always the same for a user, with the question who is there. Beside it: the same
// without the question, and through changing edges, which know the newest number
// of the inbox from the leader only. Servers and edges are in this process.
func BenchmarkInboxSend(b *testing.B) {
	for _, replicas := range []int{1, 3} {
		h := newHarness(b, replicas, 3)
		edges := h.list()
		data := []byte(`{"text":"` + fmt.Sprintf("%0100d", 0) + `"}`)
		send := func(i, via int64) error {
			m := router.Message{To: fmt.Sprintf("user%d", i%999), Data: data, Info: &router.ClientInfo{User: "alice"}}
			_, err := edges[via%3].node.Inbox().Send(m)(b.Context())
			return err
		}
		for name, f := range map[string]func(int64) error{
			"send":                  func(i int64) error { return send(i, i) }, // 999 is a multiple of 3
			"through changing ones": func(i int64) error { return send(i, i+i/999) },
			"bare publish": func(i int64) error {
				_, err := publish(edges[i%3].node, fmt.Sprintf("inbox:#user%d", i%999), "", data)
				return err
			},
		} {
			for _, parallel := range []int{1, 32} {
				b.Run(fmt.Sprintf("R%d/%s/%d at once", replicas, name, parallel), func(b *testing.B) {
					var next atomic.Int64
					start := cpuTime()
					b.SetParallelism(max(1, parallel/2)) // times two cores
					if parallel == 1 {
						for b.Loop() {
							if err := f(next.Add(1)); err != nil {
								b.Fatal(err)
							}
						}
					} else {
						b.RunParallel(func(pb *testing.PB) {
							for pb.Next() {
								if err := f(next.Add(1)); err != nil {
									b.Error(err)
								}
							}
						})
					}
					b.ReportMetric(float64((cpuTime()-start).Microseconds())/float64(b.N), "cpu-µs/op")
				})
			}
		}
	}
}
