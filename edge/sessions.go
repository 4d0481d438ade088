package edge

import (
	"maps"
	"slices"
	"sync"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// Sessions are the sessions of an edge. The router addresses them by user and
// client, so they are made before both router and Server.
type Sessions struct {
	mu     sync.Mutex // guards the fields below
	all    []*session
	byID   map[string]*session
	byUser map[string][]*session
	full   bool           // no session is added any more
	held   map[string]int // by user: places taken by reserve, not by byUser yet
	// joining has the sessions whose connect reply is not out yet, with what was
	// pushed to them and waits for it.
	joining map[*session][]func()
}

// NewSessions returns an empty set.
func NewSessions() *Sessions {
	return &Sessions{byID: make(map[string]*session), byUser: make(map[string][]*session), joining: make(map[*session][]func()), held: make(map[string]int)}
}

var _ router.Sessions = (*Sessions)(nil)

// add admits s and calls start before refuse can return, or returns false when
// refuse was called.
func (ss *Sessions) add(s *session, start func()) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.full {
		return false
	}
	s.index = int32(len(ss.all)) // descriptors end long before
	ss.all = append(ss.all, s)
	start()
	return true
}

// refuse ends the admission of sessions and returns those there are.
func (ss *Sessions) refuse() []*session {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.full = true
	return slices.Clone(ss.all)
}

// reserve takes one of limit places of user (0 is no limit), or returns false when
// there is none. identified must follow.
func (ss *Sessions) reserve(user string, limit int) bool {
	if limit == 0 || user == "" {
		return true
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if len(ss.byUser[user])+ss.held[user] >= limit {
		return false
	}
	ss.held[user]++
	return true
}

// identified makes s reachable by client and user, so that whoever saw the connect
// reply can count on it; what is sent to s waits for replied. It returns false when
// s has been removed.
func (ss *Sessions) identified(s *session) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if n := ss.held[s.info.User]; n > 1 {
		ss.held[s.info.User]--
	} else if n == 1 {
		delete(ss.held, s.info.User)
	}
	if s.index < 0 {
		return false
	}
	ss.byID[s.id] = s
	ss.joining[s] = nil
	if u := s.info.User; u != "" {
		ss.byUser[u] = append(ss.byUser[u], s)
	}
	return true
}

// replied tells that the connect reply of s is out.
func (ss *Sessions) replied(s *session) {
	for {
		ss.mu.Lock()
		waiting := ss.joining[s]
		if len(waiting) == 0 {
			delete(ss.joining, s)
			ss.mu.Unlock()
			return
		}
		ss.joining[s] = nil
		ss.mu.Unlock()
		for _, f := range waiting {
			f()
		}
	}
}

// do runs f for each session that selected returns, with mu held: at once, or when
// the session's connect reply is out. f is called once and must not block.
func (ss *Sessions) do(selected func() []*session, f func(*session)) (count int) {
	ss.mu.Lock()
	to := selected()
	now := make([]*session, 0, len(to))
	for _, s := range to {
		if waiting, ok := ss.joining[s]; ok {
			ss.joining[s] = append(waiting, func() { f(s) })
		} else {
			now = append(now, s)
		}
	}
	ss.mu.Unlock()
	for _, s := range now {
		f(s)
	}
	return len(to)
}

func (ss *Sessions) remove(s *session) {
	ss.mu.Lock()
	waiting := ss.joining[s] // whoever asked waits for an answer, if only that s is gone
	delete(ss.joining, s)
	defer func() {
		ss.mu.Unlock()
		for _, f := range waiting {
			f()
		}
	}()
	if s.index < 0 {
		return
	}
	last := len(ss.all) - 1
	ss.all[s.index] = ss.all[last]
	ss.all[s.index].index = s.index
	ss.all[last] = nil
	ss.all = ss.all[:last]
	s.index = -1
	if ss.byID[s.id] != s {
		return
	}
	delete(ss.byID, s.id)
	u := s.info.User
	for i, other := range ss.byUser[u] {
		if other == s {
			ss.byUser[u] = append(ss.byUser[u][:i], ss.byUser[u][i+1:]...)
			break
		}
	}
	if len(ss.byUser[u]) == 0 {
		delete(ss.byUser, u)
	}
}

// list returns the sessions there are now.
func (ss *Sessions) list() []*session {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return append([]*session(nil), ss.all...)
}

// Count implements router.Sessions.
func (ss *Sessions) Count() int {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return len(ss.all)
}

// Message implements router.Sessions.
func (ss *Sessions) Message(t router.Target, data []byte) int {
	return ss.do(func() []*session {
		switch {
		case t.All:
			return slices.Collect(maps.Values(ss.byID))
		case t.Client != "":
			if s := ss.byID[t.Client]; s != nil {
				return []*session{s}
			}
			return nil
		default:
			return ss.byUser[t.User]
		}
	}, func(s *session) { s.push(&protocol.Push{Message: &protocol.Message{Data: data}}) })
}
