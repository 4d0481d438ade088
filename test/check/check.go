// Package check compares what publishers were told with what subscribers saw.
package check

import (
	"fmt"
	"strings"
	"sync"

	"github.com/headrace/headrace/test/rawclient"
)

// Checker records what publishers were told and what subscribers saw, and then
// compares all of it (DESIGN §8): every acknowledged publication reaches every
// subscriber exactly once, in channel order, or the subscriber is told.
type Checker struct {
	mu       sync.Mutex                     // guards the fields below
	acked    map[string]map[Position]string // channel → position → payload
	sent     map[string]map[string]bool     // channel → payload → sent at all
	holes    map[string]map[Position]bool   // positions of cleared markers
	target   map[string]Position            // where everyone must stand in the end
	problems []string
}

// Position is an offset in one life of a channel.
type Position struct {
	Epoch  string
	Offset uint64
}

func New() *Checker {
	return &Checker{
		acked:  make(map[string]map[Position]string),
		sent:   make(map[string]map[string]bool),
		holes:  make(map[string]map[Position]bool),
		target: make(map[string]Position),
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

func put[V any](m map[string]map[Position]V, channel string, at Position, v V) {
	if m[channel] == nil {
		m[channel] = make(map[Position]V)
	}
	m[channel][at] = v
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

// Ack notes that payload was acknowledged at a position.
func (k *Checker) Ack(channel, payload string, at Position) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if other, ok := k.acked[channel][at]; ok && other != payload {
		k.failLocked("%s: %v was acknowledged for %s and for %s", channel, at, other, payload)
	}
	put(k.acked, channel, at, payload)
}

// Cleared notes that a position is a marker of a removed history.
func (k *Checker) Cleared(channel string, at Position) {
	k.mu.Lock()
	defer k.mu.Unlock()
	put(k.holes, channel, at, true)
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
	seen    map[Position]string
	missing []missing
}

// missing is an offset that was skipped without notice.
type missing struct {
	at     Position
	before uint64
	how    string
}

func (k *Checker) Observer(name, channel string) *Observer {
	return &Observer{k: k, name: name, channel: channel, seen: make(map[Position]string)}
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
		if r.Epoch != "" {
			o.epoch = r.Epoch // the same, or the life that followed an empty channel
		}
		for i := range r.Publications {
			o.take(&r.Publications[i], "recovery")
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
	if p.Epoch != "" && p.Epoch != o.epoch {
		if !strings.Contains(o.epoch, "~") { // only an empty channel has no life yet
			o.k.Fail("%s %s: life %s after %s without notice", o.name, o.channel, p.Epoch, o.epoch)
		}
		o.epoch = p.Epoch
	}
	if p.Offset <= o.last {
		o.k.Fail("%s %s: %s %d after %d: doubled or out of order (%s)", o.name, o.channel, how, p.Offset, o.last, p.Data)
		return
	}
	for n := o.last + 1; n < p.Offset; n++ {
		// A marker of a removed history is no loss; whether it is one is known in
		// the end.
		o.missing = append(o.missing, missing{Position{o.epoch, n}, p.Offset, how})
	}
	o.last = p.Offset
	o.seen[Position{o.epoch, p.Offset}] = string(p.Data)
}

// Target sets where every subscriber of channel must stand in the end: what the
// stream's leader says is the newest. In an empty channel that is nowhere.
func (k *Checker) Target(channel string, at Position) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.holes[channel][at] {
		at.Offset-- // markers are not delivered
	}
	k.target[channel] = at
}

// CaughtUp reports whether o stands at its channel's target.
func (o *Observer) CaughtUp() bool {
	o.k.mu.Lock()
	target := o.k.target[o.channel]
	o.k.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.reached(target)
}

func (o *Observer) reached(target Position) bool {
	return target.Offset == 0 || o.epoch == target.Epoch && o.last >= target.Offset
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
		payloads := make(map[string]Position, len(byOffset))
		for offset, payload := range byOffset {
			if other, ok := payloads[payload]; ok {
				k.failLocked("%s: %s was acknowledged at %v and %v", channel, payload, other, offset)
			}
			payloads[payload] = offset
		}
		acked += len(byOffset)
	}
	return acked
}

func (o *Observer) verify() (seen, told int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	k := o.k
	k.mu.Lock()
	defer k.mu.Unlock()
	payloads := make(map[string]Position, len(o.seen))
	for offset, payload := range o.seen {
		want, ok := k.acked[o.channel][offset]
		switch {
		case ok && want != payload:
			k.failLocked("%s %s: %v is %s, acknowledged was %s", o.name, o.channel, offset, payload, want)
		case !ok && !k.sent[o.channel][payload]:
			k.failLocked("%s %s: %v is %s, which nobody sent", o.name, o.channel, offset, payload)
		}
		if other, twice := payloads[payload]; twice {
			k.failLocked("%s %s: %s delivered as %v and as %v", o.name, o.channel, payload, other, offset)
		}
		payloads[payload] = offset
	}
	for _, m := range o.missing {
		if !k.holes[o.channel][m.at] {
			k.failLocked("%s %s: %v is missing, silently, before %d (%s)", o.name, o.channel, m.at, m.before, m.how)
		}
	}
	if target := k.target[o.channel]; !o.reached(target) {
		k.failLocked("%s %s: stands at %v after silence, the channel at %v", o.name, o.channel, Position{o.epoch, o.last}, target)
	}
	return len(o.seen), o.told
}

// Channel returns the channel that o follows.
func (o *Observer) Channel() string { return o.channel }
