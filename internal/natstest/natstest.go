// Package natstest runs real NATS servers inside tests.
package natstest

import (
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"
)

// Server is a server that is stopped when the test ends.
type Server struct {
	*server.Server
	tb   testing.TB
	opts server.Options
}

// Option changes how Run starts a server.
type Option func(*server.Options)

// Listen opens a random port on loopback; the default is no port at all.
func Listen() Option {
	return func(o *server.Options) { o.DontListen, o.Host, o.Port = false, "127.0.0.1", server.RANDOM_PORT }
}

// StoreDir keeps streams in dir, so that a later server can go on with them.
// The default is a directory that the testing package deletes.
func StoreDir(dir string) Option { return func(o *server.Options) { o.StoreDir = dir } }

// With changes any other option.
func With(f func(*server.Options)) Option { return f }

// Run starts a server with JetStream and a store of its own, so tests may run in
// parallel and stream names never collide.
func Run(tb testing.TB, options ...Option) *Server {
	tb.Helper()
	opts := server.Options{
		ServerName: strings.ReplaceAll(tb.Name(), "/", "_"),
		DontListen: true, // clients connect over net.Pipe, see Conn
		JetStream:  true,
		NoLog:      true,
		NoSigs:     true,
	}
	for _, o := range options {
		o(&opts)
	}
	if opts.StoreDir == "" {
		opts.StoreDir = storeDir(tb)
	}
	s := &Server{Server: start(tb, &opts), tb: tb, opts: opts}
	if !opts.DontListen {
		s.opts.Port = s.Addr().(*net.TCPAddr).Port // the same after Restart
	}
	tb.Cleanup(s.Stop)
	return s
}

func start(tb testing.TB, opts *server.Options) *server.Server {
	tb.Helper()
	s, err := server.NewServer(opts)
	if err != nil {
		tb.Fatalf("natstest: new server: %v", err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		tb.Fatal("natstest: server did not start within 10s")
	}
	return s
}

// Stop stops the server and returns when all of it has ended. Stopping twice is
// allowed.
func (s *Server) Stop() {
	s.Shutdown()
	s.WaitForShutdown()
}

// Restart stops the server if it runs and starts another one on the same store
// (and port, if it listens).
func (s *Server) Restart() {
	s.tb.Helper()
	opts := s.opts
	s.Stop()
	s.Server = start(s.tb, &opts)
}

// Conn opens a client connection that is closed when the test ends.
func (s *Server) Conn(options ...nats.Option) *nats.Conn {
	s.tb.Helper()
	url := ""
	if s.opts.DontListen {
		options = append(options, nats.InProcessServer(s.Server))
	} else {
		url = s.ClientURL()
	}
	return connect(s.tb, url, options...)
}

func connect(tb testing.TB, url string, options ...nats.Option) *nats.Conn {
	tb.Helper()
	nc, err := nats.Connect(url, options...)
	if err != nil {
		tb.Fatalf("natstest: connect: %v", err)
	}
	tb.Cleanup(nc.Close)
	return nc
}

// Main is the TestMain of every package that uses this one. It starts the NATS
// server's process-wide clock (package ats) outside of any bubble; started
// inside, it would belong to that bubble and virtual time would stand still.
// When the tests passed, it fails if goroutines are left over; extra names what
// a package's other dependencies leave behind.
func Main(m *testing.M, extra ...goleak.Option) {
	ats.Register()
	code := m.Run()
	ats.Unregister()
	if code == 0 {
		if err := goleak.Find(append(leakOptions(), extra...)...); err != nil {
			os.Stderr.WriteString("natstest: " + err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}

// leakOptions names what nats-server leaves behind on purpose.
func leakOptions() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.init.0.func1"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).startRaftNode.func1"),
		goleak.IgnoreTopFunction("internal/synctest.Run"),
	}
}

// Bubble runs f in a synctest bubble that may contain NATS servers and clients.
//
// nats.go keeps timers in a package-wide sync.Pool (nats.go timer.go), and a
// timer made in one bubble must not be used in another, nor outside. So the pool
// is emptied before and after. For the same reason tests that use Bubble must not
// be parallel.
func Bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	emptyPools()
	defer emptyPools()
	defer oneThread()()
	synctest.Test(t, f)
}

// emptyPools empties every sync.Pool: one collection moves what is in it aside,
// a second frees it.
func emptyPools() {
	runtime.GC()
	runtime.GC()
}

// storeDir is tb.TempDir for a server that was killed: goroutines of it may still
// write a file while it is being removed.
func storeDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "headrace-nats-")
	if err != nil {
		tb.Fatalf("natstest: %v", err)
	}
	tb.Cleanup(func() {
		for range 100 {
			if err = os.RemoveAll(dir); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond) // a poll with a bound
		}
		tb.Errorf("natstest: %v", err)
	})
	return dir
}
