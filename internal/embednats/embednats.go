// Package embednats runs a NATS server with JetStream inside the process, for a
// cluster of one machine.
package embednats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// startTimeout bounds the recovery of the streams at start.
const startTimeout = 60 * time.Second

// Config says how the server runs.
type Config struct {
	// Dir is where JetStream stores its streams; created when missing. One
	// server at a time may use it.
	Dir string
	// Listen is host:port for outside clients such as the nats CLI. "" opens no
	// port at all: only connections of this process reach the server.
	Listen string
	Name   string
	// SyncInterval is the longest time between an acknowledged write and its
	// fsync; 0 is the server's default of 2 minutes. It matters when the
	// machine loses power, not when the process dies.
	SyncInterval time.Duration
	// MaxPayload bounds one message in bytes; 0 is the server's default of 1 MiB.
	MaxPayload int32
	Log        *slog.Logger
}

// Server is a running server. Close it.
type Server struct {
	ns   *server.Server
	lock *dirLock
	log  *slog.Logger
}

// Start starts a server and returns once it accepts connections. It fails with
// *LockedError when another process holds the directory.
func Start(cfg Config) (*Server, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	// NATS itself lets two servers write into one directory without complaint.
	lock, err := lockDir(filepath.Join(cfg.Dir, "headrace.lock"))
	if err != nil {
		return nil, err
	}
	opts, err := options(cfg)
	if err != nil {
		lock.release()
		return nil, err
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		lock.release()
		return nil, fmt.Errorf("start embedded nats: %w", err)
	}
	logger := &natsLog{log: cfg.Log.With("part", "nats-server")}
	ns.SetLoggerV2(logger, false, false, false)
	s := &Server{ns: ns, lock: lock, log: cfg.Log}
	ns.Start()
	if !ns.ReadyForConnections(startTimeout) {
		s.Close()
		if cause := logger.fatal.Load(); cause != nil {
			return nil, fmt.Errorf("start embedded nats: %s", *cause)
		}
		return nil, fmt.Errorf("start embedded nats: not ready within %v", startTimeout)
	}
	return s, nil
}

func options(cfg Config) (*server.Options, error) {
	opts := &server.Options{
		ServerName:   cfg.Name,
		DontListen:   true,
		JetStream:    true,
		StoreDir:     cfg.Dir,
		NoSigs:       true,
		SyncInterval: cfg.SyncInterval,
		MaxPayload:   cfg.MaxPayload,
	}
	if cfg.Listen == "" {
		return opts, nil
	}
	host, portText, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("nats listen address %q: %w", cfg.Listen, err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil || port < 0 || port > 65535 {
		return nil, fmt.Errorf("nats listen address %q: port is not within 0 to 65535", cfg.Listen)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	// Tried here because the server itself only logs it and never gets ready.
	probe, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for nats clients: %w", err)
	}
	if err := probe.Close(); err != nil {
		return nil, fmt.Errorf("listen for nats clients: %w", err)
	}
	opts.DontListen, opts.Host, opts.Port = false, host, port
	return opts, nil
}

// Connect makes a connection within the process: no socket, a third of the
// latency of a loopback one.
func (s *Server) Connect(opts ...nats.Option) (*nats.Conn, error) {
	return nats.Connect("", append(opts, nats.InProcessServer(s.ns))...)
}

// Addr returns the address clients may use, or "" when none is open.
func (s *Server) Addr() string {
	if a := s.ns.Addr(); a != nil {
		return a.String()
	}
	return ""
}

// Run holds the server until ctx ends, then closes it.
func (s *Server) Run(ctx context.Context) error {
	stopped := make(chan struct{})
	go func() {
		s.ns.WaitForShutdown()
		close(stopped)
	}()
	select {
	case <-ctx.Done():
		s.Close()
		<-stopped
		return nil
	case <-stopped:
		s.Close()
		return errors.New("the embedded server stopped by itself")
	}
}

// Close stops the server, flushes its streams and frees the directory. It may
// be called again.
func (s *Server) Close() {
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
	s.lock.release()
}
