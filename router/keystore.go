package router

import (
	"context"
	"strings"
	"time"
)

// KeyMark is what an entry of a map's feed says beside payload and meta.
type KeyMark struct {
	Key        string
	Version    uint64
	Life       string // of the key
	Removed    bool
	At         int64 // when the change was made, Unix milliseconds of the writing node
	Expires    int64 // Unix milliseconds; 0 is never
	ClientTime int64 // Unix milliseconds; 0 is unknown
	// Keys is how many keys the channel has after the change.
	Keys int
	// Prev are the places of older versions in the key store, newest first. The
	// first one is what lay there before, of whatever life, or 0 for nothing. For one
	// of changes that were stored together it is what lay there before all of them.
	Prev []uint64
	// Group is the number of this one among changes that were stored together, from
	// 1; 0 for one that was stored alone. More is how many of them follow. They enter
	// the key store together too.
	Group, More int
	// Back are older versions that were stored together with this one, newest first:
	// so many places before its own. They are newer than those of Prev.
	Back []uint64
	// Superseded changes do not enter the key store: as many versions as it keeps
	// were stored together with this one and are newer.
	Superseded bool
}

// Older returns the places of the older versions of the key's life that are still
// known: the first one is that of Version - 1.
func (m *KeyMark) Older() []uint64 {
	return m.Prev[:min(uint64(len(m.Prev)), m.Version-1)]
}

// State returns the version that e stores; zero when it is none of a map's.
func (e *Entry) State() StateEntry {
	m := e.Mark
	if m == nil {
		return StateEntry{}
	}
	s := StateEntry{
		Key: m.Key, Version: m.Version, Life: m.Life, Data: e.Data, Removed: m.Removed,
		Time: time.UnixMilli(m.At), ClientTime: m.ClientTime, Offset: e.Number,
	}
	if m.Expires != 0 {
		s.Expires = time.UnixMilli(m.Expires)
	}
	// As in newPublication: who made it is not known if somebody else wrote there.
	if meta, err := DecodeMeta(e.Meta); err == nil {
		s.Info, s.Tags = meta.Info, meta.Tags
	}
	return s
}

// EncodeToken maps any string to one NATS subject token, and different strings to
// different tokens: EncodeKey with the dots escaped too.
func EncodeToken(s string) string { return strings.ReplaceAll(EncodeKey(s), ".", "%2E") }

// DecodeToken is the inverse of EncodeToken. It refuses what that does not produce.
func DecodeToken(token string) (string, error) {
	if strings.Contains(token, ".") {
		return "", Errorf(CodeInvalid, "%q is not an encoded key", token)
	}
	return DecodeKey(strings.ReplaceAll(token, "%2E", "."))
}

// Decide judges a change against what is current of its key: the zero StateEntry
// when there is nothing, Removed or expired when there is no value any more. It may
// be called several times, and must not block. An error ends the change.
type Decide func(current StateEntry) (Decision, error)

// Decision is what becomes of a change.
type Decision struct {
	Refuse Reason // not empty: nothing is stored
	Data   []byte
	Remove bool
}

// KeyUpdate is a change as the key store takes it.
type KeyUpdate struct {
	Key        string
	ID         string // deduplication id, as in NewEntry
	Meta       []byte
	ClientTime int64
	Expires    time.Time // zero is never; not used by removals
	Bytes      int       // about how large the value is, while it waits
	Decide     Decide
}

// KeyStore stores the state of maps; persistence implements it. Channels are
// encoded (EncodeKey), keys are not. Errors are as for Log.
type KeyStore interface {
	// Change stores what u.Decide says, under the next version of the key and the
	// next number of the channel's log, or nothing. done is called exactly once,
	// from a goroutine of the store's, and must not block. Changes of a channel
	// take effect in the order of the calls.
	Change(channel string, u KeyUpdate, done func(Changed, error))

	// Get returns the newest version of key as the leaders know it, removed and
	// expired ones included, and a position it reflects.
	Get(ctx context.Context, channel, key string) (StateEntry, Position, error)

	// Version returns a version of the key's current life, and CodeUnrecoverable when
	// it is gone or never was.
	Version(ctx context.Context, channel, key string, version uint64) (StateEntry, error)

	// History returns up to limit versions of the key's current life, the newest
	// first; limit 0 is all. Fewer than were stored means that the rest is gone.
	History(ctx context.Context, channel, key string, limit int) ([]StateEntry, error)

	// Page returns part of the state, see StatePage.
	Page(ctx context.Context, channel, cursor string, limit int) (StatePage, error)

	// Clear removes all keys and begins a new life of the channel.
	Clear(ctx context.Context, channel string) error

	Stats(ctx context.Context, channel string) (StateStats, error)
}
