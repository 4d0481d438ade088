package queue

import (
	"maps"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/router"
)

func tokenQueue() *queue {
	return &queue{cfg: router.Queue{Name: "q"}, key: []byte("0123456789abcdef"), streams: [2]stream{{name: "HR_JOBS_q"}, {name: "HR_RETRY_q"}}}
}

func TestParseAck(t *testing.T) {
	for name, tt := range map[string]struct {
		subject   string
		stream    string
		delivered int
		seq       uint64
	}{
		"nine tokens":    {"$JS.ACK.S.c.3.17.18.1700000000000000000.5", "S", 3, 17},
		"eleven tokens":  {"$JS.ACK.dom.hash.S.c.3.17.18.1700000000000000000.5", "S", 3, 17},
		"twelve tokens":  {"$JS.ACK._.hash.S.c.3.17.18.1700000000000000000.5.rnd", "S", 3, 17},
		"too few":        {"$JS.ACK.S.c.3.17.18.17", "", 0, 0},
		"another":        {"$JS.API.S.c.3.17.18.1700000000000000000.5", "", 0, 0},
		"no sequence":    {"$JS.ACK.S.c.3.0.18.1700000000000000000.5", "", 0, 0},
		"never":          {"$JS.ACK.S.c.0.17.18.1700000000000000000.5", "", 0, 0},
		"negative count": {"$JS.ACK.S.c.-3.17.18.1700000000000000000.5", "", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := parseAck(tt.subject)
			if (err == nil) != (tt.seq > 0) || d.stream != tt.stream || d.delivered != tt.delivered || d.seq != tt.seq {
				t.Errorf("%+v %v", d, err)
			}
		})
	}
}

// FuzzToken: whatever a client sends, only tokens that we made open.
func FuzzToken(f *testing.F) {
	q := tokenQueue()
	good, err := parseAck("$JS.ACK.HR_JOBS_q.high.3.17.18.1700000000000000000.5")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(q.token(good))
	foreign, _ := parseAck("$JS.ACK.OTHER.high.3.17.18.1700000000000000000.5")
	f.Add(q.token(foreign))
	f.Add("")
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, token string) {
		d, err := q.open(token)
		if err != nil {
			return
		}
		if q.token(d) != token || d.stream != "HR_JOBS_q" {
			t.Errorf("%q opens as %+v", token, d)
		}
	})
}

// FuzzParseAck: no subject makes it panic, and what it accepts is of use.
func FuzzParseAck(f *testing.F) {
	f.Add("$JS.ACK.HR_JOBS_q.high.3.17.18.1700000000000000000.5")
	f.Add("$JS.ACK.d.h.HR_JOBS_q.high.3.17.18.1700000000000000000.5.x")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := parseAck(s); err == nil && (d.seq == 0 || d.delivered < 1 || d.ack != s) {
			t.Errorf("%q: %+v", s, d)
		}
	})
}

// FuzzEnvelope: headers from anybody decode to something that encodes to the
// same again, and never to headers that NATS obeys.
func FuzzEnvelope(f *testing.F) {
	f.Add("Headrace-Attempt", "3", `{"a":"b"}`, "1s 2s 2 0.5", true)
	f.Add("Nats-Schedule", "@at x", `{"a":`, "", false)
	f.Add("nats-ttl", "1s", "", "NaNs 1s 1 1", true)
	f.Fuzz(func(t *testing.T, name, value, headers, backoff string, trusted bool) {
		h := nats.Header{name: {value}, headerHeaders: {headers}, headerBackoff: {backoff}, headerOriginSeq: {value}, headerRedriven: {value}}
		e := decodeEnvelope(h, trusted)
		if !trusted && (e.id != "" || e.attempt != 1 || e.redriven != 0 || e.origin.Seq != 0) {
			t.Errorf("believed: %+v", e)
		}
		out := e.encode()
		for name := range out {
			if strings.HasPrefix(strings.ToLower(name), "nats-") {
				t.Errorf("header %q passed", name)
			}
		}
		again := decodeEnvelope(out, true)
		if again.attempt != e.attempt || again.maxAttempts != e.maxAttempts || again.redriven != e.redriven || again.headers != e.headers ||
			!maps.Equal(again.jobHeaders(), e.jobHeaders()) {
			t.Errorf("%+v became %+v", e, again)
		}
	})
}

// FuzzAdvisory: no advisory makes it panic.
func FuzzAdvisory(f *testing.F) {
	q := tokenQueue()
	f.Add([]byte(`{"stream":"HR_JOBS_q","consumer":"high","stream_seq":4,"deliveries":11}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, d, ok := q.readAdvisory(data); ok && (d.seq == 0 || d.delivered < 1) {
			t.Errorf("%+v", d)
		}
	})
}
