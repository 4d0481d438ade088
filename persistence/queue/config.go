// Package queue keeps jobs in JetStream: what waits, what is retried, and what
// failed for good. It implements router.Queues.
//
// A queue is three streams and six consumers. Jobs come in on
// <prefix>.job.<queue>.<priority>; a job that waits for its time or for a retry
// is a message schedule on <prefix>.retry.<queue>.<name>, which NATS turns into a
// message on <prefix>.retry.<queue>.due.<priority>; dead letters lie on
// <prefix>.dead.<queue>.<name>. Only Headrace writes to the latter two, so their
// headers are trusted; of those of a job only options are.
package queue

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/headrace/headrace/router"
)

// Config is what Open needs. Zero values stand for the defaults given here.
type Config struct {
	// Prefix is the first token of every subject and, in upper case, of every
	// stream name; "hr" by default.
	Prefix   string
	Queues   []router.Queue
	Replicas int // of every stream, 1 (default), 3 or 5
	// DuplicateWindow is how long an idempotency key is remembered. 2m by default.
	DuplicateWindow time.Duration
	// Timeout bounds how long a call waits for NATS, elections included. 15s by
	// default; it is cut to three quarters of DuplicateWindow (rule W2).
	Timeout time.Duration
	// TokenKey authenticates job tokens; all nodes must have the same. Without
	// one a random key lies in the metadata of the jobs stream.
	TokenKey []byte

	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: count, but show nobody
}

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = "hr"
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.DuplicateWindow == 0 {
		c.DuplicateWindow = 2 * time.Minute
	}
	if c.Timeout == 0 {
		c.Timeout = 15 * time.Second
	}
	c.Timeout = min(c.Timeout, c.DuplicateWindow*3/4)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	queues := make([]router.Queue, len(c.Queues))
	for i, q := range c.Queues {
		queues[i] = q.WithDefaults()
	}
	c.Queues = queues
	return c
}

// validate reports every problem at once.
func (c *Config) validate() error {
	var errs []error
	if strings.ContainsAny(c.Prefix, " .*>") {
		errs = append(errs, fmt.Errorf("queue: prefix %q is not one plain subject token", c.Prefix))
	}
	if c.Replicas < 1 || c.Replicas > 5 || c.Replicas%2 == 0 {
		errs = append(errs, fmt.Errorf("queue: replicas %d is not 1, 3 or 5", c.Replicas))
	}
	if n := len(c.TokenKey); n > 0 && n < 16 {
		errs = append(errs, errors.New("queue: the token key is shorter than 16 bytes"))
	}
	seen := make(map[string]bool)
	for i := range c.Queues {
		q := &c.Queues[i]
		if seen[q.Name] {
			errs = append(errs, fmt.Errorf("queue: %q is declared twice", q.Name))
		}
		if q.Name == "in" { // its dead letters are those of plain NATS publishes
			errs = append(errs, errors.New(`queue: the name "in" is taken`))
		}
		seen[q.Name] = true
		errs = append(errs, q.Validate())
	}
	return errors.Join(errs...)
}
