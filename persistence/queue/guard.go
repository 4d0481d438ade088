package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/router"
)

// sweepInterval is the time between two looks for stranded jobs.
const sweepInterval = 30 * time.Second

// guard is the safety net for jobs that NATS gave up: delivered so often (to
// plain NATS workers, or to edges that died) that their consumer passes over
// them. They stay in their stream for ever. NATS tells once, which may be lost,
// so guard looks for them too.
func (q *queue) guard(ctx context.Context) {
	told := make(chan *nats.Msg, 1024) // a lost one is found by the sweep
	for i := range q.streams {
		sub, err := q.s.nc.ChanQueueSubscribe("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES."+q.streams[i].name+".*", "headrace", told)
		if err != nil {
			q.s.cfg.Log.Warn("advisories not followed", "queue", q.cfg.Name, "err", err)
			continue
		}
		defer sub.Unsubscribe() //nolint:errcheck // fails only when the connection is closed
	}
	// Nodes that started together do not sweep together.
	interval := sweepInterval + rand.N(sweepInterval/4)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	suspects := make(map[heldKey]bool)
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-told:
			if st, d, ok := q.readAdvisory(m.Data); ok {
				q.strand(ctx, st, d)
			}
		case <-tick.C:
			var err error
			if suspects, err = q.sweep(ctx, suspects); err != nil && ctx.Err() == nil {
				q.s.cfg.Log.Warn("sweep interrupted", "queue", q.cfg.Name, "err", err)
			}
		}
	}
}

// readAdvisory reads the word that a message was delivered too often.
func (q *queue) readAdvisory(data []byte) (st int, d delivery, ok bool) {
	var a struct {
		Stream     string `json:"stream"`
		Consumer   string `json:"consumer"`
		Seq        uint64 `json:"stream_seq"`
		Deliveries int    `json:"deliveries"`
	}
	if err := json.Unmarshal(data, &a); err != nil || a.Seq == 0 || a.Deliveries < 1 {
		return 0, delivery{}, false
	}
	st, ok = q.streamOf(a.Stream)
	return st, delivery{stream: a.Stream, consumer: a.Consumer, seq: a.Seq, delivered: a.Deliveries}, ok
}

// strand makes a dead letter of a message that its consumer gave up.
func (q *queue) strand(ctx context.Context, st int, d delivery) {
	ctx, cancel := q.s.bounded(ctx)
	defer cancel()
	m, err := q.s.get(ctx, q.streams[st].name, map[string]any{"seq": d.seq})
	if errors.Is(err, errNotStored) {
		return
	}
	var fresh bool
	if err == nil {
		a := q.attempt(&m, d)
		if a.env.lastError == "" {
			a.env.lastError = fmt.Sprintf("given up by NATS after %d deliveries", d.delivered)
		}
		fresh, err = q.storeDead(ctx, &a, router.DeadStranded)
	}
	if err == nil {
		_, err = q.s.remove(ctx, q.streams[st].name, d.seq)
	}
	if err != nil {
		q.s.cfg.Log.Warn("stranded job not moved", "queue", q.cfg.Name, "err", err) // the sweep tries again
		return
	}
	if fresh {
		q.s.metrics.died(q.cfg.Name, router.DeadStranded)
	}
}

// maxStranded bounds what one sweep looks at in each source.
const maxStranded = 1000

// sweep looks for messages that their consumer is past and still are there. They
// are stranded when the sweep before saw them too: a message that was just
// acknowledged may take a moment to vanish. It returns what to look for next.
func (q *queue) sweep(ctx context.Context, before map[heldKey]bool) (map[heldKey]bool, error) {
	seen := make(map[heldKey]bool)
	for i := range q.puller.sources {
		src := &q.puller.sources[i] // what is read of it here is fixed
		floor, err := q.ackFloor(ctx, src)
		if err != nil {
			return seen, err
		}
		for next, n := uint64(1), 0; next <= floor && n < maxStranded; n++ {
			m, err := q.s.get(ctx, src.stream, map[string]any{"seq": next, "next_by_subj": src.filter})
			if errors.Is(err, errNotStored) || err == nil && m.seq > floor {
				break
			}
			if err != nil {
				return seen, err
			}
			key := heldKey{src.index, m.seq}
			if before[key] {
				q.strand(ctx, src.index, delivery{stream: src.stream, consumer: string(src.priority), seq: m.seq, delivered: q.cfg.MaxAttempts + spareDeliveries})
			} else {
				seen[key] = true
			}
			next = m.seq + 1
		}
	}
	return seen, nil
}

func (q *queue) ackFloor(ctx context.Context, src *source) (uint64, error) {
	ctx, cancel := q.s.bounded(ctx)
	defer cancel()
	var info consumerInfo
	err := q.s.api(ctx, "CONSUMER.INFO."+src.stream+"."+string(src.priority), struct{}{}, &info)
	return info.AckFloor.Stream, err
}
