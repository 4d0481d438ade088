package webui

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// Queues tells the state of the queues.
type Queues func(ctx context.Context) ([]QueueState, error)

// QueueState is what the queue page shows of a queue.
type QueueState struct {
	Queue         string  `json:"queue"`
	High          uint64  `json:"high"` // jobs that are due, those in flight included
	Medium        uint64  `json:"medium"`
	Low           uint64  `json:"low"`
	InFlight      uint64  `json:"in_flight"`
	Scheduled     uint64  `json:"scheduled"`
	Dead          uint64  `json:"dead"`
	OldestSeconds float64 `json:"oldest_seconds"`
	Paused        bool    `json:"paused"`
}

const (
	// statesFor is how long an answer serves all pages: each costs NATS a dozen
	// requests a queue.
	statesFor     = 500 * time.Millisecond
	statesTimeout = 5 * time.Second
)

// states answers GET /demo/queues.
type states struct {
	queues Queues

	asking sync.Mutex // held while the queues are asked, guards the fields below
	at     time.Time
	body   []byte
}

func (s *states) handler() http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := s.get(r.Context())
		if err != nil {
			http.Error(w, "the state of the queues is not known now", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // the peer may be gone
	}
}

// get returns the state, of at most statesFor ago. Callers wait for each other:
// for statesTimeout each, and they are people's tabs.
func (s *states) get(ctx context.Context) ([]byte, error) {
	s.asking.Lock()
	defer s.asking.Unlock()
	if s.body != nil && time.Since(s.at) < statesFor {
		return s.body, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statesTimeout)
	defer cancel()
	queues, err := s.queues(ctx)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(map[string]any{"queues": queues})
	if err == nil {
		s.body, s.at = body, time.Now()
	}
	return body, err
}
