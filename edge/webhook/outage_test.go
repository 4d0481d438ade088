package webhook

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/persistence/queue"
	"github.com/headrace/headrace/router"
)

// openQueue runs the real queue "q" on nc until the returned function is called.
func openQueue(t testing.TB, nc *nats.Conn) (*queue.Store, func()) {
	t.Helper()
	s, err := queue.Open(t.Context(), nc, queue.Config{Queues: []router.Queue{{Name: "q"}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	return s, func() { cancel(); wg.Wait() }
}

// tally is a receiver's count of calls by job.
type tally struct {
	mu    sync.Mutex
	calls map[string]int
	done  map[string]int
}

func (c *tally) add(id string, done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[id]++
	if done {
		c.done[id]++
	}
}

func (c *tally) finished() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.done)
}

// TestTenMinutesDown has an endpoint away for ten minutes while jobs come in, in
// virtual time, on the real queue with its default of four attempts within 7s.
// No job becomes a dead letter, all are done.
func TestTenMinutesDown(t *testing.T) {
	for name, tt := range map[string]struct {
		gone   bool   // no connection; else a gateway answers 502
		after  string // Retry-After with 503 instead of 502
		jobs   int
		within time.Duration // after the end of the outage, all are done
	}{
		"nobody listens":                    {true, "", 100, 3 * time.Minute},
		"nobody listens, one job":           {true, "", 1, 3 * time.Minute},
		"a gateway has no back end":         {false, "", 100, 7 * time.Minute},
		"a gateway has no back end, 8 jobs": {false, "", 8, 7 * time.Minute},
		"a gateway has no back end, one":    {false, "", 1, 7 * time.Minute},
		"maintenance that says how long":    {false, "30", 100, 7 * time.Minute},
		"maintenance, 8 jobs":               {false, "30", 8, 7 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				srv := natstest.Run(t)
				nc := srv.Conn(persistence.ConnectOptions()...)
				s, end := openQueue(t, nc)
				seen := &tally{calls: map[string]int{}, done: map[string]int{}}
				back := time.Now().Add(10 * time.Minute)
				r := serve(t, func(w http.ResponseWriter, r *http.Request) {
					up := time.Now().After(back)
					seen.add(r.Header.Get("Webhook-Id"), up)
					switch {
					case up:
					case tt.after != "":
						w.Header().Set("Retry-After", tt.after)
						w.WriteHeader(http.StatusServiceUnavailable)
					default:
						w.WriteHeader(http.StatusBadGateway)
					}
				})
				r.gone.Store(tt.gone)
				_, stop := work(t, s, testEndpoint(), r.dial)
				for i := range tt.jobs {
					if _, err := s.Push(t.Context(), "q", router.NewJob{Payload: []byte(fmt.Sprint(i))}); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Second) // virtual: they come in over a while
				}
				time.Sleep(time.Until(back))
				r.gone.Store(false)
				for end := time.Now().Add(tt.within); time.Now().Before(end) && seen.finished() < tt.jobs; {
					time.Sleep(time.Second) // virtual
				}
				dead, err := s.ListDead(t.Context(), "q", 0, 1000)
				if err != nil || len(dead) > 0 || seen.finished() != tt.jobs {
					t.Errorf("%d of %d jobs done, %d dead letters, %v", seen.finished(), tt.jobs, len(dead), err)
				}
				t.Logf("all done %v after the end of the outage", time.Since(back).Round(time.Second))
				stop()
				r.stop()
				end()
				nc.Close()
				srv.Stop()
			})
		})
	}
}

// TestNodeDiesDuringRequest cuts a node from NATS while the endpoint works on its
// job. Another node has it done.
func TestNodeDiesDuringRequest(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		srv := natstest.Run(t)
		first, second := srv.Conn(persistence.ConnectOptions()...), srv.Conn(persistence.ConnectOptions()...)
		s1, end1 := openQueue(t, first)
		s2, end2 := openQueue(t, second)
		begun := make(chan string, 10)
		hang := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			begun <- r.Header.Get("Webhook-Id") + " " + r.Header.Get("Headrace-Attempt")
			<-r.Context().Done()
		})
		fine := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			begun <- r.Header.Get("Webhook-Id") + " " + r.Header.Get("Headrace-Attempt")
		})
		e := testEndpoint()
		e.Timeout = time.Hour
		_, stop1 := work(t, s1, e, hang.dial)
		p, err := s1.Push(t.Context(), "q", router.NewJob{Payload: []byte("1")})
		if err != nil {
			t.Fatal(err)
		}
		if got := <-begun; got != p.ID+" 1" {
			t.Errorf("began %s", got)
		}
		_, stop2 := work(t, s2, e, fine.dial)
		time.Sleep(5 * time.Minute) // virtual: kept by extending
		select {
		case got := <-begun:
			t.Errorf("%s began although the first node had it", got)
		default:
		}
		first.Close()
		began := time.Now()
		if got := <-begun; !strings.HasPrefix(got, p.ID+" ") || time.Since(began) > 45*time.Second {
			t.Errorf("then began %s after %v", got, time.Since(began))
		}
		time.Sleep(time.Minute)
		if st, err := s2.Stats(t.Context(), "q"); err != nil || st.Depth[router.PriorityMedium] != 0 || st.Dead != 0 {
			t.Errorf("left: %+v %v", st, err)
		}
		stop1()
		stop2()
		hang.stop()
		fine.stop()
		end1()
		end2()
		second.Close()
		srv.Stop()
	})
}
