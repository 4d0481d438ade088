package persistence

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// buckets is the number of parts that the hash of keys divides a channel into.
const buckets = 256

// cursor is where a page ends: keys are in order of bucket and name. width is how
// many buckets the next request should ask for.
type cursor struct {
	bucket int
	after  string // the last key told of bucket; "" is none
	width  int
}

// The widths of a request: the whole channel, or 64, 16, 4 or 1 buckets.
var widths = []int{buckets, 64, 16, 4, 1}

func (c cursor) encode() string {
	b := binary.AppendUvarint(nil, uint64(c.bucket))
	b = binary.AppendUvarint(b, uint64(c.width))
	return base64.RawURLEncoding.EncodeToString(append(b, c.after...))
}

var errCursor = router.Errorf(router.CodeInvalid, "malformed cursor")

func decodeCursor(s string) (c cursor, err error) {
	if s == "" {
		return cursor{width: buckets}, nil
	}
	if len(s) > 2*router.MaxKeyLength {
		return c, errCursor
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return c, errCursor
	}
	for _, dst := range []*int{&c.bucket, &c.width} {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > buckets {
			return c, errCursor
		}
		*dst, b = int(n), b[size:]
	}
	c.after = string(b)
	if c.bucket >= buckets || !slices.Contains(widths, c.width) || len(c.after) > router.MaxKeyLength {
		return cursor{}, errCursor
	}
	return c, nil
}

// subjects names buckets from c.bucket on, as many as c.width from where such a group
// begins, and returns the bucket behind them.
func (c cursor) subjects(heads string) (subjects []string, end int) {
	start := c.bucket / c.width * c.width
	end = start + c.width
	switch {
	case c.width == buckets:
		return []string{heads + ">"}, end
	case c.width >= 16:
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
func (ks *keyStore) Page(ctx context.Context, channel, at string, limit int) (router.StatePage, error) {
	c, err := decodeCursor(at)
	if err != nil {
		return router.StatePage{}, err
	}
	p := ks.of(channel)
	h, err := p.feedHead(ctx, channel)
	if err != nil {
		return router.StatePage{}, err
	}
	page := router.StatePage{Position: p.position(&h)}
	if h.Mark == nil {
		return page, nil
	}
	reached, err := p.settle(ctx, channel, &h)
	if err != nil {
		return page, err
	}
	now := time.Now()
	for c.bucket < buckets {
		entries, end, err := p.readBuckets(ctx, channel, &c, reached)
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
				page.Next = cursor{bucket: int(bucketOf(last)), after: last, width: c.width}.encode()
				return page, nil
			}
			page.Entries = append(page.Entries, s)
		}
		c.bucket, c.after = end, ""
		if len(entries) < maxMulti/8 { // sparse: ask for more at a time
			c.width = min(4*c.width, buckets)
		}
	}
	return page, nil
}

// maxMulti is how many messages one multi_last answers.
const maxMulti = 1024

// readBuckets reads the newest entry of every key in buckets from c.bucket on, in
// order of bucket and key, narrowing c.width until one request answers.
func (p *keyPart) readBuckets(ctx context.Context, channel string, c *cursor, reached uint64) (entries []router.Entry, end int, err error) {
	heads := p.heads(channel)
	for {
		subjects, end := c.subjects(heads)
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
		if errors.Is(err, errTooMany) && c.width > 1 {
			c.width = widths[slices.Index(widths, c.width)+1]
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
