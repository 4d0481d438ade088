package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

const (
	maxDeadPage  = 1000
	maxDeadBytes = 4 << 20 // of a page
)

// ListDead returns a page of dead letters.
func (s *Store) ListDead(ctx context.Context, name string, from uint64, limit int) ([]router.DeadLetter, error) {
	q, err := s.queue(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return q.listDead(ctx, from, limit)
}

// listDead reads from any replica: what died a moment ago may be missing.
func (q *queue) listDead(ctx context.Context, from uint64, limit int) ([]router.DeadLetter, error) {
	in, err := json.Marshal(map[string]any{
		"seq": max(from, 1), "next_by_subj": q.dead.subjects + "*",
		"batch": min(max(limit, 1), maxDeadPage), "max_bytes": maxDeadBytes,
	})
	if err != nil {
		return nil, err
	}
	var page []router.DeadLetter
	err = repeat(ctx, func(ctx context.Context) error {
		msgs, err := q.s.req.DoMany(ctx, &nats.Msg{Subject: "$JS.API.DIRECT.GET." + q.dead.name, Data: in}, isStatus)
		if err != nil {
			return err
		}
		page = page[:0]
		for _, m := range msgs[:len(msgs)-1] {
			st, err := fromDirect(m)
			if err != nil {
				return err
			}
			page = append(page, decodeDead(&st))
		}
		switch status := msgs[len(msgs)-1].Header.Get("Status"); status {
		case "204", "404":
			return nil
		default:
			return fmt.Errorf("direct get: status %q", status)
		}
	})
	return page, err
}

// isStatus reports whether m ends a batch. A dead letter always has a reason.
func isStatus(m *nats.Msg) bool {
	return len(m.Data) == 0 && m.Header.Get(headerReason) == "" && m.Header.Get("Status") != ""
}

// fromDirect reads the answer to a direct get, with sequence and time in headers
// set by the server.
func fromDirect(m *nats.Msg) (stored, error) {
	seq, err := strconv.ParseUint(jet.Last(m.Header, nats.JSSequence), 10, 64)
	if err != nil {
		return stored{}, fmt.Errorf("direct get: sequence: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, jet.Last(m.Header, nats.JSTimeStamp))
	if err != nil {
		return stored{}, fmt.Errorf("direct get: time: %w", err)
	}
	return stored{subject: jet.Last(m.Header, nats.JSSubject), seq: seq, time: at, header: m.Header, data: m.Data}, nil
}

// ShowDead returns one dead letter, as the leader has it.
func (s *Store) ShowDead(ctx context.Context, name string, seq uint64) (router.DeadLetter, error) {
	q, err := s.queue(name)
	if err != nil {
		return router.DeadLetter{}, err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	m, err := s.get(ctx, q.dead.name, map[string]any{"seq": seq})
	if errors.Is(err, errNotStored) {
		err = router.Errorf(router.CodeInvalid, "no such dead letter")
	}
	if err != nil {
		return router.DeadLetter{}, err
	}
	return decodeDead(&m), nil
}

// Redrive brings dead letters back.
func (s *Store) Redrive(ctx context.Context, name string, seqs []uint64) (int, error) {
	q, err := s.queue(name)
	if err != nil {
		return 0, err
	}
	return q.each(ctx, seqs, q.redrive)
}

// PurgeDead deletes dead letters.
func (s *Store) PurgeDead(ctx context.Context, name string, seqs []uint64) (int, error) {
	q, err := s.queue(name)
	if err != nil {
		return 0, err
	}
	return q.each(ctx, seqs, func(ctx context.Context, m *stored) error {
		_, err := s.remove(ctx, q.dead.name, m.seq)
		return err
	})
}

// deadWidth is how many dead letters one call handles at a time: each waits for
// three answers of NATS one after the other.
const deadWidth = 16

// each calls f for the dead letters with these numbers, several at a time, or for
// all that are there now, and returns for how many it succeeded. After an error no
// further one is begun.
func (q *queue) each(ctx context.Context, seqs []uint64, f func(context.Context, *stored) error) (int, error) {
	var n atomic.Int64
	one := func(in map[string]any) (seq uint64, err error) {
		ctx, cancel := q.s.bounded(ctx)
		defer cancel()
		m, err := q.s.get(ctx, q.dead.name, in)
		if errors.Is(err, errNotStored) {
			return 0, nil
		}
		if err == nil {
			err = f(ctx, &m)
		}
		if err == nil {
			n.Add(1)
		}
		return m.seq, err
	}
	if seqs != nil {
		once := slices.Clone(seqs)
		slices.Sort(once)
		err := parallel(deadWidth, slices.Compact(once), func(seq uint64) error {
			_, err := one(map[string]any{"seq": seq})
			return err
		})
		return int(n.Load()), err
	}
	var info streamInfo
	if err := q.s.api(ctx, "STREAM.INFO."+q.dead.name, struct{}{}, &info); err != nil {
		return 0, err
	}
	for next := uint64(1); next <= info.State.LastSeq; { // not what dies meanwhile
		seq, err := one(map[string]any{"seq": next, "next_by_subj": q.dead.subjects + "*"})
		if err != nil || seq == 0 {
			return int(n.Load()), err
		}
		next = seq + 1
	}
	return int(n.Load()), nil
}

// parallel calls f for all, width at a time, until one fails, and returns its
// error when those under way have ended.
func parallel[T any](width int, all []T, f func(T) error) error {
	var g errgroup.Group
	g.SetLimit(width)
	var failed atomic.Bool
	for _, x := range all {
		if failed.Load() {
			break
		}
		g.Go(func() error {
			err := f(x)
			if err != nil {
				failed.Store(true)
			}
			return err
		})
	}
	return g.Wait()
}

// redrive makes a job of a dead letter and then deletes the letter. The new life
// has a number of its own, so that the job may die again before the letter is
// deleted, and the id keeps a repetition within the duplicate window from
// bringing the job back twice.
func (q *queue) redrive(ctx context.Context, m *stored) error {
	e := decodeEnvelope(m.header, true)
	e.redriven++
	e.attempt = 1
	if _, err := q.s.publish(ctx, q.due(&e, m.data, deadPriority(m.header), "redrive:"+e.run())); err != nil {
		return err
	}
	if err := q.s.crash("redrive"); err != nil {
		return err
	}
	if _, err := q.s.remove(ctx, q.dead.name, m.seq); err != nil {
		return err
	}
	q.s.metrics.settled(q.cfg.Name, settledRedriven)
	return nil
}
