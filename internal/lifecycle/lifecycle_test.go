package lifecycle

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder notes the order in which parts stop.
type recorder struct {
	mu      sync.Mutex
	stopped []string
}

func (r *recorder) part(name string) Part {
	return Part{Name: name, Run: func(ctx context.Context) error {
		<-ctx.Done()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.stopped = append(r.stopped, name)
		return ctx.Err()
	}}
}

func TestPartsStopInReverse(t *testing.T) {
	var r recorder
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Run(ctx, slog.New(slog.DiscardHandler), r.part("nats"), r.part("router"), r.part("edge"))
	if err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if want := []string{"edge", "router", "nats"}; !slices.Equal(r.stopped, want) {
		t.Errorf("stopped %v, want %v", r.stopped, want)
	}
}

func TestAFailedPartStopsTheOthers(t *testing.T) {
	boom := errors.New("boom")
	var r recorder
	err := Run(t.Context(), slog.New(slog.DiscardHandler), r.part("nats"),
		Part{Name: "router", Run: func(context.Context) error { return boom }})
	if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "router: ") {
		t.Errorf("Run = %v, want router: boom", err)
	}
	if len(r.stopped) != 1 {
		t.Errorf("stopped %v, want nats", r.stopped)
	}
}

func TestAPartThatFinishesIsAFailure(t *testing.T) {
	err := Run(t.Context(), slog.New(slog.DiscardHandler),
		Part{Name: "edge", Run: func(context.Context) error { return nil }})
	if !errors.Is(err, errStoppedAlone) {
		t.Errorf("Run = %v, want %v", err, errStoppedAlone)
	}
}
