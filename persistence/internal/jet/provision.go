package jet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ConfigVersion is raised when the configuration that this code gives its
// streams changes. Only an edge with a newer version changes what another made.
const ConfigVersion = 1

// Stream metadata, visible in "nats stream info".
const (
	MetaVersion     = "headrace-config"
	MetaIncarnation = "headrace-incarnation"
	MetaSlots       = "headrace-slots"
	MetaPartitions  = "headrace-partitions"
)

// NewID returns 8 characters of at least 40 random bits: enough to tell lives of
// one key or incarnations of one stream apart.
func NewID() string { return strings.ToLower(rand.Text()[:8]) }

// Provisioner creates streams and adopts those that exist.
type Provisioner struct {
	JS  jetstream.JetStream
	Log *slog.Logger
}

// Ensure creates the stream or adopts the existing one, and returns the
// configuration in force. Several edges may do so at once: the incarnation is
// random, so exactly one creation succeeds and the others see its result.
func (p *Provisioner) Ensure(ctx context.Context, want jetstream.StreamConfig) (jetstream.StreamConfig, error) {
	for attempt := 0; ; attempt++ {
		have, err := p.ensureOnce(ctx, want)
		var layout *LayoutError
		if err == nil || errors.As(err, &layout) || !StartupTemporary(err) {
			return have, err
		}
		if attempt == 3 { // once, after about half a second
			p.Log.Warn("waiting for NATS", "stream", want.Name, "err", err)
		}
		if !Pause(ctx, attempt+4) {
			return have, err
		}
	}
}

// codeNoPeers is "no suitable peers for placement": the servers that would hold the
// replicas have not all been heard of yet, or there are too few for good.
const codeNoPeers jetstream.ErrorCode = 10005

// StartupTemporary reports whether a cluster that is still forming may cause err.
func StartupTemporary(err error) bool {
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return true // another edge is creating it: the name is taken, the stream not there yet
	}
	var refusal *jetstream.APIError
	if errors.As(err, &refusal) {
		return refusal.Code >= 500 || refusal.ErrorCode == codeNoPeers
	}
	return true
}

// EnsureTimeout bounds one attempt. Of creations that run into each other in a
// cluster, one may stay without an answer: the next attempt sees the result.
const EnsureTimeout = 2 * time.Second

func (p *Provisioner) ensureOnce(ctx context.Context, want jetstream.StreamConfig) (have jetstream.StreamConfig, err error) {
	try, cancel := context.WithTimeout(ctx, EnsureTimeout)
	defer cancel()
	existing, err := p.JS.Stream(try, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		created, err := p.JS.CreateStream(try, want)
		if err == nil {
			return created.CachedInfo().Config, nil
		}
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return have, fmt.Errorf("create stream %s: %w", want.Name, err)
		}
		existing, err = p.JS.Stream(try, want.Name)
		if err != nil {
			return have, fmt.Errorf("look up stream %s: %w", want.Name, err)
		}
	} else if err != nil {
		return have, fmt.Errorf("look up stream %s: %w", want.Name, err)
	}
	have = existing.CachedInfo().Config
	next, change, err := Reconcile(have, want)
	if err != nil || !change {
		return have, err
	}
	updated, err := p.JS.UpdateStream(try, next)
	if err != nil {
		return have, fmt.Errorf("update stream %s: %w", want.Name, err)
	}
	p.Log.Info("stream updated", "stream", want.Name)
	return updated.CachedInfo().Config, nil
}

// LayoutError is a configuration that contradicts how a stream was laid out.
type LayoutError struct{ msg string }

func (e *LayoutError) Error() string { return e.msg }

// Reconcile returns the configuration that a stream should change to, if any.
// Number of slots and partitions are the layout: entries lie where these numbers
// say, so nobody may disagree. Limits only grow, unless the stream was made by
// an older version; a newer one's stream is left alone.
func Reconcile(have, want jetstream.StreamConfig) (next jetstream.StreamConfig, change bool, err error) {
	for _, l := range []struct{ key, option string }{{MetaSlots, "history_size"}, {MetaPartitions, "partitions"}} {
		stored, ours := have.Metadata[l.key], want.Metadata[l.key]
		if stored == "" && ours != "" {
			return have, false, &LayoutError{fmt.Sprintf("stream %s was not made by Headrace: it has no %s; "+
				"rename or remove it, or use another prefix", have.Name, l.key)}
		}
		if stored != ours {
			return have, false, &LayoutError{fmt.Sprintf("stream %s was made with %s %s, the configuration says %s; "+
				"set it back, or stop all edges and remove the namespace's streams (this deletes the history; clients start afresh)",
				have.Name, l.option, stored, ours)}
		}
	}
	theirs, _ := strconv.Atoi(have.Metadata[MetaVersion])
	if theirs > ConfigVersion {
		return have, false, nil
	}
	next = have
	if theirs < ConfigVersion {
		next, change = want, true
		next.Storage = have.Storage
		next.Metadata = maps.Clone(want.Metadata)
		next.Subjects = have.Subjects
		next.Metadata[MetaIncarnation] = have.Metadata[MetaIncarnation]
	}
	grow := func(dst *time.Duration, v ...time.Duration) {
		for _, d := range v {
			if d > *dst {
				*dst, change = d, true
			}
		}
	}
	if have.MaxAge > 0 { // 0 is for ever
		grow(&next.MaxAge, have.MaxAge, want.MaxAge)
	} else {
		next.MaxAge = 0
	}
	if want.AllowAtomicPublish && !have.AllowAtomicPublish {
		next.AllowAtomicPublish, change = true, true
	}
	for _, subject := range want.Subjects {
		if !slices.Contains(next.Subjects, subject) {
			next.Subjects, change = append(slices.Clone(next.Subjects), subject), true
		}
	}
	grow(&next.Duplicates, have.Duplicates, want.Duplicates)
	for _, l := range []struct {
		dst        *int64
		have, want int64
	}{
		{&next.MaxMsgs, have.MaxMsgs, want.MaxMsgs}, {&next.MaxBytes, have.MaxBytes, want.MaxBytes},
		{&next.MaxMsgsPerSubject, have.MaxMsgsPerSubject, want.MaxMsgsPerSubject},
	} {
		if l.have > 0 && l.want > l.have { // 0 and -1 are without limit
			*l.dst, change = l.want, true
		}
	}
	if r := max(have.Replicas, want.Replicas); r > next.Replicas {
		next.Replicas, change = r, true
	}
	return next, change, nil
}

// EnsurePlain is Ensure for streams without slots. Subjects only grow.
func (p *Provisioner) EnsurePlain(ctx context.Context, want jetstream.StreamConfig) (have jetstream.StreamConfig, err error) {
	want.Metadata = map[string]string{MetaVersion: strconv.Itoa(ConfigVersion), MetaIncarnation: NewID()}
	return p.Ensure(ctx, want)
}

// NewWriteID names one append; unique over all keys of a stream.
func NewWriteID() string { return rand.Text() }
