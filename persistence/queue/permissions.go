package queue

import (
	"strings"

	"github.com/headrace/headrace/internal/natsperm"
)

// Permissions returns what a NATS user must be allowed for a store with cfg whose
// streams and consumers are there already. Answers to its inbox are not in it.
func Permissions(cfg Config) []natsperm.Rule {
	cfg = cfg.withDefaults()
	var rules []natsperm.Rule
	add := func(d natsperm.Direction, subject, need string) {
		rules = append(rules, natsperm.Rule{Direction: d, Subject: subject, Need: need})
	}
	for _, q := range cfg.Queues {
		of := " of queue " + q.Name
		add(natsperm.Publish, cfg.Prefix+".job."+q.Name+".*", "push jobs"+of)
		add(natsperm.Publish, cfg.Prefix+".retry."+q.Name+".>", "delay, retry and redrive jobs"+of)
		add(natsperm.Publish, cfg.Prefix+".dead."+q.Name+".*", "dead letters"+of)
		add(natsperm.Subscribe, cfg.Prefix+".wake."+q.Name+".>", "notices of jobs"+of)
		for _, stream := range streamNames(&cfg, q.Name) {
			add(natsperm.Publish, "$JS.API.STREAM.INFO."+stream, "look up the stream, count what is in it")
			add(natsperm.Publish, "$JS.API.STREAM.MSG.GET."+stream, "read a message at the leader")
			add(natsperm.Publish, "$JS.API.STREAM.MSG.DELETE."+stream, "delete stranded jobs, or dead letters")
		}
		names := streamNames(&cfg, q.Name)
		for _, stream := range names[:2] {
			add(natsperm.Publish, "$JS.API.CONSUMER.INFO."+stream+".*", "look up the consumers, count what they hold")
			add(natsperm.Publish, "$JS.API.CONSUMER.MSG.NEXT."+stream+".*", "take jobs"+of)
			add(natsperm.Publish, "$JS.API.CONSUMER.PAUSE."+stream+".*", "pause and resume"+of)
			add(natsperm.Publish, "$JS.ACK."+stream+".>", "settle jobs"+of)
			add(natsperm.Subscribe, "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES."+stream+".*", "jobs that NATS gave up")
		}
		add(natsperm.Publish, "$JS.API.DIRECT.GET."+names[2], "list dead letters"+of)
	}
	return rules
}

// ProvisionPermissions returns what is needed besides to make the streams and
// consumers of cfg, and to let them grow with it.
func ProvisionPermissions(cfg Config) []natsperm.Rule {
	cfg = cfg.withDefaults()
	var rules []natsperm.Rule
	add := func(subject, need string) {
		rules = append(rules, natsperm.Rule{Direction: natsperm.Publish, Subject: subject, Need: need})
	}
	for _, q := range cfg.Queues {
		names := streamNames(&cfg, q.Name)
		for _, stream := range names {
			add("$JS.API.STREAM.INFO."+stream, "see whether the stream is there")
			add("$JS.API.STREAM.CREATE."+stream, "make the stream")
			add("$JS.API.STREAM.UPDATE."+stream, "let the stream grow with the configuration")
		}
		for _, stream := range names[:2] {
			add("$JS.API.CONSUMER.INFO."+stream+".*", "see whether the consumers are there")
			add("$JS.API.CONSUMER.CREATE."+stream+".>", "make the consumers, bring them in line with the configuration")
		}
	}
	return rules
}

// PlainPermissions returns what a plain NATS client needs, one without Headrace: to
// push to the queues, to take and settle jobs from them, or both.
func PlainPermissions(cfg Config, push, work bool) []natsperm.Rule {
	cfg = cfg.withDefaults()
	rules := []natsperm.Rule{{Direction: natsperm.Subscribe, Subject: "_INBOX.>", Need: "answers to this client"}}
	add := func(subject, need string) {
		rules = append(rules, natsperm.Rule{Direction: natsperm.Publish, Subject: subject, Need: need})
	}
	for _, q := range cfg.Queues {
		of := " of queue " + q.Name
		if push {
			add(cfg.Prefix+".job."+q.Name+".*", "push jobs"+of)
		}
		if !work {
			continue
		}
		for _, stream := range streamNames(&cfg, q.Name)[:2] {
			add("$JS.API.CONSUMER.INFO."+stream+".*", "find the consumers; client libraries and the nats CLI ask")
			add("$JS.API.CONSUMER.MSG.NEXT."+stream+".*", "take jobs"+of)
			add("$JS.ACK."+stream+".>", "settle jobs"+of)
		}
	}
	return rules
}

// streamNames returns the streams of a queue: jobs, retries, dead letters.
func streamNames(cfg *Config, queue string) []string {
	upper := strings.ToUpper(cfg.Prefix)
	return []string{upper + "_JOBS_" + queue, upper + "_RETRY_" + queue, upper + "_DEAD_" + queue}
}
