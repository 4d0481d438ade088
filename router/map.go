package router

import (
	"errors"
	"fmt"
	"time"
)

// MapMode says whether the channels of a namespace are maps, and how long they live.
type MapMode string

// The modes. The zero value means that channels are no maps.
const (
	// MapPersistent keeps what is stored until it is removed or expires.
	MapPersistent MapMode = "persistent"
	// MapEphemeral is for state that clients make anew, such as presence: it is not
	// recovered after a reconnect but read again, and may be kept in memory.
	MapEphemeral MapMode = "ephemeral"
)

// MapOptions make the channels of a namespace maps: keys with versioned values.
type MapOptions struct {
	Mode MapMode
	// KeyTTL is how long a key lives after its last change; 0 is for ever. A change
	// may say something else.
	KeyTTL time.Duration
	// KeyHistory is how many versions of a key are kept, the newest included; 1 to
	// MaxKeyHistory. 10 by default.
	KeyHistory int
	// TombstoneTTL is how long a removed key keeps its version numbers. Afterwards a
	// new life begins with version 1. 24 h by default.
	TombstoneTTL time.Duration
	// Conflict is the strategy of changes that name none; StrategyReject by default.
	Conflict Strategy
	// ConflictMethod is the back end asked by StrategyCustom: <prefix>.rpc.<method>.
	ConflictMethod string
	// MaxValueBytes bounds a value, after a merge too. 64 KiB by default.
	MaxValueBytes int
	// MaxKeys bounds the keys of a channel, expired ones that nobody swept included.
	// 100,000 by default.
	MaxKeys int
	// ClientKey says which keys clients may change: ClientKeyAny, or their own only.
	ClientKey ClientKey
	// RemoveOnUnsubscribe removes a client's own key when its subscription ends, or
	// its connection. Needs ClientKeyClient. If its node is killed, KeyTTL does it.
	RemoveOnUnsubscribe bool

	// Operations allowed to clients beyond what their tokens allow; setting a key is
	// OpPublish, which the namespace's own rules allow.
	AllowRemove           bool // any client with a user id may remove keys
	AllowRemoveSubscriber bool
}

// ClientKey says which keys a client may change.
type ClientKey string

// The kinds.
const (
	ClientKeyAny    ClientKey = ""
	ClientKeyClient ClientKey = "client_id" // the key is the client's id
	ClientKeyUser   ClientKey = "user_id"
)

// Bounds of maps.
const (
	// MaxKeyLength bounds a key in bytes. Escaped it is a token of a NATS subject.
	MaxKeyLength = 128
	// MaxKeyHistory bounds MapOptions.KeyHistory: an entry names the places of the
	// older versions, so that each is one indexed read away.
	MaxKeyHistory = 100
	// MaxStateKeys bounds MapOptions.MaxKeys: 256 buckets of at most 1,024 keys are
	// read by one request each, and they do not fill evenly.
	MaxStateKeys = 200_000
)

// WithDefaults returns o with what is not set filled in.
func (o MapOptions) WithDefaults() MapOptions {
	setDefault(&o.KeyHistory, 10)
	setDefault(&o.TombstoneTTL, 24*time.Hour)
	setDefault(&o.Conflict, StrategyReject)
	setDefault(&o.MaxValueBytes, 64<<10)
	setDefault(&o.MaxKeys, 100_000)
	return o
}

// WithDefaults returns ns with what is not set of its Map filled in.
func (ns Namespace) WithDefaults() Namespace {
	if ns.Map != nil {
		m := ns.Map.WithDefaults()
		ns.Map = &m
	}
	return ns
}

// Validate reports every problem of o at once.
func (o *MapOptions) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(o.Mode == MapPersistent || o.Mode == MapEphemeral, "map.mode %q is neither persistent nor ephemeral", o.Mode)
	check(o.KeyTTL >= 0, "map.key_ttl %v is negative", o.KeyTTL)
	check(o.KeyTTL == 0 || o.KeyTTL >= MinKeyTTL, "map.key_ttl %v is below %v", o.KeyTTL, MinKeyTTL)
	check(o.KeyHistory >= 1 && o.KeyHistory <= MaxKeyHistory, "map.key_history %d is not within 1 to %d", o.KeyHistory, MaxKeyHistory)
	check(o.TombstoneTTL >= time.Minute, "map.tombstone_ttl %v is below 1m", o.TombstoneTTL)
	check(o.Conflict.check() == nil, "map.conflict: %v", o.Conflict.check())
	check(o.Conflict != StrategyCustom || o.ConflictMethod != "", "map.conflict custom needs map.conflict_method, the back end to ask")
	check(len(o.ConflictMethod) <= MaxMethodLength, "map.conflict_method has more than %d bytes", MaxMethodLength)
	check(o.MaxValueBytes > 0 && o.MaxValueBytes <= 512<<10, "map.max_value_bytes %d is not within 1 to 524288 (NATS carries 1 MiB)", o.MaxValueBytes)
	check(o.MaxKeys > 0 && o.MaxKeys <= MaxStateKeys, "map.max_keys %d is not within 1 to %d", o.MaxKeys, MaxStateKeys)
	check(o.ClientKey == ClientKeyAny || o.ClientKey == ClientKeyClient || o.ClientKey == ClientKeyUser,
		"map.client_key %q is neither client_id, user_id nor empty", o.ClientKey)
	check(!o.RemoveOnUnsubscribe || o.ClientKey == ClientKeyClient && o.KeyTTL > 0,
		"map.remove_on_unsubscribe needs client_key client_id, and key_ttl for the clients of a node that is killed")
	return errors.Join(errs...)
}

// checkMap reports the problems of a namespace whose channels are maps.
func (ns *Namespace) checkMap() error {
	if ns.Map == nil {
		return nil
	}
	errs := []error{ns.Map.Validate()}
	check := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New(text))
		}
	}
	check(ns.HistorySize > 0, "a map needs history_size above 0: the changes kept for clients that come back")
	check(ns.Retention == 0, "retention is not for maps: a channel's state lasts until it is removed")
	check(!ns.CacheMode, "cache_mode is not for maps")
	check(ns.Payload == PayloadJSON || ns.Map.Conflict != StrategyMerge, "map.conflict merge needs payload json")
	return errors.Join(errs...)
}
