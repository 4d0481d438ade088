package main

import (
	"strings"
	"testing"
)

// The inbox commands one after the other, against a server with inboxes and one
// without.
func TestInboxCommands(t *testing.T) {
	url := startServe(t, "--insecure", "--demo", "--set", "inbox.enabled=true")
	without := startServe(t, "--insecure", "--demo")
	for _, tt := range []struct {
		name   string
		url    string
		args   []string
		code   int
		stdout string
		stderr string // part of it
	}{
		{"send", url, []string{"send", "bob", `{"n": 1}`, "--from", "alice", "--id", "k"}, exitOK, "stored as number 1, 0 connections there\n", ""},
		{"send again", url, []string{"send", "bob", `{"n": 1}`, "--from", "alice", "--id", "k"}, exitOK, "duplicate as number 1\n", ""},
		{"send text", url, []string{"send", "bob", "hi", "--text", "--type", "note"}, exitOK, "stored as number 2, 0 connections there\n", ""},
		{"direct, nobody there", url, []string{"send", "bob", "1", "--direct"}, exitFailed, "", "target is not online"},
		{"unread", url, []string{"unread", "bob", "phone"}, exitOK, "2 unread: read up to 0, newest 2\n", ""},
		{"ack", url, []string{"ack", "bob", "phone", "--number", "1"}, exitOK, "read up to 1, newest 2\n", ""},
		{"ack of nothing", url, []string{"ack", "bob", "phone"}, exitUsage, "", "--number is missing"},
		{"ack beyond the end", url, []string{"ack", "bob", "phone", "--number", "9"}, exitFailed, "", "number 9 is beyond the newest, 2"},
		{"list none after", url, []string{"list", "bob", "--after", "2"}, exitOK, "", "newest number 2"},
		{"clear", url, []string{"clear", "bob"}, exitOK, "cleared\n", ""},
		{"unread, gone", url, []string{"unread", "bob", "phone"}, exitOK, "0 unread: read up to 1, newest 3, others are gone\n", ""},
		{"no such command", url, []string{"nonsense"}, exitUsage, "", ""},
		{"no inboxes: unread", without, []string{"unread", "bob", "phone"}, exitFailed, "", "inboxes are not configured"},
		{"no inboxes: send", without, []string{"send", "bob", "1"}, exitFailed, "", "target is not online"},
	} {
		code, stdout, stderr := execute(t, "", append(append([]string{"inbox"}, tt.args...), "--url", tt.url)...)
		if code != tt.code || stdout != tt.stdout || !strings.Contains(stderr, tt.stderr) {
			t.Errorf("%s: code %d, %q, %q; want %d, %q, %q", tt.name, code, stdout, stderr, tt.code, tt.stdout, tt.stderr)
		}
	}
}
