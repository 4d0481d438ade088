package router

import "github.com/headrace/headrace/internal/planted"

// Bounds of one batch, so that a busy channel does not build frames that a client
// would refuse.
const (
	maxBatchPushes = 128
	maxBatchBytes  = 64 << 10
)

// flush delivers what the channel gathered during the pass, in as few batches as
// the bounds allow.
func (c *liveChannel) flush() {
	c.dirty = false
	if c.members != nil {
		c.members.send()
		c.members.leaving = false
	}
	out := c.out
	c.out = nil
	for len(out) > 0 {
		n, bytes := 0, 0
		for n < len(out) && n < maxBatchPushes && (n == 0 || bytes < maxBatchBytes) {
			if p := out[n].Pub; p != nil {
				bytes += len(p.Data)
			}
			n++
		}
		c.deliver(out[:n:n])
		out = out[n:]
	}
}

// deliver hands pushes to every subscriber. Subscribers whose floor lies inside
// (they joined during the pass) get the part above it (rule L2), those who did
// not ask for joins and leaves get the publications only; both are rare or the
// same for many, so each variant is built once.
func (c *liveChannel) deliver(pushes []Push) {
	var first uint64 // offset of the first publication
	joins := false
	for _, p := range pushes {
		if p.Pub == nil {
			joins = true
		} else if first == 0 {
			first = p.Pub.Offset
		}
	}
	full := &Batch{Channel: c.name, Pushes: pushes}
	variants := variantCache{}
	delivered := 0
	for _, s := range c.subs {
		b := full
		if (joins && !s.joinLeave) || (first != 0 && s.floor >= first && !planted.Bug(planted.NoFloor)) {
			floor := s.floor
			if floor < first {
				floor = 0 // nothing to cut: all such subscribers share one variant
			}
			b = variants.get(full, floor, s.joinLeave)
		}
		if b != nil {
			s.Subscriber.Deliver(s, b)
			delivered += len(b.Pushes)
		}
	}
	c.sh.n.cfg.Metrics.deliveries.Add(float64(delivered))
}

type variantKey struct {
	floor     uint64
	joinLeave bool
}

// variantCache holds the parts of a batch that differ from the whole.
type variantCache map[variantKey]*Batch

// get returns the pushes of full above floor, without joins and leaves unless
// wanted, or nil when nothing is left.
func (v variantCache) get(full *Batch, floor uint64, joinLeave bool) *Batch {
	key := variantKey{floor, joinLeave}
	if b, ok := v[key]; ok {
		return b
	}
	var b *Batch
	for _, p := range full.Pushes {
		if p.Pub == nil && !joinLeave || p.Pub != nil && p.Pub.Offset != 0 && p.Pub.Offset <= floor {
			continue
		}
		if b == nil {
			b = &Batch{Channel: full.Channel}
		}
		b.Pushes = append(b.Pushes, p)
	}
	v[key] = b
	return b
}
