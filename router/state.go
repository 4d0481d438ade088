package router

import (
	"time"

	"github.com/headrace/headrace/internal/planted"
)

// StateEntry is a version of a key. The zero StateEntry stands for "never set, or
// so long ago that nothing is known of it any more".
type StateEntry struct {
	Key string
	// Version counts the changes of the key within Life: 1, 2, 3 …, removals
	// included. 0 means that there is no entry.
	Version uint64
	Life    string // random id; two versions compare within one life only (rule S2)
	Data    []byte
	Removed bool // this version is a removal; Data is empty
	Time    time.Time
	// ClientTime is when the client says that it made the change, Unix milliseconds;
	// 0 is unknown.
	ClientTime int64
	Expires    time.Time // zero is never
	Info       *ClientInfo
	Tags       map[string]string
	Offset     uint64 // of the change in the channel's feed
}

// Present reports whether e is a value, and not expired at now.
func (e *StateEntry) Present(now time.Time) bool {
	return e.Version > 0 && !e.Removed && !e.ExpiredAt(now)
}

// ExpiredAt reports whether e's time to live has passed.
func (e *StateEntry) ExpiredAt(now time.Time) bool {
	return !e.Expires.IsZero() && !now.Before(e.Expires) && !planted.Bug(planted.ShowExpired)
}

// Expect names the version that a change is made against. Version 0 means that
// the key must not exist: removed and expired keys do not.
type Expect struct {
	Version uint64
	// Life of the version; "" is any, which is weaker: version 3 of a new life may
	// answer for the old one (rule S2).
	Life string
}

// Change is a change of one key.
type Change struct {
	Key    string
	Data   []byte
	Remove bool
	// Expect, when set, must be current. What happens otherwise is the strategy's.
	Expect *Expect
	// Strategy is the namespace's when empty.
	Strategy Strategy
	// Time is when the client made the change, Unix milliseconds; 0 is unknown.
	Time int64
	// TTL is how long the value lives; 0 is the namespace's, negative is for ever.
	TTL time.Duration
	// User scopes IdempotencyKey.
	User string
	// IdempotencyKey makes a repetition answer what the first attempt stored, while
	// that is among the stored versions of the key or the last two minutes' changes.
	IdempotencyKey string
	Info           *ClientInfo
	Tags           map[string]string
}

// Reason says why a change was not applied.
type Reason string

// The reasons.
const (
	ReasonConflict Reason = "conflict" // the expected version is not current
	ReasonExists   Reason = "exists"   // the key was expected not to exist
	ReasonMissing  Reason = "missing"  // there is nothing to remove
	ReasonOlder    Reason = "older"    // lastWriteWins: what is stored was made later
	ReasonRejected Reason = "rejected" // the back end said no; see Changed.Message
)

// Changed is the answer to a change.
type Changed struct {
	Applied   bool
	Duplicate bool   // applied by an earlier attempt; Entry is what that stored
	Reason    Reason // why not applied
	Message   string // of the back end, for people
	// Entry is what was stored, or what is current when nothing was: with Removed
	// set, or the zero Version, when there is no value.
	Entry    StateEntry
	Position Position // of the change in the feed; zero when not applied
}

// ChangeResult is the answer to one change of several.
type ChangeResult struct {
	Changed
	Err error // an *Error; then Changed is zero
}

// MaxSync bounds the changes in one Sync.
const MaxSync = 100

// GetOptions say what is wanted of a key.
type GetOptions struct {
	Version uint64 // 0 is the latest
	// Seen is the version that the reader knows: the answer is not below it (rule
	// S3).
	Seen *Expect
	// Fresh asks the store: the answer reflects everything acknowledged before the
	// call. Otherwise what this node knows may answer.
	Fresh bool
}

// StatePage is a part of a channel's state.
type StatePage struct {
	// Entries has present keys only, in an order that lasts over pages.
	Entries []StateEntry
	// Next continues behind this page; "" is the end. After a clear it is refused
	// with CodeUnrecoverable.
	Next string
	// Position is one up to which the page reflects the feed. Entries with a higher
	// Offset may be in it: they will come again from the feed. Who joins the live
	// flow goes on from the Position of the first page.
	Position Position
}

// MaxStatePage bounds the entries of a page.
const MaxStatePage = 1000

// StateStats describe a channel's state.
type StateStats struct {
	Keys     int // expired ones that nobody swept yet included
	Position Position
}
