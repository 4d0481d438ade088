package router

import (
	"context"
)

// InboxState is where a device stands.
type InboxState struct {
	Channel string
	// New: the device had no cursor. It was never here, or was forgotten.
	New bool
	// Cursor is the last message the device has read, in terms of Head.Epoch: 0 when
	// it has read none of this life of the inbox.
	Cursor uint64
	// Head is the newest number; clearing takes one too.
	Head Position
	// Unread counts the messages after the cursor that are still stored.
	Unread int
	// Gone: of what followed the cursor something is no longer stored, or may not be.
	Gone bool
}

// InboxPage is part of an inbox.
type InboxPage struct {
	Messages []*Publication // oldest first; Offset is the number
	After    uint64         // the number they follow
	Head     Position
	// More: others follow that Limit or MaxBytes left out.
	More bool
	// Gone: between After and what follows something is no longer stored, or may not
	// be.
	Gone bool
}

// ListRequest selects messages of an inbox.
type ListRequest struct {
	// Device's cursor says where to begin, unless After does.
	Device string
	After  *Position
	Limit  int // at least 1
	// MaxBytes bounds the data of the answer; one message is always there.
	MaxBytes int
}

// List reads messages of user's inbox, those after the device's cursor or After. It
// moves no cursor. Without either it begins with the oldest there is.
func (b *Inbox) List(ctx context.Context, user string, req ListRequest) (InboxPage, error) {
	t, err := b.target(user)
	if err != nil {
		return InboxPage{}, err
	}
	var since Position
	switch {
	case req.After != nil:
		since = *req.After
	case req.Device != "":
		if err := checkDevice(req.Device); err != nil {
			return InboxPage{}, err
		}
		c, err := b.cfg.Cursors.Get(ctx, user, req.Device)
		if err != nil {
			return InboxPage{}, err
		}
		since = Position{Offset: c.Number, Epoch: c.Epoch}
	}
	page, err := t.read(ctx, since)
	if err != nil {
		return InboxPage{}, err
	}
	bytes := 0
	for i, m := range page.Messages {
		bytes += len(m.Data) + messageOverhead
		if i == req.Limit || i > 0 && bytes > req.MaxBytes {
			page.Messages, page.More = page.Messages[:i], true
			break
		}
	}
	if page.Gone {
		b.n.cfg.Metrics.inbox.gone.Inc()
	}
	return page, nil
}

// messageOverhead stands for the bytes of a listed message besides its data.
const messageOverhead = 256

// read returns all messages after since that are served.
func (t *target) read(ctx context.Context, since Position) (InboxPage, error) {
	for range maxOverwritten {
		page, err := t.readOnce(ctx, since)
		if err == nil || CodeOf(err) != CodeConflict {
			return page, err
		}
	}
	return InboxPage{}, Unavailable("the inbox", Errorf(CodeConflict, "the inbox is overwritten faster than it can be read"))
}

func (t *target) readOnce(ctx context.Context, since Position) (InboxPage, error) {
	page, head, err := t.begin(ctx, since)
	if err != nil || head.Number <= page.After {
		return page, err
	}
	entries, err := t.log.Read(ctx, t.key, page.After, head)
	if err != nil {
		return InboxPage{}, err
	}
	page.Messages = selectHistory(t.ns, entries, HistoryRequest{Limit: -1})
	// Numbers are dense, and what is served is a run that ends at the head.
	if len(page.Messages) == 0 || page.Messages[0].Offset > page.After+1 {
		page.Gone = true
	}
	return page, nil
}

// begin reads the head and says what since means now: where to read from, and
// whether a life ended in between.
func (t *target) begin(ctx context.Context, since Position) (InboxPage, Entry, error) {
	head, err := readHead(ctx, t.log, t.key)
	if err != nil {
		return InboxPage{}, head, err
	}
	inc := t.log.Incarnation(t.key)
	page := InboxPage{After: since.Offset, Head: Position{Offset: head.Number, Epoch: LifeEpoch(inc, head.Life)}}
	if head.Number == 0 {
		page.Head.Epoch = EmptyEpoch(inc, head.Seq)
	}
	err = checkSince(ctx, t.log, t.key, &since, page.Head.Epoch, inc)
	switch {
	case CodeOf(err) == CodeUnrecoverable:
		page.After, page.Gone = 0, true
	case err != nil:
		return InboxPage{}, head, err
	case since.Offset > head.Number: // the store went back: a disaster
		page.Gone = true
	}
	return page, head, nil
}

// Unread tells where a device stands, without noting that it was there.
func (b *Inbox) Unread(ctx context.Context, user, device string) (InboxState, error) {
	t, err := b.device(user, device)
	if err != nil {
		return InboxState{}, err
	}
	c, err := b.cfg.Cursors.Get(ctx, user, device)
	if err != nil {
		return InboxState{}, err
	}
	return b.state(ctx, &t, c)
}

// device is target for a method about a device.
func (b *Inbox) device(user, device string) (target, error) {
	t, err := b.target(user)
	if err == nil {
		err = checkDevice(device)
	}
	return t, err
}

func (b *Inbox) state(ctx context.Context, t *target, c StoredCursor) (InboxState, error) {
	page, err := t.read(ctx, Position{Offset: c.Number, Epoch: c.Epoch})
	if err != nil {
		return InboxState{}, err
	}
	if page.Gone {
		b.n.cfg.Metrics.inbox.gone.Inc()
	}
	return InboxState{
		Channel: t.channel, New: c.Seq == 0, Cursor: page.After, Head: page.Head, Unread: len(page.Messages), Gone: page.Gone,
	}, nil
}
