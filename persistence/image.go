package persistence

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// Headers that only the image has.
const (
	// headerImageID stands for headerID, so that NATS does not deduplicate: an
	// acknowledgement must mean that the entry is there, not that it once was.
	headerImageID = "Headrace-Id"
	// headerFeed is the incarnation and sequence of the entry in its feed. All
	// entries of a partition are in one order by it, over lives too.
	headerFeed = "Headrace-Feed"
)

// feedPlace is where the entry of an image lies in the feed.
type feedPlace struct {
	incarnation string
	seq         uint64
}

func (f feedPlace) String() string { return f.incarnation + "." + strconv.FormatUint(f.seq, 36) }

func parseFeedPlace(s string) (f feedPlace, err error) {
	incarnation, seq, ok := strings.Cut(s, ".")
	if !ok {
		return f, errors.New("decode image: malformed feed place")
	}
	f.incarnation = incarnation
	if f.seq, err = strconv.ParseUint(seq, 36, 64); err != nil {
		return f, fmt.Errorf("decode image: feed place: %w", err)
	}
	return f, nil
}

// materialise brings e, an entry of the feed, into the image, unless it or a later
// one of the key is there, and returns its place. It may be called any number of
// times, by any edge, in any order. fresh says that nobody else is likely to have
// done it: then it is tried at once.
func (p *keyPart) materialise(ctx context.Context, channel string, e *router.Entry, fresh bool) (uint64, error) {
	expected := e.Mark.Prev[0]
	for attempt := 0; ; attempt++ {
		if attempt > 0 || !fresh && !planted.Bug(planted.OldImageWins) {
			seq, newest, err := p.imageOf(ctx, channel, e)
			if err != nil {
				return 0, err
			}
			if newest {
				return seq, nil
			}
			expected = seq
		}
		seq, err := p.putImage(ctx, channel, e, expected)
		if err == nil {
			return seq, nil
		}
		if p.note(err); !temporary(err) && !conflicted(err) || !jet.Pause(ctx, attempt) {
			return 0, err
		}
	}
}

func (p *keyPart) note(err error) {
	w := writer{p: p.keys}
	w.note(err)
}

// imageOf looks at the key's place: newest is true when e, or what came after it, is
// there.
func (p *keyPart) imageOf(ctx context.Context, channel string, e *router.Entry) (seq uint64, newest bool, err error) {
	have, at, err := p.image(ctx, channel, e.Mark.Key)
	if err != nil || have.Number == 0 {
		return 0, false, err
	}
	return have.Seq, at.incarnation == p.feed.incarnation && at.seq >= e.Seq, nil
}

// image asks the key store's leader for the newest entry of key, whatever its life.
func (p *keyPart) image(ctx context.Context, channel, key string) (e router.Entry, at feedPlace, err error) {
	e, h, err := p.keys.getWithHeader(ctx, getRequest{Last: p.place(channel, key)})
	if err != nil || e.Number == 0 {
		return e, at, err
	}
	if e.Mark == nil || e.Mark.Key != key {
		return e, at, fmt.Errorf("decode image: key %q lies at the place of %q", markedKey(e), key)
	}
	at, err = parseFeedPlace(jet.Last(h, headerFeed))
	return e, at, err
}

func markedKey(e router.Entry) string {
	if e.Mark == nil {
		return ""
	}
	return e.Mark.Key
}

// putImage stores e in the image if the key's last place is expected.
func (p *keyPart) putImage(ctx context.Context, channel string, e *router.Entry, expected uint64) (uint64, error) {
	h := encodeHeader(e)
	h[headerImageID] = h[headerID]
	delete(h, headerID)
	h[headerFeed] = []string{feedPlace{p.feed.incarnation, e.Seq}.String()}
	if !planted.Bug(planted.OldImageWins) {
		h[headerExpect] = []string{strconv.FormatUint(expected, 10)}
	}
	w := writer{p: p.keys}
	try, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	ack, err := w.send(try, &nats.Msg{Subject: p.place(channel, e.Mark.Key), Header: h, Data: e.Data})
	return ack.Seq, err
}

// settled says that the entry of a channel with seq is in the image at place.
type settled struct{ seq, place uint64 }

// settle makes sure that e, the newest entry of channel, is in the image.
func (p *keyPart) settle(ctx context.Context, channel string, e *router.Entry) (place uint64, err error) {
	if e.Number == 0 || e.Mark == nil {
		return 0, nil
	}
	if st, ok := p.known.Peek(channel); ok && st.head.seq == e.Seq {
		return st.image, nil
	}
	if s, ok := p.settled.Get(channel); ok && s.seq == e.Seq {
		return s.place, nil
	}
	err = p.keys.retrying(ctx, func(ctx context.Context) error {
		place, err = p.materialise(ctx, channel, e, false)
		return err
	})
	if err != nil {
		return 0, jet.Unavailable("state", err)
	}
	p.settled.Add(channel, settled{e.Seq, place})
	return place, nil
}

// imageTime is how long an append goes on trying to bring its entry into the image
// when its own deadline is near.
const imageTime = 2 * time.Second
