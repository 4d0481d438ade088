package webhook

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestConcurrencyIsNeverExceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		r := serve(t, func(http.ResponseWriter, *http.Request) {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(10 * time.Millisecond) // virtual: the work
			now.Add(-1)
		})
		q := newFakeQueue()
		_, stop := work(t, q, testEndpoint(), r.dial)
		for i := range 1000 {
			q.put(testJob(fmt.Sprint(i)))
		}
		for range 1000 {
			if e := q.next(t); e.nack != nil {
				t.Fatalf("%+v", e.nack)
			}
		}
		if most.Load() != 4 || r.most.Load() != 4 {
			t.Errorf("%d requests and %d connections at a time, want 4", most.Load(), r.most.Load())
		}
		time.Sleep(2 * time.Minute) // virtual: idle_timeout
		if n := r.open.Load(); n != 0 {
			t.Errorf("%d idle connections are left", n)
		}
		stop()
		r.stop()
	})
}

// TestLongJobsAreKept has a job that takes longer than the ack wait; and one that
// NATS lets go of meanwhile, so that the queue hands out more than there is room.
func TestLongJobsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, func(http.ResponseWriter, *http.Request) { time.Sleep(5 * time.Minute) })
		q, e := newFakeQueue(), testEndpoint()
		e.Timeout, e.Concurrency = 10*time.Minute, 1
		ws, stop := work(t, q, e, r.dial)
		q.put(testJob("1"))
		if end := q.next(t); end.nack != nil || q.extends.Load() != 29 && q.extends.Load() != 30 {
			t.Errorf("%+v after %d extensions, want one each 10s", end.nack, q.extends.Load())
		}
		q.mu.Lock()
		q.stuck = errors.New("no NATS")
		q.mu.Unlock()
		q.put(testJob("2"))
		time.Sleep(time.Minute)
		q.take(testJob("3")) // the queue believes that 2 is elsewhere
		if end := q.next(t); end.token != "token-of-3" || !strings.Contains(end.nack.Error, "all connections to the endpoint are in use") {
			t.Errorf("ended as %s %+v", end.token, end.nack)
		}
		if n := testutil.ToFloat64(ws.all[0].exhausted); n != 1 {
			t.Errorf("exhausted %v times", n)
		}
		if end := q.next(t); end.token != "token-of-2" || end.nack != nil {
			t.Errorf("ended as %+v", end)
		}
		stop()
		r.stop()
	})
}

// TestStop has one request that ends in time, one that does not.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Webhook-Id") == "slow" {
				<-r.Context().Done()
				return
			}
			time.Sleep(3 * time.Second)
		})
		q := newFakeQueue()
		ws, stop := work(t, q, testEndpoint(), r.dial)
		q.put(testJob("slow"), testJob("fast"))
		time.Sleep(time.Second)
		q.put(testJob("later"))
		began := time.Now()
		synctest.Wait()
		stop()
		if took := time.Since(began); took != 5*time.Second || q.closes.Load() != 1 {
			t.Errorf("stopped after %v, closed %d times", took, q.closes.Load())
		}
		ws.all[0].take(testJob("after")) // allowed by router.Queues
		ended := map[string]bool{}
		for len(q.ends) > 0 {
			ended[(<-q.ends).token] = true
		}
		if !ended["token-of-fast"] || ended["token-of-slow"] || ended["token-of-after"] {
			t.Errorf("ended: %v", ended)
		}
		r.stop()
	})
}

// TestRetryAfterPausesTheEndpoint has every second job answered with 429.
func TestRetryAfterPausesTheEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		r := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if calls.Add(1) == 1 {
				w.Header().Set("Retry-After", "60")
				w.WriteHeader(http.StatusTooManyRequests)
			}
		})
		q, e := newFakeQueue(), testEndpoint()
		e.Concurrency = 1
		_, stop := work(t, q, e, r.dial)
		q.put(testJob("1"), testJob("2"))
		began := time.Now()
		if end := q.next(t); end.nack == nil || end.nack.Delay != time.Minute {
			t.Errorf("ended as %+v", end.nack)
		}
		if end := q.next(t); end.nack != nil || time.Since(began) < time.Minute || time.Since(began) > 61*time.Second {
			t.Errorf("ended as %+v after %v", end.nack, time.Since(began))
		}
		stop()
		r.stop()
	})
}

// TestUnreachableCostsNothing has an endpoint away for four minutes: no job fails,
// but for those beyond the one that is tried, which are given back after waitHold.
func TestUnreachableCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, func(http.ResponseWriter, *http.Request) {})
		r.gone.Store(true)
		q := newFakeQueue()
		ws, stop := work(t, q, testEndpoint(), r.dial)
		for i := range 20 {
			q.put(testJob(fmt.Sprint(i)))
		}
		time.Sleep(4 * time.Minute)
		if n := len(q.ends); n != 3 || testutil.ToFloat64(ws.all[0].down) != 1 {
			t.Errorf("%d jobs ended, want those beyond the one that is tried", n)
		}
		r.gone.Store(false)
		nacks := 0
		for range 20 {
			if end := q.next(t); end.nack != nil {
				nacks++
			}
		}
		if nacks != 3 || testutil.ToFloat64(ws.all[0].down) != 0 {
			t.Errorf("%d jobs failed, down is %v", nacks, testutil.ToFloat64(ws.all[0].down))
		}
		time.Sleep(2 * time.Minute) // virtual: idle_timeout
		r.gone.Store(true)
		q.put(testJob("x"))
		began := time.Now()
		if end := q.next(t); end.nack == nil || !strings.Contains(end.nack.Error, "cannot be reached: connection refused") || time.Since(began) > 6*time.Minute {
			t.Errorf("ended as %+v after %v", end.nack, time.Since(began))
		}
		stop()
		r.stop()
	})
}

// TestPoisonBlocksNobody has a third of the jobs kill their connection.
func TestPoisonBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.Header.Get("Webhook-Id"), "bad") {
				panic(http.ErrAbortHandler)
			}
		})
		q := newFakeQueue()
		_, stop := work(t, q, testEndpoint(), r.dial)
		for i := range 10 { // long enough a run that the endpoint seems down
			q.put(testJob(fmt.Sprint("bad", i)))
		}
		for i := range 20 {
			q.put(testJob(fmt.Sprint("good", i)))
		}
		began, good := time.Now(), 0
		for range 30 {
			end := q.next(t)
			if (end.nack == nil) != strings.Contains(end.token, "good") {
				t.Errorf("%s ended as %+v", end.token, end.nack)
			}
			if end.nack == nil {
				good++
			}
		}
		if took := time.Since(began); good != 20 || took > 2*time.Minute {
			t.Errorf("%d done in %v", good, took)
		}
		stop()
		r.stop()
	})
}
