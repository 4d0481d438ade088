package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
)

// The commands that call the API, against a server with a back end and a client.
func TestAPICommands(t *testing.T) {
	server := natstest.Run(t, natstest.Listen())
	url := startServe(t, "--insecure", "--nats", server.ClientURL(), "--demo")
	nc := server.Conn()
	if _, err := nc.Subscribe("hr.rpc.echo", func(m *nats.Msg) { m.Respond(m.Data) }); err != nil { //nolint:errcheck // the caller times out then
		t.Fatal(err)
	}
	if _, err := nc.Subscribe("hr.rpc.raw", func(m *nats.Msg) { m.Respond([]byte("\x00raw")) }); err != nil { //nolint:errcheck // the caller times out then
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	notes, done := newOutput(), make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"sub", "chat:a", "--url", url}, nil, strings.NewReader(""), newOutput(), notes)
	}()
	notes.find(t, `(subscribed)`)
	defer func() { stop(); <-done }()

	for name, tt := range map[string]struct {
		args   []string
		code   int
		stdout string
		stderr string // part of it
	}{
		"rpc":                   {[]string{"rpc", "echo", `{"a": 1}`}, exitOK, "{\"a\":1}\n", ""},
		"rpc with text":         {[]string{"rpc", "echo", "hello", "--text"}, exitOK, "\"hello\"\n", ""},
		"rpc without data":      {[]string{"rpc", "echo"}, exitOK, "", ""},
		"rpc of other bytes":    {[]string{"rpc", "raw"}, exitOK, "\x00raw", ""},
		"rpc to nobody":         {[]string{"rpc", "nobody"}, exitFailed, "", "hint: no back end answers"},
		"rpc of nothing":        {[]string{"rpc"}, exitUsage, "", "0 arguments given, want 1 to 2"},
		"presence":              {[]string{"presence", "chat:a", "--count"}, exitOK, "1 clients, 1 users\n", ""},
		"presence of nobody":    {[]string{"presence", "chat:b"}, exitOK, "", ""},
		"presence is not kept":  {[]string{"presence", "a"}, exitFailed, "", "keeps no presence"},
		"channels":              {[]string{"channels", "chat:*"}, exitOK, "1\tchat:a\n", ""},
		"disconnect":            {[]string{"disconnect", "nobody"}, exitOK, "0 connections ended\n", ""},
		"disconnect, bad code":  {[]string{"disconnect", "nobody", "--code", "999"}, exitFailed, "", "is not within 3000 to 4999"},
		"completion of channel": {[]string{"__complete", "presence", "--url", "URL", "ch"}, exitOK, "chat:a\n:4\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			args := tt.args
			if args[0] == "__complete" {
				args[3] = url
			} else {
				args = append(args, "--url", url)
			}
			code, stdout, stderr := execute(t, "", args...)
			if code != tt.code || stdout != tt.stdout || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("code %d, %q, %q; want %d, %q, %q", code, stdout, stderr, tt.code, tt.stdout, tt.stderr)
			}
		})
	}
	_, out, _ := execute(t, "", "presence", "chat:a", "--url", url)
	var member struct{ Client string }
	if err := json.Unmarshal([]byte(out), &member); err != nil || member.Client == "" {
		t.Errorf("presence printed %q (%v)", out, err)
	}
	_, out, _ = execute(t, "", "info", "--url", url)
	var node struct {
		Clients int `json:"num_clients"`
	}
	if err := json.Unmarshal([]byte(out), &node); err != nil || node.Clients != 1 {
		t.Errorf("info printed %q (%v)", out, err)
	}
}
