package edge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

// grant is what a session has beyond its identity. Most have none, so it is one
// pointer in them.
type grant struct {
	token string              // came with the HTTP request; dropped at connect
	caps  *token.Capabilities // of the connection token
	meta  []byte              // JSON of the connection token, for back ends only
}

// newGrant returns what t grants, nil for nothing.
func newGrant(t *token.Connection) *grant {
	if t.Caps == nil && t.Meta == nil {
		return nil
	}
	return &grant{caps: t.Caps, meta: t.Meta}
}

// errNoToken and errPast are ways to be refused that no token is to blame for.
var (
	errNoToken = errors.New("a token is needed")
	errPast    = errors.New("expire_at has passed")
)

// openVerifiers makes the verifiers the configuration asks for. Subscription
// tokens have keys of their own or those of connection tokens.
func (s *Server) openVerifiers() (err error) {
	open := func(o token.Options) (*token.Verifier, error) {
		o.Log, o.Fetched = s.log, s.metrics.keyFetch
		if n := len(o.HMACSecret); n > 0 && n < 24 {
			s.log.Warn("the HMAC secret of tokens is short: who has one token can find it by trying", "bytes", n)
		}
		if strings.HasPrefix(o.JWKSEndpoint, "http://") {
			s.log.Warn("the JWKS endpoint has no TLS: who can change its answers can make tokens")
		}
		if o.JWKSEndpoint != "" && o.Audience == "" {
			s.log.Warn("no audience is required: every token of the provider is good here, those for other applications too")
		}
		return token.NewVerifier(o)
	}
	if s.cfg.Tokens.HasKeys() {
		if s.verifier, err = open(s.cfg.Tokens); err != nil {
			return fmt.Errorf("edge: %w", err)
		}
	}
	s.subVerifier = s.verifier
	if s.cfg.SubscriptionTokens.HasKeys() {
		if s.subVerifier, err = open(s.cfg.SubscriptionTokens); err != nil {
			return fmt.Errorf("edge: subscription tokens: %w", err)
		}
	}
	return nil
}

// keepKeys keeps the keys of the verifiers fresh until ctx ends; the result waits
// for that.
func (s *Server) keepKeys(ctx context.Context) (wait func()) {
	verifiers := []*token.Verifier{s.verifier}
	if s.subVerifier != s.verifier {
		verifiers = append(verifiers, s.subVerifier)
	}
	done := make(chan struct{}, len(verifiers))
	for _, v := range verifiers {
		go func() {
			if v != nil {
				v.Run(ctx)
			}
			done <- struct{}{}
		}()
	}
	return func() {
		for range verifiers {
			<-done
		}
	}
}

// requestToken returns the token that came with an HTTP request, "" when there is
// none. It counts when the connect command has none: native clients set the
// header, pages of the same site have a cookie, and what can do neither may put it
// into the URL where the operator allows that.
func (s *Server) requestToken(r *http.Request) string {
	if s.verifier == nil {
		return ""
	}
	if scheme, rest, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "bearer") {
		return strings.TrimSpace(rest)
	}
	if name := s.cfg.TokenQuery; name != "" {
		if t := r.URL.Query().Get(name); t != "" {
			return t
		}
	}
	if name := s.cfg.TokenCookie; name != "" && s.ownPage(r) {
		if c, err := r.Cookie(name); err == nil {
			return c.Value
		}
	}
	return ""
}

// ownPage reports whether a page of this site, or of one listed by name, makes the
// request. A browser adds cookies to requests of any page, so for them neither
// "every origin" nor a missing Origin will do.
func (s *Server) ownPage(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return r.Header.Get("Sec-Fetch-Site") == "same-origin"
	}
	u, err := url.Parse(origin)
	return slices.Contains(s.cfg.AllowedOrigins, origin) || err == nil && strings.EqualFold(u.Host, r.Host)
}

// carry makes a session remember the token of its HTTP request.
func (s *session) carry(text string) {
	if text != "" {
		s.grant = &grant{token: text}
	}
}

// connectToken is the token of a connect command, or of the request.
func (s *session) connectToken(cmd *protocol.Command) string {
	if text := cmd.Connect.Token; text != "" {
		return text
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grant == nil {
		return ""
	}
	return s.grant.token
}

// withKey runs f, once the key that text is signed with is at hand. It is almost
// always; else the key is fetched off the reading goroutine, and the session takes
// no other command meanwhile: some seconds at most.
func (s *session) withKey(cmd *protocol.Command, v *token.Verifier, text string, f func() bool) bool {
	missing := v.Missing(text)
	if missing == nil {
		return f()
	}
	s.mu.Lock()
	s.fetching = true
	s.inflight++
	s.mu.Unlock()
	s.srv.calls.Go(func() {
		ctx, cancel := context.WithTimeout(s.srv.ctx, callTimeout)
		defer cancel()
		if err := missing.Fetch(ctx); errors.Is(err, token.ErrUnavailable) {
			if cmd.Connect != nil {
				s.srv.metrics.connects.WithLabelValues("unavailable").Inc()
			}
			s.fail(cmd, router.Unavailable("token verification", err))
		} else {
			f() // which finds the key, or refuses the token
		}
		s.mu.Lock()
		s.fetching = false
		if !s.pongBy.IsZero() { // the answer may be there, unread
			s.pongBy = time.Now().Add(s.srv.cfg.PongTimeout)
		}
		s.inflight--
		s.room.Signal()
		s.mu.Unlock()
		s.leaveIfDone()
	})
	return true
}

// identify returns what a connection token says, or why its bearer stays outside:
// errNoToken, errPast, token.ErrExpired, or token.ErrInvalid.
func (s *session) identify(text string) (t token.Connection, err error) {
	cfg := s.srv.cfg
	switch {
	case text == "" && (cfg.Insecure || cfg.AllowAnonymous):
		return t, nil
	case text == "":
		return t, errNoToken
	case s.srv.verifier == nil && cfg.Insecure:
		return t, nil
	case s.srv.verifier == nil:
		return t, token.ErrInvalid
	}
	if t, err = s.srv.verifier.Connection(text); err != nil {
		// The reason is for the operator; tokens themselves are never logged.
		s.srv.log.Debug("connection token refused", "client", s.id, "err", err)
		return t, err
	}
	if past(t.ExpireAt) {
		return t, errPast
	}
	return t, nil
}

// refuse answers a connect command that failed with err. It returns false when the
// session has ended.
func (s *session) refuse(cmd *protocol.Command, err error) bool {
	result := "invalid_token"
	defer func() { s.srv.metrics.connects.WithLabelValues(result).Inc() }()
	switch {
	case errors.Is(err, token.ErrExpired):
		result = "expired"
		s.failWith(cmd, errorTokenExpired)
		return true
	case errors.Is(err, errPast):
		result = "expired"
		s.failWith(cmd, errorExpired)
		return true
	case errors.Is(err, errNoToken):
		result = "refused"
		// Bad request is what SDKs understand as "a token is needed".
		s.close(disconnectBadRequest)
		return false
	default:
		s.close(disconnectInvalidToken)
		return false
	}
}

// refresh prolongs the session with a new token of the same user.
func (s *session) refresh(cmd *protocol.Command) bool {
	t, err := s.identify(cmd.Refresh.Token)
	switch {
	case errors.Is(err, token.ErrExpired):
		// An error would be final for SDKs; after this they bring another token.
		s.close(disconnectExpired)
		return false
	case errors.Is(err, errPast):
		s.failWith(cmd, errorExpired)
		return true
	case err != nil || cmd.Refresh.Token == "" || t.User != s.user():
		s.close(disconnectInvalidToken)
		return false
	}
	s.mu.Lock()
	s.expireAt = t.ExpireAt
	s.grant = newGrant(&t)
	s.mu.Unlock()
	expires, ttl := lifetime(t.ExpireAt)
	s.reply(cmd, &protocol.Reply{Refresh: &protocol.RefreshResult{Client: s.id, Version: s.srv.cfg.Version, Expires: expires, Ttl: ttl}})
	return true
}

// allow checks the rules of channel for op.
func (s *session) allow(op router.Op, channel string) error {
	if err := s.checkName(channel); err != nil {
		return err
	}
	return s.srv.node.Allow(op, channel, s.access(channel))
}

// access is what is known of the client in channel.
func (s *session) access(channel string) router.Access {
	s.mu.Lock()
	who := router.Access{User: s.info.User, Insecure: s.srv.cfg.Insecure}
	if c := s.find(channel); c != nil && c.sub != nil {
		who.Subscribed, who.Invited = true, c.allow
	}
	g := s.grant
	s.mu.Unlock()
	if g != nil {
		who.Granted = g.caps.Allowed(channel)
	}
	return who
}

// invitation is what a subscription token, or the lack of one, comes to.
type invitation struct {
	info     *router.ClientInfo
	expireAt int64 // Unix seconds; 0 never
	data     []byte
	allow    router.Ops
	override token.Override
	gone     bool // to be told unrecovered, though something was recovered; see resuming

	ns     *router.Namespace
	filter *filter // nil is none
	delta  bool    // the client asked for deltas and gets them
}

// invite decides whether the client may subscribe.
func (s *session) invite(channel, text string) (invitation, error) {
	s.mu.Lock()
	own := s.info
	s.mu.Unlock()
	in := invitation{info: &own}
	if text == "" || s.srv.cfg.Insecure {
		return in, s.allow(router.OpSubscribe, channel)
	}
	t, err := s.subscriptionToken(channel, text)
	if err != nil {
		return in, err
	}
	own.ChanInfo = t.Info
	in.expireAt, in.data, in.allow, in.override = t.ExpireAt, t.Data, t.Allow, t.Override
	// The token is the rule, but names have rules too.
	return in, s.srv.node.Allow(router.OpSubscribe, channel, router.Access{User: own.User, Invited: router.OpsOf(router.OpSubscribe)})
}

// subscriptionToken returns what a subscription token for the session and channel
// says. One that is good, but for another channel, user or client, is no accident:
// it ends the session.
func (s *session) subscriptionToken(channel, text string) (t token.Subscription, err error) {
	denied := router.Errorf(router.CodeDenied, "permission denied")
	if s.srv.subVerifier == nil {
		return t, denied
	}
	t, err = s.srv.subVerifier.Subscription(text)
	switch {
	case errors.Is(err, token.ErrExpired):
		return t, errTokenExpired
	case err != nil:
		s.srv.log.Debug("subscription token refused", "client", s.id, "err", err)
		denied.Err = err
		return t, denied
	case t.Channel != channel || t.User != s.user() || t.Client != "" && t.Client != s.id:
		return t, disconnectInvalidToken
	case past(t.ExpireAt):
		return t, errPast
	}
	return t, nil
}

// subRefresh prolongs a subscription with a new token for it.
func (s *session) subRefresh(cmd *protocol.Command) {
	req := cmd.SubRefresh
	if req.Type != 0 { // tracking of shared polls
		s.fail(cmd, router.Errorf(router.CodeNotAvailable, "this kind of refresh is not available"))
		return
	}
	t, err := s.subscriptionToken(req.Channel, req.Token)
	switch {
	case errors.Is(err, errTokenExpired):
		s.close(disconnectSubExpired)
		return
	case router.CodeOf(err) == router.CodeDenied:
		s.close(disconnectInvalidToken)
		return
	case err != nil:
		s.fail(cmd, err)
		return
	}
	s.mu.Lock()
	c := s.find(req.Channel)
	subscribed := c != nil && c.sub != nil
	if subscribed {
		c.expireAt, c.allow = t.ExpireAt, t.Allow
	}
	s.mu.Unlock()
	if !subscribed {
		s.fail(cmd, router.Errorf(router.CodeDenied, "not subscribed"))
		return
	}
	expires, ttl := lifetime(t.ExpireAt)
	s.reply(cmd, &protocol.Reply{SubRefresh: &protocol.SubRefreshResult{Expires: expires, Ttl: ttl}})
}
