package queue

import (
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// The headers of jobs. A pusher may set the options; the others are believed
// only where none but Headrace writes.
const (
	headerMaxAttempts = "Headrace-Max-Attempts" // option
	headerBackoff     = "Headrace-Backoff"      // option, as router.Backoff.String
	headerHeaders     = "Headrace-Headers"      // option, as router.EncodeJobHeaders

	headerJob           = "Headrace-Job"
	headerAttempt       = "Headrace-Attempt"
	headerRedriven      = "Headrace-Redriven"
	headerError         = "Headrace-Error"
	headerOriginSubject = "Headrace-Origin-Subject"
	headerOriginSeq     = "Headrace-Origin-Sequence"
	headerOriginTime    = "Headrace-Origin-Time"
	headerReason        = "Headrace-Reason"   // of dead letters
	headerPriority      = "Headrace-Priority" // of dead letters

	headerSchedule       = "Nats-Schedule"
	headerScheduleTarget = "Nats-Schedule-Target"
	headerExpectEmpty    = "Nats-Expected-Last-Subject-Sequence"
)

const (
	maxErrorBytes = 1024
	// headerReserve is the room that a retry or dead letter needs beside what the
	// pusher sent.
	headerReserve = 4 << 10
)

// envelope is what travels beside the payload of a job.
type envelope struct {
	id          string
	attempt     int // number of the message's first delivery
	maxAttempts int // 0: the queue's
	redriven    int
	backoff     *router.Backoff // nil: the queue's
	headers     string          // as router.EncodeJobHeaders, or ""
	plain       nats.Header     // of a plain NATS publisher; neither Nats-* nor Headrace-*
	lastError   string
	origin      router.Origin
}

// decodeEnvelope reads the headers of a job. What is malformed counts as absent:
// the job itself is worth doing. Untrusted headers are read for options only.
func decodeEnvelope(h nats.Header, trusted bool) envelope {
	e := envelope{attempt: 1}
	if n, err := strconv.Atoi(jet.Last(h, headerMaxAttempts)); err == nil && n >= 1 && n <= router.MaxJobAttempts {
		e.maxAttempts = n
	}
	if b, err := router.ParseBackoff(jet.Last(h, headerBackoff)); err == nil {
		e.backoff = &b
	}
	if v := jet.Last(h, headerHeaders); v != "" {
		if _, err := router.DecodeJobHeaders([]byte(v)); err == nil {
			e.headers = v
		}
	}
	e.plain = plainHeaders(h)
	if !trusted {
		return e
	}
	e.id = jet.Last(h, headerJob)
	if n, err := strconv.Atoi(jet.Last(h, headerAttempt)); err == nil && n >= 1 {
		e.attempt = n
	}
	if n, err := strconv.Atoi(jet.Last(h, headerRedriven)); err == nil && n >= 0 {
		e.redriven = n
	}
	e.lastError = jet.Last(h, headerError)
	if seq, err := strconv.ParseUint(jet.Last(h, headerOriginSeq), 10, 64); err == nil {
		at, _ := time.Parse(time.RFC3339Nano, jet.Last(h, headerOriginTime)) // zero when absent
		e.origin = router.Origin{Subject: jet.Last(h, headerOriginSubject), Seq: seq, Time: at}
	}
	return e
}

// plainHeaders returns the headers that belong to the application. Those that
// NATS obeys do not pass (rule W4).
func plainHeaders(h nats.Header) nats.Header {
	var plain nats.Header
	for name, values := range h {
		lower := strings.ToLower(name)
		if strings.HasPrefix(lower, "nats-") || strings.HasPrefix(lower, "headrace-") {
			continue
		}
		if plain == nil {
			plain = make(nats.Header)
		}
		plain[name] = values
	}
	return plain
}

// encode returns e as headers for where only Headrace writes.
func (e *envelope) encode() nats.Header {
	h := e.options()
	for name, values := range e.plain {
		h[name] = values
	}
	set := func(name, value string) {
		if value != "" {
			h[name] = []string{value}
		}
	}
	set(headerJob, e.id)
	set(headerAttempt, strconv.Itoa(e.attempt))
	if e.redriven > 0 {
		set(headerRedriven, strconv.Itoa(e.redriven))
	}
	set(headerError, cutError(e.lastError))
	if e.origin.Seq > 0 {
		set(headerOriginSubject, e.origin.Subject)
		set(headerOriginSeq, strconv.FormatUint(e.origin.Seq, 10))
		set(headerOriginTime, e.origin.Time.UTC().Format(time.RFC3339Nano))
	}
	return h
}

// options returns the headers that a pusher may set.
func (e *envelope) options() nats.Header {
	h := make(nats.Header)
	if e.maxAttempts > 0 {
		h[headerMaxAttempts] = []string{strconv.Itoa(e.maxAttempts)}
	}
	if e.backoff != nil {
		h[headerBackoff] = []string{e.backoff.String()}
	}
	if e.headers != "" {
		h[headerHeaders] = []string{e.headers}
	}
	return h
}

// jobHeaders returns the headers for the worker. Those pushed as options win
// over those of a plain NATS publisher.
func (e *envelope) jobHeaders() map[string]string {
	h, _ := router.DecodeJobHeaders([]byte(e.headers)) // checked by decodeEnvelope
	if h == nil && len(e.plain) > 0 {
		h = make(map[string]string, len(e.plain))
	}
	for name, values := range e.plain {
		if _, ok := h[name]; !ok && len(values) > 0 {
			h[name] = values[0]
		}
	}
	return h
}

// run names one life of the job: it starts with the push, another one with each
// redrive. Retries and dead letters are told apart by it.
func (e *envelope) run() string {
	if e.redriven == 0 {
		return e.id
	}
	return e.id + "-r" + strconv.Itoa(e.redriven)
}

// cutError makes a worker's error fit for a header line.
func cutError(s string) string {
	return jet.OneLine(s[:min(len(s), maxErrorBytes)])
}
