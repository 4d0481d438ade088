package edge

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/router"
)

// protobufSubprotocol is what SDKs offer when they speak Protobuf.
const protobufSubprotocol = "centrifuge-protobuf"

// Server is one edge: it turns connections into sessions of a router.
type Server struct {
	// Set by New, read-only afterwards.
	cfg      *Config
	node     Router
	sessions *Sessions
	verifier *token.Verifier // of connection tokens; nil without a key
	metrics  *metrics
	log      *slog.Logger
	upgrader websocket.Upgrader

	subVerifier *token.Verifier // of subscription tokens; may be verifier
	encode      [numKinds]func(*router.Batch) []byte
	ctx         context.Context // ends with the server's work, see Shutdown
	cancel      context.CancelFunc

	methods  map[string]apiMethod
	once     *onceCache
	rpcSlots chan struct{} // calls of back ends under way
	apiSlots chan struct{} // HTTP API calls under way

	draining atomic.Bool
	unready  atomic.Bool    // the router could not work for cfg.UnreadyAfter
	calls    sync.WaitGroup // commands that wait for the cluster
	readers  sync.WaitGroup // goroutines that read connections
}

// New returns a Server for node, whose Config.Sessions must be sessions.
func New(cfg Config, node Router, sessions *Sessions) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: &cfg, node: node, sessions: sessions, log: cfg.Log}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.rpcSlots = make(chan struct{}, cfg.RPCMaxInflight)
	s.apiSlots = make(chan struct{}, cfg.APIMaxInflight)
	s.metrics = newMetrics(cfg.Registry, func() float64 { return float64(sessions.Count()) })
	if err := s.openVerifiers(); err != nil {
		return nil, err
	}
	s.upgrader = websocket.Upgrader{
		// Payloads larger than the buffer are read past it; 125 is the least
		// gorilla needs for control frames (conn.go:290).
		ReadBufferSize:  256,
		WriteBufferSize: 512, // used for the 101 response only
		WriteBufferPool: &sync.Pool{},
		Subprotocols:    []string{protobufSubprotocol, "centrifuge-json"},
		CheckOrigin:     s.originAllowed,
	}
	s.serveAPI()
	for k := range numKinds {
		s.encode[k] = func(b *router.Batch) []byte {
			frame := k.batchFrame(b, func() { s.metrics.drop(dropEncoding, 1) })
			if frame == nil {
				frame = []byte{} // nothing to send, and no reason to encode it again
			}
			return frame
		}
	}
	return s, nil
}

// Handler serves the client transports, the HTTP API and /health.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /connection/websocket", s.serveWebSocket)
	mux.Handle("/api/", s.apiHandler())
	mux.HandleFunc("GET /health", s.serveHealth)
	return mux
}

func (s *Server) serveHealth(w http.ResponseWriter, _ *http.Request) {
	err := s.node.Ready()
	if s.draining.Load() {
		err = errors.New("shutting down")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Write([]byte("{}\n")) //nolint:errcheck // the peer is gone then
}

// originAllowed protects browsers' users from pages of other sites. Requests
// without Origin do not come from a page.
func (s *Server) originAllowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	if slices.Contains(s.cfg.AllowedOrigins, "*") || slices.Contains(s.cfg.AllowedOrigins, origin) {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// serveWebSocket upgrades and returns: net/http's buffers, request and stack go
// with it, and a fresh goroutine with a small stack reads the connection.
func (s *Server) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	if s.draining.Load() || s.unready.Load() {
		http.Error(w, "this node takes no connections now", http.StatusServiceUnavailable)
		return
	}
	ws, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade has answered
	}
	k := jsonWS
	if ws.Subprotocol() == protobufSubprotocol || r.URL.Query().Get("format") == "protobuf" || r.URL.Query().Get("cf_protocol") == "protobuf" {
		k = protobufWS
	}
	conn := newWSConn(ws, s.cfg, s.metrics)
	sess := newSession(s, k, conn, time.Now())
	sess.carry(s.requestToken(r))
	// The check above may be long ago: add is what stop and Shutdown rely on.
	if !s.sessions.add(sess, func() { s.readers.Add(1); go s.read(conn, sess) }) {
		conn.Close(disconnectShutdown)
		conn.drain()
	}
}

// read is the goroutine of a connection. It is parked in here nearly always, so
// what its frames take decides whether the runtime can shrink its stack from 8 to
// 4 KiB (a stack shrinks when a quarter of it is enough): no closures, no defers,
// and everything that happens once is in leave.
func (s *Server) read(conn *wsConn, sess *session) {
	why := conn.readLoop(sess)
	s.leave(conn, sess, why)
}

// leave ends a session whose connection is read no more.
func (s *Server) leave(conn *wsConn, sess *session, why disconnect) {
	defer s.readers.Done()
	if planted.Bug(planted.LeakConnections) {
		go func() { select {} }()
	}
	if why != disconnectClosed {
		conn.Close(why)
		conn.discard()
	}
	sess.ended(conn.reason(why))
	conn.drain()
	sess.settle()
}

// Run turns the wheel, once a second for all sessions, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	defer s.keepKeys(ctx)()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var unreadySince time.Time
	for {
		select {
		case <-ctx.Done():
			s.stop()
			return nil
		case now := <-tick.C:
			sessions := s.sessions.list()
			for _, sess := range sessions {
				sess.tick(now)
			}
			unreadySince = s.moveAway(now, unreadySince, sessions)
		}
	}
}

// moveAway sends clients to other edges, some each second, while the router has
// been unable to work for too long (rule J2): subscribed here they would get
// nothing and not know it. It returns since when the router cannot work.
func (s *Server) moveAway(now, since time.Time, sessions []*session) time.Time {
	err := s.node.Ready()
	if err == nil {
		s.unready.Store(false)
		return time.Time{}
	}
	if since.IsZero() {
		since = now
	}
	if now.Sub(since) < s.cfg.UnreadyAfter {
		return since
	}
	if !s.unready.Swap(true) {
		s.log.Error("the router cannot work; sending clients elsewhere", "since", since, "clients", len(sessions), "err", err)
	}
	steps := max(int((s.cfg.DrainWindow-now.Sub(since)+s.cfg.UnreadyAfter)/time.Second), 1)
	for _, sess := range sessions[:(len(sessions)+steps-1)/steps] {
		sess.close(disconnectReconnect)
	}
	return since
}

// Shutdown refuses new connections, tells the clients to reconnect elsewhere,
// evenly over the drain window, and waits for commands in flight. When ctx ends
// first, it stops pacing and waiting.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	all := s.sessions.refuse()
	if len(all) > 0 {
		pace := time.NewTicker(max(s.cfg.DrainWindow/time.Duration(len(all)), time.Microsecond))
		defer pace.Stop()
		for _, sess := range all {
			sess.close(disconnectShutdown)
			select {
			case <-pace.C:
			case <-ctx.Done():
			}
		}
	}
	done := make(chan struct{})
	go func() {
		s.calls.Wait()
		s.readers.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stop ends what is left at once.
func (s *Server) stop() {
	s.draining.Store(true)
	for _, sess := range s.sessions.refuse() {
		sess.close(disconnectShutdown)
	}
	s.cancel()
	s.calls.Wait()
	s.readers.Wait()
}
