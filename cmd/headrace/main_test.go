package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/config"
	"github.com/headrace/headrace/internal/natstest"
)

// execute runs the program and returns its exit code and outputs.
func execute(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, nil, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func TestMistakesAreExplained(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		code int
		want []string
	}{
		"unknown command":     {[]string{"serv"}, exitUsage, []string{`unknown command "serv"`, "did you mean serve?"}},
		"unknown subcommand":  {[]string{"queue", "pushh"}, exitUsage, []string{`unknown command "pushh"`, "did you mean push?"}},
		"unknown flag":        {[]string{"serve", "--adr", "x"}, exitUsage, []string{"unknown flag: --adr", "headrace serve --help"}},
		"missing argument":    {[]string{"pub", "chat:a"}, exitUsage, []string{"1 arguments given, want 2", "usage: headrace pub"}},
		"not JSON":            {[]string{"pub", "chat:a", "hello"}, exitUsage, []string{"not valid JSON", "--text"}},
		"no server":           {[]string{"pub", "chat:a", "1", "--url", "http://127.0.0.1:1"}, exitFailed, []string{"connection refused", "is the server running there?"}},
		"no server to follow": {[]string{"sub", "chat:a", "--url", "http://127.0.0.1:1"}, exitFailed, []string{"connection refused", "is the server running there?"}},
		"bad url":             {[]string{"history", "chat:a", "--url", "127.0.0.1:8000"}, exitFailed, []string{"server url"}},
		"bad position":        {[]string{"history", "chat:a", "--since", "7"}, exitUsage, []string{"is not offset:epoch"}},
		"unknown setting":     {[]string{"config", "check", "--set", "nats.ulr=x"}, exitUsage, []string{`did you mean "nats.url"?`}},
		"setting without =":   {[]string{"config", "check", "--set", "nats.url"}, exitUsage, []string{"--set key=value"}},
		"missing file":        {[]string{"serve", "--config", "no-such-file.yaml"}, exitUsage, []string{"no-such-file.yaml", "--config"}},
		"insecure remote":     {[]string{"serve", "--insecure", "--addr", "0.0.0.0:0"}, exitUsage, []string{"--insecure", "insecure_allow_remote"}},
		"bad namespace":       {[]string{"config", "check", "--set", `namespaces=[{"name":"a b"}]`}, exitUsage, []string{`namespace "a b"`}},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := execute(t, "", tt.args...)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			for _, want := range tt.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("stderr:\n%s\nwant %q in it", stderr, want)
				}
			}
		})
	}
}

func TestConfigPrintIsReadBack(t *testing.T) {
	code, printed, stderr := execute(t, "", "config", "print", "--node-name", "n1")
	if code != exitOK {
		t.Fatal(stderr)
	}
	path := filepath.Join(t.TempDir(), "printed.yaml")
	if err := os.WriteFile(path, []byte(printed), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, again, _ := execute(t, "", "config", "print", "--config", path); again != printed {
		t.Errorf("printed\n%s\nthen\n%s", printed, again)
	}
	if code, out, _ := execute(t, "", "config", "check", "--config", path); code != exitOK || !strings.HasPrefix(out, "ok: ") {
		t.Errorf("check = %d %q", code, out)
	}
}

// Every field of the router's namespaces and queues can be configured.
func TestNamespacesAndQueuesAreTranslatedInFull(t *testing.T) {
	var ns config.Namespace
	fill(reflect.ValueOf(&ns).Elem())
	translated(t, reflect.ValueOf(namespaces(config.Config{Namespaces: []config.Namespace{ns}})[0]))
	var q config.Queue
	fill(reflect.ValueOf(&q).Elem())
	translated(t, reflect.ValueOf(queues(config.Config{Queues: []config.Queue{q}})[0]))
}

// fill sets every field in v to something.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("x")
	case reflect.Float64:
		v.SetFloat(1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	default:
		v.SetInt(1)
	}
}

// translated reports the exported fields in v that are not set.
func translated(t *testing.T, v reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		switch value := reflect.Indirect(v.Field(i)); {
		case !f.IsExported():
		case !value.IsValid() || value.IsZero():
			t.Errorf("%s.%s is not configurable", v.Type(), f.Name)
		case value.Kind() == reflect.Struct:
			translated(t, value)
		}
	}
}

// output is a buffer that a test may read while the program writes.
type output struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wrote chan struct{} // holds a value after a write
}

func newOutput() *output { return &output{wrote: make(chan struct{}, 1)} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.wrote <- struct{}{}:
	default:
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// find waits until the output matches and returns the first group.
func (o *output) find(t *testing.T, re string) string {
	t.Helper()
	deadline := time.After(natstest.Patience(30 * time.Second))
	for {
		if m := regexp.MustCompile(re).FindStringSubmatch(o.String()); m != nil {
			return m[1]
		}
		select {
		case <-o.wrote:
		case <-deadline:
			t.Fatalf("no %q in the output:\n%s", re, o)
		}
	}
}

// startServe runs a node until the test ends and returns its address.
func startServe(t *testing.T, args ...string) string {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	stdout, stderr := newOutput(), newOutput()
	done := make(chan int, 1)
	args = append([]string{"serve", "--addr", "127.0.0.1:0", "--data", t.TempDir()}, args...)
	go func() { done <- run(ctx, args, nil, strings.NewReader(""), stdout, stderr) }()
	t.Cleanup(func() {
		stop()
		if code := <-done; code != exitOK {
			t.Errorf("serve ended with %d:\n%s", code, stderr)
		}
	})
	return stdout.find(t, `listens on (http://[^/]+)/`)
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestServePublishFollowHistory(t *testing.T) {
	url := startServe(t, "--insecure")

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	followed, notes := newOutput(), newOutput()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"sub", "chat:a", "--url", url, "--count", "2"}, nil, strings.NewReader(""), followed, notes)
	}()
	notes.find(t, `(subscribed)`)

	if code, _, stderr := execute(t, "", "pub", "chat:a", `{"n": 1}`, "--url", url); code != exitOK {
		t.Fatal(stderr)
	}
	_, out, _ := execute(t, "two\nlines", "pub", "chat:a", "-", "--text", "--url", url)
	if !strings.HasPrefix(out, "published at 2:") {
		t.Errorf("pub printed %q, want position 2", out)
	}
	if code := <-done; code != exitOK {
		t.Fatalf("sub ended with %d: %s", code, notes)
	}
	if lines := strings.Split(strings.TrimSpace(followed.String()), "\n"); len(lines) != 2 || !strings.Contains(lines[0], `"data":{"n":1}`) || !strings.Contains(lines[1], `"data":"two\nlines"`) {
		t.Errorf("sub printed %q", lines)
	}

	_, out, notesText := execute(t, "", "history", "chat:a", "--url", url, "--reverse", "--limit", "1")
	var pub struct{ Offset int }
	if err := json.Unmarshal([]byte(out), &pub); err != nil || pub.Offset != 2 || !strings.Contains(notesText, "position 2:") {
		t.Errorf("history printed %q, %q (%v)", out, notesText, err)
	}
	position := strings.TrimSpace(strings.TrimPrefix(notesText, "position 2:"))
	code, out, stderr := execute(t, "", "sub", "chat:a", "--url", url, "--since", "1:"+position, "--count", "1")
	if code != exitOK || !strings.Contains(out, `"offset":2`) || !strings.Contains(stderr, "nothing was missed") {
		t.Errorf("sub --since printed %q, %q", out, stderr)
	}
}

func TestServeIsClosedUnlessToldOtherwise(t *testing.T) {
	url := startServe(t)
	code, _, stderr := execute(t, "", "pub", "chat:a", "1", "--url", url)
	if code != exitFailed || !strings.Contains(stderr, "--api-key") {
		t.Errorf("pub without a key = %d %q", code, stderr)
	}
	if code, _, stderr := execute(t, "", "sub", "chat:a", "--url", url); code != exitFailed || !strings.Contains(stderr, "--token") {
		t.Errorf("sub without a token = %d %q", code, stderr)
	}
	// Demo, health and metrics.
	if status, body := get(t, url+"/"); status != http.StatusOK || !strings.Contains(body, "Headrace chat") {
		t.Errorf("GET / = %d", status)
	}
	if status, body := get(t, url+"/metrics"); status != http.StatusOK || !strings.Contains(body, "headrace_build_info") {
		t.Errorf("GET /metrics = %d", status)
	}
	if status, _ := get(t, url+"/health"); status != http.StatusOK {
		t.Errorf("GET /health = %d", status)
	}
}

func TestTwoNodesOnOneDataDirectoryAreRefused(t *testing.T) {
	dir := t.TempDir()
	startServe(t, "--data", dir)
	code, _, stderr := execute(t, "", "serve", "--addr", "127.0.0.1:0", "--data", dir)
	if code != exitFailed || !strings.Contains(stderr, "in use by process") {
		t.Errorf("second serve = %d %q", code, stderr)
	}
}

// What `config check` says is what the README's node has: seen with `nats stream ls`
// and `nats consumer ls`.
func TestCountStreams(t *testing.T) {
	cfg := config.FirstRun()
	if logs, all := countStreams(cfg); logs != 1 || all != 13 {
		t.Errorf("%d logs, %d streams and consumers, want 1 and 13", logs, all)
	}
	cfg.Inbox.Enabled, cfg.Inbox.HistorySize, cfg.Inbox.Partitions, cfg.Inbox.Namespace = true, 10, 2, "inbox"
	if logs, all := countStreams(cfg); logs != 3 || all != 16 {
		t.Errorf("with inboxes %d logs, %d streams and consumers, want 3 and 16", logs, all)
	}
}
