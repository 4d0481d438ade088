package queue

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natsperm"
	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/router"
)

// TestPermissions records what a store sends while all of it is used: nothing is
// missing among the permissions, and nothing is spare.
func TestPermissions(t *testing.T) {
	srv := natstest.Run(t, natstest.Listen())
	cfg := Config{Queues: []router.Queue{fastQueue(true)}}
	conn := func(r *natstest.Recorder) *nats.Conn {
		return srv.Conn(append(persistence.ConnectOptions(), r.Option(), nats.CustomInboxPrefix(natsperm.InboxPrefix("hr")))...)
	}
	maker := natstest.NewRecorder()
	s, err := Open(t.Context(), conn(maker), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.req.Close()
	user := natstest.NewRecorder()
	s = start(t, conn(user), cfg)
	useAll(t, s)
	inbox := natsperm.InboxPrefix("hr") + "."
	check := func(name string, r *natstest.Recorder, rules []natsperm.Rule) {
		set := natsperm.Set{Rules: rules}
		used := make(map[string]bool)
		for d, subjects := range map[natsperm.Direction][]string{natsperm.Publish: r.Published(), natsperm.Subscribe: r.Subscribed()} {
			for _, subject := range subjects {
				if strings.HasPrefix(subject, inbox) {
					continue
				}
				if !set.Allows(d, subject) {
					t.Errorf("%s: %s to %s is missing", name, d, subject)
				}
				for _, rule := range rules {
					used[rule.Subject] = used[rule.Subject] || rule.Direction == d && natsperm.Covers(rule.Subject, subject)
				}
			}
		}
		for _, rule := range rules {
			// Streams grow with a later configuration; TestConformance has one.
			if !used[rule.Subject] && !strings.Contains(rule.Subject, ".UPDATE.") {
				t.Errorf("%s: %s %s is spare", name, rule.Direction, rule.Subject)
			}
		}
	}
	check("provision", maker, ProvisionPermissions(cfg))
	check("use", user, Permissions(cfg))
}

// useAll uses every method, and the safety net.
func useAll(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	h := hire(t, s, 5)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mustPush(t, s, text("1"))
	h.nack(h.next(), router.Nack{})
	j := h.next()
	must(s.Extend(ctx, "q", j.Token))
	h.nack(j, router.Nack{Final: true})
	must(s.Pause(ctx, "q"))
	must(s.Resume(ctx, "q"))
	d := eventuallyDead(t, s, 1)[0]
	_, err := s.ShowDead(ctx, "q", d.Seq)
	must(err)
	_, err = s.Redrive(ctx, "q", nil)
	must(err)
	h.ack(h.next())
	mustStats(t, s)
	q := s.queues["q"]
	for st := range q.streams { // a job of each stream is given up by NATS
		mustPush(t, s, router.NewJob{Payload: []byte(fmt.Sprint(st)), Delay: time.Duration(st) * 10 * time.Millisecond})
		d, err := q.open(h.next().Token)
		must(err)
		q.strand(context.WithoutCancel(ctx), st, d)
	}
	eventuallyDead(t, s, 2)
	_, err = s.PurgeDead(ctx, "q", nil)
	must(err)
}
