// Command chaos tries to break Headrace. It runs real processes (three NATS
// servers, three edges), publishes and subscribes, breaks things chosen by a
// seed, records everything anyone was told, and then lets package check look for
// contradictions to the guarantees.
//
//	go run ./test/chaos -seeds 20 -duration 3m
//	go run ./test/chaos -seed 7 -plan        what seed 7 breaks, and when
//	go run ./test/chaos -seed 7 -only 3,9    the same run with two of its faults
//	go run ./test/chaos -verify FILE         judge a record again
//	go run ./test/chaos -planted all         bugs planted on purpose: each must be caught
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/headrace/headrace/test/check"
)

// options are the command line.
type options struct {
	seed     uint64
	seeds    int
	duration time.Duration
	parallel int
	dir      string
	keep     bool
	race     bool
	only     string
	kinds    string
	plan     bool
	verify   string
	planted  string
	trace    int
	load     string
	jobs     int
	patience int
	replicas int
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == natsCommand {
		runNATS(os.Args[2:])
		return
	}
	var o options
	flag.Uint64Var(&o.seed, "seed", 1, "first seed")
	flag.IntVar(&o.seeds, "seeds", 1, "how many seeds to run")
	flag.DurationVar(&o.duration, "duration", time.Minute, "how long each seed breaks things; calming down comes on top")
	flag.IntVar(&o.parallel, "parallel", 1, "seeds at a time")
	flag.StringVar(&o.dir, "dir", "", "directory for records and logs; a temporary one by default")
	flag.BoolVar(&o.keep, "keep", false, "keep the records of runs that passed, too")
	flag.BoolVar(&o.race, "race", false, "build the edges with the race detector")
	flag.StringVar(&o.only, "only", "", "numbers of the plan's steps to take, comma separated; all by default")
	flag.StringVar(&o.kinds, "kinds", "", "kinds of fault to take, comma separated, as -plan names them; all by default")
	flag.BoolVar(&o.plan, "plan", false, "print the plan of each seed and stop")
	flag.StringVar(&o.verify, "verify", "", "judge this record and stop")
	flag.StringVar(&o.planted, "planted", "", "plant these bugs, comma separated or all, and expect each to be caught")
	flag.IntVar(&o.trace, "trace", 1, "violations to trace")
	flag.StringVar(&o.load, "load", "log,jobs,state", "what there is to break: log (publications), jobs (queues), state (maps), comma separated")
	flag.IntVar(&o.jobs, "jobs", 0, "push this many jobs, as fast as the duration asks for; by default a few for as long as it takes")
	flag.IntVar(&o.patience, "patience", 1, "how many times as late as promised jobs may come: for a machine that is busy with other things")
	flag.IntVar(&o.replicas, "replicas", 3, "of the streams; with 1 only maps are judged fairly: -load state")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := chaos(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

func chaos(ctx context.Context, o options) error {
	from, err := restricted(o.kinds)
	if err != nil {
		return err
	}
	switch {
	case o.patience < 1:
		return fmt.Errorf("-patience %d: it must be 1 or more", o.patience)
	case o.verify != "":
		return judgeFile(o)
	case o.plan:
		for seed := o.seed; seed < o.seed+uint64(o.seeds); seed++ {
			fmt.Printf("seed %d\n%s", seed, planFor(seed, o.duration, from))
		}
		return nil
	}
	only, err := parseOnly(o.only)
	if err != nil {
		return err
	}
	if again, err := inOwnNamespace(); again || err != nil {
		return err
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "headrace-chaos-"); err != nil {
			return err
		}
		defer os.Remove(o.dir) //nolint:errcheck // stays if something was kept in it
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	edge, err := buildEdge(ctx, o)
	if err != nil {
		return err
	}
	defer os.Remove(edge) //nolint:errcheck // best effort
	if o.planted != "" {
		return runPlanted(ctx, o, edge)
	}
	return runSeeds(ctx, o, edge, only, from)
}

// runSeeds runs the seeds, some at a time, and reports them all.
func runSeeds(ctx context.Context, o options, edge string, only map[int]bool, from []weight) error {
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(o.parallel, 1))
	var failed atomic.Int64
	for seed := o.seed; seed < o.seed+uint64(o.seeds); seed++ {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			r := newRun(o, seed, edge, only, from)
			report, err := r.do(ctx)
			if err != nil {
				failed.Add(1)
				fmt.Printf("seed %d: could not run: %v\n", seed, err)
				return
			}
			if !r.report(report, o) {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return errors.New("interrupted")
	}
	if n := failed.Load(); n > 0 {
		return fmt.Errorf("%d of %d seeds failed", n, o.seeds)
	}
	fmt.Printf("all %d seeds passed\n", o.seeds)
	return nil
}

func parseOnly(text string) (map[int]bool, error) {
	if text == "" {
		return nil, nil
	}
	only := make(map[int]bool)
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("-only: %q is not the number of a step", part)
		}
		only[n] = true
	}
	return only, nil
}

// judgeFile judges a record that was kept.
func judgeFile(o options) error {
	f, err := os.Open(o.verify)
	if err != nil {
		return err
	}
	defer f.Close()
	events, err := check.Read(f)
	if err != nil {
		return fmt.Errorf("%s: %w", o.verify, err)
	}
	report := check.Verify(events, rulesFor(o.jobs, o.patience))
	fmt.Println(summary(report))
	for _, bad := range report.Explained {
		fmt.Println("   explained by a write error of JetStream:", bad)
	}
	printViolations(events, report, o.trace)
	if n := len(report.Violations); n > 0 {
		return fmt.Errorf("%d violations", n)
	}
	return nil
}
