// Package check compares what publishers were told with what subscribers saw.
package check

import (
	"fmt"
	"sync"

	"github.com/headrace/headrace/test/rawclient"
)

// Checker records what publishers were told and what subscribers saw, and then
// compares all of it (DESIGN §8): every acknowledged publication reaches every
// subscriber exactly once, in channel order, or the subscriber is told.
type Checker struct {
	mu       sync.Mutex                   // guards the fields below
	acked    map[string]map[uint64]string // channel → offset → payload
	sent     map[string]map[string]bool   // channel → payload → sent at all
	holes    map[string]map[uint64]bool   // offsets of cleared markers
	problems []string
}

func New() *Checker {
	return &Checker{
		acked: make(map[string]map[uint64]string),
		sent:  make(map[string]map[string]bool),
		holes: make(map[string]map[uint64]bool),
	}
}

func (k *Checker) Fail(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failLocked(format, args...)
}

func (k *Checker) failLocked(format string, args ...any) {
	if len(k.problems) < 50 {
		k.problems = append(k.problems, fmt.Sprintf(format, args...))
	}
}

func put[V any](m map[string]map[uint64]V, channel string, offset uint64, v V) {
	if m[channel] == nil {
		m[channel] = make(map[uint64]V)
	}
	m[channel][offset] = v
}

// Sending notes that payload is about to be published.
func (k *Checker) Sending(channel, payload string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sent[channel] == nil {
		k.sent[channel] = make(map[string]bool)
	}
	k.sent[channel][payload] = true
}

// Ack notes that payload was acknowledged under offset.
func (k *Checker) Ack(channel, payload string, offset uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if other, ok := k.acked[channel][offset]; ok && other != payload {
		k.failLocked("%s: offset %d was acknowledged for %s and for %s", channel, offset, other, payload)
	}
	put(k.acked, channel, offset, payload)
}

// Cleared notes that offset is a marker of a removed history.
func (k *Checker) Cleared(channel string, offset uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	put(k.holes, channel, offset, true)
}

// Observer is one subscriber's memory of one channel across its reconnects.
type Observer struct {
	k       *Checker
	name    string
	channel string

	mu      sync.Mutex // guards the fields below
	known   bool       // a position is held
	last    uint64     // offset of the last entry seen or skipped with notice
	epoch   string
	told    int // times it was told that it cannot have everything
	seen    map[uint64]string
	missing []missing
}

// missing is an offset that was skipped without notice.
type missing struct {
	offset, before uint64
	how            string
}

func (k *Checker) Observer(name, channel string) *Observer {
	return &Observer{k: k, name: name, channel: channel, seen: make(map[uint64]string)}
}

// Position returns where to recover from, if anywhere.
func (o *Observer) Position() (offset uint64, epoch string, known bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last, o.epoch, o.known
}

// Subscribed takes a subscribe reply.
func (o *Observer) Subscribed(asked bool, r *rawclient.SubscribeReply) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if asked && r.Recovered {
		for i := range r.Publications {
			o.take(&r.Publications[i], "recovery")
		}
		if r.Epoch != "" {
			o.epoch = r.Epoch
		}
		return
	}
	if asked {
		o.told++
	}
	o.known, o.last, o.epoch = true, r.Offset, r.Epoch
}

// Published takes a push.
func (o *Observer) Published(p *rawclient.Publication) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.known {
		o.k.Fail("%s %s: publication %d before the subscribe reply", o.name, o.channel, p.Offset)
		return
	}
	o.take(p, "live")
}

// Invalidated takes an unsubscribe push of the server's: it says that the
// position is worth nothing.
func (o *Observer) Invalidated() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told++
}

func (o *Observer) take(p *rawclient.Publication, how string) {
	if p.Offset <= o.last {
		o.k.Fail("%s %s: %s %d after %d: doubled or out of order (%s)", o.name, o.channel, how, p.Offset, o.last, p.Data)
		return
	}
	for n := o.last + 1; n < p.Offset; n++ {
		// A marker of a removed history is no loss; whether it is one is known in
		// the end.
		o.missing = append(o.missing, missing{n, p.Offset, how})
	}
	o.last = p.Offset
	o.seen[p.Offset] = string(p.Data)
	if p.Epoch != "" {
		o.epoch = p.Epoch
	}
}

// newest returns the highest acknowledged offset of channel that is still due:
// above all markers it is the tail that only silence reveals.
func (k *Checker) newest(channel string) (newest uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for offset := range k.acked[channel] {
		newest = max(newest, offset)
	}
	return newest
}

// CaughtUp reports whether o has seen all that was acknowledged.
func (o *Observer) CaughtUp() bool {
	newest := o.k.newest(o.channel)
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last >= newest
}

// Result is what Verify found and counted.
type Result struct {
	Acked, Seen, Told int
	Problems          []string
}

// Verify compares everything, after silence.
func (k *Checker) Verify(observers []*Observer) (r Result) {
	r.Acked = k.verifyAcks()
	for _, o := range observers {
		seen, told := o.verify()
		r.Seen += seen
		r.Told += told
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	r.Problems = k.problems
	return r
}

func (k *Checker) verifyAcks() (acked int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for channel, byOffset := range k.acked {
		payloads := make(map[string]uint64, len(byOffset))
		for offset, payload := range byOffset {
			if other, ok := payloads[payload]; ok {
				k.failLocked("%s: %s was acknowledged under %d and %d", channel, payload, other, offset)
			}
			payloads[payload] = offset
		}
		acked += len(byOffset)
	}
	return acked
}

func (o *Observer) verify() (seen, told int) {
	newest := o.k.newest(o.channel)
	o.mu.Lock()
	defer o.mu.Unlock()
	k := o.k
	k.mu.Lock()
	defer k.mu.Unlock()
	payloads := make(map[string]uint64, len(o.seen))
	for offset, payload := range o.seen {
		want, ok := k.acked[o.channel][offset]
		switch {
		case ok && want != payload:
			k.failLocked("%s %s: %d is %s, acknowledged was %s", o.name, o.channel, offset, payload, want)
		case !ok && !k.sent[o.channel][payload]:
			k.failLocked("%s %s: %d is %s, which nobody sent", o.name, o.channel, offset, payload)
		}
		if other, twice := payloads[payload]; twice {
			k.failLocked("%s %s: %s delivered as %d and as %d", o.name, o.channel, payload, other, offset)
		}
		payloads[payload] = offset
	}
	for _, m := range o.missing {
		if !k.holes[o.channel][m.offset] {
			k.failLocked("%s %s: %d is missing, silently, before %d (%s)", o.name, o.channel, m.offset, m.before, m.how)
		}
	}
	if o.last < newest {
		k.failLocked("%s %s: stands at %d after silence, acknowledged was %d", o.name, o.channel, o.last, newest)
	}
	return len(o.seen), o.told
}

// Channel returns the channel that o follows.
func (o *Observer) Channel() string { return o.channel }
