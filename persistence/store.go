package persistence

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// Store gives access to everything that lasts. It works while Run does.
type Store struct {
	cfg       Config // as given to Open, defaults filled in
	nc        *nats.Conn
	provision jet.Provisioner
	js        jetstream.JetStream
	req       *jet.Requester
	metrics   *metrics
	logs      map[string]*numberedLog // by namespace; those with history
	keys      map[string]*keyStore    // by namespace; those whose channels are maps
	streams   []*stream               // of all logs
	ingest    *ingest                 // nil without logs
	cursors   *cursors                // nil unless Config.Cursors has them
}

var (
	_ router.Store = (*Store)(nil)
	_ router.Log   = (*numberedLog)(nil)
)

// Open provisions the streams of cfg, waiting for a cluster that is still
// forming until ctx ends. nc must be made with ConnectOptions and stays the
// caller's. The store serves from now on; Run does its background work and
// releases it.
func Open(ctx context.Context, nc *nats.Conn, cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("persistence: %w", err)
	}
	req, err := jet.NewRequester(nc)
	if err != nil {
		return nil, fmt.Errorf("persistence: %w", err)
	}
	s := &Store{cfg: cfg, provision: jet.Provisioner{JS: js, Log: cfg.Log}, nc: nc, js: js, req: req, metrics: newMetrics(cfg.Metrics), logs: make(map[string]*numberedLog), keys: make(map[string]*keyStore)}
	if err := s.open(ctx); err != nil {
		req.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	for _, ns := range s.cfg.Namespaces {
		if ns.HistorySize == 0 {
			continue
		}
		l := &numberedLog{ns: ns}
		b := &budget{limit: s.cfg.MaxQueuedBytes}
		for partition := range ns.Partitions {
			p, err := s.openStream(ctx, &ns, partition, b)
			if err != nil {
				return err
			}
			l.streams = append(l.streams, p)
		}
		s.streams = append(s.streams, l.streams...)
		s.logs[ns.Name] = l
		if ns.Map != nil {
			if err := s.openKeys(ctx, &ns, l); err != nil {
				return err
			}
		}
	}
	if s.cfg.Cursors.Enabled {
		if err := s.openCursors(ctx); err != nil {
			return err
		}
	}
	if len(s.logs) == 0 {
		return nil
	}
	var err error
	s.ingest, err = s.openIngest(ctx)
	return err
}

// Provision makes the streams of cfg and what else edges need, so that they can
// run without the right to make any. limit may be nil.
func Provision(ctx context.Context, nc *nats.Conn, cfg Config, limit *UserLimitConfig) error {
	s, err := Open(ctx, nc, cfg)
	if err != nil {
		return err
	}
	if limit != nil {
		_, err = s.UserLimit(ctx, *limit)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	return errors.Join(err, s.Run(ended)) // releases it
}

// Log returns the log of a namespace with history.
func (s *Store) Log(namespace string) (router.Log, bool) {
	l, ok := s.logs[namespace]
	if !ok {
		return nil, false
	}
	return l, true
}

// probeInterval is the time between two looks at a leader.
const probeInterval = time.Second

// Run watches the leaders and moves what plain NATS clients publish into the
// logs, until ctx ends. Then appends that wait fail, those under way end, and
// everything is released.
func (s *Store) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, p := range s.streams {
		wg.Go(func() { p.probe(ctx) })
	}
	for _, ks := range s.keys {
		for _, p := range ks.parts {
			wg.Go(func() { p.sweep(ctx) })
			wg.Go(func() { newScanner(p).run(ctx) })
		}
	}
	if s.ingest != nil {
		wg.Go(func() { s.ingest.run(ctx) })
	}
	<-ctx.Done()
	wg.Wait()
	for _, p := range s.streams {
		wg.Go(p.close)
	}
	wg.Wait()
	s.req.Close()
	return nil
}

// probe asks the leader something cheap whenever nobody else did for a while.
func (p *stream) probe(ctx context.Context) {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if p.silence() < probeInterval/2 {
			continue
		}
		try, cancel := context.WithTimeout(ctx, min(readTimeout, p.cfg.ContactBound/2))
		_, err := p.info(try)
		cancel()
		if err != nil && ctx.Err() == nil {
			p.log.Debug("leader not reached", "err", err)
		}
	}
}

// Healthy returns nil while the leaders of all streams answered within
// Config.ContactBound (rule J2).
func (s *Store) Healthy() error {
	for _, p := range s.streams {
		if silent := p.silence(); silent > s.cfg.ContactBound {
			return router.Unavailable("history", fmt.Errorf("leader of stream %s not reached for %v", p.name, silent.Round(time.Second)))
		}
	}
	return nil
}
