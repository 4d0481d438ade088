package edge

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Handler serves everything on one address: client transports, the HTTP API and
// /health.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/connection/", s.Transports())
	mux.Handle("/emulation", s.Transports())
	mux.Handle("/poll", s.Transports())
	mux.Handle("/api/", s.API())
	mux.Handle("GET /health", s.Health())
	return mux
}

// Transports serves the client transports: /connection/, /emulation and /poll.
func (s *Server) Transports() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /connection/websocket", s.serveWebSocket)
	on := &s.cfg.Transports
	for pattern, t := range map[string]struct {
		on    bool
		serve http.HandlerFunc
	}{
		"POST /connection/http_stream":  {on.HTTPStream, s.serveHTTPStream},
		"GET /connection/sse":           {on.SSE, s.serveSSE},
		"GET /connection/uni_websocket": {on.UniWebSocket, s.serveUniWebSocket},
		"GET /connection/uni_sse":       {on.UniSSE, s.serveUniSSE},
		"GET /poll":                     {on.Poll, s.servePoll},
		"POST /emulation":               {on.HTTPStream || on.SSE, s.serveEmulation},
	} {
		if t.on {
			mux.HandleFunc(pattern, notHead(t.serve))
		}
	}
	return s.cors(mux)
}

// API serves the HTTP API, below /api/.
func (s *Server) API() http.Handler { return s.cors(s.apiHandler()) }

// Ready returns nil while the node takes clients, else why not.
func (s *Server) Ready() error {
	if s.draining.Load() {
		return errors.New("shutting down")
	}
	return s.node.Ready()
}

// Health answers 200 while the node takes clients and 503 otherwise, and tells
// nothing else: it is for load balancers, and anyone may ask.
func (s *Server) Health() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if s.Ready() != nil {
			http.Error(w, "unavailable", http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("{}\n")) //nolint:errcheck // the peer is gone then
	})
}

// Readiness is Health with the reason, for operators.
func (s *Server) Readiness() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answer := struct {
			Ready   bool   `json:"ready"`
			Reason  string `json:"reason,omitempty"`
			Clients int    `json:"clients"`
		}{true, "", s.sessions.Count()}
		status := http.StatusOK
		if err := s.Ready(); err != nil {
			answer.Ready, answer.Reason, status = false, err.Error(), http.StatusServiceUnavailable
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(answer) //nolint:errcheck // the peer is gone then
	})
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

// corsHeaders are the request headers that pages may set, corsAge how many seconds
// a browser may remember that.
const (
	corsHeaders = "Authorization, Content-Type, X-API-Key, Last-Event-ID"
	corsAge     = "600"
)

// cors answers the questions of browsers before requests of other origins, lets
// pages of allowed origins read the answers, and refuses all other pages: also
// requests that a browser makes without a question.
func (s *Server) cors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		if origin == "" {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Add("Vary", "Origin")
		if !s.originAllowed(r) {
			s.metrics.refuse(refusedOrigin)
			http.Error(w, "pages of this origin may not connect", http.StatusForbidden)
			return
		}
		h.Set("Access-Control-Allow-Origin", origin)
		if !slices.Contains(s.cfg.AllowedOrigins, "*") {
			h.Set("Access-Control-Allow-Credentials", "true") // cookies only for origins that are named
		}
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			h.Set("Access-Control-Allow-Methods", "GET, POST")
			h.Set("Access-Control-Allow-Headers", corsHeaders)
			h.Set("Access-Control-Max-Age", corsAge)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// keySet is the API keys that are valid, as hashes: so every comparison takes the
// same time, whatever the length and content of what was sent.
type keySet [][sha256.Size]byte

func newKeySet(keys ...string) keySet {
	var ks keySet
	for _, key := range keys {
		if key != "" {
			ks = append(ks, sha256.Sum256([]byte(key)))
		}
	}
	return ks
}

// has compares with every key, so that the time does not tell which one it was.
func (ks keySet) has(key string) bool {
	sum := sha256.Sum256([]byte(key))
	found := 0
	for i := range ks {
		found |= subtle.ConstantTimeCompare(sum[:], ks[i][:])
	}
	return found == 1
}

func (s *Server) apiKeyValid(r *http.Request) bool {
	if s.cfg.APIInsecure {
		return true
	}
	key := r.Header.Get("X-API-Key")
	if scheme, rest, ok := strings.Cut(r.Header.Get("Authorization"), " "); key == "" && ok && strings.EqualFold(scheme, "apikey") {
		key = rest
	}
	return s.apiKeys.has(key)
}

// notHead refuses HEAD, which a pattern with GET takes too: there would be a session
// that nobody reads.
func notHead(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		next(w, r)
	}
}
