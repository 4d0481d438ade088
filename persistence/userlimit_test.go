package persistence

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

func openUserLimit(tb testing.TB, s *Store, cfg UserLimitConfig) *UserLimit {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), natstest.Patience(30*time.Second))
	defer cancel()
	u, err := s.UserLimit(ctx, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

func TestE8UserLimitHoldsUnderAFloodOverAllEdges(t *testing.T) {
	for _, replicas := range []int{1, 3} {
		t.Run(fmt.Sprintf("replicas=%d", replicas), func(t *testing.T) {
			var conn func(i int) *nats.Conn
			if replicas == 1 {
				srv := natstest.Run(t)
				conn = func(int) *nats.Conn { return srv.Conn(ConnectOptions()...) }
			} else {
				c := natstest.NewCluster(t, 3)
				conn = func(i int) *nats.Conn { return c.ConnAll(i, ConnectOptions()...) }
			}
			const limit = 50
			var edges []*UserLimit
			for i := range 3 {
				s := start(t, conn(i), Config{Namespaces: namespaces(true), Replicas: replicas})
				edges = append(edges, openUserLimit(t, s, UserLimitConfig{Messages: limit, Window: time.Minute}))
			}
			var allowed [3]atomic.Int64 // by user
			var wg sync.WaitGroup
			for i := range 24 {
				wg.Go(func() {
					for range 40 {
						err := edges[i%3].Take(t.Context(), fmt.Sprintf("user %d", i%len(allowed)))
						switch {
						case err == nil:
							allowed[i%len(allowed)].Add(1)
						case router.CodeOf(err) != router.CodeTooMany:
							t.Errorf("Take = %v", err)
						}
					}
				})
			}
			wg.Wait()
			for i := range allowed {
				if n := allowed[i].Load(); n != limit {
					t.Errorf("user %d made %d publications, the limit is %d", i, n, limit)
				}
			}
		})
	}
}

func TestE8UserLimitSlides(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		srv := natstest.Run(t)
		s := start(t, srv.Conn(ConnectOptions()...), Config{Namespaces: namespaces(true)})
		u := openUserLimit(t, s, UserLimitConfig{Messages: 10, Window: time.Minute})
		var made []time.Time
		for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(time.Second) { // virtual time
			if u.Take(t.Context(), "42") == nil {
				made = append(made, time.Now())
			}
		}
		// In no window of a minute more than the limit, and nearly that in all.
		for i := 10; i < len(made); i++ {
			if gap := made[i].Sub(made[i-10]); gap < 59*time.Second {
				t.Errorf("eleven publications within %v", gap)
			}
		}
		if len(made) < 45 || len(made) > 50 {
			t.Errorf("%d publications in 5 minutes, want about 50", len(made))
		}
		synctest.Wait()
	})
}

func TestE8UserLimitIsCountedLocallyWithoutTheStream(t *testing.T) {
	srv := natstest.Run(t)
	s := start(t, srv.Conn(ConnectOptions()...), Config{Namespaces: namespaces(true)})
	u := openUserLimit(t, s, UserLimitConfig{Messages: 5, Window: time.Hour})
	if err := s.js.DeleteStream(t.Context(), "HR_RATE"); err != nil {
		t.Fatal(err)
	}
	allowed := 0
	for range 50 {
		if u.Take(t.Context(), "42") == nil {
			allowed++
		}
	}
	if allowed != 5 {
		t.Errorf("%d publications without the stream, want 5", allowed)
	}
}

func TestE8UserLimitCanBeChanged(t *testing.T) {
	srv := natstest.Run(t)
	s := start(t, srv.Conn(ConnectOptions()...), Config{Namespaces: namespaces(true)})
	count := func(u *UserLimit, user string) (n int) {
		for range 20 {
			if u.Take(t.Context(), user) == nil {
				n++
			}
		}
		return n
	}
	if n := count(openUserLimit(t, s, UserLimitConfig{Messages: 4, Window: time.Minute}), "a"); n != 4 {
		t.Errorf("%d of 4", n)
	}
	if n := count(openUserLimit(t, s, UserLimitConfig{Messages: 6, Window: time.Hour}), "b"); n != 6 {
		t.Errorf("%d of 6 after it was raised", n)
	}
	if n := count(openUserLimit(t, s, UserLimitConfig{Messages: 2, Window: time.Minute}), "c"); n != 2 {
		t.Errorf("%d of 2 after it was lowered", n)
	}
	if _, err := s.UserLimit(t.Context(), UserLimitConfig{Messages: 0, Window: time.Minute}); err == nil || !strings.Contains(err.Error(), "user limit") {
		t.Errorf("a limit of 0: %v", err)
	}
}

// BenchmarkUserLimit is what the limit adds to a publication: one round trip to
// the leader of a stream in memory.
func BenchmarkUserLimit(b *testing.B) {
	for _, replicas := range []int{1, 3} {
		b.Run(fmt.Sprintf("replicas=%d", replicas), func(b *testing.B) {
			var nc *nats.Conn
			if replicas == 1 {
				nc = natstest.Run(b).Conn(ConnectOptions()...)
			} else {
				nc = natstest.NewCluster(b, 3).ConnAll(0, ConnectOptions()...)
			}
			s := start(b, nc, Config{Namespaces: namespaces(true), Replicas: replicas})
			u := openUserLimit(b, s, UserLimitConfig{Messages: 100, Window: time.Minute})
			b.Run("one by one", func(b *testing.B) {
				for i := 0; b.Loop(); i++ {
					if err := u.Take(b.Context(), fmt.Sprint("a", i/100)); err != nil {
						b.Fatal(err)
					}
				}
			})
			var next atomic.Int64
			b.Run("64 at once", func(b *testing.B) {
				b.SetParallelism(32)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := u.Take(b.Context(), fmt.Sprint("b", next.Add(1)/100)); err != nil {
							b.Error(err)
						}
					}
				})
			})
			b.Run("refused", func(b *testing.B) {
				for b.Loop() {
					u.Take(b.Context(), "a0") //nolint:errcheck // refused most times
				}
			})
		})
	}
}
