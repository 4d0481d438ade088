package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/headrace/headrace/test/check"
)

// tell prints how the run is going, every ten seconds.
func (r *run) tell(finished <-chan struct{}) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-finished:
			return
		case <-tick.C:
			fmt.Printf("%s  %3.0fs  acknowledged %d  refused %d  jobs pushed %d  refused %d  taken %d  settled %d  state %d and %d without answer  faults %d of %d\n",
				r.name, r.history.Since().Seconds(), r.acked.Load(), r.refused.Load(), r.jobsAcked.Load(), r.jobsRefused.Load(), r.takes.Load(), r.settled.Load(), r.stateDone.Load(), r.stateOpen.Load(),
				r.broken.Load(), len(r.plan)+len(r.farewell()))
		}
	}
}

// report prints the outcome and reports whether the run passed. The record of one
// that did not is kept.
func (r *run) report(report check.Report, o options) bool {
	trouble := r.logTrouble()
	passed := len(report.Violations) == 0 && len(trouble) == 0 && r.tookPlace(report)
	verdict := "passed"
	if !passed {
		verdict = "FAILED"
	}
	fmt.Printf("%s %s in %.0fs: %s; tried %s\n", r.name, verdict, r.history.Since().Seconds(), summary(report), r.tried())
	if n := len(report.Explained); n > 0 {
		fmt.Printf("   JetStream said that it could not store what it had taken (full disk), which explains %d contradictions, the first: %v\n", n, report.Explained[0])
	}
	if passed {
		if !o.keep {
			os.RemoveAll(r.dir) //nolint:errcheck // a temporary directory
		}
		return true
	}
	for _, line := range trouble {
		fmt.Println("  ", line)
	}
	if !r.tookPlace(report) {
		fmt.Println("   nothing was delivered or recovered, or no job retried or dead: the run tried nothing")
	}
	events, _ := r.history.Events()
	printViolations(events, report, o.trace)
	fmt.Printf("   record and logs: %s\n   again: go run ./test/chaos -seed %d -duration %v\n", r.dir, r.seed, r.duration)
	return false
}

// tookPlace reports whether there was anything to judge.
func (r *run) tookPlace(report check.Report) bool {
	return (!r.log || report.Delivered > 0 && report.Recovered > 0) && (!r.jobs || report.Jobs.Retried > 0 && report.Jobs.Dead > 0) &&
		(!r.state || report.States.Applied > 0 && report.States.Changes > 0)
}

// tried counts the faults by kind.
func (r *run) tried() string {
	counts := make(map[kind]int)
	for i, s := range r.plan {
		if r.only == nil || r.only[i] {
			counts[s.kind]++
		}
	}
	var parts []string
	for _, w := range weights {
		if n := counts[w.kind]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", w.kind, n))
		}
	}
	return strings.Join(parts, ", ")
}

func summary(r check.Report) string {
	text := fmt.Sprintf("acknowledged %d of %d, delivered %d (slowest %v), recovered %d, told %d, undecided %d, repeated %d, ephemeral %d, presence answers %d and unknown %d, joins %d and leaves %d, violations %d",
		r.Acked, r.Sent, r.Delivered, r.Slowest.Round(time.Millisecond), r.Recovered, r.Told, r.Undecided, r.Repeated, r.Ephemeral, r.Presence, r.Unknown, r.Joined, r.Left, len(r.Violations))
	if j := r.Jobs; j.Pushed > 0 {
		text += fmt.Sprintf("; jobs: acknowledged %d of %d, delivered %d, done %d, retried %d, dead %d, redriven %d, stale deliveries %d, of messages stored twice %d, pushed again %d, "+
			"floods %d (least share of low %.0f %%), latest while nothing was broken %v, longest wait %v",
			j.Acked, j.Pushed, j.Taken, j.Done, j.Retried, j.Dead, j.Redriven, j.Stale, j.Doubled, j.Twice, j.Floods, 100*j.LeastLow,
			j.LatestDelayed.Round(time.Millisecond), j.SlowestWaiting.Round(time.Millisecond))
	}
	if s := r.States; s.Keys > 0 {
		text += fmt.Sprintf("; state: changes applied %d, refused %d, without answer %d, fresh reads %d, cached %d, keys %d (undecided %d), "+
			"subscribers live %d (recovered %d, begun %d), changes pushed %d",
			s.Applied, s.Refused, s.Open, s.Reads, s.Cached, s.Keys, s.Undecided, s.Live, s.Recovered, s.Restarted, s.Changes)
	}
	return text
}

// maxPrinted bounds the violations that are printed.
const maxPrinted = 12

func printViolations(events []check.Event, r check.Report, traces int) {
	for i, bad := range r.Violations {
		if i == maxPrinted {
			fmt.Printf("   and %d more\n", len(r.Violations)-i)
			break
		}
		fmt.Println("  ", bad)
		if i < traces {
			fmt.Print("   what led to it:\n", indent(check.Format(check.Trace(events, bad))))
		}
	}
}

func indent(text string) string {
	return "      " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n      ") + "\n"
}

// natsBroke matches what a NATS server logs when it gives up a stream because of a
// write that failed, with the time before it.
var natsBroke = regexp.MustCompile(`^\[\d+\] (\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d+) \[ERR\] (JetStream stream '\$G > HR_(?:(?:LOG|KEYS)_([a-z]+)_\d+|(?:JOBS|RETRY|DEAD)_([a-z]+)|IN)' critical write error.*)`)

// brokenNATS records where NATS says so. What is lost with HR_IN never reaches the
// channel that plain publishes go to.
func (r *run) brokenNATS() {
	logs, _ := filepath.Glob(filepath.Join(r.dir, "n*.log"))
	for _, name := range logs {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			m := natsBroke.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			at, err := time.ParseInLocation("2006/01/02 15:04:05.000000", m[1], time.Local)
			if err != nil {
				continue
			}
			ns := "log"
			switch {
			case m[4] != "":
				ns = "queue:" + m[4]
			case m[3] != "":
				ns = m[3]
			}
			r.history.AddPast(at, check.Event{Kind: check.Broken, Channel: ns, Payload: m[2]})
		}
	}
}

// logTrouble finds in the logs of the edges what must never be there.
func (r *run) logTrouble() []string {
	var out []string
	if n := r.deaths.Load(); n > 0 {
		out = append(out, fmt.Sprintf("%d processes ended by themselves", n))
	}
	logs, _ := filepath.Glob(filepath.Join(r.dir, "e*.log"))
	for _, name := range logs {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 1<<20)
		for n := 1; lines.Scan(); n++ {
			text := lines.Text()
			if strings.HasPrefix(text, "panic:") || strings.HasPrefix(text, "fatal error:") || strings.Contains(text, "WARNING: DATA RACE") {
				out = append(out, fmt.Sprintf("%s:%d: %s", name, n, text))
			}
		}
		f.Close()
	}
	return out
}
