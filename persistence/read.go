package persistence

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

type multiRequest struct {
	Last     []string `json:"multi_last"`
	Seq      uint64   `json:"seq,omitempty"`
	MaxBytes int      `json:"max_bytes"`
}

// multiResult is what one replica knows: the newest message of each subject.
type multiResult struct {
	msgs []*nats.Msg // in sequence order
	upTo uint64      // the last sequence this replica had then; 0: it had nothing
}

// pageBytes bounds one answer of a replica; larger results take more requests.
const pageBytes = 4 << 20

// errTooMany: the subjects match more than the 1,024 messages that one request
// answers.
var errTooMany = errors.New("too many results")

// multiLast reads the newest message of each subject from whatever replica
// answers, with sequences from seq.
func (p *stream) multiLast(ctx context.Context, subjects []string, seq uint64) (multiResult, error) {
	var r multiResult
	req := multiRequest{Last: subjects, Seq: seq, MaxBytes: pageBytes}
	for {
		data, err := json.Marshal(req)
		if err != nil {
			return r, fmt.Errorf("encode direct get: %w", err)
		}
		msgs, err := p.req.DoMany(ctx, &nats.Msg{Subject: p.subjectDirect, Data: data}, isStatus)
		if err != nil {
			return r, err
		}
		end := msgs[len(msgs)-1]
		if err := whole(msgs); err != nil {
			return r, err
		}
		r.msgs = append(r.msgs, msgs[:len(msgs)-1]...)
		switch status := end.Header.Get("Status"); status {
		case "204":
		case "404": // no such subject, or a message vanished while it was read
			if len(msgs) > 1 || r.upTo > 0 {
				return r, errors.New("direct get: message vanished")
			}
			return r, nil
		case "413":
			return r, errTooMany
		default:
			return r, fmt.Errorf("direct get: status %q %s", status, end.Header.Get("Description"))
		}
		upTo, err := strconv.ParseUint(jet.Last(end.Header, "Nats-UpTo-Sequence"), 10, 64)
		if err != nil {
			return r, fmt.Errorf("direct get: up to sequence: %w", err)
		}
		if r.upTo == 0 || upTo < r.upTo {
			r.upTo = upTo // pages may come from different replicas
		}
		if jet.Last(end.Header, "Nats-Num-Pending") == "0" || len(msgs) == 1 {
			return r, nil
		}
		seq, err := strconv.ParseUint(jet.Last(end.Header, "Nats-Last-Sequence"), 10, 64)
		if err != nil {
			return r, fmt.Errorf("direct get: last sequence: %w", err)
		}
		// Not limited to upTo: the answer would repeat that limit instead of telling
		// how far the replica is. What is newer than asked for, the caller drops.
		req.Seq = seq + 1
	}
}

// whole checks that no message of an answer got lost on its way: a route or
// connection that breaks and comes back loses some in the middle, and the rest arrives.
// Each names the sequence of the one before it, and so does the status at the end.
func whole(msgs []*nats.Msg) error {
	before := "0"
	for _, m := range msgs {
		status := isStatus(m)
		if status && m.Header.Get("Status") != "204" {
			return nil // it is an error, or there is nothing
		}
		if jet.Last(m.Header, "Nats-Last-Sequence") != before {
			return errLostOnTheWay
		}
		before = jet.Last(m.Header, "Nats-Sequence")
	}
	return nil
}

var errLostOnTheWay = errors.New("direct get: part of the answer was lost on its way")

// isStatus reports whether m ends a batch: a status instead of an entry. A
// stored entry always has a number, so a status header in it would not end it.
func isStatus(m *nats.Msg) bool {
	return len(m.Data) == 0 && m.Header.Get(headerNumber) == "" && m.Header.Get("Status") != ""
}

// manySlots is the number of entries from which a read asks for the whole ring
// with a wildcard rather than name each subject.
const manySlots = 64

// places returns the subjects where the entries with numbers in (after, to] of
// key lie. The marker is always among them, so that something is.
func (p *stream) places(key string, after, to uint64) []string {
	if to-after >= min(manySlots, p.slots) {
		return []string{p.filter(key)}
	}
	s := make([]string, 0, to-after+1)
	s = append(s, p.markerSubject(key))
	for n := after + 1; n <= to; n++ {
		s = append(s, p.subject(key, n))
	}
	return s
}

// read returns the unbroken run of entries in (after, h.Number] that ends at h.
func (p *stream) read(ctx context.Context, key string, after uint64, h router.Entry) ([]router.Entry, error) {
	if h.Number == 0 || after >= h.Number {
		return nil, nil
	}
	var entries []router.Entry
	err := p.retrying(ctx, func(ctx context.Context) error {
		r, err := p.multiLast(ctx, p.places(key, after, h.Number), 0)
		if err != nil {
			return err
		}
		if r.upTo < h.Seq {
			// The replica lags, or it has nothing at these places: then only the
			// leader can tell whether the head is really gone.
			return p.confirmGone(ctx, key, h)
		}
		entries, err = decodeAll(r.msgs)
		return err
	})
	if err != nil {
		return nil, jet.Unavailable("history", err)
	}
	run, ok := runTo(entries, after, h)
	if !ok {
		return nil, headMoved(key)
	}
	return run, nil
}

var errReplicaLags = errors.New("replica lags behind the leader")

// confirmGone asks the leader about an entry that a replica does not have.
func (p *stream) confirmGone(ctx context.Context, key string, h router.Entry) error {
	e, _, err := p.get(ctx, getRequest{Last: p.place(key, h.Number, h.Cleared)})
	if err != nil {
		return err
	}
	if e.Seq == h.Seq {
		return errReplicaLags
	}
	return headMoved(key)
}

func headMoved(key string) error {
	return router.Errorf(router.CodeConflict, "the head of %q moved on", key)
}

func decodeAll(msgs []*nats.Msg) ([]router.Entry, error) {
	entries := make([]router.Entry, 0, len(msgs))
	for _, m := range msgs {
		e, err := decodeCopy(m)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// runTo selects from entries, in any order, the unbroken run of one life that
// ends at h. It starts above after and not before a marker: what was there is
// cleared, whether or not the purge came through.
// It is false when h is not among them.
func runTo(entries []router.Entry, after uint64, h router.Entry) (run []router.Entry, ok bool) {
	// In a stream a life follows another, and numbers rise within a life: the
	// order of sequences is the order of entries.
	slices.SortFunc(entries, func(a, b router.Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	i, found := slices.BinarySearchFunc(entries, h.Seq, func(e router.Entry, seq uint64) int { return cmp.Compare(e.Seq, seq) })
	if !found {
		return nil, false
	}
	start := i
	for start > 0 && !entries[start].Cleared {
		e, prev := &entries[start], &entries[start-1]
		if prev.Number+1 != e.Number || prev.Number <= after || prev.Life != h.Life {
			break
		}
		start--
	}
	return entries[start : i+1], true
}
