package queue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// metaKey is the metadata of a jobs stream that holds the key of tokens when the
// configuration has none.
const metaKey = "headrace-token-key"

// spareDeliveries is how many deliveries above the attempts of a queue a message
// may see before NATS gives it up: an edge that gets a job once too often makes
// it a dead letter, and may die doing so.
const spareDeliveries = 8

// open provisions one queue.
func (s *Store) open(ctx context.Context, qc router.Queue) (*queue, error) {
	q := &queue{s: s, cfg: qc}
	configs := s.configs(qc)
	have := make([]jetstream.StreamConfig, len(configs))
	for i, want := range configs {
		var err error
		if have[i], err = s.provision.Ensure(ctx, want); err != nil {
			return nil, err
		}
	}
	for i, st := range []*stream{&q.streams[jobs], &q.streams[retries], &q.dead} {
		st.name, st.incarnation = have[i].Name, have[i].Metadata[jet.MetaIncarnation]
	}
	q.streams[jobs].subjects = s.cfg.Prefix + ".job." + qc.Name + "."
	q.streams[retries].subjects = s.cfg.Prefix + ".retry." + qc.Name + "."
	q.dead.subjects = s.cfg.Prefix + ".dead." + qc.Name + "."
	if q.key = s.cfg.TokenKey; len(q.key) == 0 {
		if q.key = []byte(have[jobs].Metadata[metaKey]); len(q.key) == 0 {
			return nil, fmt.Errorf("stream %s has no token key", have[jobs].Name)
		}
	}
	q.puller = newPuller(q)
	for i := range q.puller.sources {
		if err := q.ensureConsumer(ctx, q.puller.sources[i].stream, q.consumerConfig(&q.puller.sources[i])); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// configs returns the streams of jobs, retries and dead letters. Jobs refuse when
// full. Retries cannot (a stream with schedules has to discard old messages), so
// they have no limit: what goes there is bounded by the jobs and, for delayed
// pushes, by a look before.
func (s *Store) configs(qc router.Queue) []jetstream.StreamConfig {
	upper := strings.ToUpper(s.cfg.Prefix)
	storage := jetstream.FileStorage
	if qc.MemoryStorage {
		storage = jetstream.MemoryStorage
	}
	base := func(kind, text string, subjects ...string) jetstream.StreamConfig {
		for i := range subjects {
			subjects[i] = s.cfg.Prefix + "." + strings.Replace(subjects[i], "$", qc.Name, 1)
		}
		return jetstream.StreamConfig{
			Name: upper + "_" + kind + "_" + qc.Name, Description: "Headrace: " + text + " of queue " + qc.Name,
			Subjects: subjects, Storage: storage, Replicas: s.cfg.Replicas, Duplicates: s.cfg.DuplicateWindow, AllowDirect: true,
			Metadata: map[string]string{jet.MetaVersion: strconv.Itoa(jet.ConfigVersion), jet.MetaIncarnation: jet.NewID()},
		}
	}
	wake := func(source, destination string) *jetstream.RePublish {
		return &jetstream.RePublish{Source: s.cfg.Prefix + source, Destination: s.wakeSubject(qc.Name) + destination, HeadersOnly: true}
	}
	j := base("JOBS", "jobs", "job.$.high", "job.$.medium", "job.$.low")
	j.Retention, j.Discard = jetstream.WorkQueuePolicy, jetstream.DiscardNew
	j.MaxMsgs, j.MaxBytes = qc.MaxJobs, qc.MaxBytes
	j.RePublish = wake(".job."+qc.Name+".*", "0.{{wildcard(1)}}")
	j.Metadata[metaKey] = rand.Text()
	r := base("RETRY", "delayed jobs and retries", "retry.$.*", "retry.$.due.*")
	r.Retention, r.AllowMsgSchedules, r.AllowRollup = jetstream.WorkQueuePolicy, true, true
	r.RePublish = wake(".retry."+qc.Name+".due.*", "1.{{wildcard(1)}}")
	d := base("DEAD", "dead letters", "dead.$.*")
	d.MaxAge = qc.DeadRetention
	if d.MaxAge > 0 {
		d.Duplicates = min(d.Duplicates, d.MaxAge)
	}
	return []jetstream.StreamConfig{j, r, d}
}

// wakeSubject begins the subjects that tell of jobs that became available:
// number of the stream and priority follow.
func (s *Store) wakeSubject(queue string) string { return s.cfg.Prefix + ".wake." + queue + "." }

func (q *queue) consumerConfig(src *source) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: string(src.priority), AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: src.filter,
		AckWait: q.cfg.AckWait, MaxDeliver: q.cfg.MaxAttempts + spareDeliveries, MaxAckPending: q.cfg.MaxInFlight,
	}
}

// ensureConsumer creates a consumer, or brings it in line with want. A pause
// stays.
func (q *queue) ensureConsumer(ctx context.Context, stream string, want jetstream.ConsumerConfig) error {
	for attempt := 0; ; attempt++ {
		err := q.ensureConsumerOnce(ctx, stream, want)
		if err == nil {
			return nil
		}
		var refusal *jetstream.APIError
		if errors.As(err, &refusal) && refusal.Code < 500 && !errors.Is(err, jetstream.ErrConsumerExists) && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return fmt.Errorf("consumer %s of %s: %w", want.Durable, stream, err)
		}
		if !jet.Pause(ctx, attempt+4) {
			return fmt.Errorf("consumer %s of %s: %w", want.Durable, stream, err)
		}
	}
}

func (q *queue) ensureConsumerOnce(ctx context.Context, stream string, want jetstream.ConsumerConfig) error {
	try, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := q.s.js.Consumer(try, stream, want.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		_, err = q.s.js.CreateConsumer(try, stream, want)
		return err
	}
	if err != nil {
		return err
	}
	have := c.CachedInfo().Config
	if have.AckWait == want.AckWait && have.MaxDeliver == want.MaxDeliver && have.MaxAckPending == want.MaxAckPending {
		return nil
	}
	have.AckWait, have.MaxDeliver, have.MaxAckPending = want.AckWait, want.MaxDeliver, want.MaxAckPending
	_, err = q.s.js.UpdateConsumer(try, stream, have)
	return err
}
