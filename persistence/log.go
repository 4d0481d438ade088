package persistence

import (
	"context"
	"fmt"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// numberedLog is the log of one namespace: a stream for each partition.
type numberedLog struct {
	ns      router.Namespace
	streams []*stream
	keys    *keyStore // nil unless the channels are maps
}

// of returns the stream that holds key. The hash is part of the layout.
func (l *numberedLog) of(key string) *stream {
	return l.streams[partitionOf(key, len(l.streams))]
}

func partitionOf(key string, partitions int) int {
	if partitions == 1 {
		return 0
	}
	return int(xxhash.Sum64String(key) % uint64(partitions))
}

func (l *numberedLog) Append(key string, e router.NewEntry, done func(router.Appended, error)) {
	p := l.of(key)
	if planted.Bug(planted.AckBeforeStore) {
		done(router.Appended{}, nil)
		done = func(router.Appended, error) {}
	}
	p.append(key, router.Entry{ID: e.ID, Meta: e.Meta, Data: e.Data},
		func(e router.Entry, duplicate bool, err error) {
			if err != nil {
				done(router.Appended{}, err)
				return
			}
			a := router.Appended{Number: e.Number, Duplicate: duplicate}
			if e.Life != "" {
				a.Epoch = router.LifeEpoch(p.incarnation, e.Life)
			}
			done(a, nil)
		})
}

func (l *numberedLog) Head(ctx context.Context, key string) (e router.Entry, err error) {
	p := l.of(key)
	err = p.retrying(ctx, func(ctx context.Context) error {
		e, err = p.head(ctx, key)
		return err
	})
	return e, err
}

func (l *numberedLog) Read(ctx context.Context, key string, after uint64, head router.Entry) ([]router.Entry, error) {
	return l.of(key).read(ctx, key, after, head)
}

func (l *numberedLog) Clear(ctx context.Context, key string) (router.Entry, error) {
	return l.of(key).clear(ctx, key)
}

func (l *numberedLog) Moved(ctx context.Context, marks []router.Mark) (moved []string, rewound bool, err error) {
	byStream := make([][]router.Mark, len(l.streams))
	for _, m := range marks {
		i := partitionOf(m.Key, len(l.streams))
		byStream[i] = append(byStream[i], m)
	}
	for i, part := range byStream {
		if len(part) == 0 {
			continue
		}
		keys, back, err := l.streams[i].moved(ctx, part)
		if err != nil {
			return nil, false, err
		}
		moved, rewound = append(moved, keys...), rewound || back
	}
	return moved, rewound, nil
}

func (l *numberedLog) State(ctx context.Context, key string) (state router.StreamState, err error) {
	p := l.of(key)
	err = p.retrying(ctx, func(ctx context.Context) error {
		info, err := p.info(ctx)
		state = router.StreamState{FirstSeq: info.State.FirstSeq, LastSeq: info.State.LastSeq}
		return err
	})
	return state, jet.Unavailable("history", err)
}

func (l *numberedLog) LastSeq(key string) uint64 { return l.of(key).lastSeq.Load() }

func (l *numberedLog) Incarnation(key string) string { return l.of(key).incarnation }

func (l *numberedLog) LiveSubject(key string) string { return l.of(key).live + key + ".*" }

// DecodeLive also notes the entry's sequence, and its number as the key's head
// where that is remembered, so that writers on several edges collide less.
func (l *numberedLog) DecodeLive(m *nats.Msg) (router.Entry, error) {
	e, err := decodeCopy(m)
	if err != nil {
		return e, err
	}
	stream := jet.Last(m.Header, nats.JSStream)
	for _, p := range l.streams {
		if p.name != stream {
			continue
		}
		p.sawSeq(e.Seq)
		if key, ok := p.keyOf(jet.Last(m.Header, "Nats-Subject")); ok {
			p.sawHead(key, newestWith(&e))
			if l.keys != nil {
				l.keys.of(key).saw(key, &e, watchGrace)
			}
		}
		return e, nil
	}
	return router.Entry{}, fmt.Errorf("decode entry: stream %q is none of namespace %q", stream, l.ns.Name)
}

// sawHead raises a remembered head to h.
func (p *stream) sawHead(key string, h head) {
	if old, ok := p.heads.Peek(key); ok && h.seq > old.seq {
		p.heads.Add(strings.Clone(key), h)
	}
}
