package check

import (
	"fmt"
	"sort"
	"strings"
	"time"
)

// Rules is what the record is judged by.
type Rules struct {
	// History tells how many publications a channel keeps, by namespace;
	// namespaces that are not in it keep none.
	History map[string]int
	// Late bounds how long an acknowledged publication may take to reach a client
	// that is subscribed and reads: a lost copy is healed, or told, by then.
	Late time.Duration
	// Gone bounds how long presence may be wrong after a crash.
	Gone time.Duration
	// Leak is what the resources of a process may have grown by in the end.
	Leak   Resources
	Queues map[string]QueueRules // by name; without any, events of queues are not judged
	States map[string]StateRules // by namespace; likewise
}

// Violation is one contradiction.
type Violation struct {
	Rule    string // which guarantee
	T       time.Duration
	Who     string
	Channel string
	At      Position
	Payload string
	Text    string
}

func (v Violation) String() string {
	return fmt.Sprintf("%s: %s", v.Rule, v.Text)
}

// The rules that can be violated.
const (
	RuleLost      = "an acknowledged publication is in the log and reaches every subscriber"
	RuleOnce      = "exactly once"
	RuleOrder     = "in channel order"
	RuleSilent    = "what cannot be delivered is told"
	RuleCause     = "a subscriber is told only what is true"
	RuleLate      = "a lost copy is healed, or told, within the bound"
	RuleEphemeral = "without history: at most once, in order per publisher"
	RulePresence  = "presence is right within the bound, or unknown"
	RuleMembers   = "joins and leaves tell who is there, each once"
	RuleLeak      = "nothing is leaked"
)

// Report is what Verify found and counted.
type Report struct {
	Jobs                 Jobs
	States               States
	Sent, Acked, Refused int
	Delivered, Told      int
	Recovered            int // subscriptions that got all they had missed
	Ephemeral            int // deliveries without history
	Presence, Unknown    int // answers checked, and answers "unknown"
	Joined, Left         int // joins and leaves checked
	// Undecided counts acknowledged publications that nobody saw because everyone
	// was told of a gap where they may lie.
	Undecided int
	// Repeated counts publications that were repeated with the same key, and stored
	// again, when the original had already left the history.
	Repeated   int
	Slowest    time.Duration // the latest delivery to a client that was there
	Violations []Violation
	// Explained are contradictions in a namespace for which NATS said, before, that
	// it could not store what it had taken. They are its losses, not Headrace's, and
	// no layer above can undo them.
	Explained []Violation
}

// maxViolations bounds a report; what is broken badly is broken everywhere.
const maxViolations = 200

// Position is an offset in one life of a channel.
type Position struct {
	Epoch  string
	Offset uint64
}

func (p Position) String() string { return fmt.Sprintf("%d:%s", p.Offset, p.Epoch) }

// Verify judges a record that ends after a silence in which everything was mended.
func Verify(events []Event, rules Rules) Report {
	v := &verifier{rules: rules, books: make(map[string]*book), watchers: make(map[string]*watcher), sends: make(map[string]*Event)}
	v.leaks(events)
	v.broken = make(map[string]time.Duration)
	for _, e := range events {
		if at, again := v.broken[e.Channel]; e.Kind == Broken && (!again || e.T < at) {
			v.broken[e.Channel] = e.T
		}
	}
	for i := range events {
		if events[i].Kind == Closed {
			events = events[:i]
			break
		}
	}
	if len(events) > 0 {
		v.end = events[len(events)-1].T
	}
	v.ill = v.impaired(events)
	for i := range events {
		v.write(&events[i])
	}
	for i := range events {
		v.follow(&events[i])
	}
	for _, name := range sortedKeys(v.watchers) {
		v.watchers[name].finish(v)
	}
	for _, name := range sortedKeys(v.books) {
		v.books[name].finish(v)
	}
	v.presence(events)
	v.members(events)
	v.queues(events)
	v.states(events)
	sort.SliceStable(v.report.Violations, func(i, j int) bool { return v.report.Violations[i].T < v.report.Violations[j].T })
	return v.report
}

type verifier struct {
	rules    Rules
	end      time.Duration
	books    map[string]*book         // by channel
	watchers map[string]*watcher      // by who and channel
	sends    map[string]*Event        // of channels without history, by payload
	broken   map[string]time.Duration // since when NATS has lost something, by namespace
	ill      map[string][]span        // when edges were impaired and clients did not read, by name
	probe    string                   // the channel whose presence was asked for
	trouble  []span                   // when any edge, or NATS, was impaired
	takes    map[int]*take            // deliveries of jobs, by number
	gone     map[string][]span        // when workers' connections ended, by queue
	report   Report
}

func (v *verifier) violated(bad Violation, format string, args ...any) {
	if len(v.report.Violations) >= maxViolations {
		return
	}
	bad.Text = fmt.Sprintf(format, args...)
	ns, _, _ := strings.Cut(bad.Channel, ":")
	if ns == "queue" {
		ns = bad.Channel // each queue has streams of its own
	}
	if at, broken := v.broken[ns]; broken && bad.T >= at-brokenSlack {
		v.report.Explained = append(v.report.Explained, bad)
		return
	}
	v.report.Violations = append(v.report.Violations, bad)
}

// brokenSlack is how long before NATS notices it may have lost something.
const brokenSlack = 5 * time.Second

// size returns how many publications channel keeps.
func (v *verifier) size(channel string) int {
	ns, _, found := strings.Cut(channel, ":")
	if !found {
		ns = "default"
	}
	return v.rules.History[ns]
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
