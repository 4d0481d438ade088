package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/headrace/headrace/test/rawclient"
)

// mapFollower is a client of a map that walks its state in pages and follows it, on
// ever other edges. It notes every hole and every double that it sees.
type mapFollower struct {
	channel string
	limit   int
	edge    func() string
	stay    func() time.Duration // how long it stays on an edge
	delta   bool                 // asks for deltas

	mu     sync.Mutex // guards the fields below
	keys   map[string]rawclient.Publication
	at     uint64
	epoch  string
	live   bool
	faults []string
	walks  int // walks through the state
	split  int // walks whose pages came over several connections
	pages  int // of the feed
	joined int // times that it went live
	deltas rawclient.Deltas
}

// subscribeMap is a subscribe command of type 1.
type subscribeMap struct {
	Channel string `json:"channel"`
	Type    int    `json:"type"`
	Phase   int    `json:"phase"`
	Limit   int    `json:"limit,omitempty"`
	Cursor  string `json:"cursor,omitempty"`
	Recover bool   `json:"recover,omitempty"`
	Epoch   string `json:"epoch,omitempty"`
	Offset  uint64 `json:"offset,omitempty"`
	Delta   string `json:"delta,omitempty"`
}

// run follows until stop is closed, and then keeps its last connection until
// finished is.
func (m *mapFollower) run(stop, finished <-chan struct{}) {
	var req *subscribeMap // the next command of the walk; nil begins another
	for {
		req = m.visit(req, stop, finished)
		select {
		case <-finished:
			return
		case <-stop:
		case <-time.After(rand.N(200 * time.Millisecond)): // away
		}
	}
}

// visit goes on with req on one connection, and returns what is to be asked next.
func (m *mapFollower) visit(req *subscribeMap, stop, finished <-chan struct{}) *subscribeMap {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	replies := make(chan *rawclient.Reply, 10)
	c, err := rawclient.Dial(ctx, m.edge(), func(e rawclient.Event) {
		if e.Reply != nil {
			m.reply(e.Reply)
			replies <- e.Reply
		} else {
			m.push(e.Push)
		}
	})
	if err != nil {
		return req
	}
	defer c.Close()
	leave := time.After(m.stay())
	for first := true; ; first = false {
		if req == nil {
			req = m.begin()
		} else if first && !req.Recover {
			m.mu.Lock()
			m.split++
			m.mu.Unlock()
		}
		if m.delta {
			req.Delta = "fossil"
		}
		if _, err := c.Send("subscribe", req); err != nil {
			return req
		}
		select {
		case r := <-replies:
			req = m.next(req, r)
		case <-c.Done():
			return req
		}
		if m.isLive() {
			break
		}
		if req != nil && rand.IntN(4) == 0 {
			return req // the next page is another edge's
		}
	}
	select {
	case <-leave:
		select {
		case <-stop:
			<-finished
		default:
		}
	case <-c.Done():
	case <-finished:
	}
	c.Close() // the reader has ended, so what follows is the last word
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live && rand.IntN(3) > 0 { // else it forgets what it has seen
		m.live = false
		return &subscribeMap{Channel: m.channel, Type: 1, Phase: 1, Limit: m.limit, Recover: true, Epoch: m.epoch, Offset: m.at}
	}
	return nil
}

func (m *mapFollower) begin() *subscribeMap {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keys, m.at, m.epoch, m.live = make(map[string]rawclient.Publication), 0, "", false
	m.walks++
	return &subscribeMap{Channel: m.channel, Type: 1, Phase: 2, Limit: m.limit}
}

func (m *mapFollower) isLive() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.live }

// next is the command that follows r, the answer to req; nil starts over.
func (m *mapFollower) next(req *subscribeMap, r *rawclient.Reply) *subscribeMap {
	switch {
	case r.Error != nil && r.Error.Code == 112:
		return nil
	case r.Error != nil:
		if !r.Error.Temporary {
			m.fault("%+v is answered %v", req, r.Error)
		}
		return req
	case r.Subscribe.Phase == 2 && req.Epoch != "" && req.Epoch != r.Subscribe.Epoch:
		return nil // another life
	case r.Subscribe.Phase == 2 && r.Subscribe.Cursor != "":
		return &subscribeMap{Channel: m.channel, Type: 1, Phase: 2, Limit: m.limit, Cursor: r.Subscribe.Cursor, Epoch: r.Subscribe.Epoch, Offset: r.Subscribe.Offset}
	}
	return &subscribeMap{Channel: m.channel, Type: 1, Phase: 1, Limit: m.limit, Recover: req.Recover, Epoch: r.Subscribe.Epoch, Offset: r.Subscribe.Offset}
}

// reply takes what an answer has, on the reading goroutine: pushes may follow it.
func (m *mapFollower) reply(r *rawclient.Reply) {
	if r.Error != nil || r.Subscribe == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deltas.Reset()
	for _, e := range r.Subscribe.State {
		m.decode(&e)
		m.keys[e.Key] = e
	}
	for i, p := range r.Subscribe.Publications {
		m.decode(&p)
		if i > 0 && p.Offset <= r.Subscribe.Publications[i-1].Offset {
			m.note("offset %d after %d in an answer", p.Offset, r.Subscribe.Publications[i-1].Offset)
		}
		m.take(&p)
	}
	if r.Subscribe.Phase == 1 {
		m.pages++
	}
	if r.Subscribe.Phase == 0 {
		m.at, m.epoch, m.live = r.Subscribe.Offset, r.Subscribe.Epoch, true
		m.joined++
	}
}

// push takes a live change: each must be the next one.
func (m *mapFollower) push(p *rawclient.Push) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case p.Unsubscribe != nil:
		m.live = false
	case p.Pub != nil && !m.live:
		m.note("a change is pushed before the map is live")
	case p.Pub != nil:
		if p.Pub.Offset != m.at+1 {
			m.note("offset %d follows %d", p.Pub.Offset, m.at)
		}
		m.decode(p.Pub)
		m.at = p.Pub.Offset
		if p.Pub.Epoch != "" {
			m.epoch = p.Pub.Epoch
		}
		m.take(p.Pub)
	}
}

// take applies a change, unless a page has shown a later one of the key.
func (m *mapFollower) take(p *rawclient.Publication) {
	switch have, ok := m.keys[p.Key]; {
	case ok && have.Offset >= p.Offset:
	case p.Removed:
		delete(m.keys, p.Key)
	default:
		m.keys[p.Key] = *p
	}
}

// decode makes p whole.
func (m *mapFollower) decode(p *rawclient.Publication) {
	if !m.delta {
		return
	}
	if err := m.deltas.Decode(p); err != nil {
		m.note("%v", err)
	}
}

func (m *mapFollower) fault(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note(format, args...)
}

func (m *mapFollower) note(format string, args ...any) {
	if len(m.faults) < 20 {
		m.faults = append(m.faults, fmt.Sprintf(format, args...))
	}
}

// compare tells how the follower's map differs from want, nil for not at all.
func (m *mapFollower) compare(want map[string]rawclient.Publication, at uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.live || m.at != at {
		return fmt.Errorf("live %v at %d, want %d", m.live, m.at, at)
	}
	var errs []error
	for key, w := range want {
		if got, ok := m.keys[key]; !ok || got.Version != w.Version || string(got.Data) != string(w.Data) {
			errs = append(errs, fmt.Errorf("%s is %s in version %d, want %s in %d", key, got.Data, got.Version, w.Data, w.Version))
		}
	}
	if len(m.keys) != len(want) {
		errs = append(errs, fmt.Errorf("%d keys, want %d", len(m.keys), len(want)))
	}
	return errors.Join(errs...)
}
