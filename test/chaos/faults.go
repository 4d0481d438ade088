package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/test/check"
)

const killSignal = syscall.SIGKILL

// breakThings carries out the plan. It returns when every step is over and
// mended, or ctx ends.
func (r *run) breakThings(ctx context.Context, p plan) {
	var wg sync.WaitGroup
	for i, s := range p {
		if r.only != nil && !r.only[i] {
			continue
		}
		select {
		case <-time.After(s.pause):
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		if s.kind == calm {
			wg.Wait() // what overlaps must end first
			r.step(ctx, i, s)
			continue
		}
		wg.Go(func() { r.step(ctx, i, s) })
	}
	wg.Wait()
}

func (r *run) step(ctx context.Context, i int, s step) {
	text := fmt.Sprintf("#%d %v", i, s)
	r.history.Add(check.Event{Kind: check.Fault, Payload: text})
	r.broken.Add(1)
	ill := r.impairs(s)
	if s.shakesNATS() {
		r.history.Add(check.Event{Kind: check.Impaired, At: check.NATS})
	}
	for _, e := range ill {
		r.history.Add(check.Event{Kind: check.Impaired, At: r.c.edges[e].name})
	}
	err := r.do1(ctx, s)
	note := text
	if err != nil {
		note += ": " + err.Error()
	}
	for _, e := range ill {
		// It is itself again when it can work; that it must be in the end is
		// checked then.
		r.c.healthy(ctx, e, time.Minute) //nolint:errcheck // see above
		r.history.Add(check.Event{Kind: check.Healthy, At: r.c.edges[e].name})
	}
	if s.shakesNATS() {
		pause(ctx, time.Second) //nolint:errcheck // an election takes no longer, nor what it repeats
		r.history.Add(check.Event{Kind: check.Healthy, At: check.NATS})
	}
	r.history.Add(check.Event{Kind: check.Mended, Payload: note})
}

// shakesNATS reports whether s may change a leader.
func (s step) shakesNATS() bool {
	switch s.kind {
	case killEdge, termEdge, freezeEdge, cutEdge, slowEdge, clearLog, squeeze, rollEdges, calm:
		return false
	default:
		return true
	}
}

// impairs lists the edges whose presence may be wrong because of s.
func (r *run) impairs(s step) []int {
	switch s.kind {
	case killEdge, termEdge, freezeEdge, cutEdge, slowEdge:
		return []int{s.target}
	case stepDown, clearLog, squeeze, calm:
		return nil
	default:
		return []int{0, 1, 2}
	}
}

// do1 carries out one step and mends it.
func (r *run) do1(ctx context.Context, s step) error {
	c := r.c
	switch s.kind {
	case killEdge:
		return c.edges[s.target].restart(syscall.SIGKILL, s.duration, nil)
	case termEdge:
		return c.edges[s.target].restart(syscall.SIGTERM, s.duration, nil)
	case freezeEdge:
		c.edges[s.target].freeze(s.duration)
	case killNATS:
		return c.nats[s.target].restart(syscall.SIGKILL, s.duration, nil)
	case termNATS:
		return c.nats[s.target].restart(syscall.SIGTERM, s.duration, nil)
	case freezeNATS:
		c.nats[s.target].freeze(s.duration)
	case killAllNATS:
		var wg sync.WaitGroup
		for _, n := range c.nats {
			wg.Go(func() { n.restart(syscall.SIGKILL, s.duration, nil) }) //nolint:errcheck // seen when nothing works
		}
		wg.Wait()
	case cutEdge, cutNATS, cutPair:
		r.cut(s)
	case slowEdge, slowPair:
		r.slow(s)
	case stepDown:
		return r.stepDown(s)
	case fillDisk:
		return r.fillDisk(s)
	case clearLog:
		r.history.Add(check.Event{Kind: check.Clear, Channel: clearedChannel})
		body, _ := json.Marshal(map[string]any{"channel": clearedChannel})
		return r.call(rand.IntN(size), "history_remove", body, nil)
	case squeeze:
		return r.squeeze(ctx)
	case rollEdges:
		for i := range size {
			if err := c.edges[i].restart(syscall.SIGTERM, s.duration, nil); err != nil {
				return err
			}
			c.healthy(ctx, i, 30*time.Second) //nolint:errcheck // a rollout would wait; other faults may be in the way
		}
	case calm:
		time.Sleep(s.duration) // nothing happens
	}
	return nil
}

// links calls f with each link that s is about.
func (r *run) links(s step, f func(*link, ways)) {
	switch s.kind {
	case cutEdge, slowEdge:
		for _, l := range r.c.uplinks[s.target] {
			f(l, s.ways)
		}
	case cutPair, slowPair:
		r.c.between(s.target, s.other, s.ways, f)
	case cutNATS:
		for j := range size {
			if j != s.target {
				r.c.between(s.target, j, s.ways, f)
			}
		}
	}
}

func (r *run) cut(s step) {
	r.links(s, func(l *link, w ways) { l.stop(w, false) })
	time.Sleep(s.duration) // how long it is cut
	r.links(s, func(l *link, w ways) {
		if s.reset {
			l.reset()
		}
		l.stop(w, true)
	})
}

func (r *run) slow(s step) {
	delay := 20*time.Millisecond + s.duration/100
	r.links(s, func(l *link, _ ways) { l.setDelay(delay) })
	time.Sleep(s.duration) // how long it is slow
	r.links(s, func(l *link, _ ways) { l.setDelay(0) })
}

// stepDown makes the leader of a stream or a consumer give up.
func (r *run) stepDown(s step) error {
	leader := [...]string{"STREAM.LEADER.STEPDOWN.HR_LOG_log_0", "STREAM.LEADER.STEPDOWN.HR_LOG_small_0", "STREAM.LEADER.STEPDOWN.HR_IN"}[s.target]
	if r.jobs && s.other == (s.target+2)%size {
		leader = [...]string{
			"STREAM.LEADER.STEPDOWN.HR_JOBS_work", "STREAM.LEADER.STEPDOWN.HR_RETRY_work", "CONSUMER.LEADER.STEPDOWN.HR_JOBS_work.medium",
		}[s.target]
	}
	_, err := r.c.nc.Request("$JS.API."+leader, nil, 3*time.Second)
	return err
}

// fillDisk fills the disk of a NATS server. Afterwards the server is restarted, as
// an operator must: JetStream stays off once it has met a full disk.
func (r *run) fillDisk(s step) error {
	if !r.c.disks {
		return errors.New("not possible here: no right to mount a disk")
	}
	ballast := filepath.Join(r.c.storeDir(s.target), fmt.Sprintf("ballast-%d", r.broken.Load()))
	f, err := os.Create(ballast)
	if err != nil {
		return err
	}
	r.filling[s.target].Add(1)
	block := make([]byte, 1<<20)
	for deadline := time.Now().Add(s.duration); time.Now().Before(deadline); {
		if _, err := f.Write(block); err != nil {
			block = block[:max(len(block)/2, 1)] // to the last byte, and what is freed meanwhile
			time.Sleep(20 * time.Millisecond)    // the server has its turn
		}
	}
	f.Close()
	if err := os.Remove(ballast); err != nil {
		return err
	}
	r.filling[s.target].Add(-1)
	return r.c.nats[s.target].restart(syscall.SIGTERM, 0, nil)
}

// squeeze lowers the limit of a stream for a moment, so that it evicts its oldest
// entries.
func (r *run) squeeze(ctx context.Context) error {
	js, err := jetstream.New(r.c.nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, "HR_LOG_evict_0")
	if err != nil {
		return err
	}
	for _, ch := range channels() {
		if strings.HasPrefix(ch.name, "evict:") {
			r.history.Add(check.Event{Kind: check.Evict, Channel: ch.name})
		}
	}
	cfg := stream.CachedInfo().Config
	before := cfg.MaxMsgs
	cfg.MaxMsgs = 5
	if _, err := js.UpdateStream(ctx, cfg); err != nil {
		return err
	}
	cfg.MaxMsgs = before
	for {
		if _, err = js.UpdateStream(ctx, cfg); err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond) // the pause between two tries
	}
}
