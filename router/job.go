package router

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Priority is the class of a job. High goes before low, and low does not starve:
// of ten jobs taken while all wait, six are high, three medium, one low.
type Priority string

// The priorities. They are tokens of subjects.
const (
	PriorityHigh   Priority = "high"
	PriorityMedium Priority = "medium"
	PriorityLow    Priority = "low"
)

// Priorities lists them, highest first.
var Priorities = []Priority{PriorityHigh, PriorityMedium, PriorityLow}

// Bounds of what a pusher supplies.
const (
	MaxJobAttempts    = 100
	MaxJobHeaderBytes = 16 << 10 // NATS bounds all headers of a message to 64 KiB
	maxIdempotencyKey = 256
)

// NewJob is what a pusher supplies of a job.
type NewJob struct {
	User     string // who pushes; "" for the server API
	Payload  []byte
	Headers  map[string]string // for the worker; any text, at most MaxJobHeaderBytes as JSON
	Priority Priority          // "" is medium

	// A job is not given to workers before At, nor before Delay has passed; set
	// one of them or none.
	Delay time.Duration
	At    time.Time

	// IdempotencyKey makes repeats by the same user within the duplicate window
	// have no effect. It is scoped to user and queue (rule W3).
	IdempotencyKey string

	MaxAttempts int      // 0: the queue's
	Backoff     *Backoff // nil: the queue's
}

// Validate reports the first problem of j for the pusher.
func (j *NewJob) Validate() error {
	switch j.Priority {
	case "", PriorityHigh, PriorityMedium, PriorityLow:
	default:
		return Errorf(CodeInvalid, "priority is neither high, medium nor low")
	}
	switch {
	case j.Delay < 0 || j.Delay > MaxBackoff || !j.At.IsZero() && time.Until(j.At) > MaxBackoff:
		return Errorf(CodeInvalid, "a job can be delayed by at most %v", MaxBackoff)
	case j.Delay > 0 && !j.At.IsZero():
		return Errorf(CodeInvalid, "a job has a delay or a due time, not both")
	case len(j.IdempotencyKey) > maxIdempotencyKey:
		return Errorf(CodeInvalid, "the idempotency key is longer than %d bytes", maxIdempotencyKey)
	case j.MaxAttempts < 0 || j.MaxAttempts > MaxJobAttempts:
		return Errorf(CodeInvalid, "attempts are not within 1 to %d", MaxJobAttempts)
	}
	if b, err := EncodeJobHeaders(j.Headers); err != nil || len(b) > MaxJobHeaderBytes {
		return Errorf(CodeLimit, "the headers of the job are larger than %d bytes", MaxJobHeaderBytes)
	}
	if j.Backoff != nil {
		if err := j.Backoff.Validate(); err != nil {
			return Errorf(CodeInvalid, "%v", err)
		}
	}
	return nil
}

// DedupID returns the deduplication id of j in queue (rule W3), "" without an
// idempotency key.
func (j *NewJob) DedupID(queue string) string { return dedupID(j.User, queue, j.IdempotencyKey) }

// EncodeJobHeaders returns headers as one header value in ASCII (rule W4), nil
// when there are none.
func EncodeJobHeaders(h map[string]string) ([]byte, error) {
	if len(h) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode job headers: %w", err)
	}
	return asciiJSON(b), nil
}

// DecodeJobHeaders is the inverse of EncodeJobHeaders.
func DecodeJobHeaders(b []byte) (map[string]string, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) > MaxJobHeaderBytes {
		return nil, errors.New("decode job headers: too large")
	}
	var h map[string]string
	if err := json.Unmarshal(b, &h); err != nil {
		return nil, fmt.Errorf("decode job headers: %w", err)
	}
	return h, nil
}

// Pushed is the answer to a push.
type Pushed struct {
	ID        string // names the job for ever; "" when Duplicate
	Duplicate bool   // a job with this idempotency key was pushed before
}

// Origin tells where a job was first stored. It survives retries and redrives.
type Origin struct {
	Subject string
	Seq     uint64
	Time    time.Time
}

// Job is one attempt at a job, in the hands of a worker.
type Job struct {
	ID          string
	Queue       string
	Priority    Priority
	Attempt     int // 1 is the first (rule Q2)
	MaxAttempts int
	// Token names this attempt to Ack, Nack and Extend, on any node.
	Token     string
	Payload   []byte
	Headers   map[string]string
	Origin    Origin
	LastError string // of the attempt before, "" on the first
	Redriven  int    // how often it was brought back from the dead letters
}

// DeadReason says why a job became a dead letter. The set is closed.
type DeadReason string

// The reasons.
const (
	DeadAttempts DeadReason = "attempts"  // the last attempt failed
	DeadFinal    DeadReason = "final"     // the worker said that no retry can help
	DeadVanished DeadReason = "vanished"  // its workers vanished, attempt after attempt
	DeadStranded DeadReason = "stranded"  // delivered too often, to plain NATS workers for example
	DeadOversize DeadReason = "too_large" // it would not fit into the retry stream
)

// DeadReasons lists them.
var DeadReasons = []DeadReason{DeadAttempts, DeadFinal, DeadVanished, DeadStranded, DeadOversize}

// DeadLetter is a job that no worker will get unless it is redriven.
type DeadLetter struct {
	Seq      uint64 // names it within the queue's dead letters
	ID       string
	Priority Priority
	Time     time.Time // when it died
	Reason   DeadReason
	Error    string // the last error
	Attempts int
	Payload  []byte
	Headers  map[string]string
	Origin   Origin
	Redriven int
}
