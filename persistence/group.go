package persistence

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// group is changes of a channel that waited together. They are judged one after the
// other, each against what those before it make of its key, and what they store goes to
// the feed at once: all or nothing. So the compare-and-set over the channel's head proves
// the refusals in between, too. It belongs to the channel's goroutine.
type group struct {
	w       *writer
	p       *keyPart
	waiting []*pending
	tries   []*verdict // stored perhaps (W2)
	// lost says that none of tries can be stored any more, if the next look back does
	// not find one: see noneLands.
	lost    bool
	refused int // attempts that NATS refused for another reason than a conflict
}

// verdict is what becomes of a group at one head of the channel.
type verdict struct {
	batch   string         // that holds entries, if they are more than one
	state   channelState   // behind entries; head.seq and image are not known yet
	late    bool           // found by looking back: others may have come since
	entries []router.Entry // what is to be stored, in order
	answers []answer       // to the first of waiting, as many as fit
}

// answer is an entry to store, or a refusal.
type answer struct {
	entry   int // of verdict.entries; -1 for a refusal
	err     error
	refusal router.Changed
}

// tooManyRefusals is when a group goes one by one.
const tooManyRefusals = 3

var (
	errSplit = errors.New("go one by one")
	errLost  = errors.New("an earlier attempt has to be looked for once more")
)

// storeChanges stores the first n of waiting together and answers them. answered is
// false when they must go one by one; none of them was stored, unless q.tried says so.
func (w *writer) storeChanges(waiting []*pending) (n int, answered bool) {
	g := &group{w: w, p: waiting[0].plan.(*change).p, waiting: waiting}
	deadline := waiting[0].deadline
	var cause error = context.DeadlineExceeded
	for attempt := 0; ; attempt++ {
		if attempt > 0 && (!w.pause(waiting[0], attempt-1) || w.p.isClosed()) || !time.Now().Before(deadline) {
			w.p.metrics.refused.Add(refusedTimeout)
			return g.fail(cause)
		}
		v, err := g.attempt(deadline)
		switch {
		case err == nil:
			g.finish(v, deadline)
			return len(v.answers), true
		case errors.Is(err, errOvertaken):
			w.p.metrics.refused.Add(refusedUnknown)
			return g.fail(err)
		case errors.Is(err, errSplit):
			for _, v := range g.tries {
				for i, a := range v.answers {
					if a.entry >= 0 {
						waiting[i].tried = append(waiting[i].tried, v.entries[a.entry].Number)
					}
				}
			}
			return len(waiting), false
		}
		cause = err
	}
}

// fail answers all of the group with an error.
func (g *group) fail(cause error) (int, bool) {
	for _, q := range g.waiting {
		g.w.answer(q, router.Entry{}, false, router.Unavailable("history", cause))
	}
	return len(g.waiting), true
}

// attempt tries once. It returns what is stored, also if an earlier attempt was, or why
// nothing is known to be.
func (g *group) attempt(deadline time.Time) (*verdict, error) {
	w := g.w
	if v, err := g.lookBack(deadline); v != nil || err != nil {
		return v, err
	}
	h, err := w.head(deadline)
	if err != nil {
		return nil, err
	}
	for _, t := range g.tries {
		if h.number >= t.entries[0].Number+w.p.slots {
			return nil, errOvertaken
		}
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	v, err := g.judge(ctx, h)
	if err == nil && len(v.entries) == 0 {
		err = g.proveHead(ctx, h)
	}
	if err != nil {
		w.p.heads.Remove(w.key)
		if !temporary(err) {
			err = errSplit
		}
		return nil, err
	}
	if len(g.tries) > 0 && v.refuses() {
		// What is refused may be in an attempt that was stored since the look back.
		g.lost = g.allLose(h)
		return nil, errLost
	}
	if len(v.entries) == 0 {
		return v, nil
	}
	return g.store(v, h, deadline)
}

// lookBack reads the places where earlier attempts would lie, and returns the one that
// was stored.
func (g *group) lookBack(deadline time.Time) (*verdict, error) {
	w := g.w
	for _, t := range g.tries {
		first := &t.entries[0]
		ctx, cancel := w.p.attemptContext(deadline, len(g.tries))
		e, h, err := w.p.getWithHeader(ctx, getRequest{Last: w.p.subject(w.key, first.Number)})
		cancel()
		if err != nil {
			return nil, err
		}
		// Two attempts may hold the same change under the same number, but not all the same ones.
		if e.ID != first.ID || e.Life != first.Life || len(t.entries) > 1 && jet.Last(h, headerBatchID) != t.batch {
			continue
		}
		w.p.heads.Remove(w.key)
		if err := w.settled(g.waiting[0], e); err != nil {
			return nil, err
		}
		w.p.metrics.attempts.Add(attemptFoundStored)
		if t.stored(e.Seq); len(t.entries) == 1 {
			t.entries[0] = e // the same change, perhaps judged at another time
		}
		t.late = true
		return t, nil
	}
	if g.lost {
		g.tries, g.lost = nil, false
	}
	return nil, nil
}

// allLose reports whether none of the earlier attempts can be stored any more: they
// compared with what was below h.
func (g *group) allLose(h head) bool {
	return !slices.ContainsFunc(g.tries, func(t *verdict) bool { return h.number < t.entries[0].Number })
}

// proveHead makes sure that h is what the leader knows: nothing else proves refusals.
func (g *group) proveHead(ctx context.Context, h head) error {
	now, err := g.p.feedHead(ctx, g.w.key)
	if err == nil && (now.Number != h.number || now.Number > 0 && now.Seq != h.seq) {
		err = errMovedOn
	}
	return err
}

// store publishes what v stores behind h.
func (g *group) store(v *verdict, h head, deadline time.Time) (*verdict, error) {
	w := g.w
	ctx, cancel := w.p.attemptContext(deadline, len(g.tries))
	defer cancel()
	ack, err := w.publishBatch(ctx, v.batch, v.entries, h.seq)
	var refusal *jet.APIError
	switch {
	case err == nil && ack.Duplicate:
		return nil, errSplit
	case err == nil:
		v.stored(ack.Seq - uint64(len(v.entries)-1))
		w.p.heads.Add(w.key, v.state.head)
		if n := len(v.entries); n > 1 {
			w.p.metrics.grouped.Add(float64(n))
		}
		return v, nil
	case conflicted(err), jet.HadNoEffect(err):
		w.note(err)
		w.forgetHead(g.waiting[0], h, err)
		return nil, err
	case w.final(err):
		return nil, errSplit // one of them is too large, for instance, or was stored before
	case errors.As(err, &refusal) && refusal.Code == 400:
		// As when a part did not reach a new leader, or holds an id that was stored before.
		w.p.heads.Remove(w.key)
		if g.refused++; g.refused >= tooManyRefusals || refusal.ErrCode == jet.CodeBatchDuplicate {
			return nil, errSplit
		}
		return nil, err
	}
	w.p.heads.Remove(w.key)
	if w.note(err); planted.Bug(planted.DoubleAfterTimeout) {
		for _, q := range g.waiting {
			q.entry.ID = jet.NewWriteID()
		}
		return nil, err
	}
	g.tries = append(g.tries, v)
	return nil, err
}

// finish brings what v stored into the image and answers the group.
func (g *group) finish(v *verdict, deadline time.Time) {
	err := g.image(v, deadline)
	for i, a := range v.answers {
		q := g.waiting[i]
		switch {
		case a.entry < 0:
			q.plan.(*change).refusal = a.refusal
			g.w.answer(q, router.Entry{}, false, a.err)
		case err != nil:
			g.w.answer(q, router.Entry{}, false, err)
		default:
			g.w.answer(q, v.entries[a.entry], false, nil)
		}
	}
}

func (g *group) image(v *verdict, deadline time.Time) error {
	if len(v.entries) == 0 {
		return nil
	}
	if least := time.Now().Add(imageTime); least.After(deadline) {
		deadline = least
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	if v.late {
		return g.p.settleNow(ctx, g.w.key)
	}
	last := &v.entries[len(v.entries)-1]
	if planted.Bug(planted.SkipOwnHead) && last.Number%4 == 0 {
		for i := range v.entries {
			g.p.current.drop(keyID{g.w.key, v.entries[i].Mark.Key})
		}
	} else if have, err := g.p.materialise(ctx, g.w.key, last, v.entries, nil); err != nil {
		return jet.Unavailable("state", err)
	} else {
		g.p.learn(g.w.key, &v.state, have, v.entries)
	}
	g.p.known.Add(g.w.key, v.state)
	for i := range v.entries {
		g.p.saw(g.w.key, &v.entries[i], 0)
	}
	return nil
}

// stored notes that the entries lie from seq on.
func (v *verdict) stored(seq uint64) {
	for i := range v.entries {
		v.entries[i].Seq = seq + uint64(i)
	}
	last := &v.entries[len(v.entries)-1]
	v.state.head = head{last.Number, last.Seq, last.Life}
}

// refuses reports whether one of the changes is refused.
func (v *verdict) refuses() bool {
	return slices.ContainsFunc(v.answers, func(a answer) bool { return a.entry < 0 })
}
