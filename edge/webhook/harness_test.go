package webhook

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

func TestMain(m *testing.M) { natstest.Main(m) }

const (
	testSecret   = "whsec_bXktdmVyeS1zZWNyZXQta2V5LW9mLTMyLWJ5dGVzISE="
	testPrevious = "the-secret-before-of-32-bytes-xx"
)

// receiver is an endpoint behind pipes, so that it can be in a bubble.
type receiver struct {
	conns chan net.Conn
	gone  atomic.Bool // connections are refused
	open  atomic.Int64
	most  atomic.Int64 // open connections at a time
	srv   *http.Server
	wg    sync.WaitGroup
	stop  func()
}

var errRefused = errors.New("connection refused")

func serve(t *testing.T, h http.HandlerFunc) *receiver {
	t.Helper()
	r := &receiver{conns: make(chan net.Conn)}
	// The server watches a connection for its end only once the body is read.
	read := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // what is missing fails the test that looks
		r.Body = io.NopCloser(bytes.NewReader(body))
		h(w, r)
	}
	r.srv = &http.Server{Handler: http.HandlerFunc(read), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0), ConnState: func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			n := r.open.Add(1)
			for most := r.most.Load(); n > most && !r.most.CompareAndSwap(most, n); most = r.most.Load() {
			}
		case http.StateClosed, http.StateHijacked:
			r.open.Add(-1)
		}
	}}
	l := &pipeListener{conns: r.conns, done: make(chan struct{})}
	r.wg.Go(func() { _ = r.srv.Serve(l) }) // ends with ErrServerClosed
	r.stop = sync.OnceFunc(r.close)
	t.Cleanup(r.stop)
	return r
}

func (r *receiver) close() {
	r.srv.Close()
	r.wg.Wait()
	time.Sleep(10 * time.Minute) // virtual: handlers see the end of their connections
}

func (r *receiver) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if r.gone.Load() {
		return nil, errRefused
	}
	a, b := net.Pipe()
	select {
	case r.conns <- b:
		return a, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// fakeQueue is a queue in memory that hands out what is put in, by credits, and
// notes how jobs ended.
type fakeQueue struct {
	router.Queues
	mu      sync.Mutex
	take    func(*router.Job) bool
	credits int
	held    int
	waiting []*router.Job
	ends    chan end
	extends atomic.Int64
	stuck   error // what Extend fails with
	closes  atomic.Int64
}

type end struct {
	token string
	nack  *router.Nack // nil: acked
}

func newFakeQueue() *fakeQueue { return &fakeQueue{ends: make(chan end, 10_000)} }

func (q *fakeQueue) Pull(_ string, take func(*router.Job) bool) (router.Worker, error) {
	q.take = take
	return q, nil
}

func (q *fakeQueue) SetCredits(n int) {
	q.mu.Lock()
	q.credits = n
	q.mu.Unlock()
	q.hand()
}

func (q *fakeQueue) Close(time.Duration) { q.closes.Add(1) }

func (q *fakeQueue) put(jobs ...*router.Job) {
	q.mu.Lock()
	q.waiting = append(q.waiting, jobs...)
	q.mu.Unlock()
	q.hand()
}

// hand gives out what may be given, as the real one from another goroutine.
func (q *fakeQueue) hand() {
	go func() {
		q.mu.Lock()
		var out []*router.Job
		for q.held < q.credits && len(q.waiting) > 0 {
			out = append(out, q.waiting[0])
			q.waiting = q.waiting[1:]
			q.held++
		}
		q.mu.Unlock()
		for _, j := range out {
			q.take(j)
		}
	}()
}

func (q *fakeQueue) end(e end) error {
	q.mu.Lock()
	q.held--
	q.mu.Unlock()
	q.ends <- e
	q.hand()
	return nil
}

func (q *fakeQueue) Ack(_ context.Context, _, token string) error { return q.end(end{token: token}) }
func (q *fakeQueue) Nack(_ context.Context, _, token string, n router.Nack) error {
	return q.end(end{token: token, nack: &n})
}

func (q *fakeQueue) Extend(context.Context, string, string) error {
	q.extends.Add(1)
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stuck
}

func testEndpoint() Endpoint {
	return Endpoint{
		Queue: "q", AckWait: 30 * time.Second, URL: "http://user:login-secret@jobs.example/hook?x=1", Secret: testSecret, Previous: testPrevious,
		Concurrency: 4, Timeout: 10 * time.Second, MaxIdle: 4, IdleTimeout: time.Minute, Headers: []string{"X-Key: header-secret"},
	}
}

func testJob(id string) *router.Job {
	return &router.Job{ID: id, Queue: "q", Priority: router.PriorityMedium, Attempt: 2, MaxAttempts: 4, Token: "token-of-" + id, Payload: []byte(`{"secret":"payload"}`)}
}

// logged is a log that is checked for secrets when the test ends.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// work runs a worker on queues until the returned function is called.
func work(t testing.TB, queues router.Queues, e Endpoint, dial dialer) (ws *Workers, stop func()) {
	t.Helper()
	log := &logged{}
	ws, err := New(Config{Endpoints: []Endpoint{e}, dial: dial, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))}, queues)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := ws.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		log.mu.Lock()
		defer log.mu.Unlock()
		for _, secret := range []string{testSecret, testPrevious, "login-secret", "header-secret", "payload\"", "bXktdmV"} {
			if strings.Contains(log.text.String(), secret) {
				t.Errorf("the log tells %s:\n%s", secret, log.text.String())
			}
		}
	})
	t.Cleanup(stop)
	return ws, stop
}

// next returns how the next job ended.
func (q *fakeQueue) next(t *testing.T) end {
	t.Helper()
	select {
	case e := <-q.ends:
		return e
	case <-time.After(time.Hour): // virtual
		t.Fatal("no job ended within 1h")
		return end{}
	}
}
