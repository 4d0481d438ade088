package queue

import (
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/router"
)

// source is one of the six consumers of a queue: jobs and due retries of each
// priority. Owned by puller.run; the first group is fixed.
type source struct {
	stream   string
	index    int // of the stream
	priority router.Priority
	filter   string
	weight   int

	ready     bool // there may be something to get
	wanted    int  // credits set aside, not asked for yet
	asked     int  // of the request under way, those not answered
	since     time.Time
	wakes     uint64 // notices of stored jobs
	wakesThen uint64 // their number at the request
	lastWake  time.Time
	notBefore time.Time // of the next request
	inbox     string
	sub       *nats.Subscription
}

// weights are the shares of the priorities: low progresses whatever waits above
// it (rule Q4).
var weights = map[router.Priority]int{router.PriorityHigh: 6, router.PriorityMedium: 3, router.PriorityLow: 1}

// eligible reports whether src may be given credits.
func (s *source) eligible(now time.Time) bool {
	return s.ready && !now.Before(s.notBefore) && (s.asked == 0 || now.Sub(s.since) < stuckAfter)
}

// renew gives up the request under way: without the subscription NATS drops it.
func (s *source) renew() {
	if s.sub != nil {
		_ = s.sub.Unsubscribe() // fails only when the connection is closed
	}
	s.sub, s.inbox, s.asked, s.wanted = nil, "", 0, 0
}

// schedule picks sources by weight, spread evenly (smooth weighted round robin):
// who was picked falls back by the sum of all weights, everyone gains its own.
type schedule struct {
	current [6]int
}

// next returns the source that is due, or -1 when every weight is 0.
func (s *schedule) next(weight func(i int) int) int {
	if planted.Bug(planted.LowStarves) {
		return highest(weight)
	}
	best, total := -1, 0
	for i := range s.current {
		w := weight(i)
		if w == 0 {
			s.current[i] = 0 // who has nothing gathers no claim
			continue
		}
		total += w
		s.current[i] += w
		if best < 0 || s.current[i] > s.current[best] {
			best = i
		}
	}
	if best >= 0 {
		s.current[best] -= total
	}
	return best
}
