package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// attemptTimeout bounds one request. A leader that steps down forgets what was
// under way and never answers. Attempts without an answer double it, up to four
// times.
const attemptTimeout = time.Second

// codeDeleteFailed: a message to be deleted is not there (or a disk fails).
const codeDeleteFailed = 10057

// errExists: the subject was expected to be empty and is not.
var errExists = errors.New("already stored")

// repeat calls f until it succeeds, refuses for good, or ctx ends.
func repeat(ctx context.Context, f func(context.Context) error) error {
	for attempt := 0; ; attempt++ {
		try, cancel := context.WithTimeout(ctx, attemptTimeout<<min(attempt, 2))
		err := f(try)
		cancel()
		if err == nil || final(err) {
			return err
		}
		if !jet.Pause(ctx, attempt+2) {
			return router.Unavailable("the queue", err)
		}
	}
}

// final reports whether no repetition can help.
func final(err error) bool {
	var refusal *jet.APIError
	var shown *router.Error
	if errors.As(err, &shown) {
		return true
	}
	if errors.As(err, &refusal) {
		return refusal.Code < 500 && refusal.ErrCode != jet.CodeLastSequenceBusy && refusal.ErrCode != jet.CodeDuplicateInFlight ||
			refusal.ErrCode == codeDeleteFailed
	}
	return errors.Is(err, errExists) || errors.Is(err, nats.ErrMaxPayload) ||
		errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionDraining)
}

// api sends a JetStream API request and decodes the answer into out.
func (s *Store) api(ctx context.Context, subject string, in, out any) error {
	data, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return repeat(ctx, func(ctx context.Context) error {
		m, err := s.req.Do(ctx, &nats.Msg{Subject: "$JS.API." + subject, Data: data})
		if err != nil {
			return err
		}
		var refusal struct {
			Error *jet.APIError `json:"error"`
		}
		if err := json.Unmarshal(m.Data, &refusal); err != nil {
			return fmt.Errorf("decode answer: %w", err)
		}
		if refusal.Error != nil {
			return refusal.Error
		}
		return json.Unmarshal(m.Data, out)
	})
}

type pubAck struct {
	Error     *jet.APIError `json:"error"`
	Seq       uint64        `json:"seq"`
	Duplicate bool          `json:"duplicate"`
}

// publish stores m and returns when the store has it. A message without an
// answer is sent again: m must carry an id or an expectation, so that it is
// stored once (rule W2). It fails with errExists when the expectation does.
func (s *Store) publish(ctx context.Context, m *nats.Msg) (pubAck, error) {
	var a pubAck
	err := repeat(ctx, func(ctx context.Context) error {
		r, err := s.req.Do(ctx, m)
		if err != nil {
			return err
		}
		a = pubAck{}
		if err := json.Unmarshal(r.Data, &a); err != nil {
			return fmt.Errorf("decode acknowledgement: %w", err)
		}
		switch e := a.Error; {
		case e == nil:
			return nil
		case e.ErrCode == jet.CodeWrongLastSequence:
			return errExists
		case strings.Contains(e.Text, "maximum messages exceeded"), strings.Contains(e.Text, "maximum bytes exceeded"):
			return &router.Error{Code: router.CodeLimit, Message: "the queue is full", Err: e}
		default:
			return e
		}
	})
	if errors.Is(err, nats.ErrMaxPayload) {
		err = &router.Error{Code: router.CodeLimit, Message: "the job is too large", Err: err}
	}
	return a, err
}

// The answers of workers to a delivery (NATS protocol).
const (
	ackDone     = "+ACK"
	ackProgress = "+WPI"
	ackTerm     = "+TERM"
	ackNak      = "-NAK"
)

// settle sends an answer to a delivery and returns when the store has it.
func (s *Store) settle(ctx context.Context, ack, answer string) error {
	return repeat(ctx, func(ctx context.Context) error {
		_, err := s.req.Do(ctx, &nats.Msg{Subject: ack, Data: []byte(answer)})
		return err
	})
}

// nak gives a delivery back to be taken again after delay. Lost, it comes back
// after the ack wait.
func (s *Store) nak(ack string, delay time.Duration) {
	answer := ackNak
	if delay > 0 {
		answer = fmt.Sprintf(`%s {"delay":%d}`, ackNak, delay)
	}
	_ = s.req.Send(&nats.Msg{Subject: ack, Data: []byte(answer)})
}

// stored is a message as the leader has it.
type stored struct {
	subject string
	seq     uint64
	time    time.Time
	header  nats.Header
	data    []byte
}

// errNotStored: there is no such message.
var errNotStored = router.Errorf(router.CodeConflict, "the job was ended before")

// get asks the leader for a message: {"seq": n}, or {"seq": n, "next_by_subj":
// s} for the first one from n on.
func (s *Store) get(ctx context.Context, stream string, in map[string]any) (stored, error) {
	var a struct {
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	err := s.api(ctx, "STREAM.MSG.GET."+stream, in, &a)
	var refusal *jet.APIError
	if errors.As(err, &refusal) && refusal.ErrCode == jet.CodeMessageNotFound {
		return stored{}, errNotStored
	}
	if err != nil {
		return stored{}, err
	}
	m := stored{subject: a.Message.Subject, seq: a.Message.Seq, time: a.Message.Time, data: a.Message.Data}
	if len(a.Message.Header) > 0 {
		if m.header, err = nats.DecodeHeadersMsg(a.Message.Header); err != nil {
			return m, fmt.Errorf("decode stored message: %w", err)
		}
	}
	return m, nil
}

// remove deletes a message; true when it was there.
func (s *Store) remove(ctx context.Context, stream string, seq uint64) (bool, error) {
	var out struct{}
	err := s.api(ctx, "STREAM.MSG.DELETE."+stream, map[string]any{"seq": seq, "no_erase": true}, &out)
	var refusal *jet.APIError
	if errors.As(err, &refusal) && (refusal.Code < 500 || strings.Contains(refusal.Text, "no message found")) {
		return false, nil // gone before
	}
	return err == nil, err
}
