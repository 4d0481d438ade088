package persistence

import (
	"context"
	"time"

	"github.com/headrace/headrace/router"
)

// headAnywhere is what the planted bug trust-replica does (see package planted):
// it takes the head from whatever replica answers. Not reachable in other builds.
func (p *stream) headAnywhere(ctx context.Context, key string) (newest router.Entry, err error) {
	r, err := p.multiLast(ctx, []string{p.filter(key)}, 0)
	if err != nil {
		return newest, err
	}
	entries, err := decodeAll(r.msgs)
	for _, e := range entries {
		if e.Seq > newest.Seq {
			newest = e
		}
	}
	return newest, err
}

// positionNow is what the planted bug position-late does to a page that was read, a
// moment ago.
func (p *keyPart) positionNow(ctx context.Context, channel string, page *router.StatePage) {
	time.Sleep(30 * time.Millisecond) // others have their turn
	if h, err := p.feedHead(ctx, channel); err == nil {
		page.Position = p.position(&h)
	}
}
