package persistence

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/router"
)

// configVersion is raised when the configuration that this code gives its
// streams changes. Only an edge with a newer version changes what another made.
const configVersion = 1

// Stream metadata, visible in "nats stream info".
const (
	metaVersion     = "headrace-config"
	metaIncarnation = "headrace-incarnation"
	metaSlots       = "headrace-slots"
	metaPartitions  = "headrace-partitions"
)

// newID returns 8 characters of at least 40 random bits: enough to tell lives of
// one key or incarnations of one stream apart.
func newID() string { return strings.ToLower(rand.Text()[:8]) }

func (s *Store) logConfig(ns *router.Namespace, partition int) jetstream.StreamConfig {
	tokens := ns.Name + "." + strconv.Itoa(partition) + "."
	storage := jetstream.FileStorage
	if ns.MemoryStorage {
		storage = jetstream.MemoryStorage
	}
	return jetstream.StreamConfig{
		Name:               fmt.Sprintf("%s_LOG_%s_%d", strings.ToUpper(s.cfg.Prefix), ns.Name, partition),
		Description:        "Headrace: numbered log of namespace " + ns.Name,
		Subjects:           []string{s.cfg.Prefix + ".log." + tokens + ">"},
		MaxMsgsPerSubject:  1,
		MaxAge:             ns.Retention,
		Storage:            storage,
		Replicas:           s.cfg.Replicas,
		Discard:            jetstream.DiscardOld,
		Duplicates:         min(s.cfg.DuplicateWindow, ns.Retention),
		AllowDirect:        true,
		AllowAtomicPublish: true,
		RePublish: &jetstream.RePublish{
			Source:      s.cfg.Prefix + ".log." + tokens + ">",
			Destination: s.cfg.Prefix + ".live." + tokens + ">",
		},
		Metadata: map[string]string{
			metaVersion:     strconv.Itoa(configVersion),
			metaIncarnation: newID(),
			metaSlots:       strconv.Itoa(ns.HistorySize),
			metaPartitions:  strconv.Itoa(ns.Partitions),
		},
	}
}

// ensure creates the stream or adopts the existing one, and returns the
// configuration in force. Several edges may do so at once: the incarnation is
// random, so exactly one creation succeeds and the others see its result.
func (s *Store) ensure(ctx context.Context, want jetstream.StreamConfig) (jetstream.StreamConfig, error) {
	for attempt := 0; ; attempt++ {
		have, err := s.ensureOnce(ctx, want)
		var layout *layoutError
		if err == nil || errors.As(err, &layout) || !startupTemporary(err) {
			return have, err
		}
		if attempt == 3 { // once, after about half a second
			s.cfg.Log.Warn("waiting for NATS", "stream", want.Name, "err", err)
		}
		if !pause(ctx, attempt+4) {
			return have, err
		}
	}
}

// startupTemporary reports whether a cluster that is still forming may cause err.
func startupTemporary(err error) bool {
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return true // another edge is creating it: the name is taken, the stream not there yet
	}
	var refusal *jetstream.APIError
	if errors.As(err, &refusal) {
		return refusal.Code >= 500
	}
	return true
}

// ensureTimeout bounds one attempt. Of creations that run into each other in a
// cluster, one may stay without an answer: the next attempt sees the result.
const ensureTimeout = 2 * time.Second

func (s *Store) ensureOnce(ctx context.Context, want jetstream.StreamConfig) (have jetstream.StreamConfig, err error) {
	try, cancel := context.WithTimeout(ctx, ensureTimeout)
	defer cancel()
	existing, err := s.js.Stream(try, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		created, err := s.js.CreateStream(try, want)
		if err == nil {
			return created.CachedInfo().Config, nil
		}
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return have, fmt.Errorf("create stream %s: %w", want.Name, err)
		}
		existing, err = s.js.Stream(try, want.Name)
		if err != nil {
			return have, fmt.Errorf("look up stream %s: %w", want.Name, err)
		}
	} else if err != nil {
		return have, fmt.Errorf("look up stream %s: %w", want.Name, err)
	}
	have = existing.CachedInfo().Config
	next, change, err := reconcile(have, want)
	if err != nil || !change {
		return have, err
	}
	updated, err := s.js.UpdateStream(try, next)
	if err != nil {
		return have, fmt.Errorf("update stream %s: %w", want.Name, err)
	}
	s.cfg.Log.Info("stream updated", "stream", want.Name)
	return updated.CachedInfo().Config, nil
}

// layoutError is a configuration that contradicts how a stream was laid out.
type layoutError struct{ msg string }

func (e *layoutError) Error() string { return e.msg }

// reconcile returns the configuration that a stream should change to, if any.
// Number of slots and partitions are the layout: entries lie where these numbers
// say, so nobody may disagree. Limits only grow, unless the stream was made by
// an older version; a newer one's stream is left alone.
func reconcile(have, want jetstream.StreamConfig) (next jetstream.StreamConfig, change bool, err error) {
	for _, l := range []struct{ key, option string }{{metaSlots, "history_size"}, {metaPartitions, "partitions"}} {
		stored, ours := have.Metadata[l.key], want.Metadata[l.key]
		if stored == "" && ours != "" {
			return have, false, &layoutError{fmt.Sprintf("persistence: stream %s was not made by Headrace: it has no %s; "+
				"rename or remove it, or use another prefix", have.Name, l.key)}
		}
		if stored != ours {
			return have, false, &layoutError{fmt.Sprintf("persistence: stream %s was made with %s %s, the configuration says %s; "+
				"set it back, or stop all edges and remove the namespace's streams (this deletes the history; clients start afresh)",
				have.Name, l.option, stored, ours)}
		}
	}
	theirs, _ := strconv.Atoi(have.Metadata[metaVersion])
	if theirs > configVersion {
		return have, false, nil
	}
	next = have
	if theirs < configVersion {
		next, change = want, true
		next.Storage = have.Storage
		next.Metadata = maps.Clone(want.Metadata)
		next.Subjects = have.Subjects
		next.Metadata[metaIncarnation] = have.Metadata[metaIncarnation]
	}
	grow := func(dst *time.Duration, v ...time.Duration) {
		for _, d := range v {
			if d > *dst {
				*dst, change = d, true
			}
		}
	}
	if have.MaxAge > 0 { // 0 is for ever
		grow(&next.MaxAge, have.MaxAge, want.MaxAge)
	} else {
		next.MaxAge = 0
	}
	for _, subject := range want.Subjects {
		if !slices.Contains(next.Subjects, subject) {
			next.Subjects, change = append(slices.Clone(next.Subjects), subject), true
		}
	}
	grow(&next.Duplicates, have.Duplicates, want.Duplicates)
	if r := max(have.Replicas, want.Replicas); r > next.Replicas {
		next.Replicas, change = r, true
	}
	return next, change, nil
}

// openStream provisions one partition and gets it ready for use.
func (s *Store) openStream(ctx context.Context, ns *router.Namespace, partition int, b *budget) (*stream, error) {
	have, err := s.ensure(ctx, s.logConfig(ns, partition))
	if err != nil {
		return nil, err
	}
	p := &stream{
		cfg:           &s.cfg,
		log:           s.cfg.Log.With("stream", have.Name),
		req:           s.req,
		metrics:       s.metrics,
		budget:        b,
		name:          have.Name,
		subjects:      strings.TrimSuffix(have.Subjects[0], ">"),
		live:          strings.TrimSuffix(have.RePublish.Destination, ">"),
		subjectMsgGet: "$JS.API.STREAM.MSG.GET." + have.Name,
		subjectDirect: "$JS.API.DIRECT.GET." + have.Name,
		slots:         uint64(ns.HistorySize),
		replicated:    have.Replicas > 1,
		batches:       have.Replicas > 1 || have.Storage == jetstream.MemoryStorage,
		incarnation:   have.Metadata[metaIncarnation],
		heads:         newHeads(s.cfg.HeadCache),
		queues:        make(map[string]*keyQueue),
	}
	if err := p.reach(ctx); err != nil {
		return nil, fmt.Errorf("persistence: reach stream %s: %w", p.name, err)
	}
	return p, nil
}

// reach waits until the leader answers or ctx ends: a start takes as long as it is
// let, whatever the cluster is going through.
func (p *stream) reach(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		err := p.retrying(ctx, func(ctx context.Context) error {
			_, err := p.info(ctx)
			return err
		})
		if err == nil || !temporary(err) || !pause(ctx, attempt) {
			return err
		}
	}
}
