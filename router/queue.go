package router

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Queue is the configuration of a durable queue.
type Queue struct {
	Name        string
	MaxAttempts int           // the first one included
	Backoff     Backoff       // between attempts
	AckWait     time.Duration // how long a worker may be silent about a job
	// MaxJobs and MaxBytes bound what is stored; a push above either fails with
	// CodeLimit. Jobs that wait for their time or for a retry count on their own.
	MaxJobs  int64
	MaxBytes int64
	// MaxInFlight bounds the jobs of one priority that all workers hold.
	MaxInFlight   int
	DeadRetention time.Duration // how long dead letters are kept; 0 is for ever
	MemoryStorage bool          // faster, gone when NATS restarts

	// Operations allowed to clients beyond what their tokens allow.
	AllowPush, AllowPushAnonymous bool
	AllowWork, AllowWorkAnonymous bool
}

// WithDefaults returns q with what is not set filled in.
func (q Queue) WithDefaults() Queue {
	if q.MaxAttempts == 0 {
		q.MaxAttempts = 4
	}
	if q.Backoff == (Backoff{}) {
		q.Backoff = DefaultBackoff
	}
	if q.AckWait == 0 {
		q.AckWait = 30 * time.Second
	}
	if q.MaxJobs == 0 {
		q.MaxJobs = 1_000_000
	}
	if q.MaxBytes == 0 {
		// NATS reserves what a stream may grow to.
		if q.MaxBytes = 1 << 30; q.MemoryStorage {
			q.MaxBytes = 64 << 20
		}
	}
	if q.MaxInFlight == 0 {
		q.MaxInFlight = 10_000
	}
	return q
}

// Validate reports every problem of q, defaults filled in, at once.
func (q *Queue) Validate() error {
	errs := []error{q.Backoff.Validate()}
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(namespaceName.MatchString(q.Name), "name must be 1 to 64 of a-z A-Z 0-9 _ -")
	check(q.MaxAttempts >= 1 && q.MaxAttempts <= MaxJobAttempts, "max_attempts %d is not within 1 to %d", q.MaxAttempts, MaxJobAttempts)
	check(q.AckWait >= 100*time.Millisecond && q.AckWait <= 24*time.Hour, "ack_wait %v is not within 100ms to 24h", q.AckWait)
	check(q.MaxJobs > 0 && q.MaxBytes > 0 && q.MaxInFlight > 0, "max_jobs, max_bytes and max_in_flight must be positive")
	check(q.DeadRetention >= 0, "dead_retention %v is negative", q.DeadRetention)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("queue %q: %w", q.Name, err)
	}
	return nil
}

// QueueStats is the state of a queue.
type QueueStats struct {
	Depth     map[Priority]uint64 // stored and due, those in flight included
	InFlight  map[Priority]uint64 // held by workers
	Scheduled uint64              // waiting for their time or for a retry
	Dead      uint64
	Oldest    time.Duration // age of the oldest job that is due; 0 without
	Paused    bool
}

// Queues stores jobs and hands them out; persistence/queue implements it on
// JetStream. Errors are *Error: CodeNotAvailable when there is no such queue,
// CodeUnavailable when the answer is not known now (every call may be repeated).
// All methods are safe for concurrent use.
type Queues interface {
	// Names returns the queues in order.
	Names() []string

	// Push stores a job and returns when a majority of replicas has it. A full
	// queue is CodeLimit.
	Push(ctx context.Context, queue string, j NewJob) (Pushed, error)

	// Pull gives jobs of queue to a worker of this node, as many at a time as
	// SetCredits allowed. take is called from a goroutine of the queue's, may run once
	// more just after Close, and must not block. A job for which it returns false goes
	// to others at once, as the same attempt.
	Pull(queue string, take func(*Job) bool) (Worker, error)

	// Ack ends the job: it was done. Ending a job that was ended before is no
	// error. CodeInvalid means that the token was not made for queue.
	Ack(ctx context.Context, queue, token string) error

	// Nack ends the attempt. The job is retried after its backoff (or delay, when
	// that is positive) unless this was its last attempt or final is set: then it
	// becomes a dead letter. CodeConflict means that the job was ended before.
	Nack(ctx context.Context, queue, token string, n Nack) error

	// Extend restarts the ack wait of the attempt. CodeConflict means that the job
	// was ended before.
	Extend(ctx context.Context, queue, token string) error

	// Drain ends the handing out: the jobs that this node's workers hold go to
	// others after grace, unless a worker settles or extends them elsewhere.
	Drain(ctx context.Context, grace time.Duration)

	DeadLetters

	// Pause stops the handing out of a queue on all nodes and to plain NATS
	// workers, until Resume. Jobs in the hands of workers are not affected.
	Pause(ctx context.Context, queue string) error
	Resume(ctx context.Context, queue string) error

	Stats(ctx context.Context, queue string) (QueueStats, error)
}

// Nack says how an attempt failed.
type Nack struct {
	Error string // for people; cut to 1,024 bytes
	Final bool   // no retry can help
	Delay time.Duration
}

// Worker takes jobs. Its methods are safe for concurrent use.
type Worker interface {
	// SetCredits sets how many jobs the worker may hold that it has neither
	// settled nor let expire.
	SetCredits(n int)

	// Close gives the jobs back that the worker holds: others get them after
	// grace, in which the worker may settle or extend them through another node.
	// That counts as an attempt (rule Q2).
	Close(grace time.Duration)
}

// DeadLetters gives access to the jobs that failed for good.
type DeadLetters interface {
	// ListDead returns up to limit (at most 1,000) dead letters with Seq of at
	// least from, oldest first. Fewer does not mean the end, none does: a page
	// holds about 4 MiB.
	ListDead(ctx context.Context, queue string, from uint64, limit int) ([]DeadLetter, error)

	// ShowDead returns one; CodeInvalid when there is none.
	ShowDead(ctx context.Context, queue string, seq uint64) (DeadLetter, error)

	// Redrive brings dead letters back, with headers, origin and all attempts
	// anew, and returns how many. seqs nil means all. Those that are gone are not
	// counted: repeating a call brings nothing back twice.
	Redrive(ctx context.Context, queue string, seqs []uint64) (int, error)

	// PurgeDead deletes dead letters and returns how many. seqs nil means all.
	PurgeDead(ctx context.Context, queue string, seqs []uint64) (int, error)
}
