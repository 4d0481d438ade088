package persistence

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// maxBatch bounds an atomic batch. nats-server takes 1,000; above 100 the gain
// is gone and the leader is busy with one key for too long. A batch never
// exceeds the ring either, or it would overwrite its own first entries.
const maxBatch = 100

// maxBatchBytes bounds a batch too: a replicated one is proposed as a whole.
const maxBatchBytes = 1 << 20

// writer stores entries of one key, one attempt at a time. It belongs to the
// key's goroutine.
type writer struct {
	p   *stream
	key string
}

// store stores group in order and answers every append in it.
func (w *writer) store(group []*pending) {
	deadline := time.Now().Add(w.p.cfg.PublishTimeout)
	for _, q := range group {
		q.deadline = deadline
	}
	for len(group) > 1 && group[0].plan != nil {
		n, answered := w.storeChanges(group)
		for _, q := range group[:n] {
			if !answered {
				w.storeOne(q)
			}
		}
		group = group[n:]
	}
	if len(group) > 1 && w.storeBatch(group) {
		return
	}
	for _, q := range group {
		w.storeOne(q)
	}
}

func (w *writer) answer(q *pending, e router.Entry, duplicate bool, err error) {
	w.p.budget.give(q.bytes)
	q.done(e, duplicate, err)
}

// head returns what is known of the key's head, from the leader if nothing is.
func (w *writer) head(deadline time.Time) (head, error) {
	if h, ok := w.p.heads.Get(w.key); ok {
		return h, nil
	}
	ctx, cancel := w.p.attemptContext(deadline, 1)
	defer cancel()
	if _, err := w.p.head(ctx, w.key); err != nil {
		return head{}, err
	}
	h, _ := w.p.heads.Peek(w.key)
	return h, nil
}

// storeOne stores one entry, or finds out that it cannot. It ends at q.deadline.
func (w *writer) storeOne(q *pending) {
	var cause error = context.DeadlineExceeded
	for attempt := 0; ; attempt++ {
		if attempt > 0 && !w.pause(q, attempt-1) || !time.Now().Before(q.deadline) {
			w.p.metrics.refused.Add(refusedTimeout)
			w.answer(q, router.Entry{}, false, router.Unavailable("history", cause))
			return
		}
		if attempt > 0 && w.p.isClosed() {
			w.answer(q, router.Entry{}, false, router.Unavailable("history", cause))
			return
		}
		if e, found, err := w.lookBack(q); err != nil {
			cause = err
			continue
		} else if found {
			if cause = w.settled(q, e); cause != nil {
				continue
			}
			w.finish(q, e)
			return
		}
		h, err := w.head(q.deadline)
		if err != nil {
			cause = err
			continue
		}
		if w.overtaken(q, h) {
			w.p.metrics.refused.Add(refusedUnknown)
			w.answer(q, router.Entry{}, false, router.Unavailable("history", errOvertaken))
			return
		}
		if q.plan != nil {
			if cause = w.prepare(q, h); cause != nil && !temporary(cause) && w.noneLands(q, h) {
				w.answer(q, router.Entry{}, false, cause)
				return
			} else if cause != nil {
				w.p.heads.Remove(w.key)
				continue
			}
		}
		e := next(h, q)
		ack, err := w.publish(q, &e, h.seq)
		switch {
		case err == nil && ack.Duplicate:
			if err = w.answerDuplicate(q, ack.Seq); err == nil {
				return
			}
			cause = err
			continue
		case err == nil:
			e.Seq = ack.Seq
			w.p.heads.Add(w.key, head{e.Number, e.Seq, e.Life})
			w.finish(q, e)
			return
		case w.final(err):
			w.answer(q, router.Entry{}, false, finalError(err))
			return
		}
		cause = err
		w.forgetHead(q, h, err)
		if w.note(err) {
			q.tried = append(q.tried, e.Number)
		}
		if planted.Bug(planted.DoubleAfterTimeout) {
			q.entry.ID, q.tried = jet.NewID(), nil
		}
	}
}

// note counts a failed attempt and reports whether it may have been stored
// nevertheless.
func (w *writer) note(err error) (ambiguous bool) {
	switch {
	case conflicted(err):
		w.p.metrics.attempts.Add(attemptConflict)
	case jet.HadNoEffect(err):
		w.p.metrics.attempts.Add(attemptUnreached)
	default:
		w.p.metrics.attempts.Add(attemptUnknown)
		return true
	}
	return false
}

func (w *writer) pause(q *pending, attempt int) bool {
	ctx, cancel := context.WithDeadline(context.Background(), q.deadline)
	defer cancel()
	if q.plan != nil {
		// The others in a channel are few, one for each edge, and follow what is
		// stored: who waits long loses again.
		return jet.PauseBriefly(ctx, attempt)
	}
	return jet.Pause(ctx, attempt)
}

// next returns q's entry as the successor of h. A life is born when there is none
// (W5), or when q wants one.
func next(h head, q *pending) router.Entry {
	e := q.entry
	e.Number, e.Life = h.number+1, h.life
	if q.rebirth {
		e.Number = 1
	}
	if e.Number == 1 {
		e.Life = jet.NewID()
		if planted.Bug(planted.RestartNumbers) {
			e.Life = "always"
		}
	}
	return e
}

// lookBack reads the places where attempts of q with unknown outcome would lie
// (rule W2). When none is found, a repetition is safe: either an earlier attempt
// is still under way, and then it loses against the repetition or the repetition
// against it, because both compare with the same head; or it was stored and
// overwritten since, see overtaken.
func (w *writer) lookBack(q *pending) (e router.Entry, found bool, err error) {
	for _, n := range q.tried {
		ctx, cancel := w.p.attemptContext(q.deadline, len(q.tried))
		e, _, err = w.p.get(ctx, getRequest{Last: w.p.place(w.key, n, q.entry.Cleared)})
		cancel()
		if err != nil {
			return e, false, err
		}
		if e.ID == q.entry.ID {
			w.p.metrics.attempts.Add(attemptFoundStored)
			w.p.heads.Remove(w.key)
			return e, true, nil
		}
	}
	return e, false, nil
}

// overtaken reports whether an attempt of unknown outcome may have been stored and
// overwritten since. NATS forgets the id of an entry with the entry: a replica that
// has caught up knows only the ids of what is still there, and may lead now (met by
// the chaos runner). To try again could store it twice, so the answer is "not known".
func (w *writer) overtaken(q *pending, h head) bool {
	return len(q.tried) > 0 && h.number >= slices.Min(q.tried)+w.p.slots
}

var errOvertaken = errors.New("whether it was stored can no longer be told")

// place returns where an entry lies.
func (p *stream) place(key string, n uint64, cleared bool) string {
	if cleared {
		return p.markerSubject(key)
	}
	return p.subject(key, n)
}

// answerDuplicate answers an append that NATS took for a repetition of what it had
// stored at seq: with the number of the original, or without one if the original has
// been overwritten since. An original that one of q's own attempts wrote is no
// duplicate. An error means that q was not answered and has to be tried again.
func (w *writer) answerDuplicate(q *pending, seq uint64) error {
	ctx, cancel := w.p.attemptContext(q.deadline, len(q.tried))
	defer cancel()
	e, _, err := w.p.get(ctx, getRequest{Seq: seq})
	if err != nil {
		return err
	}
	if e.ID == q.entry.ID {
		if err := w.settled(q, e); err != nil {
			return err
		}
		if len(q.tried) > 0 {
			w.finish(q, e)
			return nil
		}
	} else {
		lost, err := w.vanished(ctx, seq)
		if err != nil {
			return err
		}
		if lost {
			w.p.metrics.attempts.Add(attemptVanished)
			w.p.log.Warn("nats knows the id of an entry that it does not hold; storing it again", "stream", w.p.name, "seq", seq)
			q.entry.ID, q.tried, q.foundAt = rand.Text(), nil, time.Time{}
			return errVanished
		}
		e = router.Entry{ID: q.entry.ID}
		if h, err := w.head(q.deadline); err == nil {
			e.Life = h.life
		}
	}
	w.p.metrics.attempts.Add(attemptDuplicate)
	w.answer(q, e, len(q.tried) == 0, nil)
	return nil
}

// settleTime is how old an entry that was found by reading must be. A leader whose
// disk is full goes on answering reads for about 2 s after another one was elected,
// with entries that the other does not have (nats-server 2.15.2, met by the chaos
// runner). An acknowledgement needs no such wait: no leader gives one without a
// majority.
const settleTime = 3 * time.Second

// settled returns nil when e, found for q, is old enough to be believed.
func (w *writer) settled(q *pending, e router.Entry) error {
	// Somebody else's repetition of what is stored is no news of this kind.
	if !w.p.replicated || len(q.tried) == 0 || time.Since(e.Time) >= settleTime {
		return nil
	}
	// Clocks differ: from the first sight on it is ours that counts.
	if q.foundAt.IsZero() {
		q.foundAt = time.Now()
	}
	if time.Since(q.foundAt) >= settleTime {
		return nil
	}
	return errUnsettled
}

var errUnsettled = errors.New("the entry was found, but too young to be believed")

var errVanished = errors.New("the original of a duplicate vanished")

// vanished reports whether the entry at seq is gone although nothing may have
// removed it: entries leave from the oldest on, so while an older one is there, and
// no marker came after it, it must be there too. A leader whose disk is full can
// lose a committed entry to another under the same number (nats-server 2.15.2, met by
// the chaos runner: it fails to apply the entry, goes on as leader for a moment, and
// checks what comes next against a state without it).
func (w *writer) vanished(ctx context.Context, seq uint64) (bool, error) {
	r, err := w.p.multiLast(ctx, []string{w.p.filter(w.key)}, 0)
	if err != nil {
		return false, err
	}
	if r.upTo < seq {
		return false, errReplicaLags
	}
	entries, err := decodeAll(r.msgs)
	older := false
	for _, e := range entries {
		if e.Seq == seq || e.Seq > seq && e.Cleared {
			return false, err
		}
		older = older || e.Seq < seq
	}
	return older, err
}

type pubAck struct {
	Seq       uint64        `json:"seq"`
	Duplicate bool          `json:"duplicate"`
	Error     *jet.APIError `json:"error"`
}

// The compare-and-set: the message is stored if the newest sequence among the
// subjects that the filter matches is the expected one.
const (
	headerExpect    = "Nats-Expected-Last-Subject-Sequence"
	headerExpectFor = "Nats-Expected-Last-Subject-Sequence-Subject"
)

// message makes the message that stores e if seq is the key's last sequence.
func (w *writer) message(e *router.Entry, seq uint64) *nats.Msg {
	h := encodeHeader(e)
	h[headerExpect] = []string{strconv.FormatUint(seq, 10)}
	h[headerExpectFor] = []string{w.p.filter(w.key)}
	return &nats.Msg{Subject: w.p.place(w.key, e.Number, e.Cleared), Header: h, Data: e.Data}
}

func (w *writer) publish(q *pending, e *router.Entry, seq uint64) (pubAck, error) {
	ctx, cancel := w.p.attemptContext(q.deadline, len(q.tried))
	defer cancel()
	return w.send(ctx, w.message(e, seq))
}

func (w *writer) send(ctx context.Context, m *nats.Msg) (pubAck, error) {
	var ack pubAck
	reply, err := w.p.req.Do(ctx, m)
	if err != nil {
		return ack, err
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return ack, fmt.Errorf("decode ack: %w", err)
	}
	if ack.Error != nil {
		return ack, ack.Error
	}
	if ack.Seq == 0 {
		return ack, errors.New("decode ack: no sequence")
	}
	w.p.contact()
	w.p.sawSeq(ack.Seq)
	w.p.metrics.attempts.Add(attemptStored)
	return ack, nil
}

// storeBatch stores group as one atomic batch. It returns true when every append
// was answered, else none was and they go one by one: the batch held an id that
// was stored before, or its outcome is not known, or the key is contended.
func (w *writer) storeBatch(group []*pending) bool {
	for attempt := range 4 {
		if attempt > 0 && !w.pause(group[0], attempt-1) {
			return false
		}
		h, err := w.head(group[0].deadline)
		if err != nil {
			return false
		}
		entries := make([]router.Entry, len(group))
		prev := h
		for i, q := range group {
			entries[i] = next(prev, q)
			prev = head{number: entries[i].Number, life: entries[i].Life}
		}
		ctx, cancel := w.p.attemptContext(group[0].deadline, len(group[0].tried))
		ack, err := w.publishBatch(ctx, rand.Text(), entries, h.seq)
		cancel()
		if err == nil {
			prev.seq = ack.Seq
			w.p.heads.Add(w.key, prev)
			for i, q := range group {
				entries[i].Seq = ack.Seq - uint64(len(group)-1-i)
				w.answer(q, entries[i], false, nil)
			}
			return true
		}
		w.p.heads.Remove(w.key)
		var refusal *jet.APIError
		switch {
		case w.final(err):
			return false // one of them is too large, for instance
		case conflicted(err), jet.HadNoEffect(err):
			w.note(err)
			continue
		case errors.As(err, &refusal) && refusal.Code == 400:
			return false // refused as a whole
		}
		w.note(err)
		for i, q := range group {
			q.tried = append(q.tried, entries[i].Number)
		}
		return false
	}
	return false
}

// The headers of an atomic batch (ADR-50).
const (
	headerBatchID     = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
)

// publishBatch stores entries all or none. In a replicated stream each carries
// the expectation: the leader checks them all against the key's state before the
// batch, and admits nobody else to the key until the last entry that has one is
// applied (nats-server jetstream_batching.go, batchExpectedPerSubject.clseq).
// Without replicas only the first may carry it, because the server checks again
// while it stores one entry after the other, with nobody else in between.
func (w *writer) publishBatch(ctx context.Context, batch string, entries []router.Entry, seq uint64) (pubAck, error) {
	msgs := make([]*nats.Msg, len(entries))
	for i := range entries {
		msgs[i] = w.message(&entries[i], seq)
		if i > 0 && !w.p.replicated {
			delete(msgs[i].Header, headerExpect)
			delete(msgs[i].Header, headerExpectFor)
		}
	}
	return w.sendAll(ctx, batch, msgs)
}

// sendAll stores msgs, at least one, all or none, as neighbours in their order. The
// acknowledgement is the last one's. Each names the batch, unless it is only one.
func (w *writer) sendAll(ctx context.Context, batch string, msgs []*nats.Msg) (pubAck, error) {
	last := len(msgs) - 1
	if last == 0 {
		return w.send(ctx, msgs[0])
	}
	for i, m := range msgs {
		m.Header[headerBatchID] = []string{batch}
		m.Header[headerBatchSeq] = []string{strconv.Itoa(i + 1)}
		if i == last {
			break
		}
		if err := w.p.req.Send(m); err != nil {
			return pubAck{}, err
		}
	}
	msgs[last].Header[headerBatchCommit] = []string{"1"}
	return w.send(ctx, msgs[last])
}

// final reports whether no repetition can help.
func (w *writer) final(err error) bool {
	return refusedForGood(err) || errors.Is(err, nats.ErrMaxPayload) ||
		errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionDraining)
}

func finalError(err error) error {
	var refusal *jet.APIError
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return &router.Error{Code: router.CodeLimit, Message: "message is too large", Err: err}
	case errors.As(err, &refusal):
		return &router.Error{Code: router.CodeInternal, Message: "the store refused the publication", Err: err}
	default:
		return router.Unavailable("history", err)
	}
}
