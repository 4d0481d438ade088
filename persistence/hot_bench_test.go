package persistence

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

// BenchmarkHot measures what many writers get through one key or one channel, each
// waiting for its answer before it writes again; "bare" is a plain JetStream publish
// to one subject of the same stream. The servers run in this process: cpu-us/op is
// theirs too.
func BenchmarkHot(b *testing.B) {
	for _, kind := range []struct {
		name string
		env  func(b *testing.B) *environment
	}{
		{"R1 file", func(b *testing.B) *environment { return single(b) }},
		{"R1 memory", func(b *testing.B) *environment {
			srv := natstest.Run(b)
			return &environment{replicas: 1, memory: true, conn: func(int) *nats.Conn { return srv.Conn(ConnectOptions()...) }}
		}},
		{"R3", func(b *testing.B) *environment { return replicated(b) }},
	} {
		b.Run(kind.name, func(b *testing.B) {
			env := kind.env(b)
			e := env.edges(b, 3, func(ns *router.Namespace) { ns.HistorySize, ns.Map.KeyHistory = benchFeed, benchVersions })
			cfg := env.fresh()
			cfg.Namespaces[0].HistorySize = benchFeed
			var logs []router.Log
			for i := range 3 {
				logs = append(logs, logOf(b, start(b, env.conn(i), cfg)))
			}
			for _, writers := range []int{1, 16, 64} {
				for _, edges := range []int{1, 3} {
					if edges > writers {
						continue
					}
					name := fmt.Sprintf("%d writers, %d edges/", writers, edges)
					for _, op := range hotOps(b, e[:edges], logs[:edges]) {
						b.Run(name+op.name, func(b *testing.B) { benchWriters(b, writers, op.write) })
					}
				}
			}
		})
	}
}

// hotOp is what a writer does again and again. It returns false when it was refused.
type hotOp struct {
	name  string
	write func(ctx context.Context, writer int) (applied bool, err error)
}

func hotOps(b *testing.B, e []*edge, logs []router.Log) []hotOp {
	set := func(ctx context.Context, w int, key string, expect *router.Expect) (router.Changed, error) {
		return e[w%len(e)].ChangeState(ctx, "m:hot", router.Change{Key: key, Data: benchData, Expect: expect})
	}
	feed := e[0].part().feed
	var seen [64]atomic.Uint64 // versions of the key cas, by writer
	return []hotOp{
		{"bare", func(ctx context.Context, _ int) (bool, error) {
			w := writer{p: feed}
			h := nats.Header{headerNumber: {"1"}, headerLife: {"l"}}
			_, err := w.send(ctx, &nats.Msg{Subject: feed.subjects + "bare.0", Header: h, Data: benchData})
			return true, err
		}},
		{"append, one key", func(_ context.Context, w int) (bool, error) {
			_, err := put(logs[w%len(logs)], "hot", router.NewEntry{Data: benchData})
			return true, err
		}},
		{"set, one key", func(ctx context.Context, w int) (bool, error) {
			res, err := set(ctx, w, "hot", nil)
			return res.Applied, err
		}},
		{"set, 64 keys", func(ctx context.Context, w int) (bool, error) {
			res, err := set(ctx, w, "hot "+strconv.Itoa(w), nil)
			return res.Applied, err
		}},
		{"compare-and-set, one key", func(ctx context.Context, w int) (bool, error) {
			var expect *router.Expect
			if v := seen[w].Load(); v > 0 {
				expect = &router.Expect{Version: v}
			}
			res, err := set(ctx, w, "cas", expect)
			seen[w].Store(res.Entry.Version)
			return res.Applied, err
		}},
	}
}

func benchWriters(b *testing.B, writers int, write func(context.Context, int) (bool, error)) {
	var left, applied atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	begun, cpu := time.Now(), cpuTime()
	for w := range writers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				ok, err := write(b.Context(), w)
				if err != nil {
					b.Error(err)
					return
				}
				if ok {
					applied.Add(1)
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begun)
	b.ReportMetric(float64(b.N)/took.Seconds(), "answers/s")
	b.ReportMetric(float64(applied.Load())/took.Seconds(), "applied/s")
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-us/op")
}
