package test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// newRequestBalancer forwards each request to another edge than the one before, of
// those that are alive: an HTTP load balancer at its most unkind.
func newRequestBalancer(t *testing.T, h *harness) string {
	t.Helper()
	var turn atomic.Int64
	proxy := &httputil.ReverseProxy{
		Director:      func(*http.Request) {}, // next has done it
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		edges := h.list()
		e, err := url.Parse(edges[int(turn.Add(1))%len(edges)].url)
		if err != nil {
			t.Error(err)
		}
		r.URL.Scheme, r.URL.Host = e.Scheme, e.Host
		defer func() {
			if cut := recover(); cut != nil && cut != http.ErrAbortHandler {
				panic(cut)
			} else if cut != nil {
				panic(http.ErrAbortHandler) // the edge was killed: cut the client, too
			}
		}()
		proxy.ServeHTTP(w, r)
	}))
	srv.Config.ErrorLog = proxy.ErrorLog
	srv.Start()
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv.URL
}

// sseEvent is one Server-Sent Event.
type sseEvent struct{ name, id, data string }

// sseStream is a plain EventSource: it comes back by itself, with the id of the
// last event.
type sseStream struct {
	url  string
	last string
}

var errDone = errors.New("done")

// follow calls on for each event, over as many connections as it takes, until on
// returns errDone or another error, or the deadline.
func (s *sseStream) follow(deadline time.Time, on func(sseEvent) error) error {
	for time.Now().Before(deadline) {
		err := s.once(on)
		if errors.Is(err, errDone) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return errors.New("not done in time")
}

// once follows one connection. Its end is no error.
func (s *sseStream) once(on func(sseEvent) error) error {
	req, err := http.NewRequest(http.MethodGet, s.url, nil)
	if err != nil {
		return err
	}
	if s.last != "" {
		req.Header.Set("Last-Event-ID", s.last)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil // the edge is gone
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusBadGateway {
		return nil
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	in := bufio.NewReader(res.Body)
	e := sseEvent{name: "message", id: s.last}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil // what was not ended by an empty line does not count
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch {
		case field == "event":
			e.name = value
		case field == "id":
			e.id = value
		case field == "data":
			e.data += value
		case line == "\n":
			s.last = e.id // now and not before, as the standard has it
			if e.data != "" {
				if err := on(e); err != nil {
					return err
				}
			}
			e = sseEvent{name: "message", id: s.last}
		}
	}
}

// counting checks that each channel brings 0, 1, 2 … up to want, each once.
type counting struct {
	mu   sync.Mutex // guards seen
	seen map[string][]string
	want int
}

// take notes data of channel, and returns errDone when all of all channels are there.
func (c *counting) take(channel, data string, channels ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = make(map[string][]string)
	}
	c.seen[channel] = append(c.seen[channel], data)
	if n := len(c.seen[channel]); data != fmt.Sprint(n-1) {
		return fmt.Errorf("%s: %d came after %v", channel, n-1, tail(c.seen[channel]))
	}
	if slices.ContainsFunc(channels, func(name string) bool { return len(c.seen[name]) < c.want }) {
		return nil
	}
	return errDone
}

func tail(s []string) []string { return s[max(0, len(s)-5):] }
