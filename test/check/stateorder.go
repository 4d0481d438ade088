package check

import (
	"cmp"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// linearTime bounds the search for an order of the operations on one key.
const linearTime = 10 * time.Second

// linear looks for an order of all operations on k that explains every answer.
func (f *stateFacts) linear(k *keyFacts) {
	ops := f.operations(k)
	switch porcupine.CheckOperationsTimeout(keyModel, knownAt(ops, forever), linearTime) {
	case porcupine.Ok:
	case porcupine.Unknown:
		f.v.report.States.Undecided++
	case porcupine.Illegal:
		at := firstWithout(ops)
		f.bad(RuleStateLinear, at, k.name, "no order of the operations on %s explains that %s was answered: %v", k.name, at.Who, at.State)
	}
}

// keyOp is an operation for the search.
type keyOp struct {
	call       keyCall
	e          *Event
	begin, end time.Duration // between which it took effect; end is forever while it is open
}

// operations returns what the search has to explain, in order of their ends. What
// was read from memory is judged elsewhere, and what is known not to have happened
// is left out.
func (f *stateFacts) operations(k *keyFacts) (ops []keyOp) {
	attempts := make(map[string][]*Event) // at one change
	for _, e := range append(k.ops[:len(k.ops):len(k.ops)], f.clears...) {
		s := e.State
		switch {
		case s.Op == OpCached, s.Outcome == Open && s.Op != OpSet && s.Op != OpDelete && s.Op != OpClear:
		case s.ID == "" || s.Outcome == Refused:
			ops = append(ops, f.operation(e, e))
		default:
			attempts[s.ID] = append(attempts[s.ID], e)
		}
	}
	for _, id := range sortedKeys(attempts) {
		list := attempts[id]
		// Whichever attempt did it, the answer tells what all of them became.
		done := list[0]
		if i := slices.IndexFunc(list, func(e *Event) bool { return e.State.Outcome == Applied }); i >= 0 {
			done = list[i]
		}
		op := f.operation(list[0], done)
		if done.State.Outcome == Open {
			if t, seen := k.sets[done.State.Value]; seen && done.State.Value != "" {
				op.call.settled, op.end = t.Version, t.by.T
			} else if done.State.Op == OpSet && done.State.Strategy != strategyMerge && f.complete(k) {
				continue
			}
		}
		ops = append(ops, op)
	}
	slices.SortStableFunc(ops, func(a, b keyOp) int { return cmp.Compare(a.end, b.end) })
	return ops
}

// operation returns the operation that was first asked for at first, and is told of
// by e.
func (f *stateFacts) operation(first, e *Event) keyOp {
	op := keyOp{call: keyCall{State: e.State, from: first.Began - f.rules.Clock, to: e.T + f.rules.Clock}, e: e, begin: first.Began, end: e.T}
	if e.State.Outcome == Open {
		op.end, op.call.to = forever, forever
	}
	if o := e.State.Outcome; (o == Answered || o == Refused) && !steady(f.v.ill[NATS], e.Began-f.rules.Stale, e.T) {
		op.begin -= f.rules.Stale
	}
	return op
}

// complete reports whether every version of k is known, so that a value nobody has
// been told of was never set.
func (f *stateFacts) complete(k *keyFacts) bool {
	if len(f.clears) > 0 || k.final == nil || len(k.final.State.Entries) == 0 {
		return false
	}
	known := make(map[uint64]bool)
	for id := range k.values {
		known[id.Version] = true
	}
	for _, m := range f.feeds {
		for _, at := range m.byKey[k.name] {
			known[m.at[at].Version.Version] = true
		}
	}
	for n := range k.final.State.Entries[0].Version {
		if !known[n+1] {
			return false
		}
	}
	return true
}

// knownAt returns the operations as they were known at a time: what was answered
// later was still open.
func knownAt(ops []keyOp, at time.Duration) []porcupine.Operation {
	var list []porcupine.Operation
	for i, op := range ops {
		end := op.end
		if op.begin > at {
			continue
		}
		if end > at {
			if end = forever; op.call.Outcome == Answered || op.call.Outcome == Refused {
				continue
			}
		}
		list = append(list, porcupine.Operation{ClientId: i, Input: op.call, Call: int64(op.begin), Return: int64(end)})
	}
	return list
}

// firstWithout returns the first answer that cannot be explained.
func firstWithout(ops []keyOp) *Event {
	low, high := 0, len(ops)-1
	for low < high {
		mid := (low + high) / 2
		if porcupine.CheckOperationsTimeout(keyModel, knownAt(ops, ops[mid].end), linearTime) == porcupine.Illegal {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return ops[low].e
}
