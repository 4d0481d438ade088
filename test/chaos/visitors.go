package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/headrace/headrace/test/follow"
)

// visitors are clients that want to know who is there. In one room some stay and some
// come and go, and everyone asks. The other has one watcher at each edge, who asked
// when it came; those who come and go there do not ask, because a node that is asked
// learns what it has missed.
func (r *run) visitors(settled <-chan struct{}) []*follow.Follower {
	anyEdge := func() (string, string) { e := rand.IntN(size); return r.c.url(e), r.c.edges[e].name }
	visitor := func(name, channel string) *follow.Follower {
		return &follow.Follower{
			Name: name, History: r.history, Settled: settled, Idle: clientIdle, Retry: 300 * time.Millisecond, Members: true,
			Channels: []string{channel}, Edge: anyEdge,
		}
	}
	passing := func(f *follow.Follower, longest time.Duration) *follow.Follower {
		f.Stay = func() time.Duration { return 300*time.Millisecond + rand.N(longest) }
		f.Away = func() time.Duration { return rand.N(2 * time.Second) }
		return f
	}
	var list []*follow.Follower
	for i := range 9 {
		f := visitor(fmt.Sprintf("v%d", i+1), roomChannel)
		if i%3 > 0 {
			passing(f, time.Duration(i)*4*time.Second)
		}
		list = append(list, f)
	}
	for e := range size {
		f := visitor(fmt.Sprintf("w%d", e+1), watchedChannel)
		f.Edge = func() (string, string) { return r.c.url(e), r.c.edges[e].name }
		list = append(list, f)
	}
	for i := range 6 {
		f := passing(visitor(fmt.Sprintf("p%d", i+1), watchedChannel), time.Duration(i+1)*3*time.Second)
		f.Members = false
		list = append(list, f)
	}
	return list
}
