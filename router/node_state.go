package router

import (
	"context"
	"time"
	"unicode/utf8"

	"github.com/headrace/headrace/internal/planted"
)

// resolveMap resolves a channel that is a map.
func (n *Node) resolveMap(channel string) (Channel, *Namespace, KeyStore, error) {
	ch, ns, err := n.resolve(channel)
	if err != nil {
		return Channel{}, nil, nil, err
	}
	if ns.Map == nil {
		return Channel{}, nil, nil, Errorf(CodeNotAvailable, "the channels of namespace %q are no maps", ns.Name)
	}
	keys, ok := n.cfg.Store.Keys(ns.Name)
	if !ok {
		return Channel{}, nil, nil, Errorf(CodeInternal, "no key store for namespace %q", ns.Name)
	}
	return ch, ns, keys, nil
}

// CheckKey returns an *Error unless key can be a key of a map.
func CheckKey(key string) error {
	switch {
	case key == "":
		return Errorf(CodeInvalid, "key is empty")
	case len(key) > MaxKeyLength:
		return Errorf(CodeLimit, "key has %d bytes, more than %d", len(key), MaxKeyLength)
	case !utf8.ValidString(key):
		return Errorf(CodeInvalid, "key is not valid UTF-8")
	}
	return nil
}

// maxClockLead is how far a client's clock may be ahead of this node's: a change
// dated later would win over all others for as long, so it counts as made now.
const maxClockLead = time.Minute

// checkChange returns c with what it leaves open filled in.
func (ns *Namespace) checkChange(c Change) (Change, error) {
	if err := CheckKey(c.Key); err != nil {
		return c, err
	}
	if c.Strategy == "" {
		c.Strategy = ns.Map.Conflict
	}
	if err := c.Strategy.check(); err != nil {
		return c, err
	}
	switch {
	case c.Strategy == StrategyCustom && ns.Map.ConflictMethod == "":
		return c, Errorf(CodeNotAvailable, "strategy custom needs map.conflict_method in namespace %q", ns.Name)
	case c.Strategy == StrategyMerge && ns.Payload != PayloadJSON:
		return c, Errorf(CodeNotAvailable, "strategy merge needs payload json in namespace %q", ns.Name)
	case c.TTL > 0 && c.TTL < MinKeyTTL:
		return c, Errorf(CodeInvalid, "ttl %v is below %v", c.TTL, MinKeyTTL)
	case c.TTL == 0:
		c.TTL = ns.Map.KeyTTL
	}
	if now := time.Now(); c.Time > now.Add(maxClockLead).UnixMilli() {
		c.Time = now.UnixMilli()
	}
	if c.Remove {
		c.Data = nil
		return c, nil
	}
	var err error
	c.Data, err = ns.checkValue(c.Data)
	return c, err
}

// checkValue returns data as it is stored.
func (ns *Namespace) checkValue(data []byte) ([]byte, error) {
	if len(data) > ns.Map.MaxValueBytes {
		return nil, Errorf(CodeLimit, "value has %d bytes, more than %d", len(data), ns.Map.MaxValueBytes)
	}
	return checkPayload(ns.Payload, data)
}

// update is c as the key store takes it.
func (c *Change) update(channel string, decide Decide) KeyUpdate {
	u := KeyUpdate{
		Key: c.Key, Meta: Meta{Info: c.Info, Tags: c.Tags}.Encode(), ClientTime: c.Time,
		ID: dedupID(c.User, channel+"\x00"+c.Key, c.IdempotencyKey), Bytes: len(c.Data), Decide: decide,
	}
	if c.TTL > 0 {
		u.Expires = time.Now().Add(c.TTL)
	}
	return u
}

// ChangeState changes a key: one change at a time in a channel, over all nodes. A
// change that its strategy refuses is no error. Errors are *Error: CodeInvalid,
// CodeLimit (key, value or channel too large), CodeNotAvailable (no map),
// CodeUnavailable: it may have been stored; repeat it with the same IdempotencyKey,
// or read.
func (n *Node) ChangeState(ctx context.Context, channel string, c Change) (Changed, error) {
	wait, err := n.startChange(ctx, channel, c)
	if err != nil {
		return Changed{}, err
	}
	return wait()
}

// startChange hands c to the store and returns what waits for the answer.
func (n *Node) startChange(ctx context.Context, channel string, c Change) (wait func() (Changed, error), err error) {
	ch, ns, keys, err := n.resolveMap(channel)
	if err != nil {
		return nil, err
	}
	if c, err = ns.checkChange(c); err != nil {
		return nil, err
	}
	if c.Strategy == StrategyCustom {
		res, err := n.changeCustom(ctx, ch, ns, keys, c)
		return func() (Changed, error) { return res, err }, nil
	}
	return n.submit(ctx, ch, ns, keys, c), nil
}

func (n *Node) changeNow(ctx context.Context, ch Channel, ns *Namespace, keys KeyStore, c Change) (Changed, error) {
	return n.submit(ctx, ch, ns, keys, c)()
}

func (n *Node) submit(ctx context.Context, ch Channel, ns *Namespace, keys KeyStore, c Change) (wait func() (Changed, error)) {
	type result struct {
		Changed
		err error
	}
	answer := make(chan result, 1)
	keys.Change(ch.Key(), c.update(ch.Key(), ns.decide(&c)), func(res Changed, err error) { answer <- result{res, err} })
	return func() (Changed, error) {
		select {
		case r := <-answer:
			if r.err == nil {
				n.sawState(ch.String(), r.Entry, r.Position)
			}
			return r.Changed, r.err
		case <-ctx.Done():
			return Changed{}, Unavailable("state", context.Cause(ctx))
		}
	}
}

// SyncState makes up to MaxSync changes and answers each on its own. Changes of one
// key take effect in order; a failed one does not keep those behind it from it.
func (n *Node) SyncState(ctx context.Context, channel string, changes []Change) ([]ChangeResult, error) {
	if len(changes) > MaxSync {
		return nil, Errorf(CodeLimit, "%d changes at once, more than %d", len(changes), MaxSync)
	}
	if _, _, _, err := n.resolveMap(channel); err != nil {
		return nil, err
	}
	waits := make([]func() (Changed, error), len(changes))
	for i, c := range changes {
		wait, err := n.startChange(ctx, channel, c)
		if err != nil {
			wait = func() (Changed, error) { return Changed{}, err }
		}
		waits[i] = wait
	}
	results := make([]ChangeResult, len(changes))
	for i, wait := range waits {
		results[i].Changed, results[i].Err = wait()
	}
	return results, nil
}

// GetState returns a version of a key. Nothing there is the zero StateEntry when
// the latest is asked for (or one with Removed set, or one that expired), and
// CodeUnrecoverable when a version is asked for that is gone or never was.
func (n *Node) GetState(ctx context.Context, channel, key string, opt GetOptions) (StateEntry, error) {
	ch, _, keys, err := n.resolveMap(channel)
	if err == nil {
		err = CheckKey(key)
	}
	if err != nil {
		return StateEntry{}, err
	}
	if opt.Version > 0 {
		return keys.Version(ctx, ch.Key(), key, opt.Version)
	}
	if !opt.Fresh {
		if e, ok := n.cachedState(ctx, channel, key); ok && (atLeast(&e, opt.Seen) || planted.Bug(planted.CachedBelowSeen)) {
			return e, nil
		}
	}
	e, pos, err := keys.Get(ctx, ch.Key(), key)
	if err != nil {
		return StateEntry{}, err
	}
	if below(&e, opt.Seen) {
		return StateEntry{}, Unavailable("state", Errorf(CodeConflict, "the store is behind what the reader saw"))
	}
	e.Key = key
	n.sawState(channel, e, pos)
	return e, nil
}

// below reports whether e, read from the store, is older than what a reader saw, as
// far as that can be told (rule S3). A version of another life is not: the key was
// forgotten or cleared since.
func below(e *StateEntry, seen *Expect) bool {
	return seen != nil && (e.Life == seen.Life || seen.Life == "") && e.Version < seen.Version
}

// atLeast reports whether e, remembered, is surely not older than what a reader saw.
// Of two lives the one remembered may be the older one: only the store can tell.
func atLeast(e *StateEntry, seen *Expect) bool {
	return seen == nil || seen.Version == 0 || (e.Life == seen.Life || seen.Life == "") && e.Version >= seen.Version
}

// KeyHistory returns up to limit stored versions of a key's current life, newest
// first; limit 0 is all.
func (n *Node) KeyHistory(ctx context.Context, channel, key string, limit int) ([]StateEntry, error) {
	ch, _, keys, err := n.resolveMap(channel)
	if err == nil {
		err = CheckKey(key)
	}
	if err != nil {
		return nil, err
	}
	if limit < 0 {
		return nil, Errorf(CodeInvalid, "limit %d is negative", limit)
	}
	return keys.History(ctx, ch.Key(), key, limit)
}

// StatePage returns part of a channel's state: up to limit entries (at most
// MaxStatePage; 0 is that) behind cursor, "" being the start.
func (n *Node) StatePage(ctx context.Context, channel, cursor string, limit int) (StatePage, error) {
	ch, _, keys, err := n.resolveMap(channel)
	if err != nil {
		return StatePage{}, err
	}
	if limit < 0 {
		return StatePage{}, Errorf(CodeInvalid, "limit %d is negative", limit)
	}
	if limit == 0 || limit > MaxStatePage {
		limit = MaxStatePage
	}
	return keys.Page(ctx, ch.Key(), cursor, limit)
}

// ClearState removes all keys of a channel. Subscribers are ended with
// UnsubscribedStateInvalidated and read an empty state; versions start anew.
func (n *Node) ClearState(ctx context.Context, channel string) error {
	ch, _, keys, err := n.resolveMap(channel)
	if err != nil {
		return err
	}
	return keys.Clear(ctx, ch.Key())
}

// StateStats counts keys.
func (n *Node) StateStats(ctx context.Context, channel string) (StateStats, error) {
	ch, _, keys, err := n.resolveMap(channel)
	if err != nil {
		return StateStats{}, err
	}
	return keys.Stats(ctx, ch.Key())
}
