package persistence

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

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
		Duplicates:         duplicates(s.cfg.DuplicateWindow, ns.Retention),
		AllowDirect:        true,
		AllowAtomicPublish: true,
		RePublish: &jetstream.RePublish{
			Source:      s.cfg.Prefix + ".log." + tokens + ">",
			Destination: s.cfg.Prefix + ".live." + tokens + ">",
		},
		Metadata: map[string]string{
			jet.MetaVersion:     strconv.Itoa(jet.ConfigVersion),
			jet.MetaIncarnation: jet.NewID(),
			jet.MetaSlots:       strconv.Itoa(ns.HistorySize),
			jet.MetaPartitions:  strconv.Itoa(ns.Partitions),
		},
	}
}

// duplicates is the duplicate window of a stream that keeps entries for retention,
// 0 being for ever.
func duplicates(window, retention time.Duration) time.Duration {
	if retention == 0 {
		return window
	}
	return min(window, retention)
}

// openStream provisions one partition and gets it ready for use.
func (s *Store) openStream(ctx context.Context, ns *router.Namespace, partition int, b *budget) (*stream, error) {
	have, err := s.provision.Ensure(ctx, s.logConfig(ns, partition))
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
		incarnation:   have.Metadata[jet.MetaIncarnation],
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
		if err == nil || !temporary(err) || !jet.Pause(ctx, attempt) {
			return err
		}
	}
}
