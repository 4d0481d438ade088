package persistence

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/router"
)

// The state of the benchmarks: 20,000 keys with 10 versions each.
const (
	benchChannels = 200
	benchKeys     = 100 // of a channel
	benchVersions = 10
	benchFeed     = 100 // entries in the feed of a channel
)

// BenchmarkState compares the state's operations with what they are made of. The
// servers run in this process: cpu-us/op is theirs too.
func BenchmarkState(b *testing.B) {
	b.Run("R1", func(b *testing.B) { benchState(b, single(b)) })
	b.Run("R3", func(b *testing.B) { benchState(b, replicated(b)) })
}

func benchState(b *testing.B, env *environment) {
	e := env.edges(b, 3, func(ns *router.Namespace) { ns.HistorySize, ns.Map.KeyHistory = benchFeed, benchVersions })
	begun := time.Now()
	fillState(b, e)
	b.Logf("filled with %.0f changes/s", benchChannels*benchKeys*benchVersions/time.Since(begun).Seconds())
	n := 0
	next := func() (channel, key string) {
		n += 7919 // visits all keys in no order
		return "m:" + strconv.Itoa(n%benchChannels), "key " + strconv.Itoa(n/benchChannels%benchKeys)
	}
	p, ctx := e[0].part(), b.Context()
	ops := []struct {
		name string
		f    func() error
	}{
		{"get fresh", func() error {
			c, k := next()
			s, err := e[0].GetState(ctx, c, k, router.GetOptions{Fresh: true})
			return want(err, s.Version >= benchVersions)
		}},
		{"bare get by subject", func() error {
			c, k := next()
			got, _, err := p.keys.get(ctx, getRequest{Last: p.place(c[2:], k)})
			return want(err, got.Number > 0)
		}},
		{"version k", func() error {
			c, k := next()
			s, err := e[0].GetState(ctx, c, k, router.GetOptions{Version: 5})
			return want(err, s.Version == 5)
		}},
		{"history of 10", func() error {
			c, k := next()
			h, err := e[0].KeyHistory(ctx, c, k, 0)
			return want(err, len(h) == benchVersions)
		}},
		{"page of 10 of 100", func() error {
			c, _ := next()
			page, err := e[0].StatePage(ctx, c, "", 10)
			return want(err, len(page.Entries) == 10)
		}},
		{"page of 100", func() error {
			c, _ := next()
			page, err := e[0].StatePage(ctx, c, "", 100)
			return want(err, len(page.Entries) == benchKeys)
		}},
		{"bare multi_last of 100", func() error {
			c, _ := next()
			r, err := p.keys.multiLast(ctx, []string{p.heads(c[2:]) + ">"}, 0)
			return want(err, len(r.msgs) == benchKeys)
		}},
	}
	for _, op := range ops {
		b.Run(op.name, func(b *testing.B) { measure(b, op.f) })
	}
	benchWrites(b, e, next)
	benchCached(b, e[0])
	for _, edges := range []int{1, 3} {
		b.Run(fmt.Sprintf("hot key, 64 writers, %d edges", edges), func(b *testing.B) { benchHot(b, e[:edges], false) })
		b.Run(fmt.Sprintf("hot channel, 64 writers, %d edges", edges), func(b *testing.B) { benchHot(b, e[:edges], true) })
	}
}

func want(err error, ok bool) error {
	if err == nil && !ok {
		return fmt.Errorf("not what was stored")
	}
	return err
}

func fillState(b *testing.B, e []*edge) {
	var wg sync.WaitGroup
	for c := range benchChannels {
		wg.Go(func() {
			for i := 0; i < benchKeys*benchVersions; i += router.MaxSync {
				changes := make([]router.Change, router.MaxSync)
				for j := range changes {
					changes[j] = router.Change{Key: "key " + strconv.Itoa((i+j)%benchKeys), Data: benchData}
				}
				results, err := e[c%len(e)].SyncState(b.Context(), "m:"+strconv.Itoa(c), changes)
				for _, r := range results {
					if r.Err != nil {
						err = r.Err
					}
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// benchData is a value of 128 bytes.
var benchData = fmt.Appendf(nil, `"%0126d"`, 1)

func benchWrites(b *testing.B, e []*edge, next func() (string, string)) {
	b.Run("set", func(b *testing.B) {
		measure(b, func() error {
			c, k := next()
			res, err := e[0].ChangeState(b.Context(), c, router.Change{Key: k, Data: benchData})
			return want(err, res.Applied)
		})
	})
	b.Run("get and compare-and-set", func(b *testing.B) {
		measure(b, func() error {
			c, k := next()
			s, err := e[0].GetState(b.Context(), c, k, router.GetOptions{Fresh: true})
			if err != nil {
				return err
			}
			res, err := e[0].ChangeState(b.Context(), c, router.Change{Key: k, Data: benchData, Expect: &router.Expect{Version: s.Version, Life: s.Life}})
			return want(err, res.Applied)
		})
	})
	p, seq := e[0].part(), uint64(0)
	b.Run("bare compare-and-set", func(b *testing.B) {
		w := writer{p: p.keys}
		subject := p.keys.subjects + "bench"
		if a, _, err := p.keys.getWithHeader(b.Context(), getRequest{Last: subject}); err == nil {
			seq = a.Seq
		}
		measure(b, func() error {
			h := nats.Header{headerExpect: {strconv.FormatUint(seq, 10)}, headerNumber: {"1"}, headerLife: {"l"}}
			ack, err := w.send(b.Context(), &nats.Msg{Subject: subject, Header: h, Data: benchData})
			seq = ack.Seq
			return err
		})
	})
}

func benchCached(b *testing.B, e *edge) {
	b.Run("get from memory", func(b *testing.B) {
		_, sub, _, err := follow(e, nil)
		if err != nil {
			b.Fatal(err)
		}
		defer e.Unsubscribe(sub, nil)
		e.set(b, "k", "x")
		measure(b, func() error {
			s, err := e.GetState(b.Context(), "m:c", "k", router.GetOptions{})
			return want(err, s.Version > 0)
		})
	})
}

func benchHot(b *testing.B, e []*edge, spread bool) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	begun, cpu := time.Now(), cpuTime()
	for w := range 64 {
		wg.Go(func() {
			key := "hot"
			if spread {
				key = "hot " + strconv.Itoa(w)
			}
			for left.Add(-1) >= 0 {
				if _, err := e[w%len(e)].ChangeState(b.Context(), "m:hot", router.Change{Key: key, Data: benchData}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/time.Since(begun).Seconds(), "changes/s")
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-us/op")
}

func measure(b *testing.B, f func() error) {
	cpu := cpuTime()
	for range b.N {
		if err := f(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-us/op")
}

// cpuTime is what this process has used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u) //nolint:errcheck // never fails for the own process
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
