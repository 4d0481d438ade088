package embednats

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	cfg.Log = slog.New(slog.DiscardHandler)
	s, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestStreamsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	s := start(t, Config{Dir: dir})
	publish := func(s *Server) uint64 {
		nc, err := s.Connect()
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "T", Subjects: []string{"t"}}); err != nil {
			t.Fatal(err)
		}
		ack, err := js.Publish(t.Context(), "t", []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		return ack.Sequence
	}
	publish(s)
	s.Close()
	if got := publish(start(t, Config{Dir: dir})); got != 2 {
		t.Errorf("sequence after a restart = %d, want 2", got)
	}
}

func TestTwoServersOnOneDirectoryAreRefused(t *testing.T) {
	dir := t.TempDir()
	first := start(t, Config{Dir: dir})
	_, err := Start(Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	var locked *LockedError
	if !errors.As(err, &locked) || locked.PID == "" {
		t.Fatalf("second Start = %v, want a LockedError that names the process", err)
	}
	first.Close()
	start(t, Config{Dir: dir}) // free again
}

func TestListenIsOptional(t *testing.T) {
	if got := start(t, Config{Dir: t.TempDir()}).Addr(); got != "" {
		t.Errorf("a server without Listen listens on %s", got)
	}
	s := start(t, Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	nc, err := nats.Connect("nats://" + s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
}

func TestATakenPortIsAnErrorAndFreesTheDirectory(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	if _, err := Start(Config{Dir: dir, Listen: l.Addr().String(), Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("Start on a taken port succeeded")
	}
	start(t, Config{Dir: dir})
}

func TestRunStopsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	s := start(t, Config{Dir: dir})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Errorf("Run = %v", err)
	}
	start(t, Config{Dir: dir})
}
