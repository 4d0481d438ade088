package persistence

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

// S1: what expires is removed by a version of its own, and nothing older comes back.
func TestS1ExpiryNeverBringsOlderVersionsBack(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		for name, gone := range map[string]bool{"by the edge that set the key": false, "by another one": true} {
			t.Run(name, func(t *testing.T) { expire(t, env.edges(t, 2), gone) })
		}
	})
}

func expire(t *testing.T, e []*edge, gone bool) {
	e[0].set(t, "k", "for ever")
	e[0].set(t, "stays", "x")
	at := time.Now()
	set := e[0].change(t, router.Change{Key: "k", Data: value("for a second"), TTL: time.Second}, true)
	if d := set.Entry.Expires.Sub(at); d < time.Second/2 || d > 3*time.Second/2 {
		t.Fatalf("expires after %v", d)
	}
	if gone { // forgets what expires, and the other one learns it from reading
		e[0].part().expiry.forgetAll()
		e[1].all(t, 10)
	}
	never := func() {
		got := e[1].get(t, "k")
		if now := time.Now(); got.Version < 2 || got.Version > 3 || got.Present(now) && now.After(set.Entry.Expires) {
			t.Fatalf("%v after expiry: %+v", now.Sub(set.Entry.Expires), got)
		}
		state, _ := e[1].all(t, 10)
		if s, ok := state["k"]; ok && s.Version != 2 {
			t.Fatalf("in a page: %+v", s)
		}
	}
	natstest.Eventually(t, 20*time.Second, "removal", func() bool {
		never()
		return e[1].get(t, "k").Removed
	})
	if late := time.Since(set.Entry.Expires); late > natstest.Patience(5*time.Second) {
		t.Errorf("removed %v late", late)
	}
	state, _ := e[0].all(t, 10)
	if _, there := state["k"]; there || len(state) != 1 {
		t.Fatalf("pages: %v", state)
	}
	if stats, err := e[0].StateStats(t.Context(), "m:c"); err != nil || stats.Keys != 1 {
		t.Fatalf("stats: %+v %v", stats, err)
	}
	if res := e[0].change(t, router.Change{Key: "k", Data: value("new"), Expect: &router.Expect{}}, true); res.Entry.Version != 4 || res.Entry.Life != set.Entry.Life {
		t.Fatalf("set again: %+v", res.Entry)
	}
}

// A removed key is forgotten after tombstone_ttl, and what expired while nobody
// looked is found by the scan.
func TestScanFindsWhatNobodyRemembers(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		e := env.edges(t, 2)
		for i := range 2 * scanBatch {
			e[0].set(t, fmt.Sprint("filler ", i%20), "x")
		}
		e[0].change(t, router.Change{Key: "expires", Data: value("x"), TTL: time.Second}, true)
		old := e[0].set(t, "k", "x")
		e[0].change(t, router.Change{Key: "k", Remove: true}, true)
		e[0].change(t, router.Change{Key: "kept", Data: value("x")}, true)
		e[0].part().expiry.forgetAll()
		s := newScanner(e[1].part())
		s.keep = -time.Hour // everything removed is old enough
		if err := s.scan(t.Context()); err != nil {
			t.Fatal(err)
		}
		natstest.Eventually(t, 20*time.Second, "removal", func() bool { return e[0].get(t, "expires").Removed })
		if got := e[0].get(t, "k"); got.Version != 0 {
			t.Fatalf("not forgotten: %+v", got)
		}
		if res := e[1].set(t, "k", "again"); res.Entry.Version != 1 || res.Entry.Life == old.Entry.Life {
			t.Fatalf("after it was forgotten: %+v", res.Entry)
		}
		if mine, err := newScanner(e[0].part()).takeLease(t.Context()); mine || err != nil {
			t.Fatalf("a second scan may begin: %v %v", mine, err)
		}
	})
}

// follower applies what a subscription delivers, and notes the first thing that is
// wrong.
type follower struct {
	events chan event
}

type event struct {
	pubs    []*router.Publication
	dropped router.UnsubscribeReason
}

func (f *follower) Deliver(_ *router.Subscription, b *router.Batch) {
	var ev event
	for _, p := range b.Pushes {
		if p.Pub != nil {
			ev.pubs = append(ev.pubs, p.Pub)
		}
	}
	f.events <- ev
}

func (f *follower) Dropped(_ *router.Subscription, r router.UnsubscribeReason) {
	f.events <- event{dropped: r}
}

// follow subscribes to m:c on e, from pos on when that is set.
func follow(e *edge, pos *router.Position) (*follower, *router.Subscription, router.SubscribeResult, error) {
	f := &follower{events: make(chan event, 1<<16)}
	s := &router.Subscription{Channel: "m:c", Subscriber: f}
	req := router.SubscribeRequest{Recoverable: true, RejectUnrecovered: true}
	if pos != nil {
		req.Recover, req.Position = true, *pos
	}
	type answer struct {
		res router.SubscribeResult
		err error
	}
	done := make(chan answer, 1)
	e.Subscribe(s, req, func(r router.SubscribeResult, err error) { done <- answer{r, err} })
	a := <-done
	return f, s, a.res, a.err
}

// S3: a reader never gets less than what its node gave or delivered before, nor less
// than what it says it saw elsewhere.
func TestS3ReadsNeverGoBackwards(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		e := env.edges(t, 2)
		e[0].set(t, "k", "0")
		f, sub, _, err := follow(e[0], nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience(20*time.Second))
		defer cancel()
		errs := make(chan error, 3)
		go func() { errs <- write(ctx, e[1], "k") }()
		go func() { errs <- readOwnWrites(ctx, e[0]) }()
		go func() {
			errs <- readForward(ctx, e, f)
			cancel()
		}()
		for range 3 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		e[0].Unsubscribe(sub, nil)
		if n := e[0].part().current.keys.Len(); n == 0 {
			t.Error("nothing was remembered")
		}
	})
}

func write(ctx context.Context, e *edge, key string) error {
	for i := 0; ctx.Err() == nil; i++ {
		if _, err := e.ChangeState(context.Background(), "m:c", router.Change{Key: key, Data: fmt.Append(nil, i)}); err != nil {
			return err
		}
	}
	return nil
}

// readOwnWrites reads, from memory where that may be, what it just wrote.
func readOwnWrites(ctx context.Context, e *edge) error {
	for i := 0; ctx.Err() == nil; i++ {
		res, err := e.ChangeState(context.Background(), "m:c", router.Change{Key: "own", Data: fmt.Append(nil, i)})
		if err != nil {
			return err
		}
		for range 3 {
			got, err := e.GetState(context.Background(), "m:c", "own", router.GetOptions{})
			if err != nil || got.Version != res.Entry.Version {
				return fmt.Errorf("wrote %d, read %d: %v", res.Entry.Version, got.Version, err)
			}
		}
	}
	return nil
}

// readForward reads for two seconds or longer what another edge writes: cached, fresh,
// delivered, and seen on the other edge.
func readForward(ctx context.Context, e []*edge, f *follower) error {
	var seen router.Expect
	check := func(how string, version uint64, life string) error {
		if version < seen.Version {
			return fmt.Errorf("%s: version %d after %d", how, version, seen.Version)
		}
		seen = router.Expect{Version: version, Life: life}
		return nil
	}
	start := time.Now()
	for i := 0; ctx.Err() == nil && (time.Since(start) < 2*time.Second || seen.Version < 10); i++ {
		opt := router.GetOptions{Fresh: i%7 == 0}
		how, node := fmt.Sprintf("fresh %v", opt.Fresh), e[0]
		if i%5 == 0 { // a visit to the other edge
			how, node, opt.Fresh = "elsewhere", e[1], true
		} else if i%5 == 1 { // back, and telling of it
			how, opt.Seen = "seen elsewhere", &seen
		} else if i%5 == 4 {
			for len(f.events) > 0 {
				for _, p := range (<-f.events).pubs {
					if p.Key == "k" && p.Version > seen.Version {
						seen.Version = p.Version
					}
				}
			}
			continue
		}
		if i%5 >= 2 && i%5 <= 3 {
			how, opt = how+" again", router.GetOptions{Fresh: opt.Fresh}
		}
		got, err := node.GetState(context.Background(), "m:c", "k", opt)
		if err != nil {
			return err
		}
		if err := check(how, got.Version, got.Life); err != nil {
			return err
		}
	}
	if seen.Version < 10 {
		return fmt.Errorf("only %d versions were written", seen.Version)
	}
	return nil
}
