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
	"github.com/headrace/headrace/test/rawclient"
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
	k         *check.Checker
	rng       *rand.Rand
	stop      chan struct{} // closed when publishers and faults stop
	settled   chan struct{} // closed when subscribers stop being cut off
	finished  chan struct{} // closed when all is over
	observers []*check.Observer
	counts    struct{ published, cuts, kills, clears, elections, cutoffs, squeezes atomic.Int64 }
}

const scenarioTime = 5 * time.Second

func runScenario(t *testing.T, replicas int, seed uint64) {
	s := &scenario{
		h: newHarness(t, replicas, 3), k: check.New(), rng: rand.New(rand.NewPCG(seed, uint64(replicas))),
		stop: make(chan struct{}), settled: make(chan struct{}), finished: make(chan struct{}),
	}
	var subscribers, workers sync.WaitGroup
	channels := []string{"h:hot", "h:room.1", "h:quiet", "small:hot", "small:a b"}
	pauses := map[string]time.Duration{"h:hot": 0, "h:room.1": 5 * time.Millisecond, "h:quiet": 700 * time.Millisecond, "small:hot": 2 * time.Millisecond, "small:a b": 300 * time.Millisecond}
	for i := range 10 {
		var mine []*check.Observer
		for _, channel := range channels {
			mine = append(mine, s.k.Observer(fmt.Sprintf("sub%d", i), channel))
		}
		s.observers = append(s.observers, mine...)
		subscribers.Go(func() { s.subscriber(mine) })
	}
	for i, channel := range channels {
		for j := range 2 {
			workers.Go(func() { s.publisher(fmt.Sprintf("p%d-%d", i, j), channel, pauses[channel]) })
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
	s.setTargets(t, channels)
	s.h.faults.dropPerMille.Store(0)
	s.h.faults.interestLag.Store(0)
	// Silence: no publication reveals a lost tail. Only the checks can.
	deadline := time.Now().Add(40 * time.Second)
	for time.Now().Before(deadline) && !s.allCaughtUp() {
		time.Sleep(20 * time.Millisecond) // a poll with a deadline
	}
	close(s.finished)
	subscribers.Wait()
	res := s.k.Verify(s.observers)
	for _, p := range res.Problems {
		t.Error(p)
	}
	c := &s.counts
	t.Logf("acked %d, delivered %d, told %d; cuts %d, edges killed %d, clears %d, elections %d, cut-offs %d, squeezes %d, copies dropped %d",
		res.Acked, res.Seen, res.Told, c.cuts.Load(), c.kills.Load(), c.clears.Load(), c.elections.Load(), c.cutoffs.Load(), c.squeezes.Load(), s.h.faults.dropped.Load())
	if res.Acked == 0 || res.Seen == 0 {
		t.Error("nothing was published or nothing seen: the test tested nothing")
	}
}

// setTargets asks the leaders where the channels stand now that nobody publishes.
func (s *scenario) setTargets(t *testing.T, channels []string) {
	for _, channel := range channels {
		var res router.HistoryResult
		err := errors.New("not asked")
		for deadline := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(deadline); {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			res, err = s.h.any().node.History(ctx, channel, router.HistoryRequest{})
			cancel()
		}
		if err != nil {
			t.Errorf("%s: position in the end: %v", channel, err)
		}
		s.k.Target(channel, check.Position{Epoch: res.Position.Epoch, Offset: res.Position.Offset})
	}
}

func (s *scenario) allCaughtUp() bool {
	for _, o := range s.observers {
		if !o.CaughtUp() {
			return false
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
		payload, _ := json.Marshal(fmt.Sprintf("%s-%d", name, n))
		s.k.Sending(channel, string(payload))
		for try := 0; try < 60; try++ {
			pos, err := publish(s.h.any().node, channel, name+"-"+strconv.Itoa(n), payload)
			if err == nil {
				if pos.Offset > 0 {
					s.k.Ack(channel, string(payload), check.Position{Epoch: pos.Epoch, Offset: pos.Offset})
				}
				s.counts.published.Add(1)
				break
			}
			time.Sleep(50 * time.Millisecond) // the retry pause of an application
		}
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

// subscriber follows all its channels over one connection at a time.
func (s *scenario) subscriber(mine []*check.Observer) {
	byChannel := make(map[string]*check.Observer, len(mine))
	for _, o := range mine {
		byChannel[o.Channel()] = o
	}
	for {
		select {
		case <-s.finished:
			return
		default:
		}
		s.attend(byChannel)
	}
}

// attend connects, subscribes and reads until the connection is cut.
func (s *scenario) attend(byChannel map[string]*check.Observer) {
	trouble := make(chan struct{}, 1)
	asked := make(map[uint32]string) // command id → channel
	var mu sync.Mutex                // guards asked
	c, err := rawclient.Dial(context.Background(), s.h.any().url, func(e rawclient.Event) {
		switch {
		case e.Reply != nil:
			mu.Lock()
			channel := asked[e.Reply.ID]
			mu.Unlock()
			if e.Reply.Error != nil || e.Reply.Subscribe == nil {
				select { // temporary: come back later, elsewhere
				case trouble <- struct{}{}:
				default:
				}
				return
			}
			o := byChannel[channel]
			_, _, known := o.Position()
			o.Subscribed(known, e.Reply.Subscribe)
		case e.Push.Pub != nil:
			byChannel[e.Push.Channel].Published(e.Push.Pub)
		case e.Push.Unsubscribe != nil:
			byChannel[e.Push.Channel].Invalidated()
			select {
			case trouble <- struct{}{}:
			default:
			}
		}
	})
	if err != nil {
		time.Sleep(20 * time.Millisecond) // the reconnect pause of a client
		return
	}
	defer c.Close()
	for channel, o := range byChannel {
		mu.Lock() // the reply may come before Send returns
		id, err := c.Send("subscribe", subscribeBody(channel, o))
		asked[id] = channel
		mu.Unlock()
		if err != nil {
			return
		}
	}
	settled := s.settled
	cut := time.NewTimer(50*time.Millisecond + rand.N(600*time.Millisecond))
	defer cut.Stop()
	for {
		select {
		case <-cut.C:
			if settled == nil {
				continue
			}
			s.counts.cuts.Add(1)
			return
		case <-settled:
			settled = nil // stay from now on
		case <-trouble:
			time.Sleep(20 * time.Millisecond) // the reconnect pause of a client
			return
		case <-c.Done():
			return
		case <-s.finished:
			return
		}
	}
}

// subscribeBody asks for channel, from where o stands.
func subscribeBody(channel string, o *check.Observer) map[string]any {
	body := map[string]any{"channel": channel}
	if offset, epoch, known := o.Position(); known {
		body["recover"], body["offset"], body["epoch"] = true, offset, epoch
	}
	return body
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
			s.clear("small:hot")
		case 2, 3:
			s.breakNATS()
		}
	}
}

// clear removes a history in the middle of it all.
func (s *scenario) clear(channel string) {
	ch, _ := router.ParseChannel(channel)
	log, _ := s.h.any().store.Log(ch.Namespace)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if marker, err := log.Clear(ctx, ch.Key()); err == nil && marker.Number > 0 {
		epoch := router.LifeEpoch(log.Incarnation(ch.Key()), marker.Life)
		s.k.Cleared(channel, check.Position{Epoch: epoch, Offset: marker.Number})
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
