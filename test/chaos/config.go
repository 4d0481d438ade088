package main

import (
	"fmt"
	"maps"
	"time"

	"github.com/headrace/headrace/test/check"
)

// tokenSecret signs the connection tokens of users, and webhooks.
const tokenSecret = "a-secret-of-the-chaos-runner-only"

// edgeConfigFormat is what the edges run with: short intervals, so that a run of minutes
// holds what takes hours elsewhere.
const edgeConfigFormat = `insecure: true
log: {level: info, format: text}
nats: {replicas: %d, open_timeout: 90s}
client: {ping_interval: 5s, pong_timeout: 4s, unready_after: 10s, drain_window: 2s, write_timeout: 5s, token: {hmac_secret_key: ` + tokenSecret + `}}
router: {sweep_interval: 3s, linger: 2s, publish_timeout: 10s}
namespaces:
  - {name: log, history_size: 500, allowed_delta_types: [fossil], force_recovery: true, retention: 1h}
  - {name: small, history_size: 20, allowed_delta_types: [fossil], partitions: 2, force_recovery: true, retention: 1h}
  - {name: evict, history_size: 50, allowed_delta_types: [fossil], force_recovery: true, retention: 1h}
  - {name: eph, presence: true, allowed_delta_types: [fossil]}
  - {name: room, presence: true, join_leave: true}
` + stateConfig

func (r *run) edgeConfig() string { return fmt.Sprintf(edgeConfigFormat, r.replicas) }

// Silence is how long everything is mended and quiet before the record is judged:
// longer than rules.Late.
const silence = 30 * time.Second

// rules are what a run is judged by. Late is the sum of what may come one after
// the other when an edge loses its leaders: until it knows (5 s), until it sends
// its clients away (unready_after, drain_window), until they come back and are
// served, a sweep, and a margin for a busy machine.
var rules = check.Rules{
	History: map[string]int{"log": 500, "small": 20, "evict": 50},
	Late:    28 * time.Second,
	Gone:    10 * time.Second,
	Leak:    check.Resources{Goroutines: 60, Descriptors: 20, Bytes: 96 << 20},
	States:  stateRules,
	Queues:  map[string]check.QueueRules{workQueue: queueRules(20 * time.Second), timedQueue: queueRules(time.Second), hookQueue: queueRules(0)},
}

// rulesFor returns the rules of a run with that many jobs: with a given number
// they wait for each other. Jobs may be patience times as late.
func rulesFor(jobs, patience int) check.Rules {
	all := rules
	all.Queues = maps.Clone(rules.Queues)
	for name, q := range all.Queues {
		q.Late *= time.Duration(patience)
		q.Again *= time.Duration(patience)
		if jobs > 0 && name != timedQueue {
			q.Late = 0
		}
		all.Queues[name] = q
	}
	return all
}

// channel is something to publish to and follow.
type channel struct {
	name  string
	every time.Duration // between two publications of one publisher
	by    []publisherKind
}

// publisherKind says how a publisher reaches the cluster.
type publisherKind string

const (
	byAPI    publisherKind = "api"    // HTTP API with an idempotency key, repeated until it is acknowledged
	bySocket publisherKind = "socket" // the client protocol; an unknown outcome is left unknown
	byNATS   publisherKind = "nats"   // a plain NATS publish, acknowledged by JetStream
)

// channels are what a run is about: busy and quiet ones, since a busy channel
// reveals by its next publication what a quiet one has lost.
func channels() []channel {
	list := []channel{
		{"log:hot", 40 * time.Millisecond, []publisherKind{byAPI, bySocket}},
		{"log:warm.1", 150 * time.Millisecond, []publisherKind{byAPI}},
		{"log:same.a", 500 * time.Millisecond, []publisherKind{byAPI}},
		{"log:same.b", 500 * time.Millisecond, []publisherKind{byAPI}},
		{"log:plain", 300 * time.Millisecond, []publisherKind{byNATS}},
		{"small:hot", 80 * time.Millisecond, []publisherKind{byAPI, bySocket}},
		{"small:quiet", 3 * time.Second, []publisherKind{byAPI}},
		{clearedChannel, 100 * time.Millisecond, []publisherKind{byAPI}},
		{evictedChannel, 200 * time.Millisecond, []publisherKind{byAPI}},
		{"evict:quiet", time.Second, []publisherKind{byAPI}},
		{presenceChannel, 60 * time.Millisecond, []publisherKind{bySocket, bySocket}},
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		list = append(list, channel{"log:quiet." + name, 2 * time.Second, []publisherKind{byAPI}})
	}
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		list = append(list, channel{"log:whisper." + name, 15 * time.Second, []publisherKind{byAPI}})
	}
	return list
}

const (
	clearedChannel  = "small:cleared"
	evictedChannel  = "evict:a" // busy enough to push the others out of their stream
	presenceChannel = "eph:room"
	// Nothing is published in these: they are about who is there.
	roomChannel    = "room:hall"
	watchedChannel = "room:gallery"
)
