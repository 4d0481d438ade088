package persistence

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

// ledger is what was acknowledged: values by key and version.
type ledger struct {
	mu    sync.Mutex // guards acked
	acked map[string]map[uint64]string
	total int
}

func (l *ledger) add(t *testing.T, s router.StateEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	byVersion := l.acked[s.Key]
	if byVersion == nil {
		byVersion = make(map[uint64]string)
		l.acked[s.Key] = byVersion
	}
	if other, taken := byVersion[s.Version]; taken {
		t.Errorf("version %d of %s was given to %s and %s", s.Version, s.Key, other, s.Data)
	}
	byVersion[s.Version] = string(s.Data)
	l.total++
}

func (l *ledger) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// Leaders of the feed and of the image are killed or step down while many writers change
// few keys: what was acknowledged is stored, under its version, once, and the image is
// what the feed makes.
func TestGroupsOutliveLeaders(t *testing.T) {
	if testing.Short() {
		t.Skip("elections take 4 to 9 s")
	}
	env := replicated(t)
	e := env.edges(t, 3, func(ns *router.Namespace) { ns.HistorySize, ns.Map.KeyHistory = router.MaxHistorySize, 50 })
	ctx, cancel := context.WithCancel(t.Context())
	l := &ledger{acked: make(map[string]map[uint64]string)}
	var wg sync.WaitGroup
	for w := range 48 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				c := setTo(fmt.Sprint("k", w%5), fmt.Sprint(w, "-", i))
				res, err := e[w%3].ChangeState(context.Background(), "m:c", c)
				if err != nil && router.CodeOf(err) == router.CodeUnavailable {
					continue // it may be stored
				}
				if err != nil || !res.Applied || res.Duplicate {
					t.Errorf("change: %+v %v", res, err)
					return
				}
				l.add(t, res.Entry)
			}
		})
	}
	more := func() {
		t.Helper()
		n := l.size() + 200
		natstest.Eventually(t, 40*time.Second, "progress", func() bool { return l.size() > n })
	}
	p := e[0].part()
	for _, s := range []*stream{p.feed, p.keys} {
		more()
		if err := env.cluster.Server(env.cluster.StreamLeader(s.name)).JetStreamStepdownStream(server.DEFAULT_GLOBAL_ACCOUNT, s.name); err != nil {
			t.Fatal(err)
		}
		more()
		leader := env.cluster.StreamLeader(s.name)
		env.cluster.Kill(leader)
		more()
		env.cluster.Start(leader)
		env.cluster.WaitReady()
	}
	more()
	cancel()
	wg.Wait()
	t.Logf("%d changes were acknowledged, %v found by looking back", l.size(), count(e[0].store.metrics.attempts[attemptFoundStored]))
	l.check(t, e[1])
}

// check compares what was acknowledged with feed and image.
func (l *ledger) check(t *testing.T, e *edge) {
	t.Helper()
	p := e.part()
	end, err := p.feedHead(t.Context(), "c")
	if err != nil {
		t.Fatal(err)
	}
	run, err := p.feed.read(t.Context(), "c", 0, end)
	if err != nil || len(run) != router.MaxHistorySize {
		t.Fatalf("a run of %d, %v", len(run), err)
	}
	values, newest, grouped := map[string]bool{}, map[string]router.Entry{}, 0
	for _, entry := range run {
		s := entry.State()
		if values[string(s.Data)] {
			t.Errorf("%s is stored twice", s.Data)
		}
		values[string(s.Data)] = true
		if before, ok := newest[s.Key]; ok && s.Version != before.Mark.Version+1 {
			t.Errorf("%s: version %d after %d", s.Key, s.Version, before.Mark.Version)
		}
		if acked, ok := l.acked[s.Key][s.Version]; ok && acked != string(s.Data) {
			t.Errorf("%s: version %d is %s, acknowledged was %s", s.Key, s.Version, s.Data, acked)
		}
		newest[s.Key] = entry
		grouped = max(grouped, entry.Mark.Group)
	}
	if grouped < 4 {
		t.Errorf("at most %d changes were stored together; the test is toothless", grouped)
	}
	for key, byVersion := range l.acked {
		history, err := e.KeyHistory(t.Context(), "m:c", key, 0)
		if err != nil || len(history) != 50 || history[0].Version != newest[key].Mark.Version {
			t.Fatalf("%s has %d versions: %v", key, len(history), err)
		}
		for _, s := range history {
			if acked, ok := byVersion[s.Version]; ok && acked != string(s.Data) {
				t.Errorf("%s: version %d is %s in the image, acknowledged was %s", key, s.Version, s.Data, acked)
			}
		}
		for v := range byVersion {
			if v > newest[key].Mark.Version {
				t.Errorf("%s: version %d was acknowledged, the newest is %d", key, v, newest[key].Mark.Version)
			}
		}
	}
}

// An edge that is late with the image of a group finds what came after it there: the
// place of that says nothing of the group's own.
func TestLateImageOfAGroup(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		for name, late := range map[string]func(*group, *verdict) error{
			"it stored it": func(g *group, v *verdict) error { return g.image(v, time.Now().Add(natstest.Patience(10*time.Second))) },
			"it found it": func(g *group, v *verdict) error {
				_, err := g.p.level(context.Background(), "c", v.state.head)
				return err
			},
		} {
			t.Run(name, func(t *testing.T) {
				e := env.edges(t, 2)
				if !e[0].part().feed.batches {
					t.Skip("no groups are made here")
				}
				e[0].set(t, "k", "1")
				e[0].part().contended("c") // so that it hears what passes
				g, v := groupStored(t, e[0], "k", "j")
				e[1].set(t, "j", "2")
				if err := late(g, v); err != nil {
					t.Fatal(err)
				}
				e[0].set(t, "k", "3")
				history, err := e[1].KeyHistory(t.Context(), "m:c", "k", 0)
				if len(history) != 3 || err != nil {
					t.Errorf("versions of k: %+v %v", history, err)
				}
			})
		}
	})
}
