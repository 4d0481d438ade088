package persistence

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// errNoResponders means that nobody received the request: it had no effect.
var errNoResponders = errors.New("no responders")

// requester sends requests whose replies share one wildcard inbox. It serves
// requests with one reply and with many (batched direct gets), and costs less
// than nats.go's own, which has the former only.
type requester struct {
	nc     *nats.Conn
	prefix string // of reply subjects, with the dot
	sub    *nats.Subscription
	status chan nats.Status
	wg     sync.WaitGroup // watch

	mu    sync.Mutex
	next  uint64
	calls map[string]*call // by the last token of the reply subject
}

// call is one request under way.
type call struct {
	// last reports whether m is the final reply. It runs on the subscription's
	// goroutine and must not block.
	last  func(m *nats.Msg) bool
	msgs  []*nats.Msg // owned by the requester until done is closed
	done  chan struct{}
	err   error // set before done is closed
	token string
}

// errDisconnected means that the connection broke while a reply was awaited:
// the reply, if there was one, went to the old connection.
var errDisconnected = errors.New("connection lost")

func newRequester(nc *nats.Conn) (*requester, error) {
	r := &requester{nc: nc, prefix: nc.NewInbox() + ".", calls: make(map[string]*call)}
	sub, err := nc.Subscribe(r.prefix+"*", r.receive)
	if err != nil {
		return nil, fmt.Errorf("subscribe replies: %w", err)
	}
	// A dropped reply looks like a timeout, which every caller must handle anyhow;
	// the limits only keep that rare.
	if err := sub.SetPendingLimits(-1, 256<<20); err != nil {
		return nil, fmt.Errorf("subscribe replies: %w", err)
	}
	r.sub = sub
	r.status = nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	r.wg.Go(r.watch)
	return r, nil
}

func (r *requester) close() {
	_ = r.sub.Unsubscribe()
	r.nc.RemoveStatusListener(r.status)
	r.wg.Wait()
}

// watch ends the calls under way whenever the connection is lost, rather than
// let them wait for their timeout.
func (r *requester) watch() {
	for range r.status {
		r.mu.Lock()
		for token, c := range r.calls {
			delete(r.calls, token)
			c.err = errDisconnected
			close(c.done)
		}
		r.mu.Unlock()
	}
}

func (r *requester) receive(m *nats.Msg) {
	token := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.calls[token]
	if c == nil {
		return // the caller gave up
	}
	c.msgs = append(c.msgs, m)
	if c.last == nil || c.last(m) {
		delete(r.calls, token)
		close(c.done)
	}
}

func (r *requester) start(last func(*nats.Msg) bool) *call {
	c := &call{last: last, done: make(chan struct{})}
	r.mu.Lock()
	r.next++
	c.token = strconv.FormatUint(r.next, 36)
	r.calls[c.token] = c
	r.mu.Unlock()
	return c
}

// wait returns the replies. After an error none will be added to the call.
func (r *requester) wait(ctx context.Context, c *call) ([]*nats.Msg, error) {
	select {
	case <-c.done:
	case <-ctx.Done():
		r.abandon(c)
		return nil, context.Cause(ctx)
	}
	if c.err != nil {
		return nil, c.err
	}
	if m := c.msgs[0]; len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return nil, errNoResponders
	}
	return c.msgs, nil
}

func (r *requester) abandon(c *call) {
	r.mu.Lock()
	delete(r.calls, c.token)
	r.mu.Unlock()
}

// do sends m and returns its one reply. The subject and header of m are kept.
func (r *requester) do(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	msgs, err := r.doMany(ctx, m, nil)
	if err != nil {
		return nil, err
	}
	return msgs[0], nil
}

// doMany sends m and returns its replies up to the one that last accepts.
func (r *requester) doMany(ctx context.Context, m *nats.Msg, last func(*nats.Msg) bool) ([]*nats.Msg, error) {
	c := r.start(last)
	m.Reply = r.prefix + c.token
	if err := r.nc.PublishMsg(m); err != nil {
		r.abandon(c)
		return nil, &unsentError{err}
	}
	return r.wait(ctx, c)
}

// unsentError is a request that never left, so it had no effect.
type unsentError struct{ err error }

func (e *unsentError) Error() string { return "send: " + e.err.Error() }
func (e *unsentError) Unwrap() error { return e.err }

// hadNoEffect reports whether err says that a request reached nobody.
func hadNoEffect(err error) bool {
	var unsent *unsentError
	return errors.Is(err, errNoResponders) || errors.As(err, &unsent)
}
