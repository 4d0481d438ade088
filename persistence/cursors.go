package persistence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// CursorsConfig says how the cursors of inboxes are kept.
type CursorsConfig struct {
	Enabled bool
	// TTL is how long a cursor is kept after it was written.
	TTL           time.Duration
	MemoryStorage bool // gone when NATS restarts
}

// cursors keep how far devices have read their user's inbox: the last message of
// subject hr.cur.<user>.<device> is the cursor, and each write is a
// compare-and-set on it (docs/decisions/0021-inbox.md).
type cursors struct {
	p *stream // for its leader, requests and contact; it holds no log
}

var _ router.CursorStore = (*cursors)(nil)

func cursorsStream(prefix string) string { return strings.ToUpper(prefix) + "_CURSORS" }

func (s *Store) openCursors(ctx context.Context) error {
	c := s.cfg.Cursors
	storage := jetstream.FileStorage
	if c.MemoryStorage {
		storage = jetstream.MemoryStorage
	}
	have, err := s.provision.EnsurePlain(ctx, jetstream.StreamConfig{
		Name: cursorsStream(s.cfg.Prefix), Description: "Headrace: how far devices have read their inbox",
		Subjects: []string{s.cfg.Prefix + ".cur.*.*"}, Storage: storage, Replicas: s.cfg.Replicas,
		MaxMsgsPerSubject: 1, MaxAge: c.TTL, Discard: jetstream.DiscardOld, AllowDirect: true,
		Duplicates: min(c.TTL, 100*time.Millisecond), // no ids are used
	})
	if err != nil {
		return err
	}
	p := &stream{
		cfg: &s.cfg, log: s.cfg.Log.With("stream", have.Name), req: s.req, metrics: s.metrics, name: have.Name,
		subjects:      strings.TrimSuffix(have.Subjects[0], "*.*"),
		subjectMsgGet: "$JS.API.STREAM.MSG.GET." + have.Name,
		subjectDirect: "$JS.API.DIRECT.GET." + have.Name,
		replicated:    have.Replicas > 1,
	}
	if err := p.reach(ctx); err != nil {
		return fmt.Errorf("persistence: reach stream %s: %w", p.name, err)
	}
	s.cursors = &cursors{p: p}
	s.streams = append(s.streams, p) // watched, and part of Healthy
	return nil
}

// Cursors returns the store of cursors, nil unless Config.Cursors has them.
func (s *Store) Cursors() router.CursorStore {
	if s.cursors == nil {
		return nil
	}
	return s.cursors
}

const cursorsName = "the inbox" // as errors call it

func (c *cursors) subject(user, device string) string {
	return c.p.subjects + router.EncodeToken(user) + "." + router.EncodeToken(device)
}

// Get implements router.CursorStore. As with the log, the answer of a leader that
// is cut off is refused as soon as that is known.
func (c *cursors) Get(ctx context.Context, user, device string) (router.StoredCursor, error) {
	var out router.StoredCursor
	err := c.p.retrying(ctx, func(ctx context.Context) error {
		m, err := c.p.getRaw(ctx, getRequest{Last: c.subject(user, device)})
		if err != nil {
			return err
		}
		if c.p.replicated && c.p.silence() > c.p.cfg.ContactBound {
			return errNoQuorum
		}
		out = router.StoredCursor{}
		if m != nil {
			out = router.StoredCursor{Cursor: c.decode(m.data), Seq: m.seq, Time: m.time}
		}
		return nil
	})
	return out, jet.Unavailable(cursorsName, err)
}

// decode returns the zero Cursor for what is none: everything is unread then, and
// the next ack writes it over.
func (c *cursors) decode(data []byte) router.Cursor {
	cur, err := decodeInboxCursor(data)
	if err != nil {
		c.p.log.Warn("a cursor cannot be read", "err", err)
	}
	return cur
}

func decodeInboxCursor(data []byte) (router.Cursor, error) {
	var cur router.Cursor
	if err := json.Unmarshal(data, &cur); err != nil {
		return router.Cursor{}, fmt.Errorf("decode cursor: %w", err)
	}
	return cur, nil
}

// Put implements router.CursorStore.
func (c *cursors) Put(ctx context.Context, user, device string, cur router.Cursor, last uint64) error {
	data, err := json.Marshal(cur)
	if err != nil {
		return fmt.Errorf("encode cursor: %w", err)
	}
	subject, expect := c.subject(user, device), strconv.FormatUint(last, 10)
	for attempt := 0; ; attempt++ {
		try, cancel := context.WithTimeout(ctx, readTimeout)
		err = c.write(try, &nats.Msg{Subject: subject, Data: data, Header: nats.Header{headerExpect: []string{expect}}})
		cancel()
		var refusal *jet.APIError
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &refusal):
			return jet.Unavailable(cursorsName, err)
		case refusal.ErrCode == jet.CodeWrongLastSequence:
			return &router.Error{Code: router.CodeConflict, Message: "the cursor was moved meanwhile", Err: err}
		case refusal.ErrCode != jet.CodeLastSequenceBusy && !temporary(err):
			return &router.Error{Code: router.CodeInternal, Message: "the store refused the cursor", Err: err}
		}
		// Another write of this cursor is in flight, or seems to be: it had no effect.
		if !jet.Pause(ctx, attempt) {
			return jet.Unavailable(cursorsName, err)
		}
	}
}

func (c *cursors) write(ctx context.Context, m *nats.Msg) error {
	reply, err := c.p.req.Do(ctx, m)
	if err != nil {
		return err
	}
	var ack pubAck
	switch err := json.Unmarshal(reply.Data, &ack); {
	case err != nil:
		return fmt.Errorf("decode ack: %w", err)
	case ack.Error != nil:
		return ack.Error
	case ack.Seq == 0:
		return errors.New("decode ack: no sequence")
	}
	c.p.contact()
	return nil
}

// List implements router.CursorStore.
func (c *cursors) List(ctx context.Context, user string) ([]router.DeviceCursor, error) {
	var r multiResult
	err := c.p.retrying(ctx, func(ctx context.Context) (err error) {
		r, err = c.p.multiLast(ctx, []string{c.p.subjects + router.EncodeToken(user) + ".*"}, 0)
		return err
	})
	if err != nil {
		return nil, jet.Unavailable(cursorsName, err)
	}
	list := make([]router.DeviceCursor, 0, len(r.msgs))
	for _, m := range r.msgs {
		subject := jet.Last(m.Header, "Nats-Subject")
		device, err := router.DecodeToken(subject[strings.LastIndexByte(subject, '.')+1:])
		if err != nil {
			continue // not ours
		}
		seq, err := strconv.ParseUint(jet.Last(m.Header, "Nats-Sequence"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("decode cursor: sequence: %w", err)
		}
		at, _ := time.Parse(time.RFC3339Nano, jet.Last(m.Header, "Nats-Time-Stamp")) // the zero time if NATS changes its form
		list = append(list, router.DeviceCursor{Device: device, StoredCursor: router.StoredCursor{Cursor: c.decode(m.Data), Seq: seq, Time: at}})
	}
	return list, nil
}

// Forget implements router.CursorStore.
func (c *cursors) Forget(ctx context.Context, user, device string, seq uint64) error {
	err := c.p.retrying(ctx, func(ctx context.Context) error {
		return c.p.api(ctx, "PURGE", map[string]any{"filter": c.subject(user, device), "seq": seq + 1}, nil)
	})
	return jet.Unavailable(cursorsName, err)
}
