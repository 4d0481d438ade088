package test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/test/rawclient"
)

// TestR3NoClientAddressIsStored reads every message of every stream after a
// client has connected, subscribed, published and left.
func TestR3NoClientAddressIsStored(t *testing.T) {
	h := newHarness(t, 1, 1)
	c, err := rawclient.Dial(t.Context(), h.any().url, func(rawclient.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, port, _ := strings.Cut(c.LocalAddr(), ":")
	for command, body := range map[string]any{
		"subscribe": map[string]any{"channel": "h:a"},
		"publish":   map[string]any{"channel": "h:a", "data": 1},
	} {
		if _, err := c.Send(command, body); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := publish(h.any().node, "h:a", "", []byte("2")); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(h.connect())
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for info := range js.ListStreams(t.Context()).Info() {
		read += searchStream(t, js, info.Config.Name, c.LocalAddr(), port)
	}
	if read == 0 {
		t.Error("no message was read: the test tested nothing")
	}
}

// searchStream fails for each message that names addr, or the port in a header.
func searchStream(t *testing.T, js jetstream.JetStream, name, addr, port string) (read int) {
	t.Helper()
	ctx := context.Background()
	s, err := js.Stream(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	state := s.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq && seq > 0; seq++ {
		m, err := s.GetMsg(ctx, seq)
		if err != nil {
			continue // overwritten
		}
		read++
		text := []byte(fmt.Sprintf("%s %v %s", m.Subject, m.Header, m.Data))
		if bytes.Contains(text, []byte(addr)) || bytes.Contains([]byte(fmt.Sprint(m.Header)), []byte(port)) {
			t.Errorf("%s message %d names the client's address: %s", name, seq, text)
		}
	}
	return read
}
