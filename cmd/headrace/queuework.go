package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/internal/apiclient"
)

const (
	// exitFinal of a command says that no retry can help: EX_DATAERR of sysexits.h.
	exitFinal = 65
	// workWait is how long one pull waits for jobs.
	workWait = 20 * time.Second
	// workHold is how long a job stays with a worker that says nothing, and
	// workExtend the time between two signs of life.
	workHold   = 30 * time.Second
	workExtend = 5 * time.Second
	// workPause is the time between attempts to reach a server that does not answer.
	workPause = time.Second
	// maxErrorTail bounds what is told of a command's errors, as in router.Nack.
	maxErrorTail = 1024
	maxWorkers   = 100
)

func (a *app) queueWorkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "work <queue> -- <command> [argument]...",
		Short: "Run a command for each job",
		Long: `Run a command for each job of a queue, with the payload on its standard input and
JOB_ID, JOB_QUEUE, JOB_PRIORITY, JOB_ATTEMPT, JOB_MAX_ATTEMPTS and JOB_HEADERS (JSON) in its environment.

What the command exits with says what becomes of the job:
  0    it was done
  65   it failed for good (EX_DATAERR): it becomes a dead letter at once
  else it failed and is tried again after its backoff; 75 (EX_TEMPFAIL) is customary
The end of what it wrote to standard error is kept as the job's last error.

While a command runs its job is extended every ` + workExtend.String() + `, so the queue's ack_wait must be longer than that.`,
		Example: "  headrace queue work jobs -- sh -c 'cat; echo'\n  headrace queue work mails --parallel 4 -- ./send-mail",
		Args:    minArgs(2),
	}
	client := a.apiFlags(cmd)
	cmd.ValidArgsFunction = a.completeQueues(client)
	parallel := cmd.Flags().Int("parallel", 1, "commands that run at a time")
	count := cmd.Flags().Int64("count", 0, "end after this many `jobs`; 0 is never")
	limit := cmd.Flags().Duration("timeout", 0, "kill a command that takes longer, and try the job again; 0 is never")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *parallel < 1 || *parallel > maxWorkers {
			return &usageError{err: fmt.Errorf("--parallel is not within 1 to %d", maxWorkers)}
		}
		if _, err := exec.LookPath(args[1]); err != nil {
			return &usageError{err: err, hint: "usage: " + cmd.UseLine()}
		}
		w := &shellWorker{
			client: client(), queue: args[0], command: args[1:], limit: *limit, count: *count,
			stdout: &lockedWriter{w: a.stdout}, stderr: &lockedWriter{w: a.stderr},
			// Variables of Headrace are its own: the API key above all.
			environ: withoutPrefix(a.environ, "HEADRACE_"),
		}
		return w.run(cmd.Context(), *parallel)
	}
	return cmd
}

// shellWorker runs a command for each job.
type shellWorker struct {
	client         *apiclient.Client
	queue          string
	command        []string
	environ        []string
	limit          time.Duration
	count          int64
	stdout, stderr io.Writer

	taken atomic.Int64
}

// shellJob is what the worker reads of a job.
type shellJob struct {
	ID          string          `json:"id"`
	Priority    string          `json:"priority"`
	Attempt     int             `json:"attempt"`
	MaxAttempts int             `json:"max_attempts"`
	Token       string          `json:"token"`
	Data        json.RawMessage `json:"data"`
	B64Data     []byte          `json:"b64data"`
	Headers     json.RawMessage `json:"headers"`
}

// run works until ctx ends, with count until that many jobs were tried. Commands
// that run when ctx ends are waited for.
func (w *shellWorker) run(ctx context.Context, parallel int) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var workers sync.WaitGroup
	for range parallel {
		workers.Go(func() {
			if err := w.work(ctx); err != nil {
				stop(err)
			}
		})
	}
	workers.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (w *shellWorker) work(ctx context.Context) error {
	for ctx.Err() == nil && (w.count == 0 || w.taken.Add(1) <= w.count) {
		job, err := w.next(ctx)
		if err != nil || job == nil {
			return err
		}
		w.settle(ctx, job, w.attempt(ctx, job))
	}
	return nil
}

// next waits for a job; nil means that ctx ended. A server that cannot be reached
// or is too busy is asked again.
func (w *shellWorker) next(ctx context.Context) (*shellJob, error) {
	told := false
	for ctx.Err() == nil {
		var result struct{ Jobs []shellJob }
		pulling, cancel := context.WithTimeout(ctx, callTimeout)
		err := w.client.Call(pulling, "queue_pull", map[string]any{
			"queue": w.queue, "max": 1, "wait": workWait.String(), "hold": workHold.String(),
		}, &result)
		cancel()
		var answered *apiclient.Error
		switch {
		case ctx.Err() != nil:
			return nil, nil
		case errors.As(err, &answered) && !isCode(err, 100) && !isCode(err, 111) && answered.Status < 500:
			return nil, err
		case err != nil:
			if !told {
				fmt.Fprintf(w.stderr, "headrace: %v; trying again\n", err) //nolint:errcheck // for people only
				told = true
			}
			select {
			case <-time.After(workPause):
			case <-ctx.Done():
			}
		case len(result.Jobs) > 0:
			return &result.Jobs[0], nil
		}
	}
	return nil, nil
}

// outcome is how a command ended.
type outcome struct {
	ok, final bool
	tail      string
}

// attempt runs the command. It outlives ctx: what has begun is finished.
func (w *shellWorker) attempt(ctx context.Context, job *shellJob) outcome {
	running := context.WithoutCancel(ctx)
	var cancel context.CancelFunc = func() {}
	if w.limit > 0 {
		running, cancel = context.WithTimeout(running, w.limit)
	}
	defer cancel()
	extended := make(chan struct{})
	stop := make(chan struct{})
	go func() { defer close(extended); w.extend(running, job, stop) }()
	defer func() { close(stop); <-extended }()

	tail := &tailWriter{limit: maxErrorTail}
	cmd := exec.CommandContext(running, w.command[0], w.command[1:]...)
	cmd.Stdin = bytes.NewReader(append(job.Data, job.B64Data...))
	cmd.Stdout, cmd.Stderr = w.stdout, io.MultiWriter(w.stderr, tail)
	cmd.WaitDelay = time.Second // for what the command has left behind with its output
	headers := string(job.Headers)
	if headers == "" {
		headers = "{}"
	}
	cmd.Env = append(slices.Clone(w.environ), "JOB_ID="+job.ID, "JOB_QUEUE="+w.queue, "JOB_PRIORITY="+job.Priority, "JOB_HEADERS="+headers,
		"JOB_ATTEMPT="+strconv.Itoa(job.Attempt), "JOB_MAX_ATTEMPTS="+strconv.Itoa(job.MaxAttempts))
	err := cmd.Run()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return outcome{ok: true}
	case running.Err() != nil:
		return outcome{tail: fmt.Sprintf("took longer than %v", w.limit)}
	}
	text := strings.TrimSpace(tail.String())
	if text == "" {
		text = err.Error()
	}
	return outcome{final: cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == exitFinal, tail: text}
}

// extend tells the server that the job is still worked on, until stop closes.
func (w *shellWorker) extend(ctx context.Context, job *shellJob, stop <-chan struct{}) {
	tick := time.NewTicker(workExtend)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			calling, cancel := context.WithTimeout(context.WithoutCancel(ctx), workExtend)
			_ = w.client.Call(calling, "queue_extend", map[string]string{"queue": w.queue, "token": job.Token}, nil) // the next one may succeed
			cancel()
		}
	}
}

// settle tells the server how the attempt ended. When that fails for good, the job
// comes again.
func (w *shellWorker) settle(ctx context.Context, job *shellJob, o outcome) {
	method, request := "queue_ack", map[string]any{"queue": w.queue, "token": job.Token}
	if !o.ok {
		method = "queue_nack"
		request["error"], request["final"] = o.tail, o.final
	}
	calling, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	err := w.client.Call(calling, method, request, nil)
	for err != nil && calling.Err() == nil && !isSettled(err) {
		select {
		case <-time.After(workPause):
		case <-calling.Done():
		}
		err = w.client.Call(calling, method, request, nil)
	}
	verdict := "done"
	switch {
	case err != nil:
		verdict = "not settled: " + err.Error()
	case o.final:
		verdict = "failed for good: " + printable(o.tail, 100)
	case !o.ok:
		verdict = "failed: " + printable(o.tail, 100)
	}
	fmt.Fprintf(w.stderr, "headrace: job %s, attempt %d of %d: %s\n", job.ID, job.Attempt, job.MaxAttempts, verdict) //nolint:errcheck // for people only
}

// isSettled reports whether an error is the server's last word.
func isSettled(err error) bool {
	var answered *apiclient.Error
	return errors.As(err, &answered) && answered.Code != 100 && answered.Code != 111 && answered.Status < 500
}

func withoutPrefix(environ []string, prefix string) []string {
	var rest []string
	for _, v := range environ {
		if !strings.HasPrefix(v, prefix) {
			rest = append(rest, v)
		}
	}
	return rest
}

// lockedWriter lets several commands write to one place.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer // guarded by mu
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// tailWriter keeps the last limit bytes.
type tailWriter struct {
	limit int
	kept  []byte
}

func (t *tailWriter) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - t.limit; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

func (t *tailWriter) String() string { return strings.ToValidUTF8(string(t.kept), "") }
