package main

import (
	"fmt"

	"github.com/headrace/headrace/edge/webhook"
	"github.com/headrace/headrace/internal/config"
)

// endpoints translates the webhooks of the configuration's queues.
func endpoints(cfg config.Config) []webhook.Endpoint {
	var out []webhook.Endpoint
	for i := range cfg.Queues {
		if cfg.Queues[i].Webhook.URL != "" {
			out = append(out, endpoint(&cfg.Queues[i]))
		}
	}
	return out
}

func endpoint(q *config.Queue) webhook.Endpoint {
	w := &q.Webhook
	return webhook.Endpoint{
		Queue: q.Name, AckWait: q.AckWait, URL: w.URL, Secret: w.Secret, Previous: w.Previous,
		Concurrency: w.Concurrency, Timeout: w.Timeout, MaxIdle: w.MaxIdle, IdleTimeout: w.IdleTimeout,
		Headers: w.Headers, CA: w.CA,
	}
}

// webhookProblems checks the webhooks of cfg with the rules of their package.
func webhookProblems(cfg config.Config, origins map[string]string) (problems []config.Problem) {
	for i := range cfg.Queues {
		path := fmt.Sprintf("queues[%d].webhook", i)
		w := &cfg.Queues[i].Webhook
		if w.URL == "" {
			if w.Secret != "" || w.Previous != "" || len(w.Headers) > 0 || w.CA != "" {
				problems = append(problems, config.Problem{Where: origins[path], Key: path + ".url", What: "is missing, but other keys of the webhook are set"})
			}
			continue
		}
		e := endpoint(&cfg.Queues[i])
		for _, line := range splitJoined(e.Validate()) {
			problems = append(problems, config.Problem{Where: origins[path], Key: fmt.Sprintf("queues[%d]", i), What: line})
		}
	}
	return problems
}
