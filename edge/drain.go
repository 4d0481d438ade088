package edge

import (
	"context"
	"time"
)

// leave makes the session take no more commands and ends it once those in flight
// are answered, so that the peer gets every reply before its close frame. Each
// command is bounded (callTimeout, the router's publish timeout), and so is this.
func (s *session) leave() {
	s.mu.Lock()
	s.leaving = true
	s.mu.Unlock()
	s.leaveIfDone()
}

// leaveIfDone ends a session that leaves and has nothing in flight.
func (s *session) leaveIfDone() {
	s.mu.Lock()
	done := s.leaving && s.inflight == 0 && !s.closed
	s.mu.Unlock()
	if done {
		s.close(disconnectShutdown)
	}
}

// Shutdown refuses new connections, tells the clients to reconnect elsewhere,
// evenly over the drain window, and waits for commands in flight. When ctx ends
// first, it stops pacing and waiting, and ends what is left.
func (s *Server) Shutdown(ctx context.Context) error {
	if !s.draining.Swap(true) {
		close(s.parting)
	}
	all := s.sessions.refuse()
	s.drainQueues(ctx) // so that no worker that is about to leave gets another job
	s.spread(ctx, all)
	done := make(chan struct{})
	go func() {
		s.calls.Wait()
		s.readers.Wait()
		s.calls.Wait() // what the ends of sessions began
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		for _, sess := range all {
			sess.close(disconnectShutdown)
		}
		return context.Cause(ctx)
	}
}

// spreadStep is the time between two looks at how many sessions should have left.
const spreadStep = 10 * time.Millisecond

// spread lets the sessions leave one by one, so that at any time the part of
// them that has left is the part of the drain window that has passed.
func (s *Server) spread(ctx context.Context, all []*session) {
	start, window := time.Now(), s.cfg.DrainWindow
	tick := time.NewTicker(spreadStep)
	defer tick.Stop()
	for next := 0; ; {
		due := len(all)
		if passed := time.Since(start); passed < window && ctx.Err() == nil {
			due = int(float64(len(all)) * float64(passed) / float64(window))
		}
		for ; next < due; next++ {
			all[next].leave()
		}
		if next == len(all) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// readyFor is how long the router must be able to work without a break before it
// counts as able again.
const readyFor = 5 * time.Second

// moveAway sends clients to other edges, some each second, while the router has
// been unable to work for too long (rule J2): subscribed here they would get
// nothing and not know it. It returns since when the router cannot work.
func (s *Server) moveAway(now, since time.Time, sessions []*session) time.Time {
	err := s.node.Ready()
	if err == nil {
		if now.Sub(s.lastUnready) < readyFor {
			return since // able now and then is not able: clients would wait for ever
		}
		s.unready.Store(false)
		return time.Time{}
	}
	s.lastUnready = now
	if since.IsZero() {
		since = now
	}
	if now.Sub(since) < s.cfg.UnreadyAfter {
		return since
	}
	if !s.unready.Swap(true) {
		s.log.Error("the router cannot work; sending clients elsewhere", "since", since, "clients", len(sessions), "err", err)
	}
	steps := max(int((s.cfg.DrainWindow-now.Sub(since)+s.cfg.UnreadyAfter)/time.Second), 1)
	for _, sess := range sessions[:(len(sessions)+steps-1)/steps] {
		sess.close(disconnectReconnect)
	}
	return since
}

// stop ends what is left at once.
func (s *Server) stop() {
	s.draining.Store(true)
	for _, sess := range s.sessions.refuse() {
		sess.close(disconnectShutdown)
	}
	s.cancel()
	s.calls.Wait()
	s.readers.Wait()
	s.calls.Wait()
}
