package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Lives, times and epochs in what is printed are never the same.
var (
	statePrintedLife = regexp.MustCompile(`(version|is|was|\t)( ?)(\d+):[a-z0-9]{8}`)
	stateJSONLife    = regexp.MustCompile(`"life":"[a-z0-9]{8}"`)
	stateJSONTime    = regexp.MustCompile(`"time":\d+`)
	stateJSONEpoch   = regexp.MustCompile(`"epoch":"[^"]*"`)
)

func settledState(s string) string {
	s = statePrintedLife.ReplaceAllString(s, "$1$2$3:L")
	s = stateJSONLife.ReplaceAllString(s, `"life":"L"`)
	return stateJSONEpoch.ReplaceAllString(stateJSONTime.ReplaceAllString(s, `"time":0`), `"epoch":"E"`)
}

// startStates runs a server with maps and returns its address.
func startStates(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "headrace.yaml")
	config := "namespaces:\n- name: doc\n  map: {mode: persistent, key_history: 2}\n- name: bin\n  payload: any\n  map: {mode: persistent}\n"
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return startServe(t, "--insecure", "--config", file, "--data", t.TempDir())
}

// The commands in the order in which somebody might use them.
func TestStateCommands(t *testing.T) {
	url := startStates(t)
	for _, tt := range []struct {
		args   string // split at blanks
		stdin  string
		code   int
		stdout string
		stderr string // part of it
	}{
		{"set doc:1 a 1 --expect 0", "", exitOK, "set, version 1:L\n", ""},
		{"set doc:1 a 1 --expect 0", "", exitFailed, "", "not applied: exists; current is 1:L"},
		{"set doc:1 a two --text --tag x=y --id k", "", exitOK, "set, version 2:L\n", ""},
		{"set doc:1 a two --text --tag x=y --id k", "", exitOK, "set before, version 2:L\n", ""},
		{"get doc:1 a", "", exitOK, "\"two\"\n", ""},
		{"get doc:1 a --json --fresh", "", exitOK, `{"key":"a","version":2,"life":"L","data":"two","time":0,"tags":{"x":"y"},"offset":2}` + "\n", ""},
		{"get doc:1 a --version 1", "", exitOK, "1\n", ""},
		{"set doc:1 a - --expect 2", "{\"n\":\n 3}\n", exitOK, "set, version 3:L\n", ""},
		{"get doc:1 a --version 1", "", exitFailed, "", "error 112: version 1 is not stored"},
		{"set doc:1 a {\"m\":4} --strategy merge", "", exitOK, "set, version 4:L\n", ""},
		{"history doc:1 a", "", exitOK, `{"key":"a","version":4,"life":"L","data":{"m":4,"n":3},"time":0,"offset":4}` + "\n" + `{"key":"a","version":3,"life":"L","data":{"n":3},"time":0,"offset":3}` + "\n", ""},
		{"history doc:1 a --limit 1", "", exitOK, `{"key":"a","version":4,"life":"L","data":{"m":4,"n":3},"time":0,"offset":4}` + "\n", ""},
		{"set doc:1 b 1 --time 2030-01-31T08:00:00Z --ttl 1h", "", exitOK, "set, version 1:L\n", ""},
		{"ls doc:1", "", exitOK, "a\t4:L\t{\"m\":4,\"n\":3}\nb\t1:L\t1\n", ""},
		{"ls doc:1 --limit 1", "", exitOK, "a\t4:L\t{\"m\":4,\"n\":3}\n", "there is more: --all, or --cursor "},
		{"ls doc:1 --limit 1 --all --json", "", exitOK, `{"key":"a","data":{"m":4,"n":3},"offset":4,"time":0,"version":4,"life":"L"}` + "\n" + `{"key":"b","data":1,"offset":5,"time":0,"version":1,"life":"L"}` + "\n", ""},
		{"delete doc:1 a --expect 3", "", exitFailed, "", "not applied: conflict; current is 4:L"},
		{"delete doc:1 a --expect 4", "", exitOK, "removed, version 5:L\n", ""},
		{"delete doc:1 a", "", exitFailed, "", "not applied: missing; there is no value, the last version was 5:L"},
		{"delete doc:1 never", "", exitFailed, "", "not applied: missing; there is no value"},
		{"get doc:1 a", "", exitFailed, "", "the key has no value"},
		{"get doc:1 never", "", exitFailed, "", "the key has no value"},
		{"sync doc:1", `{"key":"c","data":1}` + "\n" + `{"key":"c","remove":true}{"key":"d","data":1,"expect":{"version":3}}`, exitFailed,
			`{"key":"c","applied":true,"entry":{"key":"c","version":1,"life":"L","data":1,"time":0,"offset":7},"offset":7,"epoch":"E"}` + "\n" +
				`{"key":"c","applied":true,"entry":{"key":"c","version":2,"life":"L","removed":true,"time":0,"offset":8},"offset":8,"epoch":"E"}` + "\n" +
				`{"key":"d","applied":false,"reason":"conflict"}` + "\n", "1 of 3 changes were not applied"},
		{"sync doc:1", `{"key":`, exitUsage, "", "change 1: unexpected EOF"},
		{"set bin:1 a - --b64", "AAE=\n", exitOK, "set, version 1:L\n", ""},
		{"get bin:1 a", "", exitOK, "\x00\x01", ""},
		{"ls bin:1", "", exitOK, "a\t1:L\t2 bytes\n", ""},
		{"set doc:1 a 1 --expect x", "", exitUsage, "", "is not a version such as 3 or 3:life"},
		{"set doc:1 a 1 --time soon", "", exitUsage, "", "is not a time such as"},
		{"set doc:1 a 1 --strategy none", "", exitFailed, "", "unknown strategy \"none\""},
		{"set doc:1 a 1 --text --b64", "", exitUsage, "", "exclude each other"},
		{"set doc:1 a", "", exitUsage, "", "2 arguments given, want 3"},
		{"push", "", exitUsage, "", `unknown command "push"`},
	} {
		args := append([]string{"state"}, strings.Fields(tt.args)...)
		if args[1] != "push" {
			args = append(args, "--url", url)
		}
		code, stdout, stderr := execute(t, tt.stdin, args...)
		stdout, stderr = settledState(stdout), settledState(stderr)
		if code != tt.code || stdout != tt.stdout || !strings.Contains(stderr, tt.stderr) {
			t.Errorf("state %s\ncode %d, %q, %q\nwant %d, %q, %q", tt.args, code, stdout, stderr, tt.code, tt.stdout, tt.stderr)
		}
	}
}

// 250 changes are three batches.
func TestStateSyncInBatches(t *testing.T) {
	url := startStates(t)
	var in strings.Builder
	for i := range 250 {
		fmt.Fprintf(&in, `{"key":"k%d","data":%d}`, i, i)
	}
	code, stdout, stderr := execute(t, in.String(), "state", "sync", "doc:many", "--url", url)
	if n := strings.Count(stdout, `"applied":true`); code != exitOK || n != 250 {
		t.Errorf("250 changes: code %d, %d applied, %s", code, n, stderr)
	}
}

// A watch prints a map of several pages, each key once, and then what changes.
func TestStateWatch(t *testing.T) {
	const keys = 1100 // more than a page
	url := startStates(t)
	var in strings.Builder
	for i := range keys {
		fmt.Fprintf(&in, `{"key":"k%d","data":%d}`, i, i)
	}
	if code, _, stderr := execute(t, in.String(), "state", "sync", "doc:w", "--url", url); code != exitOK {
		t.Fatal(stderr)
	}
	out, notes, done := newOutput(), newOutput(), make(chan int, 1)
	go func() {
		args := []string{"state", "watch", "doc:w", "--url", url, "--count", fmt.Sprint(keys + 2)}
		done <- run(t.Context(), args, nil, strings.NewReader(""), out, notes)
	}()
	notes.find(t, `(subscribed)`)
	for _, args := range [][]string{{"state", "set", "doc:w", "k7", `"new"`, "--url", url}, {"state", "delete", "doc:w", "k8", "--url", url}} {
		if code, _, stderr := execute(t, "", args...); code != exitOK {
			t.Fatal(stderr)
		}
	}
	if code := <-done; code != exitOK {
		t.Errorf("code %d", code)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	seen := make(map[string]bool)
	for _, line := range lines[:min(keys, len(lines))] {
		var e stateEntry
		if err := json.Unmarshal([]byte(line), &e); err != nil || seen[e.Key] || e.Version != 1 {
			t.Fatalf("line %s: %v", line, err)
		}
		seen[e.Key] = true
	}
	if len(lines) != keys+2 || !strings.Contains(lines[keys], `"data":"new"`) || !strings.Contains(lines[keys+1], `"removed":true`) {
		t.Errorf("%d lines, the last ones %q", len(lines), lines[max(len(lines)-2, 0):])
	}
}
