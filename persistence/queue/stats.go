package queue

import (
	"context"
	"errors"
	"time"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

type streamInfo struct {
	State struct {
		Messages uint64            `json:"messages"`
		Bytes    uint64            `json:"bytes"`
		LastSeq  uint64            `json:"last_seq"`
		Subjects map[string]uint64 `json:"subjects"`
	} `json:"state"`
}

type consumerInfo struct {
	AckFloor struct {
		Stream uint64 `json:"stream_seq"`
	} `json:"ack_floor"`
	AckPending uint64 `json:"num_ack_pending"`
	Paused     bool   `json:"paused"`
}

// Stats asks the leaders: three streams, six consumers, and up to two messages.
func (s *Store) Stats(ctx context.Context, name string) (router.QueueStats, error) {
	q, err := s.queue(name)
	if err != nil {
		return router.QueueStats{}, err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return q.stats(ctx)
}

func (q *queue) stats(ctx context.Context) (router.QueueStats, error) {
	r := router.QueueStats{Depth: make(map[router.Priority]uint64), InFlight: make(map[router.Priority]uint64)}
	for i := range q.puller.sources {
		src := &q.puller.sources[i] // what is read of it here is fixed
		var info consumerInfo
		if err := q.s.api(ctx, "CONSUMER.INFO."+src.stream+"."+string(src.priority), struct{}{}, &info); err != nil {
			return r, err
		}
		r.InFlight[src.priority] += info.AckPending
		r.Paused = r.Paused || info.Paused
	}
	for i, filter := range []string{q.streams[jobs].subjects + "*", q.streams[retries].subjects + "due.*"} {
		var info streamInfo
		if err := q.s.api(ctx, "STREAM.INFO."+q.streams[i].name, map[string]string{"subjects_filter": filter}, &info); err != nil {
			return r, err
		}
		var due uint64
		for _, p := range router.Priorities {
			n := info.State.Subjects[filter[:len(filter)-1]+string(p)]
			r.Depth[p] += n
			due += n
		}
		if i == retries && info.State.Messages > due {
			r.Scheduled = info.State.Messages - due
		}
		m, err := q.s.get(ctx, q.streams[i].name, map[string]any{"seq": 1, "next_by_subj": filter})
		if err != nil && !errors.Is(err, errNotStored) {
			return r, err
		}
		if err == nil {
			r.Oldest = max(r.Oldest, time.Since(m.time))
		}
	}
	var info streamInfo
	err := q.s.api(ctx, "STREAM.INFO."+q.dead.name, struct{}{}, &info)
	r.Dead = info.State.Messages
	return r, err
}

// Pause stops the handing out of a queue. It is the consumers' own pause, so it
// holds on every node, for plain NATS workers, and across restarts.
func (s *Store) Pause(ctx context.Context, name string) error {
	return s.pauseUntil(ctx, name, time.Now().AddDate(100, 0, 0))
}

// Resume undoes Pause.
func (s *Store) Resume(ctx context.Context, name string) error {
	return s.pauseUntil(ctx, name, time.Time{})
}

// awaitPaused waits until the leaders of all consumers obey: on several replicas a
// pause is answered before they have heard of it.
func (q *queue) awaitPaused(ctx context.Context, paused bool) error {
	for i := range q.puller.sources {
		src := &q.puller.sources[i] // what is read of it here is fixed
		for attempt := 0; ; attempt++ {
			var info consumerInfo
			if err := q.s.api(ctx, "CONSUMER.INFO."+src.stream+"."+string(src.priority), struct{}{}, &info); err != nil {
				return err
			}
			if info.Paused == paused {
				break
			}
			if !jet.Pause(ctx, attempt) {
				return router.Unavailable("the queue", ctx.Err())
			}
		}
	}
	return nil
}

func (s *Store) pauseUntil(ctx context.Context, name string, until time.Time) error {
	q, err := s.queue(name)
	if err != nil {
		return err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	for i := range q.puller.sources {
		src := &q.puller.sources[i] // what is read of it here is fixed
		var info struct{}
		if err := s.api(ctx, "CONSUMER.PAUSE."+src.stream+"."+string(src.priority), map[string]any{"pause_until": until}, &info); err != nil {
			return err
		}
	}
	if err := q.awaitPaused(ctx, until.After(time.Now())); err != nil {
		return err
	}
	q.puller.again.Store(true)
	q.puller.notify()
	return nil
}
