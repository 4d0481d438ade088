package edge

import (
	"context"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/centrifugal/protocol"
	"golang.org/x/time/rate"

	"github.com/headrace/headrace/router"
)

// Limits bound what clients may take of one edge. The zero value limits nothing,
// and what is off costs nothing per connection.
type Limits struct {
	Connections        int // open connections of the edge
	ConnectionsPerIP   int // of one client address, see clientIP
	ConnectionsPerUser int // of one user id on this edge; anonymous clients are not counted

	// ConnectRate is the number of new connections a second, ConnectBurst how many
	// may come at once. They protect the edge: a handshake costs more than an
	// idle connection.
	ConnectRate  float64
	ConnectBurst int

	// CommandRate is the number of commands a second of one connection,
	// CommandBurst how many may come at once. Pongs and connect do not count.
	CommandRate  float64
	CommandBurst int

	// TrustedProxies are the addresses whose X-Forwarded-For header is believed.
	TrustedProxies []netip.Prefix
}

// UserLimit bounds the publications of a user over all edges.
type UserLimit interface {
	// Take counts one publication of user, or returns a CodeTooMany error when the
	// user has none left for now.
	Take(ctx context.Context, user string) error
}

// turnstile admits connections. Its counts are exact: a place is taken before a
// connection is made and given back after its socket is closed.
type turnstile struct {
	limits  *Limits
	metrics *metrics
	rate    *rate.Limiter // nil: no limit
	open    atomic.Int64

	mu   sync.Mutex         // guards byIP
	byIP map[netip.Addr]int // at most one entry per open connection
}

func newTurnstile(l *Limits, m *metrics) *turnstile {
	g := &turnstile{limits: l, metrics: m, byIP: make(map[netip.Addr]int)}
	if l.ConnectRate > 0 {
		g.rate = rate.NewLimiter(rate.Limit(l.ConnectRate), max(l.ConnectBurst, 1))
	}
	return g
}

// seat is what an admitted connection holds of the limits that are on. A nil
// seat holds nothing. Whoever got it from admit releases it once.
type seat struct {
	g        *turnstile
	ip       netip.Addr    // zero: not counted
	commands *rate.Limiter // nil: no limit
	refused  int           // commands refused in a row; owned by the reading goroutine
}

// enter takes a place for the connection that r asks for, or returns why not. The
// seat is nil when nothing has to be remembered.
func (g *turnstile) enter(r *http.Request) (*seat, refusal) {
	l := g.limits
	if g.rate != nil && !g.rate.Allow() {
		return nil, refusedConnectRate
	}
	if l.Connections == 0 && l.ConnectionsPerIP == 0 && l.CommandRate == 0 {
		return nil, ""
	}
	if n := g.open.Add(1); l.Connections > 0 && n > int64(l.Connections) {
		g.open.Add(-1)
		return nil, refusedConnections
	}
	s := &seat{g: g}
	if l.CommandRate > 0 {
		s.commands = rate.NewLimiter(rate.Limit(l.CommandRate), max(l.CommandBurst, 1))
	}
	if l.ConnectionsPerIP == 0 {
		return s, ""
	}
	ip := networkOf(clientIP(r, l.TrustedProxies))
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.byIP[ip] >= l.ConnectionsPerIP {
		g.open.Add(-1)
		return nil, refusedConnectionsPerIP
	}
	g.byIP[ip]++
	s.ip = ip
	return s, ""
}

func (s *seat) release() {
	if s == nil {
		return
	}
	s.g.open.Add(-1)
	if !s.ip.IsValid() {
		return
	}
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	if s.g.byIP[s.ip]--; s.g.byIP[s.ip] == 0 {
		delete(s.g.byIP, s.ip)
	}
}

// refusal is why a connection, command or message was not taken. The set is
// closed: each has a series from the first scrape.
type refusal string

const (
	refusedDraining           refusal = "draining"
	refusedNotReady           refusal = "not_ready"
	refusedOrigin             refusal = "origin"
	refusedConnections        refusal = "connections"
	refusedConnectionsPerIP   refusal = "connections_per_ip"
	refusedConnectionsPerUser refusal = "connections_per_user"
	refusedConnectRate        refusal = "connect_rate"
	refusedCommandRate        refusal = "command_rate"
	refusedUserMessages       refusal = "user_messages"
	refusedChannels           refusal = "channels"
	refusedMessageSize        refusal = "message_bytes"
)

var refusals = []refusal{refusedDraining, refusedNotReady, refusedOrigin, refusedConnections, refusedConnectionsPerIP,
	refusedConnectionsPerUser, refusedConnectRate, refusedCommandRate, refusedUserMessages, refusedChannels, refusedMessageSize}

// status and text are what a peer without a session is told.
func (r refusal) status() (int, string) {
	switch r {
	case refusedConnectionsPerIP:
		return http.StatusTooManyRequests, "too many connections from this address"
	case refusedConnections:
		return http.StatusServiceUnavailable, "this node has as many connections as it may have"
	case refusedConnectRate:
		return http.StatusServiceUnavailable, "too many new connections at once; try again in a moment"
	default:
		return http.StatusServiceUnavailable, "this node takes no connections now"
	}
}

// admit is the first thing every transport does: it takes a place for the
// connection, or answers r and returns false. The seat must be released when the
// connection has ended.
func (s *Server) admit(w http.ResponseWriter, r *http.Request) (*seat, bool) {
	taken, why := s.enter(r)
	if why == "" {
		return taken, true
	}
	s.metrics.refuse(why)
	answerRefusal(w, why)
	return nil, false
}

// enter takes a place for the connection that r asks for, or returns why not.
func (s *Server) enter(r *http.Request) (*seat, refusal) {
	switch {
	case s.draining.Load():
		return nil, refusedDraining
	case s.unready.Load():
		return nil, refusedNotReady
	default:
		return s.turnstile.enter(r)
	}
}

func answerRefusal(w http.ResponseWriter, why refusal) {
	status, text := why.status()
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Connection", "close")
	http.Error(w, text, status)
}

// maxRefusedInRow is how many commands above the rate a connection may send, one
// after the other, before it is disconnected: it does not listen to the errors.
const maxRefusedInRow = 100

// withinRate takes one command off the connection's rate. When there is none
// left it answers cmd; alive is false when it has ended the session.
func (s *session) withinRate(cmd *protocol.Command) (ok, alive bool) {
	st := s.seat
	if st == nil || st.commands == nil {
		return true, true
	}
	if st.commands.Allow() {
		st.refused = 0
		return true, true
	}
	s.srv.metrics.refuse(refusedCommandRate)
	if st.refused++; st.refused > maxRefusedInRow {
		s.close(disconnectTooMany)
		return false, false
	}
	if cmd.Id > 0 {
		s.fail(cmd, router.Errorf(router.CodeTooMany, "more than %v commands a second", s.srv.cfg.Limits.CommandRate))
	}
	return false, true
}

// publishWithin publishes if the user may still publish. Commands to the channel
// wait meanwhile, so that their order is kept.
func (s *session) publishWithin(cmd *protocol.Command, user string) {
	state := s.occupy(cmd.Publish.Channel)
	s.begin()
	s.srv.calls.Go(func() {
		ctx, cancel := context.WithTimeout(s.srv.ctx, callTimeout)
		defer cancel()
		if err := s.srv.cfg.UserLimit.Take(ctx, user); err != nil {
			if router.CodeOf(err) == router.CodeTooMany {
				s.srv.metrics.refuse(refusedUserMessages)
			}
			s.fail(cmd, err)
		} else {
			s.publishNow(cmd)
		}
		s.release(state)
		s.end()
	})
}

// occupy marks channel as busy for a command whose turn it is; release must
// follow.
func (s *session) occupy(channel string) *channelState {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.find(channel)
	if c == nil {
		c = &channelState{name: channel}
		s.channels = append(s.channels, c)
	}
	c.busy = true
	return c
}
