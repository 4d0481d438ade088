package persistence

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/headrace/headrace/persistence/internal/jet"
)

// attemptResult says how one attempt to append ended. The set is closed: every
// value is a series from the first scrape.
type attemptResult string

const (
	attemptStored      attemptResult = "stored"
	attemptDuplicate   attemptResult = "duplicate"    // the id was stored before
	attemptConflict    attemptResult = "conflict"     // another writer was first
	attemptUnreached   attemptResult = "unreached"    // nobody received it
	attemptUnknown     attemptResult = "unknown"      // no answer: it may be stored
	attemptFoundStored attemptResult = "found_stored" // an unknown one, found when looking back
	attemptVanished    attemptResult = "vanished"     // the id was stored before, but the entry is gone: stored again
)

// refusal says why an append failed.
type refusal string

const (
	refusedKey     refusal = "key_queue_full"
	refusedBytes   refusal = "bytes_full"
	refusedTimeout refusal = "timeout"
	refusedUnknown refusal = "unknown" // whether it was stored can no longer be told
)

type metrics struct {
	attempts      jet.Counters[attemptResult]
	refused       jet.Counters[refusal]
	ingested      jet.Counters[ingestResult]
	userLimit     jet.Counters[userLimitResult]
	movedAtLeader prometheus.Counter
	grouped       prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		attempts: jet.NewCounters(r, "headrace_persistence_append_attempts_total",
			"Attempts to append an entry (or an atomic batch of entries) by result.", "result",
			attemptStored, attemptDuplicate, attemptConflict, attemptUnreached, attemptUnknown, attemptFoundStored, attemptVanished),
		refused: jet.NewCounters(r, "headrace_persistence_append_refused_total",
			"Entries not appended because of a bound, by bound.", "reason",
			refusedKey, refusedBytes, refusedTimeout, refusedUnknown),
		ingested: jet.NewCounters(r, "headrace_persistence_ingested_total",
			"Messages published by plain NATS clients, by result.", "result",
			ingestStored, ingestDead, ingestRetried),
		userLimit: jet.NewCounters(r, "headrace_persistence_user_limit_total",
			"Publications checked against the limit per user, by result.", "result",
			userLimitAllowed, userLimitRefused, userLimitRepeated, userLimitLocal),
		grouped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "headrace_persistence_changes_grouped_total",
			Help: "Changes of maps that were stored together with others.",
		}),
		movedAtLeader: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "headrace_persistence_moved_at_leader_total",
			Help: "Tail checks answered by the leader key by key, because no replica was current.",
		}),
	}
	if r != nil {
		r.MustRegister(m.movedAtLeader, m.grouped)
	}
	return m
}
