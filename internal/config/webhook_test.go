package config

import (
	"slices"
	"strings"
	"testing"
)

// Secrets inside an entry of a list are hidden and found like others.
func TestSecretsOfWebhooksAreHiddenAndFound(t *testing.T) {
	cfg := Default()
	q := newQueue("mail")
	q.Webhook.URL, q.Webhook.Secret, q.Webhook.Previous = "https://u:first-secret@a/", "second-secret", "third-secret"
	q.Webhook.Headers = []string{"Authorization: fourth-secret"}
	cfg.Queues = []Queue{q}
	var b strings.Builder
	if err := Print(&b, cfg); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "-secret") {
		t.Errorf("a secret is printed:\n%s", b.String())
	}
	if _, problems := load(t, b.String(), nil); problems != "" {
		t.Error(problems)
	}
	for _, want := range []string{"first-secret", "second-secret", "third-secret", "fourth-secret"} {
		if !slices.Contains(Secrets(cfg), want) {
			t.Errorf("%s is not among the secrets", want)
		}
	}
}

func TestWebhookDefaults(t *testing.T) {
	cfg, problems := load(t, "queues:\n- name: mail\n  webhook:\n    url: https://a\n    concurrency: 3\n", nil)
	want := newQueue("mail").Webhook
	want.URL, want.Concurrency = "https://a", 3
	if problems != "" || len(cfg.Queues) != 1 || cfg.Queues[0].Webhook.URL != want.URL || cfg.Queues[0].Webhook.Concurrency != 3 || cfg.Queues[0].Webhook.Timeout != want.Timeout {
		t.Errorf("%+v %s", cfg.Queues, problems)
	}
}
