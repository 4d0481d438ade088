package main

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/headrace/headrace/test/check"
)

// TestChaos is the short form of what the command does by hand for hours: one seed
// that changes with nothing, on real processes.
func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("starts six processes and breaks them for a minute")
	}
	dir := t.TempDir()
	command := filepath.Join(dir, "chaos")
	if out, err := exec.Command("go", "build", "-o", command, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, command, "-seed", "3", "-duration", "20s", "-patience", "5", "-dir", filepath.Join(dir, "runs"))
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	t.Log(out.String())
}

// TestASeedIsAPlan: the same seed breaks the same things in the same order.
func TestASeedIsAPlan(t *testing.T) {
	kinds := make(map[kind]bool)
	for seed := range uint64(40) {
		a, b := planFor(seed, 3*time.Minute, weights), planFor(seed, 3*time.Minute, weights)
		if a.String() != b.String() {
			t.Fatalf("seed %d has two plans:\n%s\n%s", seed, a, b)
		}
		for _, s := range a {
			kinds[s.kind] = true
			if s.target == s.other || s.target >= size || s.other >= size {
				t.Errorf("seed %d: %+v", seed, s)
			}
		}
	}
	if len(kinds) != len(weights) {
		t.Errorf("40 seeds use %d of %d kinds of fault", len(kinds), len(weights))
	}
}

func TestRulesFitTheConfiguration(t *testing.T) {
	if late := rulesFor(0, 1).Queues[timedQueue].Late; late != time.Second || rulesFor(1, 3).Queues[timedQueue].Late != 3*late {
		t.Errorf("timed jobs may be %v late", late)
	}
	for _, ch := range channels() {
		if ns, _, _ := bytes.Cut([]byte(ch.name), []byte(":")); rules.History[string(ns)] == 0 && ch.name != presenceChannel {
			t.Errorf("%s: its namespace has no rule", ch.name)
		}
	}
	if silence <= rules.Late {
		t.Errorf("a silence of %v is not longer than the bound of %v", silence, rules.Late)
	}
	if r := check.Verify(nil, rules); len(r.Violations) > 0 {
		t.Errorf("an empty record violates %v", r.Violations)
	}
}
