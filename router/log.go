package router

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
)

// Entry is one entry of a numbered log: the entries of a key are numbered 1, 2,
// 3 … without gaps within a life. The zero Entry stands for "no entry".
type Entry struct {
	Number  uint64 // 1-based; 0 means no entry
	Life    string // random id of the key's life, carried by all its entries
	Seq     uint64 // sequence in the stream, the same on every replica
	ID      string // write id: names one append across retries
	Time    time.Time
	Cleared bool   // a marker left by Clear: it has a number and nothing to deliver
	Meta    []byte // encoded Meta, or nil
	Data    []byte // payload, raw
	// Mark is set in the feeds of maps, except on markers left by a clear.
	Mark *KeyMark
}

// NewEntry is what a writer supplies of an Entry.
type NewEntry struct {
	// ID is the deduplication id, unique over all keys of the stream: "" lets the
	// log choose a random one. Callers derive it from user, key and the client's
	// idempotency key (never the latter alone, rule W3).
	ID   string
	Meta []byte
	Data []byte
}

// Appended is the answer to an append.
type Appended struct {
	Number uint64 // 0 when Duplicate and the original is no longer stored
	Epoch  string
	// Duplicate is true when an entry with this ID was stored before; nothing was
	// stored now, and Number is that entry's.
	Duplicate bool
}

// Mark is where a reader of a key stands, for Log.Moved.
type Mark struct {
	Key    string
	Number uint64 // of the last entry known; 0 when the key was empty
	Seq    uint64 // of that entry; for an empty key the stream's last sequence then
}

// StreamState is what the leader says about the stream of a key.
type StreamState struct {
	FirstSeq, LastSeq uint64
}

// Log stores numbered entries by key; persistence implements it on JetStream.
// Keys are encoded (EncodeKey). Errors are *Error; CodeUnavailable means that the
// answer is not known now. All methods are safe for concurrent use.
type Log interface {
	// Append stores e under the next number of key, after all appends to key
	// that were handed in before. done is called exactly once, from a goroutine
	// of the log's, when the entry is stored on a majority of replicas or is
	// known not to be, or cannot be known (CodeUnavailable: it may have been
	// stored; repeat with the same ID). done must not block.
	Append(key string, e NewEntry, done func(Appended, error))

	// Head returns the newest entry of key as the stream's leader knows it, or
	// the zero Entry when the key has none. It is never stale: everything
	// acknowledged before the call is reflected.
	Head(ctx context.Context, key string) (Entry, error)

	// Read returns the stored entries of key with numbers in (after, head.Number]
	// that form an unbroken run ending at head, oldest first; head must come
	// from Head or the live flow. An empty or shorter result means that the rest
	// is gone (evicted, cleared), never that a replica lags. It fails with
	// CodeConflict when head itself has been overwritten meanwhile: take a new
	// head and call again.
	Read(ctx context.Context, key string, after uint64, head Entry) ([]Entry, error)

	// Clear removes all entries of key, leaving a marker under the next number
	// (rule W5), and returns the marker. Clearing an empty key does nothing.
	Clear(ctx context.Context, key string) (Entry, error)

	// Moved returns the keys among marks that have entries newer than their
	// mark. It is verified against the leader's state at the time of the call: a
	// stale replica cannot hide an entry. It costs one request per 340 marks.
	// Rewound is true when a stream's last sequence is below one of the marks.
	Moved(ctx context.Context, marks []Mark) (moved []string, rewound bool, err error)

	// State asks the leader for the state of key's stream.
	State(ctx context.Context, key string) (StreamState, error)

	// LastSeq returns a sequence that key's stream is known to have reached. It
	// costs nothing and may lag.
	LastSeq(key string) uint64

	// Incarnation returns the id of key's stream, made when it was created.
	Incarnation(key string) string

	// LiveSubject returns the subject, ending in a wildcard, on which copies of
	// new entries of key arrive, at most once each.
	LiveSubject(key string) string

	// DecodeLive decodes a message received on a live subject. The entry aliases
	// the message.
	DecodeLive(m *nats.Msg) (Entry, error)
}

// Store gives the log of each namespace with history.
type Store interface {
	Log(namespace string) (Log, bool)

	// Keys gives the state of a namespace whose channels are maps.
	Keys(namespace string) (KeyStore, bool)

	// Healthy returns nil while the leaders of all streams were reached within
	// the contact bound, else the reason (rule J2).
	Healthy() error
}
