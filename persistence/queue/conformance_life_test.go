package queue

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

func retried(t *testing.T, env *environment) {
	s := env.stores(t, 1)[0]
	h := hire(t, s, 1)
	headers := map[string]string{"a": "b"}
	p := mustPush(t, s, router.NewJob{Payload: []byte("1"), Headers: headers, Priority: router.PriorityLow})
	var origin router.Origin
	for attempt := 1; attempt <= 3; attempt++ {
		j := h.next()
		if attempt == 1 {
			origin = j.Origin
		}
		if j.ID != p.ID || j.Attempt != attempt || j.Priority != router.PriorityLow || !maps.Equal(j.Headers, headers) || !sameOrigin(j.Origin, origin) {
			t.Errorf("attempt %d: %+v", attempt, j)
		}
		if want := map[int]string{1: "", 2: "error 1", 3: "error 2"}[attempt]; j.LastError != want {
			t.Errorf("attempt %d knows of error %q", attempt, j.LastError)
		}
		h.nack(j, router.Nack{Error: fmt.Sprint("error ", attempt)})
	}
	d := eventuallyDead(t, s, 1)[0]
	if d.ID != p.ID || d.Reason != router.DeadAttempts || d.Error != "error 3" || d.Attempts != 3 || d.Priority != router.PriorityLow ||
		!maps.Equal(d.Headers, headers) || string(d.Payload) != "1" || !sameOrigin(d.Origin, origin) {
		t.Errorf("dead letter %+v", d)
	}
	eventuallyEmpty(t, s)
	h.none(100 * time.Millisecond)
}

// sameOrigin compares but for the clock of the ack subject.
func sameOrigin(a, b router.Origin) bool {
	return a.Subject == b.Subject && a.Seq == b.Seq && a.Time.Equal(b.Time) && a.Seq > 0 && !a.Time.IsZero()
}

func overrides(t *testing.T, env *environment) {
	s := env.stores(t, 1)[0]
	h := hire(t, s, 1)
	mustPush(t, s, router.NewJob{Payload: []byte("once"), MaxAttempts: 1})
	h.nack(h.next(), router.Nack{Error: "no"})
	eventuallyDead(t, s, 1)
	b := router.Backoff{Base: 700 * time.Millisecond, Cap: time.Minute, Factor: 80}
	mustPush(t, s, router.NewJob{Payload: []byte("slow"), MaxAttempts: 5, Backoff: &b})
	j := h.next()
	begin := time.Now()
	h.nack(j, router.Nack{})
	if j = h.next(); time.Since(begin) < b.Base || j.MaxAttempts != 5 || j.Attempt != 2 {
		t.Errorf("after %v: %+v", time.Since(begin), j)
	}
	h.nack(j, router.Nack{Delay: 20 * time.Millisecond})
	if j = h.next(); j.Attempt != 3 { // its backoff is longer than next waits
		t.Errorf("job %+v", j)
	}
	h.ack(j)
}

func finalFailure(t *testing.T, env *environment) {
	s := env.stores(t, 1)[0]
	h := hire(t, s, 1)
	mustPush(t, s, text("1"))
	h.nack(h.next(), router.Nack{Error: "never", Final: true})
	if d := eventuallyDead(t, s, 1)[0]; d.Reason != router.DeadFinal || d.Attempts != 1 || d.Error != "never" {
		t.Errorf("dead letter %+v", d)
	}
	eventuallyEmpty(t, s)
}

// vanishing is rule Q2: the job kills every worker that gets it, so nobody ever
// settles it.
func vanishing(t *testing.T, env *environment) {
	s := env.stores(t, 1)[0]
	mustPush(t, s, text("poison"))
	mustPush(t, s, text("fine"))
	done := 0
	for attempt := 1; attempt <= 3; {
		h := hire(t, s, 2)
		j := h.next()
		if string(j.Payload) == "fine" {
			h.ack(j) // the poison blocks nobody
			done++
			j = h.next()
		}
		if j.Attempt != attempt {
			t.Errorf("attempt %d, want %d", j.Attempt, attempt)
		}
		attempt++
		h.w.Close(0) // with the job
	}
	h := hire(t, s, 2)
	d := eventuallyDead(t, s, 1)[0]
	if d.Reason != router.DeadVanished || d.Attempts != 3 || string(d.Payload) != "poison" {
		t.Errorf("dead letter %+v", d)
	}
	if done == 0 {
		h.ack(h.next())
	}
	h.none(50 * time.Millisecond)
	eventuallyEmpty(t, s)
}

func delayed(t *testing.T, env *environment) {
	s := env.stores(t, 1)[0]
	h := hire(t, s, 10)
	due := make(map[string]time.Time)
	for _, ms := range []int{900, 300, 600, -1000} {
		at := time.Now().Add(time.Duration(ms) * time.Millisecond)
		due[fmt.Sprint(ms)] = at
		mustPush(t, s, router.NewJob{Payload: []byte(fmt.Sprint(ms)), At: at, Headers: map[string]string{"a": "b"}})
	}
	begin := time.Now()
	mustPush(t, s, router.NewJob{Payload: []byte("delay"), Delay: 200 * time.Millisecond, Headers: map[string]string{"a": "b"}})
	due["delay"] = begin.Add(200 * time.Millisecond)
	for range 5 {
		j := h.next()
		late := time.Since(due[string(j.Payload)])
		if late < 0 || late > natstest.Patience(time.Second) || j.Attempt != 1 || j.Headers["a"] != "b" {
			t.Errorf("job %q is %v late: %+v", j.Payload, late, j)
		}
		h.ack(j)
	}
	eventuallyEmpty(t, s)
}

func otherNode(t *testing.T, env *environment) {
	stores := env.stores(t, 2, func(c *Config) { c.Queues[0].AckWait = 700 * time.Millisecond })
	h := hire(t, stores[0], 1)
	mustPush(t, stores[0], text("1"))
	j := h.next()
	for range 4 { // 1.2 s in all
		h.none(300 * time.Millisecond)
		if err := stores[1].Extend(t.Context(), "q", j.Token); err != nil {
			t.Fatal(err)
		}
	}
	if err := stores[1].Nack(t.Context(), "q", j.Token, router.Nack{Error: "other"}); err != nil {
		t.Fatal(err)
	}
	h.w.SetCredits(2) // node 0 does not know
	if j = h.next(); j.Attempt != 2 || j.LastError != "other" {
		t.Errorf("job %+v", j)
	}
	if err := stores[1].Ack(t.Context(), "q", j.Token); err != nil {
		t.Fatal(err)
	}
	eventuallyEmpty(t, stores[0])
	if err := stores[1].Extend(t.Context(), "q", j.Token); router.CodeOf(err) != router.CodeConflict {
		t.Errorf("extending what was ended: %v", err)
	}
	// A worker that is silent for the ack wait loses the job and keeps the credit.
	mustPush(t, stores[0], text("2"))
	h.w.SetCredits(3)
	if j = h.next(); j.Attempt != 1 {
		t.Errorf("job %+v", j)
	}
	if j = h.next(); j.Attempt != 2 {
		t.Errorf("job %+v", j)
	}
	h.ack(j)
}

func pausing(t *testing.T, env *environment) {
	stores := env.stores(t, 2)
	h := hire(t, stores[1], 1)
	if err := stores[0].Pause(t.Context(), "q"); err != nil {
		t.Fatal(err)
	}
	mustPush(t, stores[0], text("1"))
	h.none(1500 * time.Millisecond)
	if !mustStats(t, stores[1]).Paused {
		t.Error("not paused for the other node")
	}
	if err := stores[1].Resume(t.Context(), "q"); err != nil {
		t.Fatal(err)
	}
	j := h.next()
	if j.Attempt != 1 {
		t.Errorf("job %+v", j)
	}
	h.ack(j)
	h.none(50 * time.Millisecond)
	eventuallyEmpty(t, stores[0])
}

func draining(t *testing.T, env *environment) {
	stores := env.stores(t, 2)
	h := hire(t, stores[0], 5)
	for i := range 4 {
		mustPush(t, stores[0], text(fmt.Sprint(i)))
	}
	var got []*router.Job
	for range 4 {
		got = append(got, h.next())
	}
	ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience(10*time.Second))
	defer cancel()
	stores[0].Drain(ctx, 500*time.Millisecond)
	if _, err := stores[0].Pull("q", nil); router.CodeOf(err) != router.CodeUnavailable {
		t.Errorf("a new worker of a draining node: %v", err)
	}
	// The worker is at the other node now and goes on with what it has.
	if err := stores[1].Ack(t.Context(), "q", got[0].Token); err != nil {
		t.Fatal(err)
	}
	other := hire(t, stores[1], 5)
	begin := time.Now()
	for range 3 {
		j := other.next()
		if j.Attempt != 2 || string(j.Payload) == "0" {
			t.Errorf("job %+v", j)
		}
		other.ack(j)
	}
	if d := time.Since(begin); d > 15*time.Second {
		t.Errorf("the jobs came back after %v, as if nobody had given them back before their ack wait", d)
	}
	eventuallyEmpty(t, stores[1])
}
