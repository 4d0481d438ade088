package edge

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/headrace/headrace/router"
)

// slowRouter answers publications once gate is closed.
type slowRouter struct {
	*fakeRouter
	gate chan struct{}
	took chan struct{} // receives once per publication taken
}

func newSlowRouter() *slowRouter {
	return &slowRouter{newFakeRouter(), make(chan struct{}), make(chan struct{}, 100)}
}

func (r *slowRouter) Publish(req router.PublishRequest, done func(router.Position, error)) {
	r.took <- struct{}{}
	go func() {
		<-r.gate
		r.fakeRouter.Publish(req, done)
	}()
}

// endTimes notes when sessions are told to go.
type endTimes struct {
	mu sync.Mutex // guards at
	at []time.Time
}

func (*endTimes) Send([]byte) {}

func (e *endTimes) Close(disconnect) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.at = append(e.at, time.Now())
}

func TestE7DisconnectsAreSpreadEvenlyOverTheDrainWindow(t *testing.T) {
	for name, tt := range map[string]struct {
		sessions int
		window   time.Duration
	}{
		"many":                    {5000, 20 * time.Second},
		"fewer than steps":        {40, 20 * time.Second},
		"more than one a step":    {10_000, time.Second},
		"a number of no multiple": {977, 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTestServer(t, newFakeRouter(), func(c *Config) { c.DrainWindow = tt.window })
				ends := new(endTimes)
				for range tt.sessions {
					s.sessions.add(newSession(s, jsonWS, ends, time.Now()), func() {})
				}
				start := time.Now()
				if err := s.Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
				const buckets = 10
				var histogram [buckets]int
				for _, at := range ends.at {
					histogram[min(int(at.Sub(start)*buckets/tt.window), buckets-1)]++
				}
				want := tt.sessions / buckets
				tolerance := 1 + tt.sessions*int(spreadStep)*2/int(tt.window)
				for _, n := range histogram {
					if n < want-tolerance || n > want+tolerance {
						t.Errorf("%v disconnects by tenth of the window, want %d±%d in each", histogram, want, tolerance)
						break
					}
				}
				if len(ends.at) != tt.sessions || s.sessions.Count() != 0 {
					t.Errorf("%d of %d were told, %d are left", len(ends.at), tt.sessions, s.sessions.Count())
				}
			})
		})
	}
}

func TestE7ReplyOfACommandInFlightPrecedesTheEnd(t *testing.T) {
	r := newSlowRouter()
	s := newTestServer(t, r, func(c *Config) { c.DrainWindow = time.Millisecond })
	ws := dialWS(t, serve(t, s), nil)
	sendText(t, ws, `{"id":1,"connect":{}}`)
	readText(t, ws)
	sendText(t, ws, `{"id":2,"publish":{"channel":"a","data":1}}`)
	<-r.took
	ended := make(chan error, 1)
	go func() { ended <- s.Shutdown(t.Context()) }()
	sess := s.sessions.list()[0]
	for deadline := time.Now().Add(10 * time.Second); !isLeaving(sess); time.Sleep(time.Millisecond) { // a poll with a deadline
		if time.Now().After(deadline) {
			t.Fatal("the session does not leave")
		}
	}
	// What arrives now is not done: whoever repeats it elsewhere does it once.
	sendText(t, ws, `{"id":3,"publish":{"channel":"a","data":2}}`)
	close(r.gate)
	if got := readText(t, ws); got != `{"id":2,"publish":{}}` {
		t.Errorf("got %s, want the reply to the publication in flight", got)
	}
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, 3001) {
		t.Errorf("ended with %v, want close 3001", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := r.asked(); len(got) != 1 {
		t.Errorf("the router was asked %q, want one publication", got)
	}
}

func isLeaving(s *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaving
}

func TestE7CommandsThatNeverEndDoNotHoldUpTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSlowRouter()
		s := newTestServer(t, r, nil)
		sess, tr := newTestSession(s, jsonWS)
		sess.onFrame([]byte(connectFrame + "\n" + `{"id":2,"publish":{"channel":"a","data":1}}`))
		s.calls.Add(1) // such a command
		late := errors.New("late")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 25*time.Second, late)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, late) {
			t.Errorf("Shutdown = %v, want %v", err, late)
		}
		if tr.closed() != 3001 {
			t.Errorf("close code %d, want 3001", tr.closed())
		}
		s.calls.Done()
		close(r.gate)
	})
}

// While it waits for its last answers, a session does not read: neither pongs.
func TestE7WaitForTheLastReplyOutlivesThePongTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSlowRouter()
		s := newTestServer(t, r, nil)
		sess, tr := newTestSession(s, jsonWS)
		sess.onFrame([]byte(connectFrame + "\n" + `{"id":2,"publish":{"channel":"a","data":1}}`))
		sess.leave()
		for range 60 {
			time.Sleep(time.Second) // virtual time
			sess.tick(time.Now())
		}
		close(r.gate)
		synctest.Wait()
		if frames := tr.take(); tr.closed() != 3001 || frames[len(frames)-1] != `{"id":2,"publish":{}}` {
			t.Errorf("closed with %d after %q", tr.closed(), frames)
		}
	})
}

// Commands that were taken before the session leaves are done in order, those
// that wait for a channel included.
func TestE7CommandsThatWaitAreDoneToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFakeRouter()
		r.gate = make(chan struct{})
		s := newTestServer(t, r, nil)
		sess, tr := newTestSession(s, jsonWS)
		sess.onFrame([]byte(connectFrame + "\n" + `{"id":2,"subscribe":{"channel":"a"}}` + "\n" + `{"id":3,"publish":{"channel":"a","data":1}}`))
		sess.leave()
		close(r.gate)
		synctest.Wait()
		got := strings.Join(tr.take(), " ")
		if tr.closed() != 3001 || !strings.Contains(got, `{"id":2,"subscribe"`) || !strings.HasSuffix(got, `{"id":3,"publish":{}}`) {
			t.Errorf("close %d after %s", tr.closed(), got)
		}
	})
}

// TestJ2ReadyNowAndThenIsNotReady: a router that works every third second sends its
// clients away as one that never works does.
func TestJ2ReadyNowAndThenIsNotReady(t *testing.T) {
	for name, tt := range map[string]struct {
		able func(second int) bool
		away bool
	}{
		"never":          {func(int) bool { return false }, true},
		"now and then":   {func(s int) bool { return s%3 == 0 }, true},
		"always":         {func(int) bool { return true }, false},
		"an election":    {func(s int) bool { return s > 9 }, false},
		"two, far apart": {func(s int) bool { return s > 9 && s < 20 || s > 29 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			node := newFakeRouter()
			s := newTestServer(t, node, func(c *Config) { c.UnreadyAfter = 20 * time.Second })
			since, start := time.Time{}, time.Now()
			for second := range 60 {
				node.ready = nil
				if !tt.able(second) {
					node.ready = errors.New("no leader")
				}
				since = s.moveAway(start.Add(time.Duration(second)*time.Second), since, nil)
			}
			if got := s.unready.Load(); got != tt.away {
				t.Errorf("clients are sent away: %v", got)
			}
		})
	}
}
