package persistence

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// buckets is the number of parts that the hash of keys divides a channel into.
const buckets = 256

// cursor is where a page ends: keys are in order of bucket and name.
type cursor struct {
	bucket int
	life   string // of the channel; "" at the start
	after  string // the last key told of bucket; "" is none
}

func (c cursor) encode() string {
	return base64.RawURLEncoding.EncodeToString(append([]byte{byte(c.bucket)}, c.life+" "+c.after...))
}

var errCursor = router.Errorf(router.CodeInvalid, "malformed cursor")

func decodeCursor(s string) (c cursor, err error) {
	if s == "" {
		return cursor{}, nil
	}
	if len(s) > 2*router.MaxKeyLength {
		return c, errCursor
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) == 0 {
		return c, errCursor
	}
	life, after, ok := strings.Cut(string(b[1:]), " ")
	if !ok || life == "" || len(after) > router.MaxKeyLength {
		return c, errCursor
	}
	return cursor{int(b[0]), life, after}, nil
}

// width returns how many buckets, a power of 4, to ask for at once in order to get
// about limit of keys keys.
func width(keys, limit int) int {
	w := buckets
	for w > 1 && keys*w > min(limit, maxMulti*3/4)*buckets {
		w /= 4
	}
	return w
}

// subjects names the group of width buckets that c.bucket is in, and returns the
// bucket behind them.
func (c cursor) subjects(heads string, width int) (subjects []string, end int) {
	start := c.bucket / width * width
	end = start + width
	switch {
	case width == buckets:
		return []string{heads + ">"}, end
	case width >= 16:
		for b := start / 16; b < end/16; b++ {
			subjects = append(subjects, heads+hexDigits[b:b+1]+".>")
		}
	default:
		for b := start; b < end; b++ {
			subjects = append(subjects, heads+hexDigits[b>>4:b>>4+1]+"."+hexDigits[b&15:b&15+1]+".*")
		}
	}
	return subjects, end
}

// Page implements router.KeyStore. The newest entry of the feed is brought into the
// image first, and a replica's answer counts once it has that.
func (ks *keyStore) Page(ctx context.Context, channel, at string, limit int) (page router.StatePage, err error) {
	c, err := decodeCursor(at)
	if err != nil {
		return router.StatePage{}, err
	}
	p := ks.of(channel)
	h, err := p.feedHead(ctx, channel)
	if err != nil {
		return router.StatePage{}, err
	}
	page.Position = p.position(&h)
	if c.life != "" && c.life != h.Life {
		return page, router.Errorf(router.CodeUnrecoverable, "the state was cleared while it was read")
	}
	if h.Mark == nil {
		return page, nil
	}
	reached, err := p.settle(ctx, channel, &h)
	if err != nil {
		return page, err
	}
	if planted.Bug(planted.PositionLate) {
		defer func() { p.positionNow(ctx, channel, &page) }()
	}
	now := time.Now()
	for c.bucket < buckets {
		entries, end, err := p.readBuckets(ctx, channel, c, width(h.Mark.Keys, limit-len(page.Entries)+1), reached)
		if err != nil {
			return page, err
		}
		for i := range entries {
			e := &entries[i]
			if b := int(bucketOf(e.Mark.Key)); b < c.bucket || b == c.bucket && e.Mark.Key <= c.after {
				continue
			}
			if e.Life != h.Life || e.Mark.Removed {
				continue
			}
			p.saw(channel, e, watchGrace)
			s := e.State()
			if s.ExpiredAt(now) {
				continue
			}
			if len(page.Entries) == limit {
				last := page.Entries[limit-1].Key
				page.Next = cursor{int(bucketOf(last)), h.Life, last}.encode()
				return page, nil
			}
			page.Entries = append(page.Entries, s)
		}
		c = cursor{bucket: end}
	}
	return page, nil
}

// maxMulti is how many messages one multi_last answers.
const maxMulti = 1024

// readBuckets reads the newest entry of every key in the group of width buckets that
// c.bucket is in, or in a narrower one that one request answers, in order of bucket
// and key. end is the bucket behind the group.
func (p *keyPart) readBuckets(ctx context.Context, channel string, c cursor, width int, reached uint64) (entries []router.Entry, end int, err error) {
	heads := p.heads(channel)
	for {
		subjects, end := c.subjects(heads, width)
		err = p.keys.retrying(ctx, func(ctx context.Context) error {
			r, err := p.keys.multiLast(ctx, subjects, 0)
			if err != nil {
				return err
			}
			if r.upTo == 0 { // nothing there, or not yet: the leader knows
				return p.confirmNone(ctx, subjects)
			}
			if r.upTo < reached {
				return errReplicaLags
			}
			entries, err = decodeAll(r.msgs)
			return err
		})
		if errors.Is(err, errTooMany) && width > 1 {
			width /= 4
			continue
		}
		if err != nil {
			return nil, end, jet.Unavailable("state", err)
		}
		entries = slices.DeleteFunc(entries, func(e router.Entry) bool { return e.Mark == nil })
		slices.SortFunc(entries, func(a, b router.Entry) int {
			return cmp.Or(cmp.Compare(bucketOf(a.Mark.Key), bucketOf(b.Mark.Key)), cmp.Compare(a.Mark.Key, b.Mark.Key))
		})
		return entries, end, nil
	}
}

// confirmNone asks the leader whether there is really nothing at subjects.
func (p *keyPart) confirmNone(ctx context.Context, subjects []string) error {
	for _, s := range subjects {
		e, _, err := p.keys.get(ctx, getRequest{Last: s})
		if err != nil {
			return err
		}
		if e.Number > 0 {
			return errReplicaLags
		}
	}
	return nil
}
