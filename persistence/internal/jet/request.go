// Package jet is what the log and the queue share in talking to JetStream:
// provisioning, requests, and small things about errors and headers.
package jet

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// ErrNoResponders means that nobody received the request: it had no effect.
var ErrNoResponders = errors.New("no responders")

// Requester sends requests whose replies share one wildcard inbox. It serves
// requests with one reply and with many (batched direct gets), and costs less
// than nats.go's own, which has the former only.
type Requester struct {
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

func NewRequester(nc *nats.Conn) (*Requester, error) {
	r := &Requester{nc: nc, prefix: nc.NewInbox() + ".", calls: make(map[string]*call)}
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

func (r *Requester) Close() {
	_ = r.sub.Unsubscribe()
	r.nc.RemoveStatusListener(r.status)
	r.wg.Wait()
}

// watch ends the calls under way whenever the connection is lost, rather than
// let them wait for their timeout.
func (r *Requester) watch() {
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

func (r *Requester) receive(m *nats.Msg) {
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

func (r *Requester) start(last func(*nats.Msg) bool) *call {
	c := &call{last: last, done: make(chan struct{})}
	r.mu.Lock()
	r.next++
	c.token = strconv.FormatUint(r.next, 36)
	r.calls[c.token] = c
	r.mu.Unlock()
	return c
}

// wait returns the replies. After an error none will be added to the call.
func (r *Requester) wait(ctx context.Context, c *call) ([]*nats.Msg, error) {
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
		return nil, ErrNoResponders
	}
	return c.msgs, nil
}

func (r *Requester) abandon(c *call) {
	r.mu.Lock()
	delete(r.calls, c.token)
	r.mu.Unlock()
}

// Do sends m and returns its one reply. The subject and header of m are kept.
func (r *Requester) Do(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	msgs, err := r.DoMany(ctx, m, nil)
	if err != nil {
		return nil, err
	}
	return msgs[0], nil
}

// DoMany sends m and returns its replies up to the one that last accepts.
func (r *Requester) DoMany(ctx context.Context, m *nats.Msg, last func(*nats.Msg) bool) ([]*nats.Msg, error) {
	c := r.start(last)
	m.Reply = r.prefix + c.token
	if err := r.Send(m); err != nil {
		r.abandon(c)
		return nil, err
	}
	return r.wait(ctx, c)
}

// Send sends m and awaits nothing.
func (r *Requester) Send(m *nats.Msg) error {
	if err := r.nc.PublishMsg(m); err != nil {
		return &UnsentError{Err: err}
	}
	return nil
}

// UnsentError is a request that never left, so it had no effect.
type UnsentError struct{ Err error }

func (e *UnsentError) Error() string { return "send: " + e.Err.Error() }
func (e *UnsentError) Unwrap() error { return e.Err }

// HadNoEffect reports whether err says that a request reached nobody.
func HadNoEffect(err error) bool {
	var unsent *UnsentError
	return errors.Is(err, ErrNoResponders) || errors.As(err, &unsent)
}
