package router

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// maxCursorAttempts bounds how often a cursor is read and written again because
// somebody else wrote it, or no answer came. The time is bounded by the context.
const maxCursorAttempts = 12

// touchShare is the part of DeviceTTL after which the cursor of a device that
// shows up is written again, so that NATS does not let go of it.
const touchShare = 8

// Open tells where a device stands and gives it a cursor if it has none.
func (b *Inbox) Open(ctx context.Context, user, device string) (InboxState, error) {
	t, err := b.device(user, device)
	if err != nil {
		return InboxState{}, err
	}
	c, err := b.cfg.Cursors.Get(ctx, user, device)
	if err != nil {
		return InboxState{}, err
	}
	st, err := b.state(ctx, &t, c)
	if err == nil {
		_, err = b.arrive(ctx, &t, device, c, func() (InboxPage, error) { return InboxPage{Head: st.Head, Gone: st.Gone}, nil })
	}
	return st, err
}

// Resumed is from where a device goes on.
type Resumed struct {
	Cursor Cursor
	New    bool // see InboxState
}

// Resume tells from where a device goes on, and gives it a cursor if it has none.
// Whether what follows is still stored, a subscription from there tells.
func (b *Inbox) Resume(ctx context.Context, user, device string) (Resumed, error) {
	t, err := b.device(user, device)
	if err != nil {
		return Resumed{}, err
	}
	c, err := b.cfg.Cursors.Get(ctx, user, device)
	if err != nil {
		return Resumed{}, err
	}
	cur, err := b.arrive(ctx, &t, device, c, func() (InboxPage, error) {
		page, _, err := t.begin(ctx, Position{Offset: c.Number, Epoch: c.Epoch})
		return page, err
	})
	return Resumed{Cursor: cur, New: c.Seq == 0}, err
}

// Oldest returns a position after which everything follows that is still stored
// and was not there before since.
func (b *Inbox) Oldest(ctx context.Context, user string, since Position) (Position, error) {
	t, err := b.target(user)
	if err != nil {
		return Position{}, err
	}
	page, err := t.read(ctx, since)
	if err != nil {
		return Position{}, err
	}
	b.n.cfg.Metrics.inbox.gone.Inc()
	if len(page.Messages) == 0 {
		return page.Head, nil
	}
	return Position{Offset: page.Messages[0].Offset - 1, Epoch: page.Head.Epoch}, nil
}

// arrive writes the cursor c of a device that shows up, if it has none yet or has
// not been written for long, and returns it. now says how the inbox stands to it.
func (b *Inbox) arrive(ctx context.Context, t *target, device string, c StoredCursor, now func() (InboxPage, error)) (Cursor, error) {
	if c.Seq != 0 && time.Since(c.Time) < b.cfg.DeviceTTL/touchShare {
		return c.Cursor, nil
	}
	page, err := now()
	if err != nil {
		return Cursor{}, err
	}
	next := c.Cursor
	if c.Seq == 0 || c.Number == 0 && !page.Gone {
		next.Epoch = page.Head.Epoch
	}
	return next, b.enter(ctx, t.user, device, c, next)
}

// enter writes the cursor of a device that showed up. Somebody else's write will
// do as well: the same device through another node.
func (b *Inbox) enter(ctx context.Context, user, device string, was StoredCursor, c Cursor) error {
	err := b.cfg.Cursors.Put(ctx, user, device, c, was.Seq)
	if CodeOf(err) == CodeConflict {
		return nil
	}
	if err == nil && was.Seq == 0 {
		b.entered(ctx, user, device)
	}
	return err
}

// entered counts a device that got its first cursor, and makes room for it. Whom
// it takes long to forget is forgotten with the next new device.
func (b *Inbox) entered(ctx context.Context, user, device string) {
	b.n.cfg.Metrics.inbox.devices[deviceNew].Inc()
	all, err := b.cfg.Cursors.List(ctx, user)
	if err != nil {
		b.n.log.Warn("inbox devices not counted", "err", err)
		return
	}
	all = slices.DeleteFunc(all, func(d DeviceCursor) bool { return d.Device == device })
	// Sequences are the order of writes.
	slices.SortFunc(all, func(x, y DeviceCursor) int { return int(min(1, max(-1, int64(x.Seq-y.Seq)))) })
	for i := range len(all) + 1 - b.cfg.MaxDevices {
		if err := b.cfg.Cursors.Forget(ctx, user, all[i].Device, all[i].Seq); err != nil {
			b.n.log.Warn("inbox device not forgotten", "err", err)
			return
		}
		b.n.cfg.Metrics.inbox.devices[deviceForgotten].Inc()
	}
}

// Acked is the answer to Ack.
type Acked struct {
	Cursor uint64 // where the device stands now: at the number, or beyond
	Epoch  string
	Head   uint64
	Moved  bool // false: the device stood there, or beyond, before
}

// Ack notes that a device has read up to and with message at.Offset. A cursor
// never goes backwards within a life of the inbox. An empty at.Epoch means the
// current life; another one is refused with CodeUnrecoverable, and a number beyond
// the newest with CodeInvalid.
func (b *Inbox) Ack(ctx context.Context, user, device string, at Position) (Acked, error) {
	t, err := b.device(user, device)
	if err != nil {
		return Acked{}, err
	}
	a, err := b.acks.do(user+"\x00"+device, at, func(batch []*ackCall) { b.ackAll(ctx, &t, device, batch) })
	switch {
	case err != nil:
		b.n.cfg.Metrics.inbox.acks[ackFailed].Inc()
	case a.Moved:
		b.n.cfg.Metrics.inbox.acks[ackMoved].Inc()
	default:
		b.n.cfg.Metrics.inbox.acks[ackBehind].Inc()
	}
	return a, err
}

// ackAll answers calls about one device with one write.
func (b *Inbox) ackAll(ctx context.Context, t *target, device string, batch []*ackCall) {
	var err error
	for attempt := range maxCursorAttempts {
		if attempt > 0 && !pauseCursor(ctx, attempt) {
			break
		}
		// The cursor first: if it is unchanged when it is written, the head that was
		// read afterwards is of its life or a later one.
		var c StoredCursor
		if c, err = b.cfg.Cursors.Get(ctx, t.user, device); err != nil {
			continue
		}
		if err = b.ackOnce(ctx, t, device, c, batch); err == nil {
			return
		}
		if code := CodeOf(err); code != CodeConflict && code != CodeUnavailable {
			break
		}
	}
	if CodeOf(err) == CodeConflict {
		err = Unavailable("the inbox", err)
	}
	for _, call := range batch {
		call.err = err
	}
}

// ackOnce answers the calls of batch that c allows, and writes the furthest. On
// error none is answered.
func (b *Inbox) ackOnce(ctx context.Context, t *target, device string, c StoredCursor, batch []*ackCall) error {
	page, _, err := t.begin(ctx, Position{Offset: c.Number, Epoch: c.Epoch})
	if err != nil {
		return err
	}
	inc := t.log.Incarnation(t.key)
	was := page.After
	best, found := was, false
	for _, call := range batch {
		call.err = nil
		if call.at.Offset > page.Head.Offset {
			call.err = Errorf(CodeInvalid, "number %d is beyond the newest, %d", call.at.Offset, page.Head.Offset)
			continue
		}
		if err := checkSince(ctx, t.log, t.key, &call.at, page.Head.Epoch, inc); err != nil {
			if CodeOf(err) != CodeUnrecoverable {
				return err
			}
			call.err = err
			continue
		}
		best, found = max(best, call.at.Offset), true
	}
	// A cursor of an earlier life is written over even by number 0: who acks here
	// knows of this one.
	another := c.Number > 0 && was == 0
	if found && (best > was || c.Seq == 0 || another) {
		if err := b.cfg.Cursors.Put(ctx, t.user, device, Cursor{Number: best, Epoch: page.Head.Epoch}, c.Seq); err != nil {
			return err
		}
		if c.Seq == 0 {
			b.entered(ctx, t.user, device)
		}
	}
	for _, call := range batch {
		if call.err == nil {
			call.acked = Acked{Cursor: best, Epoch: page.Head.Epoch, Head: page.Head.Offset, Moved: call.at.Offset > was}
		}
	}
	return nil
}

// pauseCursor waits 4 ms, doubled each time up to 256 ms, of which a half is
// random. It returns false when ctx ended.
func pauseCursor(ctx context.Context, attempt int) bool {
	d := 4 * time.Millisecond << min(attempt-1, 6)
	timer := time.NewTimer(d/2 + rand.N(d/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
