package persistence

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// ingestResult says what became of a message published by a plain NATS client.
type ingestResult string

const (
	ingestStored  ingestResult = "stored"
	ingestDead    ingestResult = "dead"    // refused for good, now a dead letter
	ingestRetried ingestResult = "retried" // could not be stored now
)

// ingest moves what plain NATS clients publish on hr.in.<namespace>.<channel>
// into the logs (rule W6). One work-queue consumer is shared by all edges, so
// messages of one publisher may be stored out of their order when several edges
// run. Payloads are checked; headers of the publisher are not kept, because
// among them could be ones that JetStream obeys (rule W4).
type ingest struct {
	s           *Store
	stream      string
	dead        string // subject of dead letters, with the dot; the origin sequence follows
	subjects    string // "hr.in."
	incarnation string

	mu    sync.Mutex                 // guards taken
	taken map[jetstream.Msg]struct{} // being stored; at most ingestPending
}

const (
	ingestConsumer = "edges"
	// ingestAckWait is how long a message of an edge that died is away. While an
	// edge stores a message it says so every ingestProgress.
	ingestAckWait  = 6 * time.Second
	ingestProgress = 2 * time.Second
	// ingestPending bounds the messages that all edges work on at a time.
	ingestPending = 2000
	// unknownNamespaceTries is how often a message of a namespace that the edge
	// does not know goes back: another edge may run a newer configuration.
	unknownNamespaceTries = 20
	// deadRetention is how long dead letters are kept.
	deadRetention = 30 * 24 * time.Hour
)

// The headers of a dead letter.
const (
	headerReason        = "Headrace-Reason"
	headerOriginSubject = "Headrace-Origin-Subject"
	headerOriginSeq     = "Headrace-Origin-Sequence"
)

func (s *Store) openIngest(ctx context.Context) (*ingest, error) {
	upper := strings.ToUpper(s.cfg.Prefix)
	var subjects []string
	for name := range s.logs {
		subjects = append(subjects, s.cfg.Prefix+".in."+name+".>")
	}
	slices.Sort(subjects)
	in, err := s.provision.EnsurePlain(ctx, jetstream.StreamConfig{
		Name: upper + "_IN", Description: "Headrace: published by plain NATS clients, on the way into the logs",
		Subjects: subjects, Retention: jetstream.WorkQueuePolicy, Replicas: s.cfg.Replicas, Duplicates: s.cfg.DuplicateWindow,
	})
	if err != nil {
		return nil, err
	}
	_, err = s.provision.EnsurePlain(ctx, jetstream.StreamConfig{
		Name: upper + "_DEAD_in", Description: "Headrace: messages that no log would take, with the reason",
		Subjects: []string{s.cfg.Prefix + ".dead.in.*"}, Replicas: s.cfg.Replicas, MaxAge: deadRetention, AllowDirect: true,
	})
	if err != nil {
		return nil, err
	}
	if err := s.ensureConsumer(ctx, in.Name); err != nil {
		return nil, err
	}
	return &ingest{
		s: s, stream: in.Name, dead: s.cfg.Prefix + ".dead.in.", subjects: s.cfg.Prefix + ".in.",
		incarnation: in.Metadata[jet.MetaIncarnation], taken: make(map[jetstream.Msg]struct{}),
	}, nil
}

// ensureConsumer makes the consumer that all edges share, or changes it to what
// this version wants. One that is right is only looked up: an edge needs no right
// to make consumers then.
func (s *Store) ensureConsumer(ctx context.Context, stream string) error {
	want := ingestConsumerConfig()
	for attempt := 0; ; attempt++ {
		try, cancel := context.WithTimeout(ctx, jet.EnsureTimeout)
		have, err := s.js.Consumer(try, stream, ingestConsumer)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			have, err = s.js.CreateOrUpdateConsumer(try, stream, want)
		}
		if err == nil {
			if c := have.CachedInfo().Config; c.AckWait != want.AckWait || c.MaxAckPending != want.MaxAckPending {
				_, err = s.js.CreateOrUpdateConsumer(try, stream, want)
			}
		}
		cancel()
		if err == nil {
			return nil
		}
		if !jet.StartupTemporary(err) || !jet.Pause(ctx, attempt+4) {
			return fmt.Errorf("consumer of stream %s: %w", stream, err)
		}
	}
}

// run moves messages until ctx ends.
func (in *ingest) run(ctx context.Context) {
	for attempt := 0; ctx.Err() == nil; attempt++ {
		if err := in.consume(ctx); err != nil && ctx.Err() == nil {
			in.s.cfg.Log.Warn("ingest interrupted", "stream", in.stream, "err", err)
		}
		jet.Pause(ctx, attempt+6)
	}
}

func ingestConsumerConfig() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: ingestConsumer, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ingestAckWait, MaxAckPending: ingestPending,
	}
}

func (in *ingest) consume(ctx context.Context) error {
	setup, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := in.s.js.Consumer(setup, in.stream, ingestConsumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		if err = in.s.ensureConsumer(setup, in.stream); err == nil {
			c, err = in.s.js.Consumer(setup, in.stream, ingestConsumer)
		}
	}
	if err != nil {
		return fmt.Errorf("look up consumer: %w", err)
	}
	cc, err := c.Consume(in.take, jetstream.PullMaxMessages(ingestPending/4), jetstream.PullExpiry(10*time.Second))
	if err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	progress := time.NewTicker(ingestProgress)
	defer progress.Stop()
	for {
		select {
		case <-ctx.Done():
			cc.Stop()
			<-cc.Closed()
			return nil
		case <-cc.Closed():
			return errors.New("consumer ended")
		case <-progress.C:
			in.prolong()
		}
	}
}

// hold notes that m is being stored.
func (in *ingest) hold(m jetstream.Msg) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.taken[m] = struct{}{}
}

func (in *ingest) release(m jetstream.Msg) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.taken, m)
}

// prolong keeps what is being stored from being given to another edge.
func (in *ingest) prolong() {
	in.mu.Lock()
	all := slices.Collect(maps.Keys(in.taken))
	in.mu.Unlock()
	for _, m := range all {
		_ = m.InProgress() // lost: it comes again and is a duplicate
	}
}

// take starts to store m and does not wait for it.
func (in *ingest) take(m jetstream.Msg) {
	meta, err := m.Metadata()
	if err != nil {
		return // not from a consumer; nothing to acknowledge
	}
	ns, key, _ := strings.Cut(strings.TrimPrefix(m.Subject(), in.subjects), ".")
	l, ok := in.s.logs[ns]
	if !ok {
		if meta.NumDelivered < unknownNamespaceTries {
			in.retry(m)
			return
		}
		in.bury(m, meta, "unknown namespace "+strconv.Quote(ns))
		return
	}
	if l.keys != nil {
		in.bury(m, meta, "namespace "+ns+" holds maps: set keys with the server API")
		return
	}
	if _, err := router.DecodeKey(key); err != nil {
		in.bury(m, meta, err.Error())
		return
	}
	data, err := l.ns.CheckPayload(m.Data())
	if err != nil {
		in.bury(m, meta, err.Error())
		return
	}
	// The sequence names the message for ever, together with the incarnation: a
	// stream that was removed and made again counts from 1 again.
	id := "in." + in.incarnation + "." + strconv.FormatUint(meta.Sequence.Stream, 10)
	in.hold(m)
	l.Append(key, router.NewEntry{ID: id, Data: data}, func(_ router.Appended, err error) {
		in.release(m)
		switch {
		case err == nil:
			in.s.metrics.ingested.Add(ingestStored)
			_ = m.Ack() // lost: it comes again and is a duplicate
		case router.CodeOf(err) == router.CodeUnavailable, router.CodeOf(err) == router.CodeLimit && !errors.Is(err, nats.ErrMaxPayload):
			in.retry(m)
		default:
			in.bury(m, meta, err.Error())
		}
	})
}

// retry gives m back, to be delivered to some edge a little later.
func (in *ingest) retry(m jetstream.Msg) {
	in.s.metrics.ingested.Add(ingestRetried)
	_ = m.NakWithDelay(time.Second) // lost: it comes again after ingestAckWait
}

// bury stores m as a dead letter and then takes it from the queue. The dead
// letter has a subject of its own that must be empty, so it is stored once
// whatever happens in between.
func (in *ingest) bury(m jetstream.Msg, meta *jetstream.MsgMetadata, reason string) {
	seq := strconv.FormatUint(meta.Sequence.Stream, 10)
	dead := &nats.Msg{Subject: in.dead + in.incarnation + "-" + seq, Data: m.Data(), Header: nats.Header{
		headerReason: {jet.OneLine(reason)}, headerOriginSubject: {m.Subject()}, headerOriginSeq: {seq},
	}}
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	_, err := in.s.js.PublishMsg(ctx, dead, jetstream.WithExpectLastSequencePerSubject(0))
	var refusal *jetstream.APIError
	if err != nil && !(errors.As(err, &refusal) && refusal.ErrorCode == jet.CodeWrongLastSequence) {
		in.s.cfg.Log.Warn("dead letter not stored", "stream", in.stream, "err", err)
		in.retry(m)
		return
	}
	in.s.metrics.ingested.Add(ingestDead)
	_ = m.TermWithReason(jet.OneLine(reason))
}
