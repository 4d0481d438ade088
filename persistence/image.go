package persistence

import (
	"context"
	"crypto/rand"
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

// imaged is what lies last at the place of a key.
type imaged struct {
	place uint64
	// later says that it came after what was asked for. Then the places of that, and of
	// what was stored together with it, are not known.
	later bool
}

// materialise brings the changes that end with e, an entry of the feed, into the image,
// unless it or a later one of its key is there, and returns the place of what is. It may
// be called any number of times, by any edge, in any order. fresh are the changes if nobody else
// is likely to have done it: then it is tried at once. Otherwise changes returns them.
func (p *keyPart) materialise(ctx context.Context, channel string, e *router.Entry, fresh []router.Entry, changes func(context.Context) ([]router.Entry, error)) (imaged, error) {
	var expected uint64
	if fresh != nil {
		expected = anchor(fresh).Mark.Prev[0]
	}
	for attempt := 0; ; attempt++ {
		if attempt > 0 || fresh == nil && !planted.Bug(planted.OldImageWins) {
			have, newest, err := p.imageOf(ctx, channel, e)
			if err != nil && temporary(err) && jet.Pause(ctx, attempt) {
				continue
			}
			if err != nil || newest {
				return have, err
			}
			expected = have.place
		}
		if fresh == nil {
			var err error
			if fresh, err = changes(ctx); err != nil {
				return imaged{}, err
			}
		}
		seq, err := p.putImages(ctx, channel, fresh, expected)
		if err == nil {
			return imaged{place: seq}, nil
		}
		if p.note(err); !temporary(err) && !conflicted(err) && !brokenBatch(err) || !jet.Pause(ctx, attempt) {
			return imaged{}, err
		}
	}
}

func (p *keyPart) note(err error) {
	w := writer{p: p.keys}
	w.note(err)
}

// imageOf looks at the key's place: newest is true when e, or what came after it, is
// there.
func (p *keyPart) imageOf(ctx context.Context, channel string, e *router.Entry) (have imaged, newest bool, err error) {
	last, at, err := p.image(ctx, channel, e.Mark.Key)
	if err != nil || last.Number == 0 {
		return imaged{}, false, err
	}
	return imaged{last.Seq, at.seq > e.Seq}, at.incarnation == p.feed.incarnation && at.seq >= e.Seq, nil
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
	return placed(e, e.Seq), at, err
}

func markedKey(e router.Entry) string {
	if e.Mark == nil {
		return ""
	}
	return e.Mark.Key
}

// putImages stores changes in the image, all or none, if what lies last at the place of
// the last one's key is expected, and returns the place of the last one.
//
// To compare one key is enough: changes that were stored together enter the image
// together, and later ones only after them. So either none of their keys has moved, or
// all have.
func (p *keyPart) putImages(ctx context.Context, channel string, changes []router.Entry, expected uint64) (uint64, error) {
	var msgs []*nats.Msg
	compared := anchor(changes)
	for i := range changes {
		e := &changes[i]
		// The last one is superseded only if NATS has lost those behind it.
		if e.Mark.Superseded && i < len(changes)-1 {
			continue
		}
		h := encodeHeader(e)
		h[headerImageID] = h[headerID]
		delete(h, headerID)
		h[headerFeed] = []string{feedPlace{p.feed.incarnation, e.Seq}.String()}
		if e == compared && !planted.Bug(planted.OldImageWins) {
			h[headerExpect] = []string{strconv.FormatUint(expected, 10)}
		}
		msgs = append(msgs, &nats.Msg{Subject: p.place(channel, e.Mark.Key), Header: h, Data: e.Data})
	}
	w := writer{p: p.keys}
	try, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	ack, err := w.sendAll(try, rand.Text(), msgs)
	return ack.Seq, err
}

// settled says that the entry of a channel with seq is in the image at place.
type settled struct{ seq, place uint64 }

// settle makes sure that e, the newest entry of channel, and what was stored together
// with it, is in the image.
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
	var have imaged
	err = p.keys.retrying(ctx, func(ctx context.Context) error {
		have, err = p.materialise(ctx, channel, e, nil, p.changesOf(channel, e, nil))
		return err
	})
	if err != nil {
		return 0, jet.Unavailable("state", err)
	}
	p.settled.Add(channel, settled{e.Seq, have.place})
	return have.place, nil
}

// imageTime is how long an append goes on trying to bring its entry into the image
// when its own deadline is near.
const imageTime = 2 * time.Second
