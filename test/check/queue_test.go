package check

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/router"
)

// jobRecord is record for events of the queue "queue:q", with the words that tell
// of jobs.
func jobRecord(t *testing.T, lines ...string) []Event {
	t.Helper()
	plain, jobs := make([]string, len(lines)), make([]*Job, len(lines))
	for i, line := range lines {
		var rest []string
		for _, word := range strings.Fields(line) {
			k, v, _ := strings.Cut(word, "=")
			j := jobs[i]
			if j == nil {
				j = &Job{Max: 3, Priority: "low"}
			}
			n, _ := strconv.Atoi(v)
			switch k {
			case "id":
				j.ID = v
			case "prio":
				j.Priority = v
			case "max":
				j.Max = n
			case "delay":
				j.Delay, _ = time.ParseDuration(v)
			case "hdr":
				j.Headers = v
			case "origin":
				j.Origin = v
			case "attempt":
				j.Attempt = n
			case "redriven":
				j.Redriven = n
			case "err":
				j.Error = TakeError(n, "no")
			case "reason":
				j.Reason = v
			case "take":
				j.Take = n
			case "msg":
				j.Message = v
			case "stored":
				j.Stored, _ = time.ParseDuration(v)
			case "say":
				j.Answer = Answer(v)
			case "open":
				j.Open, j.Credits = n, 2
			default:
				rest = append(rest, word)
				continue
			}
			jobs[i] = j
		}
		plain[i] = strings.Join(rest, " ")
	}
	events := record(t, plain...)
	for i := range events {
		e := &events[i]
		e.Job = jobs[i]
		if e.Job == nil && slices.Contains([]Kind{Push, Pushed, NotPushed, Redrive}, e.Kind) {
			e.Job = &Job{Priority: "low"}
		}
		if e.Job != nil && e.Channel == "" {
			e.Channel = "queue:q"
		}
		if e.Kind == NotSettled && e.Code > 0 {
			e.Code = badRequest
		}
	}
	return events
}

var jobRules = Rules{Queues: map[string]QueueRules{"q": {
	MaxAttempts: 3, Backoff: router.Backoff{Base: time.Second, Cap: 4 * time.Second, Factor: 2, Jitter: 0.5},
	Late: time.Second, Again: 2 * time.Second, AgainBroken: 10 * time.Second,
}}}

// goodJobs: one that fails once and is done, one that fails for good, one whose
// workers vanish, and a delayed one.
var goodJobs = []string{
	"push p=a hdr=x", "pushed p=a t=0.1s", "taken p=a hdr=x id=A take=1 attempt=1 origin=o t=0.2s who=w1", "settle p=a take=1 say=nack t=0.3s", "settled p=a take=1 say=nack t=0.4s",
	"taken p=a hdr=x id=A take=2 attempt=2 err=1 origin=o t=1.1s who=w2", "settle p=a take=2 say=ack t=1.2s", "settled p=a take=2 say=ack t=1.3s",
	"push p=b max=1 t=10s", "pushed p=b t=10.1s", "taken p=b id=B take=3 attempt=1 max=1 origin=o t=10.2s", "settle p=b take=3 say=nack t=10.3s", "settled p=b take=3 say=nack t=10.4s",
	"push p=k t=20s", "pushed p=k t=20.1s", "taken p=k id=K take=4 attempt=1 origin=o t=20.2s", "taken p=k id=K take=5 attempt=2 origin=o t=20.3s", "taken p=k id=K take=6 attempt=3 origin=o t=20.4s",
	"push p=d delay=5s t=30s", "pushed p=d t=30.1s", "taken p=d id=D take=7 attempt=1 origin=o t=35.2s", "settle p=d take=7 say=ack t=35.3s", "settled p=d take=7 say=ack t=35.4s",
	"left at=dead p=b id=B attempt=1 reason=attempts err=3 origin=o began=10.35s t=50s",
	"left at=dead p=k id=K attempt=3 reason=vanished origin=o began=20.5s t=50s",
}

func TestGoodJobsPass(t *testing.T) {
	r := Verify(jobRecord(t, goodJobs...), jobRules)
	if j := r.Jobs; len(r.Violations) > 0 || j.Pushed != 4 || j.Acked != 4 || j.Taken != 7 || j.Done != 2 || j.Dead != 2 || j.Retried != 2 {
		t.Errorf("got %+v", r)
	}
}

// change returns the good record with other lines instead of one.
func change(t *testing.T, old string, lines ...string) []string {
	t.Helper()
	i := slices.IndexFunc(goodJobs, func(l string) bool { return strings.HasPrefix(l, old) })
	if i < 0 {
		t.Fatalf("no line %q", old)
	}
	return slices.Replace(slices.Clone(goodJobs), i, i+1, lines...)
}

func more(lines ...string) []string { return append(slices.Clone(goodJobs), lines...) }

// flooded is a record in which all priorities wait and these are taken.
func flooded(high, medium, low int) []string {
	var lines []string
	counts := map[string]int{"high": high, "medium": medium, "low": low}
	for _, p := range []string{"high", "medium", "low"} {
		for n := range counts[p] + 60 {
			name := "p=" + p + strconv.Itoa(n) + " prio=" + p
			lines = append(lines, "push t=1s "+name, "pushed t=1s "+name)
		}
	}
	take := 1000
	give := func(at, p string, n int) {
		take++
		name := at + " p=" + p + strconv.Itoa(n) + " take=" + strconv.Itoa(take)
		lines = append(lines, "taken attempt=1 id=x"+p+strconv.Itoa(n)+" prio="+p+" "+name, "settle say=ack "+name)
	}
	for n := range max(high, medium, low) {
		for _, p := range []string{"high", "medium", "low"} {
			if n < counts[p] {
				give("t=1.5s", p, n)
			}
		}
	}
	for p, n := range counts { // the rest, when all is judged
		for i := range 60 {
			give("t=1.9s", p, n+i)
		}
	}
	return lines
}

func TestEveryRuleOfQueuesCanBeBroken(t *testing.T) {
	for name, tt := range map[string]struct {
		lines []string
		rule  string
	}{
		"acknowledged, nowhere":      {more("push p=x", "pushed p=x"), RuleJobLost},
		"nacked, then nowhere":       {change(t, "left at=dead p=b", "fault p=x"), RuleJobLost},
		"vanished, nowhere":          {change(t, "left at=dead p=k", "fault p=x"), RuleJobLost},
		"its ack was refused":        {more("push p=x", "pushed p=x", "taken p=x id=X take=9 attempt=1", "settle p=x take=9 say=ack", "notsettled p=x take=9 say=ack code=1"), RuleJobLost},
		"still stored":               {more("push p=x", "left at=jobs p=x id=X"), RuleJobEnds},
		"nobody pushed it":           {more("left at=dead p=x id=X"), RuleJobOnce},
		"taken, nobody pushed it":    {more("taken p=x id=X take=9 attempt=1"), RuleJobOnce},
		"pushed once, two jobs":      {more("taken p=d id=D2 take=9 attempt=1 t=60s began=31s"), RuleJobOnce},
		"redriven by nobody":         {more("taken p=k id=K take=9 attempt=1 origin=o redriven=1 t=60s"), RuleJobOnce},
		"done and given out again":   {more("taken p=a id=A hdr=x take=9 attempt=3 err=1 origin=o t=9s"), RuleJobAgain},
		"nacked and given out again": {more("taken p=a id=A hdr=x take=9 attempt=3 origin=o t=9s"), RuleJobAgain},
		"again, another edge broken": {more("impaired at=e1 t=1s", "healthy at=e1 t=9s", "taken at=e2 p=a id=A hdr=x take=9 attempt=3 err=1 origin=o t=9s"), RuleJobAgain},
		"again, much later, broken":  {more("impaired at=e1 t=1s", "healthy at=e1 t=30s", "taken p=a id=A hdr=x take=9 attempt=3 err=1 origin=o t=29s"), RuleJobAgain},
		"again, of the same message": {append(change(t, "taken p=d", "taken p=d msg=1 id=D take=7 attempt=1 origin=o t=35.2s"), "taken p=d msg=1 stored=30s id=D take=9 attempt=2 origin=o t=45s"), RuleJobAgain},
		"stored again, nobody left":  {append(change(t, "taken p=d", "taken p=d msg=1 id=D take=7 attempt=1 origin=o t=35.2s"), "taken p=d msg=2 stored=35.2s id=D take=9 attempt=2 origin=o t=45s"), RuleJobAgain},
		"stored again after its end": {append(change(t, "taken p=d", "taken p=d msg=1 id=D take=7 attempt=1 origin=o t=35.2s"), "gone who=w ch=queue:q t=35.1s", "taken p=d msg=2 stored=36s id=D take=9 attempt=2 origin=o t=45s"), RuleJobAgain},
		"attempts beyond":            {more("taken p=k id=K take=9 attempt=4 origin=o t=20.45s"), RuleJobAttempts},
		"the same attempt twice":     {more("taken p=k id=K take=9 attempt=3 origin=o t=20.45s"), RuleJobAttempts},
		"attempt does not rise":      {change(t, "taken p=a hdr=x id=A take=2", "taken p=a hdr=x id=A take=2 attempt=1 err=1 origin=o t=1.1s"), RuleJobAttempts},
		"another maximum":            {change(t, "taken p=b", "taken p=b id=B take=3 attempt=1 max=3 origin=o t=10.2s"), RuleJobAttempts},
		"two dead letters":           {more("left at=dead p=k id=K attempt=3 reason=vanished origin=o began=20.6s t=50s"), RuleJobDead},
		"dead too soon":              {change(t, "left at=dead p=k", "left at=dead p=k id=K attempt=2 reason=vanished origin=o began=20.5s t=50s"), RuleJobDead},
		"vanished from nobody":       {change(t, "taken p=k id=K take=5", "fault p=x"), RuleJobDead},
		"nobody said final":          {change(t, "left at=dead p=b", "left at=dead p=b id=B attempt=1 reason=final err=3 origin=o began=10.3s t=50s"), RuleJobDead},
		"done, then dead":            {more("left at=dead p=d id=D attempt=3 reason=vanished origin=o began=50s t=50s"), RuleJobDead},
		"done, then nacked and dead": {more("taken p=d id=D take=9 attempt=3 origin=o t=36s", "settle p=d take=9 say=nack t=36.1s", "left at=dead p=d id=D attempt=3 reason=attempts err=9 origin=o began=36.2s t=50s"), RuleJobDead},
		"dead for no known reason":   {change(t, "left at=dead p=k", "left at=dead p=k id=K attempt=3 reason=because origin=o began=20.5s t=50s"), RuleJobDead},
		"stranded without a fault":   {change(t, "left at=dead p=k", "left at=dead p=k id=K attempt=3 reason=stranded origin=o began=20.5s t=50s"), RuleJobDead},
		"another origin":             {change(t, "left at=dead p=k", "left at=dead p=k id=K attempt=3 reason=vanished origin=other began=20.5s t=50s"), RuleJobSame},
		"headers lost":               {change(t, "taken p=a hdr=x id=A take=2", "taken p=a id=A take=2 attempt=2 err=1 origin=o t=1.1s"), RuleJobSame},
		"another priority":           {change(t, "taken p=d", "taken p=d id=D prio=high take=7 attempt=1 origin=o t=35.2s"), RuleJobSame},
		"another job's error":        {change(t, "taken p=a hdr=x id=A take=2", "taken p=a hdr=x id=A take=2 attempt=2 err=3 origin=o t=11s"), RuleJobSame},
		"delayed, early":             {change(t, "taken p=d", "taken p=d id=D take=7 attempt=1 origin=o t=34.9s"), RuleJobEarly},
		"delayed, late":              {change(t, "taken p=d", "taken p=d id=D take=7 attempt=1 origin=o t=36.2s"), RuleJobLate},
		"retry, early":               {change(t, "taken p=a hdr=x id=A take=2", "taken p=a hdr=x id=A take=2 attempt=2 err=1 origin=o t=0.7s"), RuleJobEarly},
		"retry, late":                {change(t, "taken p=a hdr=x id=A take=2", "taken p=a hdr=x id=A take=2 attempt=2 err=1 origin=o t=2.5s"), RuleJobLate},
		"waits for nothing":          {more("push p=x t=60s", "pushed p=x t=60s", "taken p=x id=X take=9 attempt=1 t=62s"), RuleJobLate},
		"low starves":                {flooded(150, 50, 0), RuleJobStarve},
		"low goes first":             {flooded(20, 80, 100), RuleJobStarve},
		"another queue took it":      {more("settled p=a take=1 say=foreign"), RuleJobToken},
		"its own queue did not":      {more("settle p=k take=6 say=ack t=20.5s", "notsettled p=k take=6 say=ack code=1 t=20.5s"), RuleJobToken},
		"more than its credits":      {change(t, "taken p=d", "taken p=d id=D take=7 attempt=1 origin=o t=35.2s open=3"), RuleJobCredits},
	} {
		t.Run(name, func(t *testing.T) {
			r := Verify(jobRecord(t, tt.lines...), jobRules)
			if !slices.ContainsFunc(r.Violations, func(v Violation) bool { return v.Rule == tt.rule }) {
				t.Errorf("no violation of %q among %v", tt.rule, r.Violations)
			}
		})
	}
}

// TestNoFalseAlarmAboutJobs has records that look odd and are right: work is done
// at least once.
func TestNoFalseAlarmAboutJobs(t *testing.T) {
	for name, lines := range map[string][]string{
		"a push without an answer":         more("push p=x", "notpushed p=x"),
		"it may be there as well":          more("push p=x t=60s", "notpushed p=x t=60s", "taken p=x id=X take=9 attempt=1 t=60s", "settle p=x take=9 say=ack t=61s"),
		"an ack without an answer":         more("push p=x t=60s", "pushed p=x t=60s", "taken p=x id=X take=9 attempt=1 t=60s", "settle p=x take=9 say=ack t=61s", "notsettled p=x take=9 say=ack t=70s"),
		"under way when it was done":       more("taken p=a id=A hdr=x take=9 attempt=3 err=1 origin=o t=2s"),
		"longer under way, broken":         more("impaired at=e1 t=1s", "healthy at=e1 t=9s", "taken at=e1 p=a id=A hdr=x take=9 attempt=3 err=1 origin=o t=9s"),
		"a retry of an old delivery":       more("settle p=k take=4 say=nack t=20.6s", "notsettled p=k take=4 say=nack t=30s", "taken p=k id=K take=9 attempt=2 err=4 origin=o t=22s"),
		"a new leader forgot":              more("impaired at=nats t=20.1s", "healthy at=nats t=21s", "taken p=k id=K take=9 attempt=3 origin=o t=20.45s"),
		"pushed again after the end":       more("taken p=d id=D2 take=9 attempt=1 t=60s began=36s", "settle p=d take=9 say=ack t=60s", "settled p=d take=9 say=ack t=60s"),
		"delayed, late, election":          change(t, "taken p=d", "impaired at=nats t=33s", "healthy at=nats t=37s", "taken p=d id=D take=7 attempt=1 origin=o t=37s", "settle p=d take=7 say=ack t=37s"),
		"stored again before its end":      append(change(t, "taken p=d", "taken p=d msg=1 id=D take=7 attempt=1 origin=o t=35.2s"), "gone who=w ch=queue:q t=35.1s", "taken p=d msg=2 stored=35.2s id=D take=9 attempt=2 origin=o t=45s"),
		"redriven and done":                more("redrive p=k t=60s", "taken p=k id=K take=9 attempt=1 redriven=1 origin=o t=60s", "settle p=k take=9 say=ack t=61s"),
		"redriven, dead in each life":      more("redrive p=b t=60s", "taken p=b id=B max=1 take=9 attempt=1 err=3 redriven=1 origin=o t=60s", "settle p=b take=9 say=final t=61s", "left at=dead p=b id=B attempt=1 max=1 reason=final err=9 redriven=1 origin=o began=61s t=62s"),
		"on its way to a worker that left": append(change(t, "taken p=k id=K take=5", "fault p=x"), "gone who=w ch=queue:q t=20.3s"),
		"a flood":                          flooded(120, 60, 20),
		"an extension refused":             more("notsettled p=a take=1 say=extend"),
	} {
		t.Run(name, func(t *testing.T) {
			if r := Verify(jobRecord(t, lines...), jobRules); len(r.Violations) > 0 {
				t.Errorf("false alarm: %v", r.Violations)
			}
		})
	}
}
