package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/test/check"
	"github.com/headrace/headrace/test/follow"
)

// run is one seed.
type run struct {
	seed     uint64
	name     string
	duration time.Duration
	dir      string
	edge     string // path of the binary
	env      []string
	only     map[int]bool
	plan     plan

	history *check.History
	c       *cluster
	broken  atomic.Int64 // steps begun
	acked   atomic.Int64
	refused atomic.Int64
	deaths  atomic.Int64
	filling [size]atomic.Int64 // how many faults fill a disk now

	log, jobs   bool         // which loads there are
	count       int          // of jobs to push; 0 is for as long as it takes
	toPush      atomic.Int64 // of count, what is left
	takes       atomic.Int64 // deliveries of jobs
	settled     atomic.Int64
	jobsAcked   atomic.Int64
	jobsRefused atomic.Int64

	state     bool         // whether there is a load of maps
	stateDone atomic.Int64 // operations on keys that were answered
	stateOpen atomic.Int64
	replicas  int
	rules     check.Rules
}

func newRun(o options, seed uint64, edge string, only map[int]bool, from []weight) *run {
	name := fmt.Sprintf("seed-%d", seed)
	return &run{
		seed: seed, name: name, duration: o.duration, dir: filepath.Join(o.dir, name), edge: edge, only: only,
		plan: planFor(seed, o.duration, from), log: strings.Contains(o.load, "log"), jobs: strings.Contains(o.load, "jobs"), count: o.jobs,
		state: strings.Contains(o.load, "state"), replicas: o.replicas,
		rules: rulesFor(o.jobs, o.patience),
	}
}

// buildEdge builds the headrace binary once for all seeds.
func buildEdge(ctx context.Context, o options) (string, error) {
	out := filepath.Join(o.dir, "headrace")
	args := []string{"build", "-o", out}
	if o.race {
		args = append(args, "-race")
	}
	if o.planted != "" {
		args = append(args, "-tags", "planted")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/headrace/headrace/cmd/headrace")...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build the edge: %w", err)
	}
	return out, nil
}

// clientIdle is how long a client trusts a silent connection: a ping interval and
// what a ping may take.
const clientIdle = 9 * time.Second

// do runs the seed from beginning to end and judges it.
func (r *run) do(ctx context.Context) (check.Report, error) {
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return check.Report{}, err
	}
	hook, err := r.listen()
	if err != nil {
		return check.Report{}, err
	}
	defer hook.server.Close()
	if err := os.WriteFile(filepath.Join(r.dir, "edge.yaml"), []byte(r.edgeConfig()+queueConfig+hook.url+"\"}}\n"), 0o644); err != nil {
		return check.Report{}, err
	}
	f, err := os.Create(r.recordFile())
	if err != nil {
		return check.Report{}, err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	r.history = check.NewHistory(w)
	r.c, err = newCluster(ctx, r.dir, r.edge, r.env, r.died)
	defer r.c.stop()
	if err != nil {
		return check.Report{}, fmt.Errorf("start the cluster: %w", err)
	}
	if err := r.live(ctx); err != nil {
		return check.Report{}, err
	}
	r.brokenNATS()
	events, err := r.history.Events()
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return check.Report{}, fmt.Errorf("write the record: %w", err)
	}
	return check.Verify(events, r.rules), nil
}

func (r *run) recordFile() string { return filepath.Join(r.dir, "history.jsonl") }

// died notes a process that ended by itself.
func (r *run) died(name string) {
	if i := strings.TrimPrefix(name, "n"); i != name && r.filling[i[0]-'1'].Load() > 0 {
		return // a NATS server cannot start on a full disk
	}
	r.deaths.Add(1)
	r.history.Add(check.Event{Kind: check.Died, Who: name})
}

func (r *run) progress(err error) {
	if err != nil {
		r.refused.Add(1)
	} else {
		r.acked.Add(1)
	}
}

// live is the time during which things happen: load and faults, then mending,
// silence, and the last questions.
func (r *run) live(ctx context.Context) error {
	r.usage("before")
	stop, settled, finished := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var publishers, others sync.WaitGroup
	others.Go(func() { r.tell(finished) })
	work := r.beginJobs(ctx, stop)
	r.beginState(&publishers, &others, stop, settled, finished)
	if r.log {
		for _, f := range append(r.followers(settled), r.visitors(settled)...) {
			others.Go(func() { f.Run(finished) })
		}
		others.Go(func() { r.probe(finished) })
		for _, ch := range channels() {
			for i, kind := range ch.by {
				publishers.Go(func() { r.publish(ch, i, kind, stop) })
			}
		}
	}
	faults, enough := context.WithCancel(ctx)
	defer enough()
	var breaking sync.WaitGroup
	breaking.Go(func() { r.breakThings(faults, append(r.plan[:len(r.plan):len(r.plan)], r.farewell()...)) })
	breaking.Wait()
	if r.count > 0 {
		work.pushers.Wait() // all of them, however long it takes
	}
	close(stop)
	publishers.Wait()
	work.pushers.Wait()
	close(settled)
	err := r.mend(ctx)
	if err == nil && r.jobs {
		err = r.drained(ctx)
	}
	if err == nil {
		// Silence: no publication reveals what got lost at the end.
		err = pause(ctx, silence)
	}
	if err == nil {
		err = r.lastQuestions(ctx)
	}
	if err == nil && r.jobs {
		err = r.lastJobs(ctx)
	}
	if err == nil {
		err = r.lastState(ctx)
	}
	if err != nil {
		close(finished)
		close(work.finished)
		others.Wait()
		work.workers.Wait()
		return err
	}
	// The record ends here, with everyone still subscribed; then they go, and the
	// edges are looked at without them.
	r.history.Add(check.Event{Kind: check.Closed})
	close(finished)
	close(work.finished)
	others.Wait()
	work.workers.Wait()
	r.c.web.CloseIdleConnections()                    // they would count as the edges'
	if err := pause(ctx, 5*time.Second); err != nil { // longer than the linger time
		return err
	}
	r.usage("after")
	return nil
}

// farewell cuts two edges off while publications are under way, so that the last
// ones of many channels get lost on the way, and changes a leader.
func (r *run) farewell() plan {
	return plan{
		{kind: cutEdge, target: int(r.seed % size), duration: 4 * time.Second, reset: true},
		{kind: stepDown, pause: time.Second, target: 0},
		{kind: cutEdge, pause: time.Second, target: int((r.seed + 1) % size), duration: 2 * time.Second, reset: true},
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func randEdge() int { return rand.IntN(size) }

func randUpTo(d time.Duration) time.Duration { return rand.N(d) }

// followers are clients of different habits: who come and go all the time, who
// stay, and who do not read for a while.
func (r *run) followers(settled <-chan struct{}) []*follow.Follower {
	var names []string
	for _, ch := range channels() {
		names = append(names, ch.name)
	}
	var list []*follow.Follower
	for i := range 12 {
		f := &follow.Follower{
			Name: fmt.Sprintf("c%d", i+1), History: r.history, Settled: settled, Idle: clientIdle, Retry: 300 * time.Millisecond, Delta: i%2 == 0,
			Edge: func() (string, string) { e := rand.IntN(size); return r.c.url(e), r.c.edges[e].name },
		}
		// Everyone follows most channels, and nobody the same ones.
		for j, name := range names {
			if (i+j)%4 != 0 {
				f.Channels = append(f.Channels, name)
			}
		}
		switch i % 3 {
		case 0:
			f.Stay = func() time.Duration { return 200*time.Millisecond + rand.N(5*time.Second) }
			f.Away = func() time.Duration {
				if rand.IntN(3) > 0 {
					return 0
				}
				return rand.N(10 * time.Second)
			}
		case 1:
			f.Stay = func() time.Duration { return 5*time.Second + rand.N(time.Minute) }
		case 2:
			f.Pause = func() time.Duration {
				if rand.IntN(2000) > 0 {
					return 0
				}
				return rand.N(6 * time.Second)
			}
		}
		list = append(list, f)
	}
	return list
}

// mend brings everything up and waits until the edges can work.
func (r *run) mend(ctx context.Context) error {
	for _, p := range append(r.c.nats[:], r.c.edges[:]...) {
		if err := p.up(); err != nil {
			return err
		}
	}
	for i := range size {
		if err := r.c.healthy(ctx, i, 90*time.Second); err != nil {
			return fmt.Errorf("after everything was mended: %w", err)
		}
	}
	return nil
}

// lastQuestions asks what the log holds in the end.
func (r *run) lastQuestions(ctx context.Context) error {
	for _, ch := range channels() {
		ns, _, _ := strings.Cut(ch.name, ":")
		if rules.History[ns] == 0 {
			continue
		}
		var result struct {
			Offset       uint64
			Epoch        string
			Publications []struct {
				Offset uint64
				Data   json.RawMessage
			}
		}
		body, _ := json.Marshal(map[string]any{"channel": ch.name, "limit": -1})
		err := r.call(0, "history", body, &result)
		for deadline := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(deadline) && ctx.Err() == nil; {
			time.Sleep(200 * time.Millisecond) // a poll with a deadline
			err = r.call(rand.IntN(size), "history", body, &result)
		}
		if err != nil {
			return fmt.Errorf("history of %s in the end: %w", ch.name, err)
		}
		for _, p := range result.Publications {
			r.history.Add(check.Event{Kind: check.Final, Channel: ch.name, Offset: p.Offset, Epoch: result.Epoch, Payload: string(p.Data)})
		}
		r.history.Add(check.Event{Kind: check.Target, Channel: ch.name, Offset: result.Offset, Epoch: result.Epoch})
	}
	return nil
}
