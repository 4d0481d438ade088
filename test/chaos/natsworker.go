package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/router"
	"github.com/headrace/headrace/test/check"
)

// workNATS takes jobs as anything with a NATS client can (docs/queue.md): it pulls
// from the queue's consumers, acks what it can do and gives everything else back.
func (r *run) workNATS(ctx context.Context, name string, finished <-chan struct{}) {
	js, err := jetstream.New(r.c.nc)
	if err != nil {
		return
	}
	for {
		select {
		case <-finished:
			return
		case <-ctx.Done():
			return
		case <-time.After(rand.N(200 * time.Millisecond)):
		}
		r.pullNATS(ctx, js, name)
	}
}

// pullNATS takes a few jobs of one kind.
func (r *run) pullNATS(ctx context.Context, js jetstream.JetStream, name string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stream := "HR_JOBS_" + workQueue
	if rand.IntN(3) == 0 {
		stream = "HR_RETRY_" + workQueue
	}
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return
	}
	c, err := s.Consumer(ctx, string(router.Priorities[rand.IntN(3)]))
	if err != nil {
		return
	}
	batch, err := c.FetchNoWait(3)
	if err != nil {
		return
	}
	for m := range batch.Messages() {
		r.takeNATS(ctx, s, m, name)
	}
}

// takeNATS does one job, or gives it back.
func (r *run) takeNATS(ctx context.Context, s jetstream.Stream, m jetstream.Msg, name string) {
	meta, err := m.Metadata()
	if err != nil {
		return
	}
	raw := &jetstream.RawStreamMsg{Subject: m.Subject(), Sequence: meta.Sequence.Stream, Header: m.Headers(), Data: m.Data(), Time: meta.Timestamp}
	j := storedJob(raw)
	if j.Attempt == 0 { // in its first message
		j.Attempt = 1
	}
	if j.ID == "" {
		j.ID = fmt.Sprintf("%s-%d", s.CachedInfo().Config.Metadata["headrace-incarnation"], raw.Sequence)
	}
	stored := raw.Time
	if at, err := time.Parse(time.RFC3339Nano, raw.Header.Get("Headrace-Origin-Time")); err == nil {
		stored = at
	} else {
		j.Origin = origin(raw.Subject, raw.Sequence, raw.Time)
	}
	j.Attempt += int(meta.NumDelivered) - 1
	if j.Max == 0 {
		j.Max = maxAttempts
	}
	j.Priority = raw.Subject[strings.LastIndexByte(raw.Subject, '.')+1:]
	if j.Attempt > j.Max {
		m.Nak() //nolint:errcheck // a node makes it a dead letter, at the latest after the ack wait
		return
	}
	j.Message, j.Stored = messageName(meta.Stream, meta.Sequence.Stream), r.history.At(meta.Timestamp)
	j.Take = int(r.takes.Add(1))
	e := check.Event{Kind: check.Taken, Who: name, At: check.NATS, Channel: "queue:" + workQueue, Payload: string(m.Data()), Began: r.history.At(stored), Job: j}
	r.history.Add(e)
	if deed := deedOf(m.Data()); deed != doOK && deed != doSlow {
		m.Nak() //nolint:errcheck // comes back after the ack wait
		return
	}
	e.Kind, e.Job = check.Settle, &check.Job{Take: j.Take, Answer: check.AckJob}
	r.history.Add(e)
	e.Kind = check.Settled
	if err := m.DoubleAck(ctx); err != nil {
		e.Kind = check.NotSettled
	}
	r.history.Add(e)
}

// origin spells where a job was first stored.
func origin(subject string, seq uint64, at time.Time) string {
	return fmt.Sprint(subject, " ", seq, " ", at.UTC().Format(time.RFC3339Nano))
}
