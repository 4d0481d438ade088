package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/headrace/headrace/test/follow"
)

// visitors are clients of a channel that want to know who is there: some stay, some
// come and go.
func (r *run) visitors(settled <-chan struct{}) []*follow.Follower {
	var list []*follow.Follower
	for i := range 9 {
		f := &follow.Follower{
			Name: fmt.Sprintf("v%d", i+1), History: r.history, Settled: settled, Idle: clientIdle, Retry: 300 * time.Millisecond, Members: true,
			Channels: []string{roomChannel},
			Edge:     func() (string, string) { e := rand.IntN(size); return r.c.url(e), r.c.edges[e].name },
		}
		if i%3 > 0 {
			longest := time.Duration(i) * 4 * time.Second
			f.Stay = func() time.Duration { return 300*time.Millisecond + rand.N(longest) }
			f.Away = func() time.Duration { return rand.N(2 * time.Second) }
		}
		list = append(list, f)
	}
	return list
}
