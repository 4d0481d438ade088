package queue

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

// TestConformance is what router.Queues promises, on every kind of installation.
func TestConformance(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		for _, tt := range []struct {
			name string
			f    func(t *testing.T, env *environment)
		}{
			{"a job is done once and gone", doneOnce},
			{"a plain publish is a job", plainPublish},
			{"a worker gets what its credits allow", credits},
			{"an idempotency key counts once for each user", idempotency},
			{"a full queue refuses and keeps what it has", fullQueue},
			{"a failed job is retried with its headers and last error", retried},
			{"a job sets its own attempts and backoff", overrides},
			{"a final failure goes to the dead letters at once", finalFailure},
			{"Q2 a job whose workers vanish ends in the dead letters", vanishing},
			{"a delayed job is never early", delayed},
			{"any node settles and extends", otherNode},
			{"a redrive keeps headers and origin and works once", redrive},
			{"dead letters are paged and purged", paging},
			{"a pause holds on all nodes until the end", pausing},
			{"a draining node gives back what it holds", draining},
			{"forged and foreign tokens are refused", forgedTokens},
			{"nats headers of pushers do not pass", forgedHeaders},
			{"a second start changes nothing", secondStart},
		} {
			t.Run(tt.name, func(t *testing.T) { tt.f(t, env) })
		}
	})
}

func doneOnce(t *testing.T, env *environment) {
	stores := env.stores(t, 2)
	h := hire(t, stores[1], 4)
	headers := map[string]string{"Trace": "1", "Ünïcode: key": "wäll\r\nNats-Msg-Id: x"}
	p := mustPush(t, stores[0], router.NewJob{Payload: []byte("one"), Headers: headers, Priority: router.PriorityHigh})
	j := h.next()
	if j.ID != p.ID || string(j.Payload) != "one" || j.Attempt != 1 || j.MaxAttempts != 3 || j.Priority != router.PriorityHigh ||
		!maps.Equal(j.Headers, headers) || j.Origin.Seq != 1 || time.Since(j.Origin.Time) > time.Minute || j.LastError != "" {
		t.Errorf("job %+v, pushed as %+v", j, p)
	}
	if st := mustStats(t, stores[0]); st.Depth[router.PriorityHigh] != 1 || st.InFlight[router.PriorityHigh] != 1 || st.Oldest <= 0 {
		t.Errorf("stats with a job in flight: %+v", st)
	}
	h.ack(j)
	h.ack(j) // a repetition is no error
	eventuallyEmpty(t, stores[0])
	var e *router.Error
	if err := h.s.Nack(t.Context(), "q", j.Token, router.Nack{}); !errors.As(err, &e) || e.Code != router.CodeConflict {
		t.Errorf("nack of what is done: %v", err)
	}
	h.none(50 * time.Millisecond)
}

func plainPublish(t *testing.T, env *environment) {
	s := env.stores(t, 1)[0]
	h := hire(t, s, 1)
	nc := env.conn(0)
	m := nats.NewMsg(s.cfg.Prefix + ".job.q.high")
	m.Data = []byte("plain")
	m.Header.Set("Trace", "7")
	m.Header.Set(headerJob, "forged")
	m.Header.Set(headerAttempt, "99")
	m.Header.Set(headerRedriven, "3")
	if err := nc.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	j := h.next()
	if string(j.Payload) != "plain" || j.Attempt != 1 || j.Redriven != 0 || j.ID == "forged" || j.Headers["Trace"] != "7" || len(j.Headers) != 1 {
		t.Errorf("job %+v", j)
	}
	h.nack(j, router.Nack{Error: "no"})
	if j = h.next(); j.Attempt != 2 || j.LastError != "no" || j.Headers["Trace"] != "7" || len(j.Headers) != 1 {
		t.Errorf("retried job %+v", j)
	}
	h.ack(j)
	eventuallyEmpty(t, s)
}

func credits(t *testing.T, env *environment) {
	s := env.stores(t, 1)[0]
	for i := range 10 {
		mustPush(t, s, text(fmt.Sprint(i)))
	}
	h := hire(t, s, 3)
	var got []*router.Job
	for range 3 {
		got = append(got, h.next())
	}
	h.none(300 * time.Millisecond)
	if st := mustStats(t, s); st.InFlight[router.PriorityMedium] != 3 {
		t.Errorf("stats %+v with 3 credits", st)
	}
	h.ack(got[0])
	got = append(got, h.next())
	h.none(100 * time.Millisecond)
	h.w.SetCredits(20)
	for range 6 {
		got = append(got, h.next())
	}
	for i, j := range got {
		if string(j.Payload) != fmt.Sprint(i) {
			t.Errorf("job %d is %q", i, j.Payload)
		}
		h.ack(j)
	}
	eventuallyEmpty(t, s)
}

func idempotency(t *testing.T, env *environment) {
	s := env.stores(t, 1)[0]
	push := func(user, key string, delay time.Duration) router.Pushed {
		return mustPush(t, s, router.NewJob{User: user, IdempotencyKey: key, Payload: []byte("1"), Delay: delay})
	}
	for _, delay := range []time.Duration{0, time.Hour} {
		if p := push("anna", "k", delay); p.Duplicate || p.ID == "" {
			t.Errorf("first: %+v", p)
		}
		if p := push("anna", "k", delay); !p.Duplicate || p.ID != "" {
			t.Errorf("again: %+v", p)
		}
		if p := push("bert", "k", delay); p.Duplicate { // rule W3
			t.Errorf("another user: %+v", p)
		}
	}
	if st := mustStats(t, s); st.Depth[router.PriorityMedium] != 2 || st.Scheduled != 2 {
		t.Errorf("stats %+v", st)
	}
}

func fullQueue(t *testing.T, env *environment) {
	s := env.stores(t, 1, func(c *Config) { c.Queues[0].MaxJobs = 3 })[0]
	for _, delay := range []time.Duration{0, time.Hour} {
		for i := range 3 {
			mustPush(t, s, router.NewJob{Payload: []byte(fmt.Sprint(i)), Delay: delay})
		}
		_, err := s.Push(t.Context(), "q", router.NewJob{Payload: []byte("x"), Delay: delay})
		if router.CodeOf(err) != router.CodeLimit || !strings.Contains(err.Error(), "full") {
			t.Errorf("push into a full queue with delay %v: %v", delay, err)
		}
	}
	h := hire(t, s, 3)
	for i := range 3 {
		j := h.next()
		if string(j.Payload) != fmt.Sprint(i) {
			t.Errorf("job %q, want %d", j.Payload, i)
		}
		h.ack(j)
	}
	_, err := s.Push(t.Context(), "q", router.NewJob{Payload: make([]byte, 1<<20)})
	if router.CodeOf(err) != router.CodeLimit {
		t.Errorf("push of 1 MiB: %v", err)
	}
}

func forgedTokens(t *testing.T, env *environment) {
	stores := env.stores(t, 1, func(c *Config) {
		other := fastQueue(env.memory)
		other.Name = "other"
		c.Queues = append(c.Queues, other)
	})
	s := stores[0]
	h := hire(t, s, 1)
	mustPush(t, s, text("1"))
	j := h.next()
	for name, token := range map[string]string{
		"empty": "", "not base64": "!!", "cut": j.Token[:len(j.Token)-3], "longer": j.Token + "AAAA",
		"other bytes": strings.Repeat("A", len(j.Token)), "huge": strings.Repeat("A", 1<<20),
	} {
		if err := s.Ack(t.Context(), "q", token); router.CodeOf(err) != router.CodeInvalid {
			t.Errorf("ack with %s token: %v", name, err)
		}
	}
	if err := s.Ack(t.Context(), "other", j.Token); router.CodeOf(err) != router.CodeInvalid {
		t.Errorf("ack in another queue: %v", err)
	}
	if err := s.Ack(t.Context(), "none", j.Token); router.CodeOf(err) != router.CodeNotAvailable {
		t.Errorf("ack in no queue: %v", err)
	}
	h.ack(j)
}

func forgedHeaders(t *testing.T, env *environment) {
	s := env.stores(t, 1)[0]
	h := hire(t, s, 1)
	m := nats.NewMsg(s.cfg.Prefix + ".job.q.low")
	m.Header["nats-schedule"] = []string{"@at 2040-01-01T00:00:00Z"} // NATS looks at the exact name only
	m.Header["Nats-Sequence"] = []string{"77"}
	for _, push := range []func(){
		func() {
			if err := env.conn(0).PublishMsg(m); err != nil {
				t.Fatal(err)
			}
		},
		func() {
			mustPush(t, s, router.NewJob{Payload: []byte("2"), Headers: map[string]string{"Nats-Msg-Id": "1", "Nats-TTL": "1s"}})
		},
	} {
		push()
		h.nack(h.next(), router.Nack{Error: "x\r\nNats-TTL: 1s"})
		j := h.next()
		if j.Priority == router.PriorityLow && len(j.Headers) > 0 {
			t.Errorf("headers passed: %v", j.Headers)
		}
		if j.Attempt != 2 || j.LastError != "x??Nats-TTL: 1s" {
			t.Errorf("job %+v", j)
		}
		h.ack(j)
	}
	eventuallyEmpty(t, s)
}

func secondStart(t *testing.T, env *environment) {
	cfg := env.fresh(t)
	first := start(t, env.conn(0), cfg)
	mustPush(t, first, text("1"))
	if err := first.Pause(t.Context(), "q"); err != nil {
		t.Fatal(err)
	}
	cfg.Queues[0].AckWait, cfg.Queues[0].MaxJobs = time.Second, 2_000_000
	second := start(t, env.conn(1), cfg)
	st := mustStats(t, second)
	if !st.Paused || st.Depth[router.PriorityMedium] != 1 {
		t.Errorf("stats %+v", st)
	}
	if !slices.Equal(first.queues["q"].key, second.queues["q"].key) {
		t.Error("the token key changed")
	}
	info, err := second.js.Stream(t.Context(), first.queues["q"].streams[jobs].name)
	if err != nil || info.CachedInfo().Config.MaxMsgs != 2_000_000 {
		t.Errorf("limit not raised: %v", err)
	}
	if err := second.Resume(t.Context(), "q"); err != nil {
		t.Fatal(err)
	}
	h := hire(t, first, 1)
	h.ack(h.next())
	natstest.Eventually(t, 5*time.Second, "resumed", func() bool { return !mustStats(t, second).Paused })
}
