package config

import (
	"strings"
	"time"
)

// Webhook is an HTTP endpoint that works on the jobs of a queue. Package
// edge/webhook defines the rules; its Endpoint has the same fields.
type Webhook struct {
	URL         string        `yaml:"url" secret:"url" doc:"http or https address that gets a POST for every job; empty is no webhook. A login in it is sent as basic authorization"`
	Secret      string        `yaml:"secret" secret:"true" doc:"key that signs requests: whsec_ and base64 of 24 to 64 bytes, or a text of at least 24 bytes"`
	Previous    string        `yaml:"previous_secret" secret:"true" doc:"the key before: requests carry its signature too, while receivers change"`
	Concurrency int           `yaml:"concurrency" doc:"requests under way and connections to the endpoint, at most, on each node"`
	Timeout     time.Duration `yaml:"timeout" doc:"how long a request may take, at most 1h; the job is kept meanwhile"`
	MaxIdle     int           `yaml:"max_idle" doc:"connections to the endpoint kept for later requests; 0 keeps none"`
	IdleTimeout time.Duration `yaml:"idle_timeout" doc:"how long they are kept; less than the endpoint keeps them"`
	Headers     []string      `yaml:"headers" secret:"true" doc:"further headers of every request, each Name: value"`
	CA          string        `yaml:"ca" doc:"path of the CA certificates to trust; empty trusts those of the system"`
}

func (w *Webhook) setDefaults() {
	w.Concurrency, w.Timeout, w.MaxIdle, w.IdleTimeout = 16, 30*time.Second, 16, 4*time.Second
}

// secrets returns what must not be told.
func (w *Webhook) secrets() []string {
	return append(append([]string{w.Secret, w.Previous}, urlSecrets(w.URL)...), headerValues(w.Headers)...)
}

func headerValues(headers []string) []string {
	var out []string
	for _, h := range headers {
		if _, value, ok := strings.Cut(h, ":"); ok {
			out = append(out, strings.TrimSpace(value))
		}
	}
	return out
}
