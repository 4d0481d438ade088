package router

import (
	"errors"
	"fmt"
	"regexp"
	"time"
)

// DefaultNamespace is the namespace of channels written without one ("news").
// It cannot be named explicitly: "default:news" is refused, so that a channel
// has one spelling only.
const DefaultNamespace = "default"

// MaxHistorySize bounds Namespace.HistorySize. One multi_last request answers
// at most 1,024 subjects (nats-server server/stream.go getDirectMulti), and an
// entry of a key is a subject.
const MaxHistorySize = 1000

// Members says what of a channel's members is shown.
type Members string

// What is shown. Clients need OpPresence in the channel.
const (
	MembersClients Members = "clients" // an entry per client
	MembersUsers   Members = "users"   // an entry per user, however many clients
)

// DeltaFossil is the only format of deltas.
const DeltaFossil = "fossil"

// Payload says which payloads a namespace carries.
type Payload string

// The payload kinds.
const (
	PayloadJSON   Payload = "json"   // every payload is one valid JSON value (default)
	PayloadBinary Payload = "binary" // any bytes; Protobuf clients only
	// PayloadAny carries any bytes to all clients: those of the JSON protocol get
	// what is not JSON as a base64 string, with the tag encoding: base64.
	PayloadAny Payload = "any"
)

// Namespace is the behaviour of all channels that share a prefix. The zero value
// (with a name) is a channel kind without history where nothing is allowed to
// clients.
type Namespace struct {
	Name string

	// HistorySize is how many publications a channel keeps; 0 means no history:
	// publications are then delivered at most once. At most MaxHistorySize.
	HistorySize int
	// HistoryTTL is the age above which a stored publication is no longer
	// served. 0 means as long as the stream retains it.
	HistoryTTL time.Duration
	// Retention is how long the stream keeps entries. It must be longer than
	// HistoryTTL so that a quiet channel keeps its head (and with it its epoch).
	Retention time.Duration
	// Partitions is the number of streams the namespace is spread over.
	Partitions int
	// MemoryStorage keeps the streams in memory: faster, gone when NATS restarts.
	MemoryStorage bool

	// Map makes the channels maps: keys with versioned values, of which the channel's
	// history is the feed of changes. nil means that they are not.
	Map *MapOptions

	// Members, when set, makes the channel <namespace>:<channel> show who is in that
	// channel. Nothing is published or stored in it.
	Members Members

	Payload Payload

	// TagsFilter lets subscribers say by tags which publications they want.
	TagsFilter bool

	// DeltaTypes are the formats in which subscribers may ask for what changed since the
	// last publication (in maps: since the last value of the key) instead of all of it:
	// DeltaFossil, or none.
	DeltaTypes []string

	// Recover makes every subscription recoverable, whether or not asked for
	// (Centrifugo: force_recovery). Positioned does so for positioning.
	Recover    bool
	Positioned bool
	// CacheMode makes recovery deliver the last publication only, if any.
	CacheMode bool

	Presence  bool
	JoinLeave bool // send join and leave pushes to subscribers that ask for them
	// ForceJoinLeave sends them to all subscribers.
	ForceJoinLeave bool

	// Operations allowed to clients beyond what their tokens allow.
	AllowSubscribe          bool // any authenticated client may subscribe
	AllowPublish            bool // any authenticated client may publish
	AllowPublishSubscriber  bool // a subscriber may publish
	AllowHistory            bool // any authenticated client may read history
	AllowHistorySubscriber  bool
	AllowPresence           bool
	AllowPresenceSubscriber bool
	AllowSubscribeAnonymous bool // AllowSubscribe holds for clients without a user id too
	AllowPublishAnonymous   bool
	AllowHistoryAnonymous   bool
	AllowPresenceAnonymous  bool

	// UserLimited makes channels whose name ends in # and user ids, such as
	// dialog#42,43, private to those users: they may subscribe without any other
	// rule, and nobody else may by rule or capability.
	UserLimited bool
	// ChannelRegex, when set, must match the whole name (without the namespace) of
	// the channels that clients use. Syntax: package regexp, which takes linear time.
	ChannelRegex string
	nameRule     *regexp.Regexp // compiled ChannelRegex, set by New
}

var namespaceName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// Validate reports every problem of ns at once.
func (ns *Namespace) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("namespace %q: "+format, append([]any{ns.Name}, args...)...))
		}
	}
	check(namespaceName.MatchString(ns.Name), "name must be 1 to 64 of a-z A-Z 0-9 _ -")
	check(ns.Name != queueNamespace, "the channels of that name are those of durable queues")
	check(ns.HistorySize >= 0 && ns.HistorySize <= MaxHistorySize, "history_size %d is not within 0 to %d", ns.HistorySize, MaxHistorySize)
	check(ns.HistoryTTL >= 0, "history_ttl %v is negative", ns.HistoryTTL)
	_, err := compileNameRule(ns.ChannelRegex)
	check(err == nil, "channel_regex: %v", err)
	check(ns.Payload == PayloadJSON || ns.Payload == PayloadBinary || ns.Payload == PayloadAny, "payload %q is neither json, binary nor any", ns.Payload)
	check(ns.Members == "" || ns.Members == MembersClients || ns.Members == MembersUsers, "members %q is neither clients, users nor empty", ns.Members)
	check(ns.Members == "" || ns.HistorySize == 0 && ns.Map == nil, "members is not for namespaces with history or map")
	check(ns.Members == "" || len(ns.DeltaTypes) == 0, "members is not for namespaces with deltas")
	for _, d := range ns.DeltaTypes {
		check(d == DeltaFossil, "delta type %q is not fossil", d)
	}
	err = ns.checkMap()
	check(err == nil, "%v", err)
	if ns.HistorySize > 0 {
		check(ns.Retention > 0 || ns.Map != nil, "retention %v must be positive", ns.Retention)
		check(ns.HistoryTTL <= ns.Retention || ns.Map != nil, "history_ttl %v exceeds retention %v", ns.HistoryTTL, ns.Retention)
		check(ns.Partitions >= 1 && ns.Partitions <= 64, "partitions %d is not within 1 to 64", ns.Partitions)
	} else {
		check(!ns.Recover && !ns.Positioned && !ns.CacheMode, "recover, positioned and cache_mode need history_size above 0")
	}
	return errors.Join(errs...)
}
