package router

import "sync"

// ackTurns lets the acks of one device on this node take turns: those that come
// while one is under way wait and go together, as the furthest of them. Without
// it a client that acks every message would write its cursor as often, and its
// acks would collide.
type ackTurns struct {
	mu sync.Mutex // guards the fields below
	// by device: those that wait for the one under way. Bounded by the commands that
	// sessions may have in flight.
	waiting map[string][]*ackCall
}

// ackCall is one ack.
type ackCall struct {
	at    Position
	acked Acked
	err   error
	// turn gets the calls to run, this one first; or nil when this one is done.
	turn chan []*ackCall
}

// do runs f, which fills the calls it gets, or waits for another caller to do so.
func (a *ackTurns) do(device string, at Position, f func([]*ackCall)) (Acked, error) {
	call := &ackCall{at: at, turn: make(chan []*ackCall, 1)}
	batch := []*ackCall{call}
	if a.enqueue(device, call) {
		batch = <-call.turn
	}
	if batch == nil {
		return call.acked, call.err
	}
	f(batch)
	for _, other := range batch[1:] {
		other.turn <- nil
	}
	a.next(device)
	return call.acked, call.err
}

// enqueue returns false when it is call's turn at once.
func (a *ackTurns) enqueue(device string, call *ackCall) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	waiting, busy := a.waiting[device]
	if !busy {
		if a.waiting == nil {
			a.waiting = make(map[string][]*ackCall)
		}
		a.waiting[device] = nil
		return false
	}
	a.waiting[device] = append(waiting, call)
	return true
}

// next gives the turn to those who wait.
func (a *ackTurns) next(device string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	waiting := a.waiting[device]
	if len(waiting) == 0 {
		delete(a.waiting, device)
		return
	}
	a.waiting[device] = nil
	waiting[0].turn <- waiting
}
