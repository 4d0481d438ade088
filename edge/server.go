package edge

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/centrifugal/protocol"
	"github.com/gorilla/websocket"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/internal/planted"
)

// protobufSubprotocol is what SDKs offer when they speak Protobuf.
const protobufSubprotocol = "centrifuge-protobuf"

// Server is one edge: it turns connections into sessions of a router.
type Server struct {
	// Set by New, read-only afterwards.
	cfg       *Config
	node      Router
	sessions  *Sessions
	turnstile *turnstile
	apiKeys   keySet
	verifier  *token.Verifier // of connection tokens; nil without a key
	metrics   *metrics
	log       *slog.Logger
	upgrader  websocket.Upgrader

	subVerifier *token.Verifier // of subscription tokens; may be verifier
	encode      encoders
	encodeDelta encoders // of batches made by streamDelta and mapDelta
	deflater    *deflater
	ctx         context.Context // ends with the server's work, see Shutdown
	cancel      context.CancelFunc

	methods  map[string]apiMethod
	builtins map[string]builtin // rpc methods that this node answers itself
	queues   *queueRouter       // the channels of durable queues; node begins with it
	once     *onceCache
	rpcSlots chan struct{} // calls of back ends under way
	apiSlots chan struct{} // HTTP API calls under way
	removals chan struct{} // of keys whose clients have gone

	parting   chan struct{} // closed when Shutdown begins
	pollSlots chan struct{} // polls that wait
	forwards  chan struct{} // posted commands on their way to other nodes
	pullSlots chan struct{} // pulls that wait, a part of apiSlots

	draining atomic.Bool
	unready  atomic.Bool // the router could not work for cfg.UnreadyAfter
	// lastUnready is when the router could not work, at last. Owned by Run.
	lastUnready time.Time
	calls       sync.WaitGroup // commands that wait for the cluster
	readers     sync.WaitGroup // goroutines that read connections
}

// New returns a Server for node, whose Config.Sessions must be sessions.
func New(cfg Config, node Router, sessions *Sessions) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: &cfg, sessions: sessions, log: cfg.Log}
	s.queues = newQueueRouter(node, s)
	s.node = s.queues
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.rpcSlots = make(chan struct{}, cfg.RPCMaxInflight)
	s.apiSlots = make(chan struct{}, cfg.APIMaxInflight)
	s.parting = make(chan struct{})
	s.pollSlots = make(chan struct{}, cfg.Transports.PollMaxWaiting)
	s.forwards = make(chan struct{}, cfg.Transports.EmulationMaxInflight)
	s.pullSlots = make(chan struct{}, max(cfg.APIMaxInflight/2, 1))
	s.removals = make(chan struct{}, maxKeyRemovals)
	s.metrics = newMetrics(cfg.Registry, func() float64 { return float64(sessions.Count()) })
	s.deflater = newDeflater(cfg.CompressionMinBytes, s.metrics)
	s.apiKeys = newKeySet(append(cfg.APIKeys, cfg.APIKey)...)
	s.turnstile = newTurnstile(&s.cfg.Limits, s.metrics)
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
		CheckOrigin:     func(*http.Request) bool { return true }, // cors has looked
	}
	s.serveAPI()
	s.builtins = s.builtinMethods()
	s.makeEncoders(&s.encode, kind.wirePublication)
	s.makeEncoders(&s.encodeDelta, kind.deltaPublication)
	return s, nil
}

// serveWebSocket upgrades and returns: net/http's buffers, request and stack go
// with it, and a fresh goroutine with a small stack reads the connection.
func (s *Server) serveWebSocket(w http.ResponseWriter, r *http.Request) { s.upgrade(w, r, jsonWS, nil) }

// upgrade makes a WebSocket of kind k, or of the one that the client asks for
// instead of jsonWS. first is what it wants first, nil when it will say.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, k kind, first *protocol.Command) {
	place, ok := s.admit(w, r)
	if !ok {
		return
	}
	upgrader := s.upgrader
	upgrader.EnableCompression = s.cfg.Compression && offersDeflate(r.Header)
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		place.release()
		return // Upgrade has answered
	}
	if q := r.URL.Query(); k == jsonWS && (ws.Subprotocol() == protobufSubprotocol || q.Get("format") == "protobuf" || q.Get("cf_protocol") == "protobuf") {
		k = protobufWS
	}
	if k == uniWS {
		freeHalfOpen(ws.NetConn(), s.cfg.PingInterval+s.cfg.PongTimeout)
	}
	conn := newWSConn(ws, k, s.cfg, s.metrics)
	sess := newSession(s, k, conn, time.Now())
	sess.deflate = upgrader.EnableCompression
	sess.carry(s.requestToken(r))
	sess.seat = place
	// The check above may be long ago: add is what stop and Shutdown rely on.
	if !s.sessions.add(sess, func() {
		s.opened(k)
		if first != nil {
			go s.readAfter(first, conn, sess)
		} else {
			go s.read(conn, sess)
		}
	}) {
		conn.Close(disconnectShutdown)
		conn.discard()
		conn.drain()
		place.release()
	}
}

// opened counts a connection whose reading goroutine is about to begin.
func (s *Server) opened(k kind) {
	s.readers.Add(1)
	s.metrics.open[k].Add(1)
	s.metrics.opened[k].Add(1)
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
	sess.seat.release()
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
