package persistence

import (
	"cmp"
	"context"
	"slices"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// marksPerRequest is bounded by the 1,024 messages that one multi_last answers:
// three places are asked for each mark.
const marksPerRequest = 340

// moved returns the keys among marks with entries newer than their mark, and
// whether the stream was rewound below a mark.
//
// A key that moved on has a newer entry in one of three places: under the
// number after the mark's; under number 1, if a new life began; or in the
// marker's place, if it was cleared. (Later entries may overwrite these, but
// only with newer ones.) Whether a replica's answer is current is known by
// comparing the sequence it had reached with the leader's.
func (p *stream) moved(ctx context.Context, marks []router.Mark) (moved []string, rewound bool, err error) {
	var info infoAnswer
	err = p.retrying(ctx, func(ctx context.Context) error {
		var err error
		info, err = p.info(ctx)
		return err
	})
	if err != nil {
		return nil, false, jet.Unavailable("history", err)
	}
	for _, m := range marks {
		rewound = rewound || m.Seq > info.State.LastSeq
	}
	if info.State.Messages == 0 {
		return nil, rewound, nil
	}
	marks = slices.Clone(marks)
	slices.SortFunc(marks, func(a, b router.Mark) int { return cmp.Compare(a.Seq, b.Seq) })
	for chunk := range slices.Chunk(marks, marksPerRequest) {
		var keys []string
		err := p.retrying(ctx, func(ctx context.Context) error {
			var err error
			keys, err = p.movedChunk(ctx, chunk, info.State.LastSeq)
			return err
		})
		if err != nil {
			return nil, rewound, jet.Unavailable("history", err)
		}
		moved = append(moved, keys...)
	}
	return moved, rewound, nil
}

// movedChunk is moved for marks in order of Seq, judged by a replica that has
// reached lastSeq.
func (p *stream) movedChunk(ctx context.Context, marks []router.Mark, lastSeq uint64) ([]string, error) {
	if lastSeq <= marks[0].Seq {
		return nil, nil // nothing is newer
	}
	subjects := make([]string, 0, 3*len(marks)+1)
	seqs := make(map[string]uint64, len(marks))
	for _, m := range marks {
		seqs[m.Key] = m.Seq
		subjects = append(subjects, p.markerSubject(m.Key), p.subject(m.Key, m.Number+1))
		if (m.Number+1)%p.slots != 1%p.slots {
			subjects = append(subjects, p.subject(m.Key, 1))
		}
	}
	// An answer without a match would not tell how far the replica is, so one
	// subject that exists is added: that of the leader's last message.
	_, sentinel, err := p.get(ctx, getRequest{Seq: lastSeq})
	if err != nil {
		return nil, err
	}
	if sentinel != "" {
		subjects = append(subjects, sentinel)
	}
	for attempt := 0; ; attempt++ {
		r, err := p.multiLast(ctx, subjects, marks[0].Seq+1)
		switch {
		case err != nil:
			return nil, err
		case r.upTo >= lastSeq:
			return p.newer(r, seqs)
		case attempt >= 3 || !jet.Pause(ctx, attempt):
			return p.movedAtLeader(ctx, marks)
		}
	}
}

// newer returns the keys of which r has messages above their mark.
func (p *stream) newer(r multiResult, seqs map[string]uint64) ([]string, error) {
	var keys []string
	for _, m := range r.msgs {
		e, err := decodeCopy(m)
		if err != nil {
			return nil, err
		}
		key, ok := p.keyOf(jet.Last(m.Header, "Nats-Subject"))
		if !ok {
			continue
		}
		if seq, asked := seqs[key]; asked && e.Seq > seq {
			keys = append(keys, key)
			delete(seqs, key)
		}
	}
	return keys, nil
}

// movedAtLeader asks the leader key by key, when no replica that answers is
// current. It is dear: one request per key.
func (p *stream) movedAtLeader(ctx context.Context, marks []router.Mark) ([]string, error) {
	p.metrics.movedAtLeader.Inc()
	var keys []string
	for _, m := range marks {
		e, _, err := p.get(ctx, getRequest{Last: p.filter(m.Key)})
		if err != nil {
			return nil, err
		}
		if e.Seq > m.Seq {
			keys = append(keys, m.Key)
		}
	}
	return keys, nil
}
