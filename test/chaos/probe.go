package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/test/check"
)

// probe asks who is present, again and again, on any edge.
func (r *run) probe(finished <-chan struct{}) {
	body, _ := json.Marshal(map[string]any{"channel": presenceChannel})
	for {
		select {
		case <-finished:
			return
		case <-time.After(500 * time.Millisecond):
		}
		i := rand.IntN(size)
		began := r.history.Since()
		var result struct {
			Presence map[string]struct{} `json:"presence"`
		}
		e := check.Event{Kind: check.Present, At: r.c.edges[i].name, Channel: presenceChannel, Began: began}
		if err := r.call(i, "presence", body, &result); err != nil {
			e.Kind, e.Payload = check.Unknown, err.Error()
			r.history.Add(e)
			continue
		}
		var ids []string
		for id := range result.Presence {
			ids = append(ids, id)
		}
		e.Payload = strings.Join(ids, " ")
		r.history.Add(e)
	}
}

// usage records what each process holds. An edge that was started again since is
// fresh: it is compared with what its first incarnation held when it was.
func (r *run) usage(phase string) {
	for i, p := range append(r.c.edges[:], r.c.nats[:]...) {
		now := check.Resources{Phase: phase}
		var err error
		if now.Bytes, now.Descriptors, err = p.held(); err != nil {
			continue
		}
		if i < size {
			now.Goroutines, err = r.goroutines(i)
		}
		if err != nil {
			continue
		}
		b, _ := json.Marshal(now)
		r.history.Add(check.Event{Kind: check.Usage, Who: p.name, Payload: string(b)})
	}
}

// goroutines reads how many edge i has.
func (r *run) goroutines(i int) (int, error) {
	resp, err := r.c.web.Get(r.c.url(i) + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("metrics: %s", resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			return strconv.Atoi(rest)
		}
	}
	return 0, fmt.Errorf("metrics without go_goroutines: %w", lines.Err())
}
