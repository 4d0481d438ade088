package router

import (
	"context"
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
	// Prev are the places of the key's older versions in the key store, newest
	// first. The first one is what lay there before, of whatever life, or 0.
	Prev []uint64
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

	// History returns up to limit versions of the key's current life, the newest
	// first; limit 0 is all. Fewer than were stored means that the rest is gone.
	History(ctx context.Context, channel, key string, limit int) ([]StateEntry, error)

	// Page returns part of the state, see StatePage.
	Page(ctx context.Context, channel, cursor string, limit int) (StatePage, error)

	// Clear removes all keys and begins a new life of the channel.
	Clear(ctx context.Context, channel string) error

	Stats(ctx context.Context, channel string) (StateStats, error)
}
