package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// step is one fault: what is broken, for how long, and how long after the step
// before it. Everything random about a run's faults is here, decided before it
// begins, so a seed is a plan.
type step struct {
	pause    time.Duration
	kind     kind
	target   int // which node or edge
	other    int // the peer, for faults between two
	duration time.Duration
	reset    bool // connections are broken when it is mended, as after a long cut
	ways     ways
}

type kind string

const (
	killEdge    kind = "kill edge"           // SIGKILL, down for duration
	termEdge    kind = "stop edge"           // SIGTERM, down for duration after it has ended
	freezeEdge  kind = "freeze edge"         // SIGSTOP for duration
	cutEdge     kind = "cut edge from NATS"  // from all NATS nodes
	slowEdge    kind = "slow edge"           // its way to NATS takes longer
	killNATS    kind = "kill NATS"           // SIGKILL, down for duration
	termNATS    kind = "stop NATS"           // SIGTERM, down for duration
	freezeNATS  kind = "freeze NATS"         // SIGSTOP for duration
	killAllNATS kind = "kill all NATS"       // SIGKILL, all, down for duration
	cutNATS     kind = "cut NATS from peers" // its edges stay with it
	cutPair     kind = "cut NATS pair"       // the way between two
	slowPair    kind = "slow NATS pair"
	stepDown    kind = "step down" // the leader of a stream
	fillDisk    kind = "fill disk" // of a NATS node
	clearLog    kind = "clear"     // remove a history
	squeeze     kind = "squeeze"   // lower a stream's limit so that it evicts
	rollEdges   kind = "roll edges"
	calm        kind = "calm" // nothing, so that what is slow to heal shows
)

// ways says which directions of a connection a cut stops.
type ways int

const (
	bothWays ways = iota
	there         // from target to other only
	back
)

func (w ways) String() string { return [...]string{"both ways", "there", "back"}[w] }

type plan []step

// weight says how often a kind is chosen, and the bounds of its duration.
type weight struct {
	kind     kind
	weight   int
	min, max time.Duration
}

var weights = []weight{
	{killEdge, 10, 0, 4 * time.Second},
	{termEdge, 6, 0, 3 * time.Second},
	{freezeEdge, 6, 300 * time.Millisecond, 14 * time.Second},
	{cutEdge, 10, 300 * time.Millisecond, 25 * time.Second},
	{slowEdge, 4, 5 * time.Second, 15 * time.Second},
	{killNATS, 8, 0, 8 * time.Second},
	{termNATS, 5, 0, 5 * time.Second},
	{freezeNATS, 6, 300 * time.Millisecond, 14 * time.Second},
	{killAllNATS, 1, 0, 3 * time.Second},
	{cutNATS, 8, time.Second, 40 * time.Second},
	{cutPair, 6, time.Second, 20 * time.Second},
	{slowPair, 4, 5 * time.Second, 15 * time.Second},
	{stepDown, 8, 0, 0},
	{fillDisk, 3, 3 * time.Second, 12 * time.Second},
	{clearLog, 6, 0, 0},
	{squeeze, 3, 0, 0},
	{rollEdges, 2, 0, time.Second},
	{calm, 5, 5 * time.Second, 15 * time.Second},
}

// restricted returns the weights of the named kinds of fault only, of all for "".
func restricted(names string) ([]weight, error) {
	if names == "" {
		return weights, nil
	}
	rest := weights[:0:0]
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(weights, func(w weight) bool { return string(w.kind) == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("-kinds: there is no fault %q", name)
		}
		rest = append(rest, weights[i])
	}
	return rest, nil
}

// planFor returns the faults of a seed, of the kinds in weights. Steps overlap: the next one begins its
// pause after the one before has begun, or has ended when it was calm.
func planFor(seed uint64, duration time.Duration, weights []weight) plan {
	rng := rand.New(rand.NewPCG(seed, 0x6865616472616365))
	total := 0
	for _, w := range weights {
		total += w.weight
	}
	var p plan
	for at := time.Duration(0); at < duration; {
		n := rng.IntN(total)
		for _, w := range weights {
			if n -= w.weight; n >= 0 {
				continue
			}
			s := step{
				pause: time.Duration(rng.Int64N(int64(5 * time.Second))), kind: w.kind, target: rng.IntN(3), reset: rng.IntN(2) == 0,
				ways: ways(rng.IntN(3)), duration: w.min + time.Duration(rng.Int64N(int64(w.max-w.min)+1)),
			}
			s.other = (s.target + 1 + rng.IntN(2)) % 3
			if rng.IntN(3) > 0 { // most faults are short, or little else happens
				s.duration = w.min + (s.duration-w.min)/4
			}
			at += s.pause
			if s.kind == calm {
				at += s.duration
			}
			p = append(p, s)
			break
		}
	}
	return p
}

func (s step) String() string {
	text := string(s.kind)
	switch s.kind {
	case cutPair, slowPair:
		text += fmt.Sprintf(" %d-%d", s.target+1, s.other+1)
	case calm, rollEdges, killAllNATS, clearLog, squeeze, stepDown:
	default:
		text += fmt.Sprintf(" %d", s.target+1)
	}
	if s.duration > 0 {
		text += fmt.Sprintf(" for %v", s.duration.Round(100*time.Millisecond))
	}
	switch s.kind {
	case cutEdge, cutNATS, cutPair:
		text += ", " + s.ways.String()
		if s.reset {
			text += ", then reset"
		}
	}
	return text
}

func (p plan) String() string {
	var b strings.Builder
	for i, s := range p {
		fmt.Fprintf(&b, "%4d  after %4.1fs  %v\n", i, s.pause.Seconds(), s)
	}
	return b.String()
}
