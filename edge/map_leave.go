package edge

import (
	"context"
	"time"

	"github.com/headrace/headrace/router"
)

// A client's own key goes with its subscription where the namespace says so
// (MapOptions.RemoveOnUnsubscribe). The session remembers that there is one in
// channelState.keyed, which outlives a subscription that the router ended: the
// client will be back.

// maxKeyRemovals bounds the removals under way when many sessions end at once.
const maxKeyRemovals = 64

// removalTime bounds the attempts to remove a key; afterwards it expires.
const removalTime = 10 * time.Second

// keepKey returns what notes that the client's key in the channel of state is set.
// The channel is held.
func (s *session) keepKey(ns *router.Namespace, state *channelState) func() {
	return func() {
		if !ns.Map.RemoveOnUnsubscribe {
			return
		}
		s.mu.Lock()
		closed := s.closed
		state.keyed = !closed
		s.mu.Unlock()
		if closed { // while the key was being set
			s.removeKey(state.name)
		}
	}
}

// leaveMap removes the client's key from the channel of state, which is held, and
// releases it then: what the client sets later must not be removed.
func (s *session) leaveMap(state *channelState) {
	s.mu.Lock()
	keyed := state.keyed
	state.keyed = false
	s.mu.Unlock()
	if !keyed {
		s.release(state)
		return
	}
	s.begin()
	s.srv.calls.Go(func() {
		s.removeKey(state.name)
		s.release(state)
		s.end()
	})
}

// leaveExpired is leaveMap for a channel that is not held.
func (s *session) leaveExpired(state *channelState) {
	s.mu.Lock()
	keyed := state.keyed
	s.mu.Unlock()
	if keyed {
		s.exclusive(state.name, s.leaveMap, nil)
	}
}

// leaveMaps removes the keys of a session that has ended from channels.
func (s *session) leaveMaps(channels []string) {
	if len(channels) == 0 {
		return
	}
	s.srv.calls.Go(func() {
		for _, name := range channels {
			s.removeKey(name)
		}
	})
}

// removeKey removes the client's key.
func (s *session) removeKey(channel string) {
	ctx, cancel := context.WithTimeout(s.srv.ctx, removalTime)
	defer cancel()
	select {
	case s.srv.removals <- struct{}{}:
		defer func() { <-s.srv.removals }()
	case <-ctx.Done():
		return
	}
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		_, err := s.srv.node.ChangeState(ctx, channel, router.Change{Key: s.id, Remove: true})
		if router.CodeOf(err) != router.CodeUnavailable || err == nil {
			return
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}
