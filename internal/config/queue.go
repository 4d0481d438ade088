package config

import "time"

// Queue is a durable queue. Package router defines the meaning and the rules; its
// Queue has the same fields.
type Queue struct {
	Name string `yaml:"name" doc:"name of the queue, one subject token"`

	MaxAttempts   int           `yaml:"max_attempts" doc:"attempts at a job, the first one included; a job may bring its own"`
	Backoff       Backoff       `yaml:"backoff"`
	AckWait       time.Duration `yaml:"ack_wait" doc:"how long a worker may be silent about a job before others get it"`
	MaxJobs       int64         `yaml:"max_jobs" doc:"jobs that may wait; more are refused with error 106"`
	MaxBytes      int64         `yaml:"max_bytes" doc:"bytes of the jobs that may wait; more are refused with error 106; 0 is 1 GiB, in memory 64 MiB"`
	MaxInFlight   int           `yaml:"max_in_flight" doc:"jobs of one priority that all workers may hold"`
	DeadRetention time.Duration `yaml:"dead_retention" doc:"how long dead letters are kept; 0 is for ever"`
	MemoryStorage bool          `yaml:"memory_storage" doc:"streams in memory: faster, gone when NATS restarts"`

	AllowPush          bool `yaml:"allow_push" doc:"clients with a user id may push jobs"`
	AllowPushAnonymous bool `yaml:"allow_push_for_anonymous" doc:"allow_push holds without a user id too"`
	AllowWork          bool `yaml:"allow_work" doc:"clients with a user id may work on jobs"`
	AllowWorkAnonymous bool `yaml:"allow_work_for_anonymous" doc:"allow_work holds without a user id too"`

	Webhook Webhook `yaml:"webhook"`
}

// Backoff is the time between the attempts at a job.
type Backoff struct {
	Base   time.Duration `yaml:"base" doc:"wait after the first failed attempt"`
	Factor float64       `yaml:"factor" doc:"what the wait is multiplied by after each further one, 1 to 100"`
	Cap    time.Duration `yaml:"cap" doc:"longest wait"`
	Jitter float64       `yaml:"jitter" doc:"random part of the wait that is taken off, 0 to 1"`
}

// setDefaults fills what an entry of queues does not have to say.
func (q *Queue) setDefaults() {
	q.MaxAttempts, q.AckWait = 4, 30*time.Second
	q.Backoff = Backoff{Base: time.Second, Factor: 2, Cap: 30 * time.Second, Jitter: 0.2}
	q.MaxJobs, q.MaxInFlight = 1_000_000, 10_000
	q.Webhook.setDefaults()
}

// newQueue returns a queue with everything else as by default.
func newQueue(name string) Queue {
	var q Queue
	q.setDefaults()
	q.Name = name
	return q
}
