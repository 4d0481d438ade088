package router

import "time"

// ring holds the newest entries of a channel without a gap, as long as interest
// was held without a break. It answers recoveries without asking the store.
type ring struct {
	entries []ringEntry // numbers are contiguous, oldest first
	bytes   int64
	// complete is true when no entry older than the ring's first is stored.
	complete bool
}

type ringEntry struct {
	number uint64
	seq    uint64
	time   time.Time
	pub    *Publication // nil for a cleared marker
	size   int64
}

// ringOverhead is what an entry costs beside its payload, about: the structs,
// the client info, slice headers.
const ringOverhead = 256

func newRingEntry(e Entry, pub *Publication) ringEntry {
	return ringEntry{number: e.Number, seq: e.Seq, time: e.Time, pub: pub, size: int64(len(e.Data)+len(e.Meta)) + ringOverhead}
}

// push adds the next entry and returns the change in bytes. The ring keeps at
// most limit entries.
func (r *ring) push(e ringEntry, limit int) int64 {
	before := r.bytes
	r.entries = append(r.entries, e)
	r.bytes += e.size
	if over := len(r.entries) - limit; over > 0 {
		for i := range over {
			r.bytes -= r.entries[i].size
			r.entries[i] = ringEntry{} // release what it points to
		}
		r.entries = r.entries[over:]
		r.complete = true // older ones have left the log, too: it keeps limit per key
	}
	return r.bytes - before
}

// prepend puts older entries, ending right before the ring's first, in front.
func (r *ring) prepend(older []ringEntry) int64 {
	before := r.bytes
	for _, e := range older {
		r.bytes += e.size
	}
	r.entries = append(older, r.entries...)
	return r.bytes - before
}

func (r *ring) reset() (freed int64) {
	freed = r.bytes
	*r = ring{}
	return freed
}

// start returns the number of the first entry held, given the channel's newest
// number; with nothing held that is newest + 1.
func (r *ring) start(newest uint64) uint64 {
	if len(r.entries) == 0 {
		return newest + 1
	}
	return r.entries[0].number
}

// after returns the publications with numbers above number that are not older
// than oldest (if set). covered is false when entries in between are not held.
func (r *ring) after(number, newest uint64, oldest time.Time) (pubs []*Publication, covered bool) {
	if number >= newest {
		return nil, true
	}
	start := r.start(newest)
	if number+1 < start {
		return nil, false
	}
	for _, e := range r.entries[number+1-start:] {
		if !oldest.IsZero() && e.time.Before(oldest) {
			return nil, false
		}
		if e.pub != nil {
			pubs = append(pubs, e.pub)
		}
	}
	return pubs, true
}

// last returns the newest publication held that is not older than oldest.
func (r *ring) last(oldest time.Time) *Publication {
	for i := len(r.entries) - 1; i >= 0; i-- {
		e := &r.entries[i]
		if e.pub == nil || (!oldest.IsZero() && e.time.Before(oldest)) {
			return nil // cleared, or expired
		}
		return e.pub
	}
	return nil
}
