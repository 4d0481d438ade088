package jet

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/headrace/headrace/router"
)

// Unavailable classifies err, the result of talking to NATS, unless that was
// done before.
func Unavailable(what string, err error) error {
	var e *router.Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return router.Unavailable(what, err)
}

// Backoff returns the wait before attempt+1: 2 ms doubled each time up to
// 256 ms, of which a random half is taken, so that writers who collided do not
// collide again.
func Backoff(attempt int) time.Duration {
	d := 2 * time.Millisecond << min(attempt, 7)
	return d/2 + rand.N(d/2)
}

// PauseBriefly is Pause with a random wait of up to 0.25 ms that doubles every fourth
// attempt, up to 64 ms.
func PauseBriefly(ctx context.Context, attempt int) bool {
	return sleep(ctx, rand.N(250*time.Microsecond<<min(attempt/4, 8)))
}

// Pause waits before the next attempt. It returns false when ctx ended.
func Pause(ctx context.Context, attempt int) bool {
	return sleep(ctx, Backoff(attempt))
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
