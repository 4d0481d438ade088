package check

import (
	"fmt"
	"strings"
	"time"
)

// The kinds of events of state. The channel is a map's.
const (
	Operated Kind = "operated" // who's request about a key, called at Began, was answered now, or never will be

	// What who, a subscriber of the map, was told, in this order; offset and epoch
	// are those of the answer.
	MapBegin  Kind = "mapbegin"  // who forgets what it knows and begins with the state
	MapPage   Kind = "mappage"   // a page of the state, asked for at Began
	MapStream Kind = "mapstream" // changes on the way to live
	MapLive   Kind = "maplive"   // live, with the changes before; recovered: from where it was
	MapChange Kind = "mapchange" // a change, pushed
	MapEnd    Kind = "mapend"    // the subscription ended, or the connection

	MapTarget Kind = "maptarget" // in the end, the map stands at offset; entries are all its keys
)

// Op is what was asked for a key.
type Op string

// The operations.
const (
	OpSet     Op = "set"
	OpDelete  Op = "delete"
	OpGet     Op = "get"     // fresh
	OpCached  Op = "cached"  // a get that what the edge remembers may answer
	OpHistory Op = "history" // of all stored versions
	OpClear   Op = "clear"   // of the whole map
	// OpFinal is a history read in the end, when nothing happens any more.
	OpFinal Op = "final"
)

// Outcome is how an operation ended.
type Outcome string

// The outcomes.
const (
	Applied  Outcome = "applied"
	Refused  Outcome = "refused" // with what is current
	Answered Outcome = "read"
	Open     Outcome = "unknown" // it may take effect at any time, or never
)

// State is what events of state tell. Kind and Op say which fields count.
type State struct {
	Key      string        `json:"key,omitempty"`
	Op       Op            `json:"op,omitempty"`
	Value    string        `json:"value,omitempty"` // to set; of a merge: the patch
	Expect   *VersionOf    `json:"expect,omitempty"`
	Seen     *VersionOf    `json:"seen,omitempty"`
	Strategy string        `json:"strategy,omitempty"` // "" is reject
	Time     int64         `json:"time,omitempty"`
	TTL      time.Duration `json:"ttl,omitempty"`
	ID       string        `json:"id,omitempty"` // the same for repetitions of one change

	Outcome   Outcome `json:"outcome,omitempty"`
	Duplicate bool    `json:"duplicate,omitempty"`
	Reason    string  `json:"reason,omitempty"`
	// Entries is the answer: what was stored or is current, none if there is
	// nothing; of a history all, the newest first; of maps: entries and changes.
	Entries []Version `json:"entries,omitempty"`
}

// VersionOf names a version of a key. Version 0 is no value.
type VersionOf struct {
	Version uint64 `json:"version"`
	Life    string `json:"life,omitempty"`
}

// Version is a version of a key as somebody was told of it.
type Version struct {
	Key     string        `json:"k,omitempty"` // where the event does not tell
	Version uint64        `json:"v"`
	Life    string        `json:"l,omitempty"` // not told to subscribers
	Value   string        `json:"d,omitempty"`
	Removed bool          `json:"x,omitempty"`
	Offset  uint64        `json:"o,omitempty"`
	Expires time.Duration `json:"e,omitempty"` // since the record began
}

func (s *State) String() string {
	parts := []string{s.Key, string(s.Op), s.Value}
	if s.Expect != nil {
		parts = append(parts, fmt.Sprintf("expecting %d:%s", s.Expect.Version, s.Expect.Life))
	}
	if s.Seen != nil {
		parts = append(parts, fmt.Sprintf("having seen %d:%s", s.Seen.Version, s.Seen.Life))
	}
	parts = append(parts, string(s.Outcome), s.Reason)
	if s.Duplicate {
		parts = append(parts, "duplicate")
	}
	for i, v := range s.Entries {
		if i == 12 {
			parts = append(parts, fmt.Sprintf("and %d more", len(s.Entries)-i))
			break
		}
		parts = append(parts, v.String())
	}
	return strings.Join(strings.Fields(strings.Join(parts, " ")), " ")
}

func (v Version) String() string {
	text := fmt.Sprintf("%s[%d:%s", v.Key, v.Version, v.Life)
	if v.Offset > 0 {
		text += fmt.Sprintf(" at %d", v.Offset)
	}
	if v.Removed {
		return text + " removed]"
	}
	return text + " " + v.Value + "]"
}

// StateRules is what the maps of a namespace are judged by.
type StateRules struct {
	// History is how many versions of a key are kept.
	History int
	// Clock bounds how far clocks may differ.
	Clock time.Duration
	// Stale is how long a leader that is cut off may answer reads (docs/guarantees.md).
	Stale time.Duration
}

// The rules of state.
const (
	RuleStateLinear  = "operations on a key take effect one at a time, between call and answer"
	RuleStateVersion = "versions of a life are 1, 2, 3 …, each of one value"
	RuleStateLost    = "an acknowledged change is among the stored versions, unless the map was cleared"
	RuleStateOnce    = "a change that was repeated takes effect once"
	RuleStateExpect  = "a change follows the version that it expected"
	RuleStateSeen    = "no answer is below what the reader has seen"
	RuleStateTTL     = "an expired value is never shown"
	RuleStateFeed    = "an offset of a map is one change"
	RuleStateMap     = "a subscriber's map is the map"
)

// States is what Verify counted in maps.
type States struct {
	Applied, Refused, Open, Reads, Cached int
	Keys                                  int // judged
	Undecided                             int // keys whose operations were too many to find an order in time
	Live, Recovered, Restarted            int // of subscribers
	Changes                               int // pushed to them
}
