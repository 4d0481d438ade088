package persistence

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/router"
)

// Edges that write to the same channel follow its live copies for a while: who has to
// ask the leader what the other one stored is always later than the other's next
// change, and would starve.
const (
	tailTime    = 10 * time.Second // without a conflict
	tailEntries = 2 * maxGroup     // of a channel, the newest ones
	maxTails    = 1024             // channels of a partition
)

// tail has the newest entries of a channel as they arrived, in order and without gaps.
type tail struct {
	p       *keyPart
	channel string
	sub     *nats.Subscription
	until   time.Time // guarded by tails.mu

	mu      sync.Mutex // guards entries
	entries []router.Entry
}

type tails struct {
	nc *nats.Conn
	mu sync.Mutex // guards byChannel
	// byChannel is nil once the store has stopped.
	byChannel map[string]*tail
}

// contended notes that somebody else writes to channel.
func (p *keyPart) contended(channel string) {
	ts := &p.tails
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t := ts.byChannel[channel]
	if t == nil {
		if ts.byChannel == nil || len(ts.byChannel) >= maxTails {
			return
		}
		t = &tail{p: p, channel: channel}
		var err error
		if t.sub, err = ts.nc.Subscribe(p.feed.live+channel+".*", t.receive); err != nil {
			return // slower, not wrong
		}
		ts.byChannel[channel] = t
	}
	t.until = time.Now().Add(tailTime)
}

// prune ends the tails that nobody needs; all of them when the store has stopped.
func (ts *tails) prune(all bool) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	now := time.Now()
	for channel, t := range ts.byChannel {
		if all || now.After(t.until) {
			t.sub.Unsubscribe() //nolint:errcheck // fails only when the connection is closed
			delete(ts.byChannel, channel)
		}
	}
	if all {
		ts.byChannel = nil
	}
}

func (t *tail) receive(m *nats.Msg) {
	e, err := decodeCopy(m)
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.entries); n > 0 {
		if last := &t.entries[n-1]; e.Life != last.Life || e.Number != last.Number+1 {
			t.entries = nil
		} else if n >= tailEntries {
			t.entries = append(t.entries[:0:0], t.entries[n/2:]...)
		}
	}
	t.entries = append(t.entries, e)
}

// after returns the entries of channel behind number, up to the one with seq, when
// they passed here; nil when not.
func (p *keyPart) after(channel string, from head, seq uint64) []router.Entry {
	p.tails.mu.Lock()
	t := p.tails.byChannel[channel]
	p.tails.mu.Unlock()
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.entries)
	for n > 0 && t.entries[n-1].Seq > seq {
		n--
	}
	if n == 0 || t.entries[n-1].Seq != seq {
		return nil
	}
	start := n - 1
	for start > 0 && t.entries[start].Number > from.number+1 {
		start--
	}
	return append([]router.Entry(nil), t.entries[start:n]...)
}

// newestSeen returns the newest entry that passed here.
func (p *keyPart) newestSeen(channel string) (head, bool) {
	p.tails.mu.Lock()
	t := p.tails.byChannel[channel]
	p.tails.mu.Unlock()
	if t == nil {
		return head{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.entries) == 0 {
		return head{}, false
	}
	return newestWith(&t.entries[len(t.entries)-1]), true
}
