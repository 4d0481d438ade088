package persistence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/persistence/internal/jet"
)

// scanner finds what nobody remembers: keys that expired while the edge that set
// them was gone and nobody followed the channel, and removals old enough to be
// forgotten. It walks the image of a partition; one edge at a time does, the one that
// took the lease.
type scanner struct {
	p     *keyPart
	every time.Duration
	// keep is how long a removed key is remembered.
	keep time.Duration

	// Owned by run.
	lease uint64 // where this edge's last lease lies
	from  uint64 // what lies below was seen in a scan before
	scans int
	// tombs are removals that are to be forgotten, by subject.
	tombs map[string]tomb
}

type tomb struct {
	keyID
	seq uint64
	at  time.Time
}

const (
	scanEvery = 5 * time.Minute
	// scanBatch is how many entries are read at once.
	scanBatch = 256
	// fullScan is how many scans of one edge begin with what is new before one walks
	// everything again.
	fullScan = 12
	maxTombs = 100_000
)

func newScanner(p *keyPart) *scanner {
	return &scanner{p: p, every: scanEvery, keep: p.ns.Map.TombstoneTTL, tombs: make(map[string]tomb)}
}

func (s *scanner) run(ctx context.Context) {
	for {
		t := time.NewTimer(s.every + rand.N(s.every/4))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		if err := s.scan(ctx); err != nil && ctx.Err() == nil {
			s.p.keys.log.Warn("scan for expired keys ended early", "err", err)
			s.from, s.tombs = 0, make(map[string]tomb)
		}
	}
}

// scan looks at what is new since the last scan of this edge, or at everything.
func (s *scanner) scan(ctx context.Context) error {
	mine, err := s.takeLease(ctx)
	if err != nil || !mine {
		s.from = 0
		return err
	}
	if s.scans++; s.scans%fullScan == 0 || len(s.tombs) >= maxTombs {
		s.from, s.tombs = 0, make(map[string]tomb)
	}
	for {
		more, err := s.walk(ctx)
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	return s.forget(ctx)
}

func (s *scanner) leaseSubject() string { return s.p.keys.subjects + "scan" }

// takeLease reports whether it is this edge's turn: nobody took one lately.
func (s *scanner) takeLease(ctx context.Context) (bool, error) {
	var a getAnswer
	err := s.p.keys.api(ctx, "MSG.GET", getRequest{Last: s.leaseSubject()}, &a)
	var refusal *jet.APIError
	if err != nil && !(errors.As(err, &refusal) && refusal.ErrCode == jet.CodeMessageNotFound) {
		return false, err
	}
	var last uint64
	if a.Message != nil {
		last = a.Message.Seq
		if time.Since(a.Message.Time) < s.every*3/4 {
			return false, nil
		}
	}
	if last != s.lease {
		s.from = 0 // another edge saw what came in between
	}
	try, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	w := writer{p: s.p.keys}
	ack, err := w.send(try, &nats.Msg{Subject: s.leaseSubject(), Header: nats.Header{headerExpect: {strconv.FormatUint(last, 10)}}})
	if conflicted(err) {
		return false, nil
	}
	s.lease = ack.Seq
	return err == nil, err
}

type walkRequest struct {
	Seq      uint64 `json:"seq"`
	Next     string `json:"next_by_subj"`
	Batch    int    `json:"batch"`
	MaxBytes int    `json:"max_bytes"`
}

// walk looks at the entries from s.from on.
func (s *scanner) walk(ctx context.Context) (more bool, err error) {
	var msgs []*nats.Msg
	err = s.p.keys.retrying(ctx, func(ctx context.Context) error {
		data, err := json.Marshal(walkRequest{max(s.from, 1), s.p.keys.subjects + "*.*.*.*", scanBatch, pageBytes})
		if err != nil {
			return fmt.Errorf("encode direct get: %w", err)
		}
		if msgs, err = s.p.keys.req.DoMany(ctx, &nats.Msg{Subject: s.p.keys.subjectDirect, Data: data}, isStatus); err != nil {
			return err
		}
		return whole(msgs)
	})
	if err != nil {
		return false, err
	}
	for _, m := range msgs[:len(msgs)-1] {
		e, err := decodeCopy(m)
		if err != nil {
			return false, err
		}
		s.from = e.Seq + 1
		subject := jet.Last(m.Header, "Nats-Subject")
		channel, ok := s.p.channelOf(subject)
		if e.Mark == nil || !ok {
			continue
		}
		s.p.saw(channel, &e, watchGrace)
		if e.Mark.Removed && len(s.tombs) < maxTombs {
			s.tombs[subject] = tomb{keyID{channel, e.Mark.Key}, e.Seq, time.UnixMilli(e.Mark.At)}
		} else {
			delete(s.tombs, subject)
		}
	}
	return len(msgs) > 1, nil
}

// channelOf returns the encoded channel that a place belongs to.
func (p *keyPart) channelOf(subject string) (string, bool) {
	rest, ok := strings.CutPrefix(subject, p.keys.subjects)
	channel, _, found := strings.Cut(rest, ".")
	return strings.ReplaceAll(channel, "%2E", "."), ok && found
}

// forget purges keys that were removed long ago.
func (s *scanner) forget(ctx context.Context) error {
	old := time.Now().Add(-s.keep)
	for _, subject := range slices.Collect(maps.Keys(s.tombs)) {
		t := s.tombs[subject]
		if t.at.After(old) {
			continue
		}
		err := s.p.keys.retrying(ctx, func(ctx context.Context) error {
			e, _, err := s.p.image(ctx, t.channel, t.key)
			if err != nil || e.Seq != t.seq {
				return err
			}
			// What a change stores meanwhile lies above.
			return s.p.keys.api(ctx, "PURGE", map[string]any{"filter": subject, "seq": t.seq + 1}, nil)
		})
		if err != nil {
			return err
		}
		delete(s.tombs, subject)
	}
	return nil
}
