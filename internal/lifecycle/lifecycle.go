// Package lifecycle starts the parts of a process in order and stops them in
// reverse.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Part is one long-lived piece of a process.
type Part struct {
	Name string

	// Run works until ctx ends and has released everything when it returns. A
	// nil result before ctx ends is a failure: parts do not finish on their own.
	Run func(ctx context.Context) error
}

var errStoppedAlone = errors.New("stopped on its own")

type running struct {
	Part
	stop context.CancelFunc
	done chan error // receives exactly one value
}

// Run starts parts in order and returns when all have stopped. It stops them,
// last started first and one at a time, when ctx ends or any part fails. A part
// may thus rely on those before it for its whole life, its shutdown included.
// The result joins the errors of all parts; it is nil after an orderly stop.
func Run(ctx context.Context, log *slog.Logger, parts ...Part) error {
	failed := make(chan struct{}, len(parts)) // room for all, so no part waits for us
	live := make([]running, 0, len(parts))
	for _, p := range parts {
		// Detached from ctx: only the loop below decides when each part stops.
		pctx, stop := context.WithCancel(context.WithoutCancel(ctx))
		r := running{p, stop, make(chan error, 1)}
		go func() {
			err := r.Run(pctx)
			if err == nil && pctx.Err() == nil {
				err = errStoppedAlone
			}
			r.done <- err
			failed <- struct{}{}
		}()
		live = append(live, r)
	}
	select {
	case <-ctx.Done():
	case <-failed:
	}
	var errs []error
	for _, r := range slices.Backward(live) {
		start := time.Now()
		r.stop()
		err := <-r.done
		if errors.Is(err, context.Canceled) {
			err = nil
		}
		log.Info("part stopped", "part", r.Name, "took", time.Since(start).Round(time.Millisecond))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.Name, err))
		}
	}
	return errors.Join(errs...)
}
