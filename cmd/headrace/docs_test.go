package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/headrace/headrace/internal/config"
)

// hooked has a webhook, so that its metrics are there.
const hooked = `queues=[{"name":"jobs","webhook":{"url":"http://127.0.0.1:1/","secret":"a-secret-of-24-bytes-or-so"}}]`

// docs/operations.md knows every setting, flag and metric, and no others.
func TestOperationsPageIsComplete(t *testing.T) {
	data, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	known := make(map[string]bool)
	want := func(kind, name, written string) {
		known[name] = true
		if !strings.Contains(page, written) {
			t.Errorf("docs/operations.md misses the %s %s", kind, name)
		}
	}
	for _, k := range slices.Concat(config.Keys(), config.NamespaceKeys(), config.QueueKeys()) {
		want("key", k.Path, "| `"+k.Path+"` |")
		if k.Doc != "" && !strings.Contains(page, k.Doc) {
			t.Errorf("docs/operations.md tells something else about %s than the code: %s", k.Path, k.Doc)
		}
	}
	new(app).serveCommand().Flags().VisitAll(func(f *pflag.Flag) { want("flag", f.Name, "| `--"+f.Name+"`") })
	_, body := get(t, startServe(t, "--set", hooked)+"/metrics")
	for _, m := range regexp.MustCompile(`(?m)^# HELP (headrace_\S+)`).FindAllStringSubmatch(body, -1) {
		want("metric", m[1], "| `"+m[1]+"` |")
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(?:--)?([a-z0-9_.-]+)`").FindAllStringSubmatch(page, -1) {
		if !known[m[1]] {
			t.Errorf("docs/operations.md describes %s, which does not exist", m[1])
		}
	}
}
