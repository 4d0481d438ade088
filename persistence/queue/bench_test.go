package queue

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/router"
)

const (
	benchPushers = 32
	benchCredits = 256
)

// BenchmarkJob measures a job of 128 bytes from push to acknowledged end, the
// servers included: "queue" through this package, "bare" with a plain publish,
// pull and confirmed ack on a work queue like ours. cpu-us/job is what the
// process used for it, all nodes together.
func BenchmarkJob(b *testing.B) {
	benchEach(b, func(b *testing.B, conn func() *nats.Conn, replicas int) {
		b.Run("bare", func(b *testing.B) { benchBare(b, conn(), replicas) })
		b.Run("queue", func(b *testing.B) { benchQueue(b, conn(), replicas) })
	})
}

// BenchmarkRedrive brings dead letters of 128 bytes back, 50 with a call.
func BenchmarkRedrive(b *testing.B) {
	benchEach(b, func(b *testing.B, conn func() *nats.Conn, replicas int) {
		s := start(b, conn(), Config{Prefix: "hr", Replicas: replicas, Queues: []router.Queue{{Name: "q", MaxAttempts: 1}}})
		q := s.queues["q"]
		seqs := make([]uint64, b.N)
		for i := range seqs {
			a := attempt{env: envelope{id: fmt.Sprint(b.N, "-", i), attempt: 1}, priority: router.PriorityLow, payload: make([]byte, 128), number: 1, max: 1}
			ack, err := s.publish(b.Context(), q.deadLetter(&a, router.DeadFinal))
			if err != nil {
				b.Fatal(err)
			}
			seqs[i] = ack.Seq
		}
		b.ResetTimer()
		used := cpu()
		for step := range slices.Chunk(seqs, 50) {
			if n, err := s.Redrive(b.Context(), "q", step); n != len(step) || err != nil {
				b.Fatal(n, err)
			}
		}
		b.ReportMetric(float64((cpu()-used).Microseconds())/float64(b.N), "cpu-us/letter")
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "letters/s")
	})
}

// benchEach runs f with one server and with three.
func benchEach(b *testing.B, f func(b *testing.B, conn func() *nats.Conn, replicas int)) {
	for _, env := range []struct {
		name string
		run  func(b *testing.B) (conn func() *nats.Conn, replicas int)
	}{
		{"R1 file", func(b *testing.B) (func() *nats.Conn, int) {
			srv := natstest.Run(b, natstest.Listen())
			return func() *nats.Conn { return srv.Conn(persistence.ConnectOptions()...) }, 1
		}},
		{"R3", func(b *testing.B) (func() *nats.Conn, int) {
			c := natstest.NewCluster(b, 3)
			return func() *nats.Conn { return c.ConnAll(0, persistence.ConnectOptions()...) }, 3
		}},
	} {
		b.Run(env.name, func(b *testing.B) {
			conn, replicas := env.run(b)
			f(b, conn, replicas)
		})
	}
}

// cpu returns what the process used so far.
func cpu() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// benchJobs has push called b.N times by benchPushers and waits for as many
// calls of the function it hands to begin.
func benchJobs(b *testing.B, push func() error, begin func(done func())) {
	var left atomic.Int64
	left.Store(int64(b.N))
	finished := make(chan struct{})
	begin(func() {
		if left.Add(-1) == 0 {
			close(finished)
		}
	})
	b.ReportAllocs()
	b.ResetTimer()
	used := cpu()
	var pushed atomic.Int64
	var wg sync.WaitGroup
	for range benchPushers {
		wg.Go(func() {
			for pushed.Add(1) <= int64(b.N) {
				if err := push(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case <-finished:
	case <-time.After(60 * time.Second):
		b.Fatalf("%d jobs left", left.Load())
	}
	b.StopTimer()
	b.ReportMetric(float64((cpu()-used).Microseconds())/float64(b.N), "cpu-us/job")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}

func benchQueue(b *testing.B, nc *nats.Conn, replicas int) {
	s := start(b, nc, Config{Prefix: "hr", Replicas: replicas, Queues: []router.Queue{{Name: "q"}}})
	payload := make([]byte, 128)
	benchJobs(b, func() error {
		_, err := s.Push(context.Background(), "q", router.NewJob{Payload: payload})
		return err
	}, func(done func()) {
		c := make(chan *router.Job, benchCredits)
		w, err := s.Pull("q", func(j *router.Job) bool { c <- j; return true })
		if err != nil {
			b.Fatal(err)
		}
		var wg sync.WaitGroup
		for range benchPushers {
			wg.Go(func() {
				for j := range c {
					if err := s.Ack(context.Background(), "q", j.Token); err != nil {
						b.Error(err)
					}
					done()
				}
			})
		}
		w.SetCredits(benchCredits)
		b.Cleanup(func() { w.Close(0); close(c); wg.Wait() })
	})
}

func benchBare(b *testing.B, nc *nats.Conn, replicas int) {
	ctx := context.Background()
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	st, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: "BARE", Subjects: []string{"bare"}, Retention: jetstream.WorkQueuePolicy, Replicas: replicas,
	})
	if err != nil {
		b.Fatal(err)
	}
	cons, err := st.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 10_000})
	if err != nil {
		b.Fatal(err)
	}
	payload := make([]byte, 128)
	benchJobs(b, func() error {
		_, err := js.Publish(ctx, "bare", payload)
		return err
	}, func(done func()) {
		c := make(chan jetstream.Msg, benchCredits)
		var wg sync.WaitGroup
		for range benchPushers {
			wg.Go(func() {
				for m := range c {
					if err := m.DoubleAck(ctx); err != nil {
						b.Error(err)
					}
					done()
				}
			})
		}
		cc, err := cons.Consume(func(m jetstream.Msg) { c <- m }, jetstream.PullMaxMessages(benchCredits))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { cc.Stop(); <-cc.Closed(); close(c); wg.Wait() })
	})
}
