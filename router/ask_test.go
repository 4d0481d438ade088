package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// An answer of more parts than any buffer of messages arrives whole.
func TestLargeAnswerIsWhole(t *testing.T) {
	defer func(n int) { maxAnswerItems = n }(maxAnswerItems)
	maxAnswerItems = 1
	const members = 6000
	f := newFixture(t, Namespace{Name: "e", Payload: PayloadJSON, Presence: true})
	subscribed := make(chan error, members)
	for i := range members {
		s := &Subscription{Channel: "e:big", Subscriber: &client{}, Info: &ClientInfo{Client: fmt.Sprint("c", i), User: fmt.Sprint("u", i%3000)}}
		f.node.Subscribe(s, SubscribeRequest{}, func(_ SubscribeResult, err error) { subscribed <- err })
	}
	for range members {
		if err := <-subscribed; err != nil {
			t.Fatal(err)
		}
	}
	got, err := f.node.Presence(t.Context(), "e:big")
	if err != nil || len(got) != members {
		t.Errorf("presence: %d members, %v; want %d", len(got), err, members)
	}
	stats, err := f.node.PresenceStats(t.Context(), "e:big")
	if err != nil || stats != (PresenceStats{Clients: members, Users: 3000}) {
		t.Errorf("stats %+v, %v", stats, err)
	}
}

// fakeNode is another node of the cluster as far as heartbeats tell. It answers
// questions with parts.
func fakeNode(t *testing.T, f *fixture, parts ...answerPart) {
	t.Helper()
	_, err := f.nc.Subscribe("hr.ctl.ask", func(m *nats.Msg) {
		for _, p := range parts {
			p.Node = "n2"
			b, err := json.Marshal(p)
			if err == nil {
				err = m.Respond(b)
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(heartbeat{NodeInfo: NodeInfo{ID: "n2"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.node.members.settled(t.Context()); err != nil { // it listens then
		t.Fatal(err)
	}
	if err := f.nc.Publish("hr.ctl.hb", b); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); !f.node.members.isAlive("n2"); {
		if time.Now().After(deadline) {
			t.Fatal("the heartbeat did not arrive")
		}
		time.Sleep(time.Millisecond) // a poll with a deadline
	}
}

// Unknown rather than wrong.
func TestAnswerOfAnotherNode(t *testing.T) {
	for name, tt := range map[string]struct {
		parts []answerPart
		want  Controlled
		fails string // part of the cause
	}{
		"in one part":            {parts: []answerPart{{Count: 2}}, want: Controlled{Sessions: 2}},
		"in several parts":       {parts: []answerPart{{Count: 1, More: true}, {Part: 1, Refused: 3, More: true}, {Part: 2, Count: 1}}, want: Controlled{2, 3}},
		"with a hole":            {parts: []answerPart{{Count: 1, More: true}, {Part: 2, Count: 1}}, fails: "part 1 of the answer of node n2 is missing"},
		"without its first part": {parts: []answerPart{{Part: 1, Count: 1}}, fails: "part 0 of the answer of node n2 is missing"},
		"without its end":        {parts: []answerPart{{Count: 1, More: true}}, fails: "deadline exceeded"},
		"not at all":             {fails: "deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, historyNamespace)
			fakeNode(t, f, tt.parts...)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			got, err := f.node.Control(ctx, Control{Op: ControlDisconnect, User: "u"})
			var e *Error
			switch {
			case tt.fails == "" && (err != nil || got != tt.want):
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			case tt.fails != "" && (!errors.As(err, &e) || e.Code != CodeUnavailable || !strings.Contains(err.Error(), tt.fails) || got != Controlled{}):
				t.Errorf("got %+v, %v; want unavailable: %s", got, err, tt.fails)
			}
		})
	}
}

// The decoders of what back ends and traces send.
func FuzzBackendHeaders(f *testing.F) {
	f.Add("400", "text", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("", "x", "")
	f.Add("-1", "\xff\xfe", strings.Repeat("-", 55))
	f.Fuzz(func(t *testing.T, code, text, trace string) {
		h := nats.Header{ErrorCodeHeader: []string{code}, ErrorHeader: []string{text}}
		err := backendError(h)
		var answered *BackendError
		if errors.As(err, &answered) {
			if answered.Code < MinBackendCode || answered.Code > MaxBackendCode || len(answered.Message) > maxErrorText || answered.Message == "" {
				t.Errorf("%q %q gave %+v", code, text, answered)
			}
		} else if err == nil && (code != "" || text != "") {
			t.Errorf("%q %q is no error", code, text)
		}
		if ValidTraceParent(trace) && strings.ContainsAny(trace, "\r\n ") {
			t.Errorf("%q is taken for a trace", trace)
		}
	})
}

func FuzzHeaderEscape(f *testing.F) {
	for _, s := range []string{"", "42", "Zoë", " a b ", "a\r\nb: c", "100%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := headerEscape(s)
		if strings.TrimSpace(got) != got || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q became %q", s, got)
		}
		back, err := url.PathUnescape(got)
		if err != nil || back != s {
			t.Errorf("%q became %q and then %q (%v)", s, got, back, err)
		}
	})
}
