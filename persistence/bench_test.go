package persistence

import (
	"strconv"
	"sync"
	"testing"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

// BenchmarkAppend measures appends of 128 bytes over an in-process connection,
// the server included. "one at a time" waits for each answer; "full" keeps up to
// 256 appends waiting, so that batches form where they are allowed.
func BenchmarkAppend(b *testing.B) {
	for _, storage := range []string{"file", "memory"} {
		for _, keys := range []int{1, 64} {
			for _, waiting := range []int{1, 256} {
				name := "R1 " + storage + "/" + strconv.Itoa(keys) + " keys/full"
				if waiting == 1 {
					name = "R1 " + storage + "/" + strconv.Itoa(keys) + " keys/one at a time"
				}
				b.Run(name, func(b *testing.B) { benchAppend(b, storage == "memory", keys, waiting) })
			}
		}
	}
}

func benchAppend(b *testing.B, memory bool, keys, waiting int) {
	srv := natstest.Run(b)
	cfg := Config{Namespaces: namespaces(memory)}
	cfg.Namespaces[0].HistorySize = 100
	l := logOf(b, start(b, srv.Conn(ConnectOptions()...), cfg))
	data := make([]byte, 128)
	names := make([]string, keys)
	for i := range names {
		names[i] = "bench." + strconv.Itoa(i)
	}
	free := make(chan struct{}, waiting)
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		free <- struct{}{}
		wg.Add(1)
		l.Append(names[i%keys], router.NewEntry{Data: data}, func(_ router.Appended, err error) {
			if err != nil {
				b.Error(err)
			}
			<-free
			wg.Done()
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
}

func BenchmarkHead(b *testing.B) {
	srv := natstest.Run(b)
	l := logOf(b, start(b, srv.Conn(ConnectOptions()...), Config{Namespaces: namespaces(true)}))
	mustPut(b, l, "k", "1")
	b.ReportAllocs()
	for b.Loop() {
		mustHead(b, l, "k")
	}
}
