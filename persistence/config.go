// Package persistence keeps everything that must last in JetStream. It owns
// every stream and implements the storage ports of package router.
//
// Its heart is the numbered log: the entries of a key are numbered 1, 2, 3 …
// without gaps. docs/decisions/0001-numbered-log-layout.md tells how they lie in
// a stream.
package persistence

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/headrace/headrace/router"
)

// Config says what to keep and how.
type Config struct {
	// Prefix is the first token of every subject and, in upper case, of every
	// stream name; "hr" by default.
	Prefix string
	// Namespaces with HistorySize above 0 get a log, the others nothing.
	Namespaces []router.Namespace
	// Replicas of every stream, 1 (default), 3 or 5.
	Replicas int

	// DuplicateWindow is how long an ID is remembered by a stream. 2m by default.
	DuplicateWindow time.Duration
	// PublishTimeout bounds how long an append waits for its acknowledgement,
	// elections included: they take 4 to 9 s after the kill of a leader. 15s by
	// default; it is cut to three quarters of DuplicateWindow, because a retry is
	// harmless only while its ID is remembered (rule W2).
	PublishTimeout time.Duration
	// ContactBound is how long a stream's leader may be out of reach before
	// Healthy reports it (rule J2). 5s by default.
	ContactBound time.Duration

	// MaxQueuedPerKey bounds the appends that wait for one key, MaxQueuedBytes
	// the payload and meta bytes of all waiting appends of a namespace. An append
	// above either fails with CodeLimit. 4,096 and 64 MiB by default.
	MaxQueuedPerKey int
	MaxQueuedBytes  int64
	// HeadCache is the number of keys per stream whose head is remembered, so
	// that an append needs no read. About 150 bytes each; 65,536 by default.
	HeadCache int

	// Cursors keeps cursors of inboxes.
	Cursors CursorsConfig

	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: count, but show nobody
}

func (c *Config) withDefaults() Config {
	d := *c
	def := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	def(&d.DuplicateWindow, 2*time.Minute)
	def(&d.PublishTimeout, 15*time.Second)
	def(&d.ContactBound, 5*time.Second)
	d.PublishTimeout = min(d.PublishTimeout, d.DuplicateWindow*3/4)
	if d.Prefix == "" {
		d.Prefix = "hr"
	}
	if d.Replicas == 0 {
		d.Replicas = 1
	}
	if d.MaxQueuedPerKey == 0 {
		d.MaxQueuedPerKey = 4096
	}
	if d.MaxQueuedBytes == 0 {
		d.MaxQueuedBytes = 64 << 20
	}
	if d.HeadCache == 0 {
		d.HeadCache = 65536
	}
	d.Namespaces = make([]router.Namespace, len(c.Namespaces))
	for i, ns := range c.Namespaces {
		d.Namespaces[i] = ns.WithDefaults()
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return d
}

// validate reports every problem at once.
func (c *Config) validate() error {
	var errs []error
	if strings.ContainsAny(c.Prefix, " .*>") {
		errs = append(errs, fmt.Errorf("persistence: prefix %q is not one plain subject token", c.Prefix))
	}
	if c.Replicas < 1 || c.Replicas > 5 || c.Replicas%2 == 0 {
		errs = append(errs, fmt.Errorf("persistence: replicas %d is not 1, 3 or 5", c.Replicas))
	}
	if c.Cursors.Enabled && c.Cursors.TTL < time.Second {
		errs = append(errs, fmt.Errorf("persistence: a cursor's time to live %v is below 1s", c.Cursors.TTL))
	}
	if c.HeadCache < 0 || c.MaxQueuedPerKey < 0 || c.MaxQueuedBytes < 0 {
		errs = append(errs, errors.New("persistence: a bound is negative"))
	}
	seen := make(map[string]bool)
	for i := range c.Namespaces {
		ns := &c.Namespaces[i]
		if seen[ns.Name] {
			errs = append(errs, fmt.Errorf("persistence: namespace %q is declared twice", ns.Name))
		}
		seen[ns.Name] = true
		errs = append(errs, ns.Validate())
	}
	return errors.Join(errs...)
}

// ConnectOptions returns what the connection given to Open needs. The reconnect
// buffer is off: with it, a publish made while disconnected is sent later, after
// it was reported as failed (rule W2). Pings are frequent so that a dead server
// is left within ten seconds.
func ConnectOptions() []nats.Option {
	return []nats.Option{
		nats.ReconnectBufSize(-1),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 500*time.Millisecond),
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
	}
}
