package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

type cliStep struct {
	name   string
	stdin  string
	args   []string
	code   int
	stdout string // all of it, with ID and T for what changes
	stderr string // part of it
}

var cliVolatile = []struct{ re, with string }{
	{`pushed \S+-\S+`, "pushed ID"}, {`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`, "T"}, {`"(id|time)":\s*"[^"]+"`, `"$1":"X"`}, {`\d+s `, "Ns "},
}

// The commands of queues, one after the other against one server.
var cliSteps = []cliStep{
	{name: "ls", args: []string{"queue", "ls"}, stdout: "cli\nhttp\nnats\nsmall\n"},
	{name: "push", args: []string{"queue", "push", "cli", `{"n":1}`, "--id", "k", "--header", "a=b", "--priority", "high", "--max-attempts", "2"}, stdout: "pushed ID\n"},
	{name: "push again", args: []string{"queue", "push", "cli", `{"n":1}`, "--id", "k"}, stdout: "pushed before\n"},
	{name: "push later", args: []string{"queue", "push", "cli", "later", "--text", "--delay", "1h"}, stdout: "pushed ID\n"},
	{name: "push at no time", args: []string{"queue", "push", "cli", "1", "--at", "noon"}, code: exitFailed, stderr: "at is not a time such as"},
	{name: "push nowhere", args: []string{"queue", "push", "nowhere", "1"}, code: exitFailed, stderr: "hint: `headrace queue ls` names the server's queues"},
	{name: "push to a full queue", args: []string{"queue", "push", "small", "1"}, stdout: "pushed ID\n"},
	{name: "push to a full queue, second", args: []string{"queue", "push", "small", "1"}, code: exitFailed, stderr: "the queue is full"},
	{name: "push no JSON", args: []string{"queue", "push", "cli", "x"}, code: exitUsage, stderr: "--text"},
	{name: "stats", args: []string{"queue", "stats", "cli"}, stdout: "QUEUE  HIGH  MEDIUM  LOW  IN FLIGHT  SCHEDULED  DEAD  OLDEST  STATE\ncli    1     0       0    0          1          0     Ns      open\n"},
	{name: "pause", args: []string{"queue", "pause", "cli"}, stdout: "cli paused\n"},
	{name: "stats of what is paused", args: []string{"queue", "stats", "cli"}, stdout: "QUEUE  HIGH  MEDIUM  LOW  IN FLIGHT  SCHEDULED  DEAD  OLDEST  STATE\ncli    1     0       0    0          1          0     Ns      paused\n"},
	{name: "resume", args: []string{"queue", "resume", "cli"}, stdout: "cli resumed\n"},
	{name: "work fails, then for good", args: []string{"queue", "work", "cli", "--count", "1", "--", "/bin/sh", "-c", "cat; echo no paper >&2; exit 75"}, stdout: `{"n":1}`, stderr: "attempt 1 of 2: failed: no paper"},
	{name: "work, last attempt", args: []string{"queue", "work", "cli", "--count", "1", "--timeout", "100ms", "--", "/bin/sh", "-c", "exec /bin/sleep 20"}, stderr: "attempt 2 of 2: failed: took longer than 100ms"},
	{name: "list", args: []string{"dlq", "list", "cli"}, stdout: "SEQ  DIED                 REASON    PRIORITY  ATTEMPTS  ERROR                   DATA\n1    T  attempts  high      2         took longer than 100ms  {\"n\":1}\n"},
	{name: "list as JSON", args: []string{"dlq", "list", "cli", "--json", "--limit", "-1"}, stdout: `{"seq":1,"id":"X","priority":"high","time":"X","reason":"attempts","error":"took longer than 100ms","attempts":2,"data":{"n":1},"headers":{"a":"b"},"origin":{"subject":"hr.job.cli.high","seq":1,"time":"X"}}` + "\n"},
	{name: "show the payload", args: []string{"dlq", "show", "cli", "1", "--payload"}, stdout: `{"n":1}`},
	{name: "show nothing", args: []string{"dlq", "show", "cli", "77"}, code: exitFailed, stderr: "no such dead letter"},
	{name: "show what is no number", args: []string{"dlq", "show", "cli", "x"}, code: exitUsage, stderr: "headrace dlq list"},
	{name: "redrive what", args: []string{"dlq", "redrive", "cli"}, code: exitUsage, stderr: "either numbers or --all is needed"},
	{name: "redrive", args: []string{"dlq", "redrive", "cli", "1", "9"}, stdout: "1 redriven\n"},
	{name: "work with what a job has", args: []string{"queue", "work", "cli", "--count", "1", "--", "/bin/sh", "-c", `echo "$JOB_QUEUE $JOB_ATTEMPT $JOB_MAX_ATTEMPTS $JOB_PRIORITY $JOB_HEADERS"; exit 65`}, stdout: `cli 1 2 high {"a":"b"}` + "\n", stderr: "failed for good: exit status 65"},
	{name: "redrive all", args: []string{"dlq", "redrive", "cli", "--all"}, stdout: "1 redriven\n"},
	{name: "work is done", args: []string{"queue", "work", "cli", "--count", "1", "--", "/bin/cat"}, stdout: `{"n":1}`, stderr: "attempt 1 of 2: done"},
	{name: "redrive all of none", args: []string{"dlq", "redrive", "cli", "--all"}, stdout: "0 redriven\n"},
	{name: "work with no command", args: []string{"queue", "work", "cli", "--", "no-such-command"}, code: exitUsage, stderr: "not found"},
	{name: "work nowhere", args: []string{"queue", "work", "nowhere", "--", "/bin/cat"}, code: exitFailed, stderr: "no queue of that name"},
	{name: "final", args: []string{"queue", "push", "cli", "1"}, stdout: "pushed ID\n"},
	{name: "final, work", args: []string{"queue", "work", "cli", "--count", "1", "--", "/bin/sh", "-c", "exit 65"}, stderr: "failed for good"},
	{name: "purge all, asked", stdin: "n\n", args: []string{"dlq", "purge", "cli", "--all"}, code: exitFailed, stderr: "Delete 1 dead letters of cli for good? [y/N]"},
	{name: "purge all, nobody there", args: []string{"dlq", "purge", "cli", "--all"}, code: exitFailed, stderr: "give --yes"},
	{name: "purge all", stdin: "y\n", args: []string{"dlq", "purge", "cli", "--all"}, stdout: "1 purged\n"},
	{name: "purge all again", args: []string{"dlq", "purge", "cli", "--all", "--yes"}, stdout: "0 purged\n"},
}

func TestQueueCommands(t *testing.T) {
	url, _ := serveQueues(t)
	for _, step := range cliSteps {
		args := append([]string{step.args[0], step.args[1], "--url", url}, step.args[2:]...)
		code, stdout, stderr := execute(t, step.stdin, args...)
		for _, v := range cliVolatile {
			stdout = regexp.MustCompile(v.re).ReplaceAllString(stdout, v.with)
		}
		if code != step.code || stdout != step.stdout || !strings.Contains(stderr, step.stderr) {
			t.Errorf("%s: code %d\n%s%s\nwant %d\n%s%s", step.name, code, stdout, stderr, step.code, step.stdout, step.stderr)
		}
	}
	_, stdout, _ := execute(t, "", "__complete", "queue", "push", "--url", url, "")
	if want := "cli\nhttp\nnats\nsmall\n:4\n"; stdout != want {
		t.Errorf("completed %q, want %q", stdout, want)
	}
	_, stdout, _ = execute(t, "", "queue", "stats", "--json", "--url", url)
	var state queueState
	if err := json.Unmarshal([]byte(stdout[:strings.IndexByte(stdout, '\n')]), &state); err != nil || state.Queue != "cli" || state.Scheduled != 1 {
		t.Errorf("stats printed %s (%v)", stdout, err)
	}
}

// More dead letters than a call handles, some of which die again at once.
func TestRedriveOfManyTellsHowFarItIs(t *testing.T) {
	url, _ := serveQueues(t)
	call := overHTTP(url)
	const many = deadPage + 30
	var batch []string
	for i := range many {
		batch = append(batch, fmt.Sprintf(`{"queue_push":{"queue":"http","data":%d}}`, i))
	}
	call(t, "batch", `{"parallel":true,"commands":[`+strings.Join(batch, ",")+`]}`)
	var nacks []string
	for _, job := range pullJobs(t, url, "http", many) {
		nacks = append(nacks, fmt.Sprintf(`{"queue_nack":{"queue":"http","token":%q,"final":true}}`, job.Token))
	}
	call(t, "batch", `{"parallel":true,"commands":[`+strings.Join(nacks, ",")+`]}`)
	_, listed, _ := execute(t, "", "dlq", "list", "http", "--limit", "-1", "--url", url)
	if n := strings.Count(listed, "\n") - 1; n != many {
		t.Errorf("%d dead letters listed, want %d", n, many)
	}
	code, stdout, stderr := execute(t, "", "dlq", "redrive", "http", "--all", "--url", url)
	if code != exitOK || stdout != fmt.Sprintf("%d redriven\n", many) || !strings.Contains(stderr, fmt.Sprintf("%d of %d redriven\n", deadPage, many)) {
		t.Errorf("redrive = %d\n%s%s", code, stdout, stderr)
	}
	ids := make(map[string]bool)
	for _, job := range pullJobs(t, url, "http", many) {
		ids[string(job.Data)] = true
		if job.Redriven != 1 || job.Attempt != 1 {
			t.Fatalf("redriven job %+v", job)
		}
	}
	if len(ids) != many {
		t.Errorf("%d different jobs came back, want %d", len(ids), many)
	}
}
