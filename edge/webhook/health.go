package webhook

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// What a node does while an endpoint fails.
const (
	// sickAfter failures in a row, of whatever jobs, and the endpoint is down. One
	// without a connection is enough, and so is a 503 that says for how long. Of
	// gateways without a receiver emptyAfter are: one before the last of the four
	// attempts that a lone job has by default.
	sickAfter  = 5
	emptyAfter = 3
	// While it is down, one job at a time is tried, first after probeFirst, then
	// after twice as long each time, at most probeCap; up to a fifth is taken off at
	// random.
	probeFirst = time.Second
	probeCap   = 30 * time.Second
	// A job that never reached the endpoint is kept rather than failed: that would
	// cost an attempt. The one that is tried is kept for probeHold, others for
	// waitHold; then other nodes may have more luck.
	probeHold = 5 * time.Minute
	waitHold  = 30 * time.Second
	// A job that reached the endpoint while it was down comes back after so long, so
	// that an outage costs many jobs an attempt rather than one job all of its.
	downDelay = 5 * time.Minute
	// The last attempt is not spent on an outage: such a job is kept for lastHold and
	// tried again when the endpoint is up, or when there is no other to try. Others
	// may be tried meanwhile. All but one connection's worth of jobs may be kept so.
	lastHold = 30 * time.Minute
)

// health is what a node knows of an endpoint, and decides when to send to it.
type health struct {
	full    int           // credits of an endpoint that is up
	credits func(n int)   // called under mu; must not block
	show    func(up bool) // likewise

	mu       sync.Mutex // guards the fields below
	failures int        // in a row
	empty    int        // of them, in a row
	down     bool
	interval time.Duration // between the last try and the next
	next     time.Time     // before it nothing is tried, while down
	trying   *turn         // whose job is tried, while down
	kept     int           // turns on their last attempt that are kept
	paused   time.Time     // until then the receiver wants nothing
	resume   *time.Timer   // gives credits back after a pause
	changed  chan struct{} // closed and replaced when waiting turns should look again
	closed   bool
}

func newHealth(full int, credits func(int), show func(up bool)) *health {
	h := &health{full: full, credits: credits, show: show, changed: make(chan struct{})}
	h.resume = time.AfterFunc(time.Hour, h.unpause)
	h.resume.Stop()
	return h
}

// turn is a job that is to be sent. Guarded by health.mu.
type turn struct {
	until time.Time // when waiting ends; zero: not waiting yet
	kept  bool      // on its last attempt, tried in vain
}

// verdict says whether a job is sent now. The set is closed.
type verdict int

const (
	send   verdict = iota
	giveUp         // it was kept long enough
	closed         // the node stops
)

// wait returns when t may be sent, or not at all.
func (h *health) wait(ctx context.Context, t *turn) verdict {
	for {
		v, again, changed := h.admit(t, time.Now())
		if again <= 0 {
			return v
		}
		timer := time.NewTimer(again)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// admit decides about t, or returns how long to wait at most before the next look.
func (h *health) admit(t *turn, now time.Time) (v verdict, again time.Duration, changed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return closed, 0, nil
	}
	start := h.paused
	if h.down {
		if h.trying == nil && (!t.kept || !now.Before(h.next)) {
			h.trying = t
			if !t.kept {
				t.until = now.Add(probeHold)
			}
		}
		if (h.trying == t || t.kept) && h.next.After(start) {
			start = h.next
		}
	}
	if (!h.down || h.trying == t) && !now.Before(start) {
		return send, 0, nil
	}
	if t.until.IsZero() {
		t.until = now.Add(waitHold)
	}
	// A pause is shorter than any hold would matter: its end is known.
	if end := h.paused.Add(waitHold); !h.down && end.After(t.until) {
		t.until = end
	}
	left := t.until.Sub(now)
	if left <= 0 {
		return giveUp, 0, nil
	}
	if start.After(now) {
		left = min(left, start.Sub(now))
	}
	return send, left, h.changed
}

// report learns from what came of t. vain: it was a try at an endpoint that is
// down, and failed. turned: the endpoint went down or came up.
func (h *health) report(t *turn, o *outcome) (vain, turned bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now, was := time.Now(), h.down
	if o.pause > 0 && now.Add(o.pause).After(h.paused) && !h.closed {
		h.paused = now.Add(o.pause)
		h.resume.Reset(o.pause)
		defer h.tellLocked()
	}
	switch {
	case o.result == abandoned:
	case !o.sick:
		h.failures, h.empty = 0, 0
		if h.down {
			h.down, h.trying = false, nil
			h.tellLocked()
		}
	case !h.down:
		h.failures++
		if h.empty++; !o.empty {
			h.empty = 0
		}
		if h.failures >= sickAfter || h.empty >= emptyAfter || o.result == unreachable || o.pause > 0 {
			h.down, h.trying, h.interval = true, nil, probeFirst
			h.next = now.Add(jittered(h.interval))
			h.tellLocked()
		}
	case h.trying == t:
		h.interval = min(2*h.interval, probeCap)
		h.next = now.Add(jittered(h.interval))
		vain = true
	}
	return vain, h.down != was
}

// keep lets t, tried in vain on its last attempt, wait on, unless too many do.
func (h *health) keep(t *turn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.kept {
		if h.trying == t {
			h.trying = nil
			h.wakeLocked()
		}
		return true
	}
	if h.kept >= h.full-1 {
		return false
	}
	h.kept++
	t.kept, t.until = true, time.Now().Add(lastHold)
	if h.trying == t {
		h.trying = nil
	}
	h.tellLocked()
	return true
}

// leave ends t's turn: another one may be tried.
func (h *health) leave(t *turn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.kept {
		t.kept = false
		h.kept--
		defer h.tellLocked()
	}
	if h.trying == t {
		h.trying = nil
		h.wakeLocked()
	}
}

// close ends all waiting.
func (h *health) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.resume.Stop()
	h.tellLocked()
}

func (h *health) unpause() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tellLocked()
}

// tellLocked tells everybody what changed.
func (h *health) tellLocked() {
	n := h.full
	switch {
	case h.closed, time.Now().Before(h.paused):
		n = 0
	case h.down:
		n = 1 + h.kept
	}
	h.credits(n)
	h.show(!h.down)
	h.wakeLocked()
}

func (h *health) wakeLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func jittered(d time.Duration) time.Duration { return d - rand.N(d/5) }
