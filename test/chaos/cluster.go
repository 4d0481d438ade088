package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// size is the number of NATS servers, and of edges.
const size = 3

// diskBytes is the size of a NATS server's disk.
const diskBytes = 192 << 20

// cluster is three NATS servers and three edges, and the ways between them.
type cluster struct {
	dir   string
	nats  [size]*process
	edges [size]*process

	clientAddr [size]string // of the NATS servers, themselves
	edgeAddr   [size]string
	routes     [size][size]*link // [from][to], by who dials
	uplinks    [size][size]*link // [edge][NATS server]
	disks      bool              // the servers' directories are disks of their own
	nc         *nats.Conn        // ours, straight to the servers
	web        *http.Client
}

// newCluster starts everything in dir and waits until it works.
func newCluster(ctx context.Context, dir, edgeBinary string, env []string, died func(string)) (*cluster, error) {
	c := &cluster{dir: dir, disks: true, web: &http.Client{Timeout: 6 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32, DisableKeepAlives: false}}}
	if err := c.layOut(); err != nil {
		return c, err
	}
	for i := range size {
		c.nats[i] = c.natsServer(i, died)
		c.edges[i] = c.edge(i, edgeBinary, env, died)
	}
	for i := range size {
		if err := c.nats[i].up(); err != nil {
			return c, err
		}
	}
	var err error
	c.nc, err = nats.Connect(strings.Join(c.clientAddr[:], ","), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(100*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		return c, err
	}
	for i := range size {
		if err := c.edges[i].up(); err != nil {
			return c, err
		}
	}
	for i := range size {
		starting, cancel := context.WithCancel(ctx)
		stop := c.edges[i].whenEnded(cancel)
		err := c.healthy(starting, i, 90*time.Second)
		stop()
		cancel()
		if err != nil {
			log, _ := os.ReadFile(c.edges[i].logFile)
			return c, fmt.Errorf("%w; its log ends: %s", err, log[max(len(log)-300, 0):])
		}
	}
	return c, nil
}

// layOut chooses addresses and builds the links. The processes' own ports lie
// below those that the system gives to outgoing connections, or one of those
// might take a port while its process is down.
func (c *cluster) layOut() error {
	var routeAddr [size]string
	for i := range size {
		for _, addr := range []*string{&c.clientAddr[i], &c.edgeAddr[i], &routeAddr[i]} {
			var err error
			if *addr, err = freePort(); err != nil {
				return err
			}
		}
	}
	var err error
	for i := range size {
		for j := range size {
			if c.uplinks[i][j], err = newLink(c.clientAddr[j]); err != nil {
				return err
			}
			if i == j {
				continue
			}
			if c.routes[i][j], err = newLink(routeAddr[j]); err != nil {
				return err
			}
		}
	}
	for i := range size {
		if err := c.configure(i, routeAddr[i]); err != nil {
			return err
		}
	}
	return nil
}

var (
	portMu   sync.Mutex // guards nextPort
	nextPort = 20000 + rand.IntN(9000)
)

func freePort() (string, error) {
	portMu.Lock()
	defer portMu.Unlock()
	for range 3000 {
		nextPort++
		if nextPort > 29999 {
			nextPort = 20000
		}
		addr := fmt.Sprintf("127.0.0.1:%d", nextPort)
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr, nil
		}
	}
	return "", errors.New("no free port between 20000 and 29999")
}

// configure writes the configuration of NATS server i and mounts its disk.
func (c *cluster) configure(i int, routeAddr string) error {
	store := c.storeDir(i)
	if err := os.MkdirAll(store, 0o755); err != nil {
		return err
	}
	if !mountDisk(store, diskBytes) {
		c.disks = false
	}
	var routes []string
	for j := range size {
		if j != i {
			routes = append(routes, "nats://"+c.routes[i][j].addr())
		}
	}
	conf := fmt.Sprintf(`server_name: n%d
listen: %q
jetstream { store_dir: %q, max_memory_store: 64MB, max_file_store: %d }
cluster { name: chaos, listen: %q, no_advertise: true, routes: [%s] }
ping_interval: "5s"
logtime: true
`, i+1, c.clientAddr[i], store, int64(diskBytes), routeAddr, strings.Join(routes, ", "))
	return os.WriteFile(c.file("n%d.conf", i), []byte(conf), 0o644)
}

func (c *cluster) storeDir(i int) string { return filepath.Join(c.dir, fmt.Sprintf("n%d", i+1)) }

func (c *cluster) file(format string, i int) string {
	return filepath.Join(c.dir, fmt.Sprintf(format, i+1))
}

func (c *cluster) natsServer(i int, died func(string)) *process {
	self, _ := os.Executable()
	return &process{name: fmt.Sprintf("n%d", i+1), logFile: c.file("n%d.log", i), died: died, command: func() *exec.Cmd {
		return exec.Command(self, natsCommand, c.file("n%d.conf", i))
	}}
}

func (c *cluster) edge(i int, binary string, env []string, died func(string)) *process {
	name := fmt.Sprintf("e%d", i+1)
	return &process{name: name, logFile: c.file("e%d.log", i), died: died, command: func() *exec.Cmd {
		var urls []string
		for _, l := range c.uplinks[i] {
			urls = append(urls, "nats://"+l.addr())
		}
		cmd := exec.Command(binary, "serve", "--config", filepath.Join(c.dir, "edge.yaml"))
		// What is in our environment for Headrace is not meant for these edges.
		inherited := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "HEADRACE_") })
		cmd.Env = append(inherited, "HEADRACE_NATS_URL="+strings.Join(urls, ","), "HEADRACE_ADDRESS="+c.edgeAddr[i], "HEADRACE_NODE_NAME="+name)
		cmd.Env = append(cmd.Env, "GORACE=halt_on_error=1") // with -race: an edge that dies is noticed, a log is not
		cmd.Env = append(cmd.Env, env...)
		return cmd
	}}
}

func (c *cluster) url(i int) string { return "http://" + c.edgeAddr[i] }

// healthy waits until edge i is ready to work.
func (c *cluster) healthy(ctx context.Context, i int, bound time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	last := errors.New("not asked")
	for {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, c.url(i)+"/health", nil)
		resp, err := c.web.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("edge %d is not healthy within %v: %w", i+1, bound, last)
		case <-time.After(100 * time.Millisecond): // a poll with a deadline
		}
	}
}

// stop ends everything.
func (c *cluster) stop() {
	var wg sync.WaitGroup
	for _, p := range append(c.edges[:], c.nats[:]...) {
		if p != nil {
			wg.Go(func() { p.end(killSignal) }) //nolint:errcheck // killed
		}
	}
	wg.Wait()
	if c.nc != nil {
		c.nc.Close()
	}
	c.web.CloseIdleConnections()
	for i := range size {
		for j := range size {
			for _, l := range []*link{c.routes[i][j], c.uplinks[i][j]} {
				if l != nil {
					l.close()
				}
			}
		}
		unmountDisk(c.storeDir(i))
	}
}

// between calls f with the links that carry bytes between NATS servers i and j,
// and the ways of each that ways means, seen from i.
func (c *cluster) between(i, j int, w ways, f func(*link, ways)) {
	f(c.routes[i][j], w)
	f(c.routes[j][i], w.opposite())
}

func (w ways) opposite() ways {
	switch w {
	case there:
		return back
	case back:
		return there
	default:
		return bothWays
	}
}
