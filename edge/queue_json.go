package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/headrace/headrace/router"
)

// This file has the JSON of the durable queue, one set of types for the server
// API and for clients. Durations are text as in the configuration ("1m30s"),
// times are RFC 3339.

// strictJSON decodes a request; a field that the request does not have is an error
// that names it.
func strictJSON(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return &malformedError{err}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return &malformedError{errors.New("there is something after the JSON")}
	}
	return nil
}

// queuePushRequest is a job as pushers write it.
type queuePushRequest struct {
	Queue          string            `json:"queue"`
	Data           json.RawMessage   `json:"data"`
	B64Data        []byte            `json:"b64data"`
	Headers        map[string]string `json:"headers"`
	Priority       router.Priority   `json:"priority"`
	Delay          string            `json:"delay"`
	At             string            `json:"at"`
	IdempotencyKey string            `json:"idempotency_key"`
	MaxAttempts    int               `json:"max_attempts"`
	Backoff        *queueBackoff     `json:"backoff"`
}

// queueBackoff is the backoff of one job. What is not given is as in
// router.DefaultBackoff, with a cap of at least the base.
type queueBackoff struct {
	Base   string   `json:"base"`
	Factor *float64 `json:"factor"`
	Cap    string   `json:"cap"`
	Jitter *float64 `json:"jitter"`
}

// job returns what r says, pushed by user ("" for the server API).
// Router.Queues validates it.
func (r *queuePushRequest) job(user string) (router.NewJob, error) {
	j := router.NewJob{
		User: user, Headers: r.Headers, Priority: r.Priority, IdempotencyKey: r.IdempotencyKey, MaxAttempts: r.MaxAttempts,
	}
	switch {
	case r.Data != nil && r.B64Data != nil:
		return j, router.Errorf(router.CodeInvalid, "data and b64data exclude each other")
	case r.B64Data != nil:
		j.Payload = r.B64Data
	case r.Data != nil:
		j.Payload = r.Data
	default:
		return j, router.Errorf(router.CodeInvalid, "data is missing")
	}
	var err error
	if j.Delay, err = duration("delay", r.Delay); err != nil {
		return j, err
	}
	if r.At != "" {
		if j.At, err = time.Parse(time.RFC3339Nano, r.At); err != nil {
			return j, router.Errorf(router.CodeInvalid, "at is not a time such as 2030-01-31T08:00:00Z")
		}
	}
	j.Backoff, err = r.Backoff.backoff()
	return j, err
}

func (b *queueBackoff) backoff() (*router.Backoff, error) {
	if b == nil {
		return nil, nil
	}
	out := router.DefaultBackoff
	base, err := duration("backoff.base", b.Base)
	if err != nil {
		return nil, err
	}
	longest, err := duration("backoff.cap", b.Cap)
	if err != nil {
		return nil, err
	}
	if b.Base != "" {
		out.Base = base
	}
	if out.Cap = max(out.Cap, out.Base); b.Cap != "" {
		out.Cap = longest
	}
	if b.Factor != nil {
		out.Factor = *b.Factor
	}
	if b.Jitter != nil {
		out.Jitter = *b.Jitter
	}
	return &out, nil
}

// duration reads the text of a field; empty is 0.
func duration(field, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, router.Errorf(router.CodeInvalid, "%s is not a duration such as 500ms or 1m30s", field)
	}
	return d, nil
}

// queuePushed is the answer to a push.
type queuePushed struct {
	ID        string `json:"id,omitempty"`
	Duplicate bool   `json:"duplicate,omitempty"`
}

// queueTokenRequest names an attempt: to acknowledge or to extend it.
type queueTokenRequest struct {
	Queue string `json:"queue"`
	Token string `json:"token"`
}

// queueNackRequest ends an attempt that failed.
type queueNackRequest struct {
	queueTokenRequest
	Error string `json:"error"`
	Final bool   `json:"final"`
	Delay string `json:"delay"`
}

func (r *queueNackRequest) nack() (router.Nack, error) {
	delay, err := duration("delay", r.Delay)
	return router.Nack{Error: r.Error, Final: r.Final, Delay: delay}, err
}

// queueJob is an attempt at a job as workers read it.
type queueJob struct {
	ID          string          `json:"id"`
	Queue       string          `json:"queue"`
	Priority    router.Priority `json:"priority"`
	Attempt     int             `json:"attempt"`
	MaxAttempts int             `json:"max_attempts"`
	Token       string          `json:"token"`
	queuePayload
	Origin    queueOrigin `json:"origin"`
	LastError string      `json:"last_error,omitempty"`
	Redriven  int         `json:"redriven,omitempty"`
}

// queuePayload is a payload with its headers: data when it is JSON, else b64data.
// An empty payload is neither.
type queuePayload struct {
	Data    json.RawMessage   `json:"data,omitempty"`
	B64Data []byte            `json:"b64data,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
}

type queueOrigin struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
}

func toQueuePayload(payload []byte, headers map[string]string) queuePayload {
	if validJSON(payload) {
		return queuePayload{Data: payload, Headers: headers}
	}
	return queuePayload{B64Data: payload, Headers: headers}
}

func toQueueOrigin(o router.Origin) queueOrigin {
	return queueOrigin{Subject: o.Subject, Seq: o.Seq, Time: o.Time.UTC()}
}

func toQueueJob(j *router.Job) queueJob {
	return queueJob{
		ID: j.ID, Queue: j.Queue, Priority: j.Priority, Attempt: j.Attempt, MaxAttempts: j.MaxAttempts, Token: j.Token,
		queuePayload: toQueuePayload(j.Payload, j.Headers), Origin: toQueueOrigin(j.Origin), LastError: j.LastError, Redriven: j.Redriven,
	}
}

// queueDead is a dead letter.
type queueDead struct {
	Seq      uint64            `json:"seq"`
	ID       string            `json:"id"`
	Priority router.Priority   `json:"priority"`
	Time     time.Time         `json:"time"`
	Reason   router.DeadReason `json:"reason"`
	Error    string            `json:"error,omitempty"`
	Attempts int               `json:"attempts"`
	queuePayload
	Origin   queueOrigin `json:"origin"`
	Redriven int         `json:"redriven,omitempty"`
}

func toQueueDead(d *router.DeadLetter) queueDead {
	return queueDead{
		Seq: d.Seq, ID: d.ID, Priority: d.Priority, Time: d.Time.UTC(), Reason: d.Reason, Error: d.Error, Attempts: d.Attempts,
		queuePayload: toQueuePayload(d.Payload, d.Headers), Origin: toQueueOrigin(d.Origin), Redriven: d.Redriven,
	}
}

// queueStats is the state of a queue; see router.QueueStats.
type queueStats struct {
	Queue         string                     `json:"queue"`
	Depth         map[router.Priority]uint64 `json:"depth"`
	InFlight      map[router.Priority]uint64 `json:"in_flight"`
	Scheduled     uint64                     `json:"scheduled"`
	Dead          uint64                     `json:"dead"`
	OldestSeconds float64                    `json:"oldest_seconds"`
	Paused        bool                       `json:"paused"`
}

func toQueueStats(name string, s *router.QueueStats) queueStats {
	return queueStats{
		Queue: name, Depth: s.Depth, InFlight: s.InFlight, Scheduled: s.Scheduled, Dead: s.Dead,
		OldestSeconds: s.Oldest.Round(time.Millisecond).Seconds(), Paused: s.Paused,
	}
}
