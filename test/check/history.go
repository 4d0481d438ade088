// Package check records what publishers, subscribers and probers of a cluster were
// told, and finds in that record what contradicts the guarantees (DESIGN §8).
//
// A History is written while things break. Verify reads it afterwards and knows
// nothing else, so a record can be kept, read by people, and judged again.
package check

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// Kind says what happened.
type Kind string

// The kinds of events. "who" is a client, "at" an edge.
const (
	Send   Kind = "send"   // who is about to publish payload to channel
	Ack    Kind = "ack"    // payload was acknowledged; offset and epoch when told
	Refuse Kind = "refuse" // the outcome of payload is not known, or it was refused

	Subscribed Kind = "subscribed" // who's reply: offset, epoch; asked, recovered; payload is the client id
	Deliver    Kind = "deliver"    // who got payload at offset; epoch when told
	Unsub      Kind = "unsub"      // the server ended who's subscription, with code
	Detach     Kind = "detach"     // who's connection ended: no channel, or one
	Stall      Kind = "stall"      // who stops reading
	Resume     Kind = "resume"     // who reads again

	Clear  Kind = "clear"  // a removal of channel's history is about to be asked for
	Evict  Kind = "evict"  // the oldest entries of channel are about to be evicted
	Final  Kind = "final"  // in the end, the store has payload at offset of channel
	Target Kind = "target" // in the end, channel stands at offset, says its leader

	AskMembers   Kind = "ask-members"   // who, subscribed to channel with joins and leaves, asks who is there
	Members      Kind = "members"       // who was told who is there: client ids, in payload
	MemberJoined Kind = "member-joined" // who was told that the client in payload came to channel
	MemberLeft   Kind = "member-left"   // who was told that it left

	Present  Kind = "present"  // a prober that asked at began was told: client ids in channel, in payload
	Unknown  Kind = "unknown"  // a prober was told that presence is not known
	Fault    Kind = "fault"    // something is about to be broken: payload says what
	Mended   Kind = "mended"   // the same was mended
	Impaired Kind = "impaired" // the edge at is not itself from now on
	Healthy  Kind = "healthy"  // the edge at is itself again
	Died     Kind = "died"     // the process who ended by itself
	Broken   Kind = "broken"   // NATS itself said that it could not store what it had taken: channel is a namespace, payload its words
	Closed   Kind = "closed"   // the end: what follows is not about clients
	Usage    Kind = "usage"    // resources of the process who: payload is a Resources
)

// Event is one thing that happened. Kind says which fields count.
type Event struct {
	T         time.Duration `json:"t"` // since the history began, by a monotonic clock
	Kind      Kind          `json:"kind"`
	Who       string        `json:"who,omitempty"`
	At        string        `json:"at,omitempty"`
	Channel   string        `json:"channel,omitempty"`
	Offset    uint64        `json:"offset,omitempty"`
	Epoch     string        `json:"epoch,omitempty"`
	Asked     bool          `json:"asked,omitempty"`
	Recovered bool          `json:"recovered,omitempty"`
	Code      uint32        `json:"code,omitempty"`
	Payload   string        `json:"payload,omitempty"`
	Began     time.Duration `json:"began,omitempty"`
	Job       *Job          `json:"job,omitempty"`   // of events of queues
	State     *State        `json:"state,omitempty"` // of events of state
}

func (e Event) String() string {
	s := fmt.Sprintf("%10.3fs %-10s", e.T.Seconds(), e.Kind)
	for _, part := range []string{e.Who, e.Channel} {
		if part != "" {
			s += " " + part
		}
	}
	if e.At != "" {
		s += " at " + e.At
	}
	if e.Offset > 0 || e.Epoch != "" {
		s += fmt.Sprintf(" %d:%s", e.Offset, e.Epoch)
	}
	if e.Kind == Subscribed {
		s += fmt.Sprintf(" asked=%t recovered=%t", e.Asked, e.Recovered)
	}
	if e.Code > 0 {
		s += fmt.Sprintf(" code %d", e.Code)
	}
	if e.Payload != "" {
		s += " " + e.Payload
	}
	if e.Job != nil {
		s += " " + e.Job.String()
	}
	if e.State != nil {
		s += " " + e.State.String()
	}
	return s
}

// History is a record in the making. Its methods may be called from any goroutine.
type History struct {
	start time.Time

	mu     sync.Mutex // guards the fields below
	events []Event
	copyTo *json.Encoder // nil unless it is written down meanwhile
	err    error         // of copyTo
}

// NewHistory begins a record now. Each event also goes to w, one line of JSON
// each, unless w is nil.
func NewHistory(w io.Writer) *History {
	h := &History{start: time.Now()}
	if w != nil {
		h.copyTo = json.NewEncoder(w)
	}
	return h
}

// Add records e, with the time of now.
func (h *History) Add(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.T = time.Since(h.start)
	h.events = append(h.events, e)
	if h.copyTo != nil && h.err == nil {
		h.err = h.copyTo.Encode(e)
	}
}

// AddPast records something that happened at a time of the wall clock.
func (h *History) AddPast(at time.Time, e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.T = at.Sub(h.start.Round(0)) // without the monotonic reading
	h.events = append(h.events, e)
	if h.copyTo != nil && h.err == nil {
		h.err = h.copyTo.Encode(e)
	}
}

// Events returns what was recorded so far, and whether writing it down failed.
func (h *History) Events() ([]Event, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.events[:len(h.events):len(h.events)], h.err
}

// At is the time of the wall clock as a time since the record began.
func (h *History) At(wall time.Time) time.Duration { return wall.Sub(h.start.Round(0)) }

// Since is the time since the record began.
func (h *History) Since() time.Duration { return time.Since(h.start) }

// Read reads a record that a History wrote.
func Read(r io.Reader) ([]Event, error) {
	var events []Event
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("history line %d: %w", len(events)+1, err)
		}
		events = append(events, e)
	}
	return events, lines.Err()
}
