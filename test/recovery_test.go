package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/router"
	"github.com/headrace/headrace/test/check"
	"github.com/headrace/headrace/test/follow"
)

// TestP4EveryAcknowledgedPublicationOnce is the checker at work: publishers with
// retries, subscribers that lose their connection again and again and come back
// on any edge, and faults chosen by seed. HEADRACE_SEEDS sets how many seeds
// each case runs (1 by default).
func TestP4EveryAcknowledgedPublicationOnce(t *testing.T) {
	seeds := 1
	if s := os.Getenv("HEADRACE_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("HEADRACE_SEEDS: %v", err)
		}
		seeds = n
	}
	for _, replicas := range []int{1, 3} {
		for seed := range seeds {
			t.Run(fmt.Sprintf("replicas=%d/seed=%d", replicas, seed), func(t *testing.T) {
				runScenario(t, replicas, uint64(seed))
			})
		}
	}
}

// scenario is one run.
type scenario struct {
	h         *harness
	history   *check.History
	rng       *rand.Rand
	stop      chan struct{} // closed when publishers and faults stop
	settled   chan struct{} // closed when subscribers stop being cut off
	finished  chan struct{} // closed when all is over
	followers []*follow.Follower
	counts    struct{ kills, clears, elections, cutoffs, squeezes atomic.Int64 }
}

const scenarioTime = 5 * time.Second

// rulesOfScenario are what the record is judged by. Nothing in a run of seconds
// can be late by as much: where everyone stands in the end is what counts.
var rulesOfScenario = check.Rules{History: map[string]int{"h": 300, "small": 20}, Late: time.Minute, Gone: 10 * time.Second}

func runScenario(t *testing.T, replicas int, seed uint64) {
	s := &scenario{
		h: newHarness(t, replicas, 3), history: check.NewHistory(nil), rng: rand.New(rand.NewPCG(seed, uint64(replicas))),
		stop: make(chan struct{}), settled: make(chan struct{}), finished: make(chan struct{}),
	}
	var subscribers, workers sync.WaitGroup
	channels := []string{"h:hot", "h:room.1", "h:quiet", "small:hot", "small:a b"}
	pauses := map[string]time.Duration{"h:hot": 0, "h:room.1": 5 * time.Millisecond, "h:quiet": 700 * time.Millisecond, "small:hot": 2 * time.Millisecond, "small:a b": 300 * time.Millisecond}
	for i := range 10 {
		f := &follow.Follower{
			Name: fmt.Sprintf("sub%d", i), Channels: channels, History: s.history, Settled: s.settled, Delta: i%2 == 0,
			Edge: func() (string, string) { e := s.h.any(); return e.url, e.id },
			Stay: func() time.Duration { return 50*time.Millisecond + rand.N(600*time.Millisecond) },
		}
		s.followers = append(s.followers, f)
		subscribers.Go(func() { f.Run(s.finished) })
	}
	for i, channel := range channels {
		for j := range 2 {
			workers.Go(func() { s.publisher(fmt.Sprintf("p%d_%d", i, j), channel, pauses[channel]) })
		}
	}
	workers.Go(func() { s.breakThings() })

	time.Sleep(scenarioTime) // the load lasts this long; nothing is waited for
	// In the end half of all copies get lost, the last ones of many channels too,
	// while subscribers stay where they are: coming back would heal it.
	s.h.faults.dropPerMille.Store(500)
	close(s.settled)
	time.Sleep(700 * time.Millisecond) // longer than any of them stays unsettled
	close(s.stop)
	workers.Wait()
	targets := s.readAll(t, channels)
	s.h.faults.dropPerMille.Store(0)
	s.h.faults.interestLag.Store(0)
	// Silence: no publication reveals a lost tail. Only the checks can.
	deadline := time.Now().Add(40 * time.Second)
	for time.Now().Before(deadline) && !s.allAt(targets) {
		time.Sleep(20 * time.Millisecond) // a poll with a deadline
	}
	s.judge(t)
	close(s.finished)
	subscribers.Wait()
}

func (s *scenario) judge(t *testing.T) {
	events, err := s.history.Events()
	if err != nil {
		t.Fatal(err)
	}
	r := check.Verify(events, rulesOfScenario)
	for i, bad := range r.Violations {
		if i < 10 {
			t.Error(bad)
		}
		if i == 0 {
			t.Log("what led to it:\n" + check.Format(check.Trace(events, bad)))
		}
	}
	deltas := 0
	for _, f := range s.followers {
		deltas += f.Decoded()
	}
	c := &s.counts
	t.Logf("deltas %d", deltas)
	t.Logf("acked %d, delivered %d, recovered %d, told %d; edges killed %d, clears %d, elections %d, cut-offs %d, squeezes %d, copies dropped %d",
		r.Acked, r.Delivered, r.Recovered, r.Told, c.kills.Load(), c.clears.Load(), c.elections.Load(), c.cutoffs.Load(), c.squeezes.Load(), s.h.faults.dropped.Load())
	if r.Acked == 0 || r.Delivered == 0 || r.Recovered == 0 || deltas == 0 {
		t.Error("nothing was published, seen or recovered: the test tested nothing")
	}
}

// readAll asks the leaders what the channels hold now that nobody publishes, and
// returns their last publications.
func (s *scenario) readAll(t *testing.T, channels []string) map[string]router.Position {
	targets := make(map[string]router.Position)
	for _, channel := range channels {
		var res router.HistoryResult
		err := errors.New("not asked")
		for deadline := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(deadline); {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			res, err = s.h.any().node.History(ctx, channel, router.HistoryRequest{Limit: -1})
			cancel()
		}
		if err != nil {
			t.Errorf("%s: position in the end: %v", channel, err)
		}
		for _, p := range res.Publications {
			targets[channel] = router.Position{Offset: p.Offset, Epoch: res.Position.Epoch}
			s.history.Add(check.Event{Kind: check.Final, Channel: channel, Offset: p.Offset, Epoch: res.Position.Epoch, Payload: string(p.Data)})
		}
		s.history.Add(check.Event{Kind: check.Target, Channel: channel, Offset: res.Position.Offset, Epoch: res.Position.Epoch})
	}
	return targets
}

// allAt reports whether all followers are there and stand at the targets.
func (s *scenario) allAt(targets map[string]router.Position) bool {
	for _, f := range s.followers {
		if !f.Attached() {
			return false
		}
		for channel, target := range targets {
			offset, epoch := f.Position(channel)
			if epoch != target.Epoch || offset < target.Offset {
				return false
			}
		}
	}
	return true
}

func (s *scenario) stopping() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// publisher publishes to channel with retries on any edge until it is
// acknowledged, as a careful application does.
func (s *scenario) publisher(name, channel string, pause time.Duration) {
	for n := 0; !s.stopping(); n++ {
		payload, _ := json.Marshal(fmt.Sprintf("%s-%d, which has in common with all others what comes now", name, n))
		e := check.Event{Kind: check.Send, Who: name, Channel: channel, Payload: string(payload)}
		s.history.Add(e)
		e.Kind = check.Refuse
		for try := 0; try < 60; try++ {
			pos, err := publish(s.h.any().node, channel, name+"-"+strconv.Itoa(n), payload)
			if err == nil {
				e.Kind, e.Offset, e.Epoch = check.Ack, pos.Offset, pos.Epoch
				break
			}
			time.Sleep(50 * time.Millisecond) // the retry pause of an application
		}
		s.history.Add(e)
		if pause > 0 {
			time.Sleep(pause)
		}
	}
}

func publish(node *router.Node, channel, key string, payload []byte) (router.Position, error) {
	type answer struct {
		pos router.Position
		err error
	}
	done := make(chan answer, 1)
	node.Publish(router.PublishRequest{Channel: channel, Data: payload, IdempotencyKey: key}, func(p router.Position, err error) {
		done <- answer{p, err}
	})
	select {
	case a := <-done:
		return a.pos, a.err
	case <-time.After(40 * time.Second):
		return router.Position{}, context.DeadlineExceeded // done must be called exactly once; a dead edge may owe it
	}
}

// breakThings does one thing after the other until the scenario stops.
func (s *scenario) breakThings() {
	s.h.faults.dropPerMille.Store(int64(s.rng.IntN(80)))
	s.h.faults.interestLag.Store(int64(s.rng.IntN(int(150 * time.Millisecond))))
	for !s.stopping() {
		time.Sleep(time.Duration(s.rng.IntN(int(400 * time.Millisecond)))) // the pause between two faults
		switch s.rng.IntN(6) {
		case 5:
			s.squeeze()
		case 0:
			s.h.replace(s.rng.IntN(3))
			s.counts.kills.Add(1)
		case 1:
			select {
			case <-s.settled: // its publications are what everyone is compared with in the end
			default:
				s.clear("small:hot")
			}
		case 2, 3:
			s.breakNATS()
		}
	}
}

// clear removes a history in the middle of it all.
func (s *scenario) clear(channel string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s.history.Add(check.Event{Kind: check.Clear, Channel: channel})
	if s.h.any().node.HistoryRemove(ctx, channel) == nil {
		s.counts.clears.Add(1)
	}
}

// squeeze lowers the limit of a stream for a moment, so that it evicts from its
// front: old entries of busy channels, and the only ones of quiet channels, which
// begin a new life then.
func (s *scenario) squeeze() {
	nc := s.h.connect()
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, "HR_LOG_h_0")
	if err != nil {
		return // no leader now
	}
	cfg := stream.CachedInfo().Config
	before := cfg.MaxMsgs
	for _, channel := range []string{"h:hot", "h:room.1", "h:quiet"} {
		s.history.Add(check.Event{Kind: check.Evict, Channel: channel})
	}
	for _, limit := range []int64{int64(50 + s.rng.IntN(300)), before} {
		cfg.MaxMsgs = limit
		// To put it back must succeed: the rest of the run is not about this.
		for try := 0; try < 50; try++ {
			if _, err := js.UpdateStream(ctx, cfg); err == nil || limit != before {
				break
			}
			time.Sleep(100 * time.Millisecond) // the pause between two tries
		}
	}
	s.counts.squeezes.Add(1)
}

// breakNATS makes a new leader, or cuts a node off for a while.
func (s *scenario) breakNATS() {
	c := s.h.cluster
	if c == nil {
		return
	}
	switch s.rng.IntN(4) {
	case 0:
		leader := c.StreamLeader("HR_LOG_h_0")
		if leader < 0 {
			return
		}
		c.Kill(leader)
		time.Sleep(time.Duration(s.rng.IntN(int(time.Second)))) // how long it stays down
		c.Start(leader)
		c.WaitReady()
		s.counts.elections.Add(1)
	case 1:
		i := s.rng.IntN(3)
		c.Cut(i)
		time.Sleep(time.Duration(s.rng.IntN(int(2 * time.Second)))) // how long it is cut off
		c.Heal(i)
		s.counts.cutoffs.Add(1)
	}
}
