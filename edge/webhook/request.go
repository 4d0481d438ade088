package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/router"
)

// caller makes the requests of one endpoint. It is immutable.
type caller struct {
	url    *url.URL
	header http.Header // of every request
	keys   [][]byte    // the first is the current one
}

func newCaller(e *Endpoint) (*caller, error) {
	u, err := parseURL(e.URL)
	if err != nil {
		return nil, err
	}
	c := &caller{url: u, header: http.Header{"User-Agent": {"Headrace"}}}
	if u.User != nil {
		password, _ := u.User.Password()
		r := &http.Request{Header: c.header}
		r.SetBasicAuth(u.User.Username(), password)
		bare := *u
		bare.User = nil
		c.url = &bare
	}
	for _, h := range e.Headers {
		name, value, err := parseHeader(h)
		if err != nil {
			return nil, err
		}
		c.header[name] = append(c.header[name], value)
	}
	for _, s := range []string{e.Secret, e.Previous} {
		if s == "" {
			continue
		}
		key, err := parseSecret(s)
		if err != nil {
			return nil, err
		}
		c.keys = append(c.keys, key)
	}
	return c, nil
}

// request returns the request for an attempt, signed with the time now. The id
// is the job's: the same in every attempt, so that a receiver can recognise what
// it did already.
func (c *caller) request(ctx context.Context, j *router.Job, now time.Time) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "/", bytes.NewReader(j.Payload))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	r.URL, r.Host = c.url, c.url.Host
	r.Header = c.header.Clone()
	timestamp := strconv.FormatInt(now.Unix(), 10)
	h := func(name, value string) {
		if value != "" {
			r.Header[name] = []string{value}
		}
	}
	h("Content-Type", contentType(j.Payload))
	h("Webhook-Id", j.ID)
	h("Webhook-Timestamp", timestamp)
	h("Webhook-Signature", sign(c.keys, j.ID, timestamp, j.Payload))
	h("Headrace-Queue", j.Queue)
	h("Headrace-Job-Id", j.ID)
	h("Headrace-Attempt", strconv.Itoa(j.Attempt))
	h("Headrace-Max-Attempts", strconv.Itoa(j.MaxAttempts))
	h("Headrace-Priority", string(j.Priority))
	h("Headrace-Origin-Subject", printable(j.Origin.Subject))
	h("Headrace-Origin-Sequence", strconv.FormatUint(j.Origin.Seq, 10))
	h("Headrace-Origin-Time", j.Origin.Time.UTC().Format(time.RFC3339Nano))
	if j.Redriven > 0 {
		h("Headrace-Redriven", strconv.Itoa(j.Redriven))
	}
	// Names from outside never become header names: all are in one value, in ASCII.
	if encoded, err := router.EncodeJobHeaders(j.Headers); err == nil {
		h("Headrace-Headers", string(encoded))
	}
	for name, value := range j.Headers {
		if strings.EqualFold(name, "traceparent") && router.ValidTraceParent(value) {
			h("Traceparent", value)
		}
	}
	return r, nil
}

func contentType(payload []byte) string {
	if json.Valid(payload) {
		return "application/json"
	}
	return "application/octet-stream"
}

// printable returns s with everything replaced that is not printable ASCII.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
