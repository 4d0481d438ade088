package edge

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// octets is the content type of Protobuf.
const octets = "application/octet-stream"

// serveHTTPStream begins a session whose frames are lines, or length-prefixed
// messages, in the body of the response. The body of the request has the first
// commands; others come to serveEmulation.
func (s *Server) serveHTTPStream(w http.ResponseWriter, r *http.Request) {
	place, ok := s.admit(w, r)
	if !ok {
		return
	}
	first, ok := s.readBody(w, r, s.cfg.MaxMessageBytes)
	if !ok {
		place.release()
		return
	}
	k, contentType := jsonStream, "application/json; charset=utf-8"
	if isOctets(r) {
		k, contentType = protobufStream, octets
	}
	streamHeaders(w.Header(), contentType)
	s.openStream(w, r, k, place, beginWith(first))
}

// serveSSE begins a session whose frames are Server-Sent Events. The parameter
// cf_connect has the connect command.
func (s *Server) serveSSE(w http.ResponseWriter, r *http.Request) {
	place, ok := s.admit(w, r)
	if !ok {
		return
	}
	streamHeaders(w.Header(), "text/event-stream")
	s.openStream(w, r, sse, place, beginWith([]byte(r.URL.Query().Get("cf_connect"))))
}

// beginWith hands a session its first commands.
func beginWith(first []byte) func(*session, *streamConn) {
	return func(_ *session, c *streamConn) { c.box.post(first) } //nolint:errcheck // it ends the session then
}

// serveEmulation takes commands of a session whose stream any node may have, and
// hands them to that node.
func (s *Server) serveEmulation(w http.ResponseWriter, r *http.Request) {
	// JSON writes the commands as a string, with a backslash for every quote.
	body, ok := s.readBody(w, r, 2*s.cfg.MaxMessageBytes+1024)
	if !ok {
		return
	}
	req, err := decodeEmulation(body, isOctets(r))
	switch {
	case err != nil:
		err = router.Errorf(router.CodeInvalid, "the body must have session, node and data")
	case len(req.Data) > s.cfg.MaxMessageBytes:
		s.tooLarge(w)
		return
	default:
		err = s.forward(r, req)
	}
	s.metrics.emulated[emulationResult(err)].Inc()
	if err != nil {
		writeError(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// forward hands the commands of req to the node of their session.
func (s *Server) forward(r *http.Request, req *protocol.EmulationRequest) error {
	if req.Node == s.cfg.NodeID {
		return s.sessions.Post(req.Session, req.Data)
	}
	select {
	case s.forwards <- struct{}{}:
		defer func() { <-s.forwards }()
	default:
		return router.Unavailable("this node", errors.New("too many posted commands under way"))
	}
	return s.node.Post(r.Context(), req.Node, req.Session, req.Data)
}

// decodeEmulation reads the body of a request to /emulation. In JSON the commands
// are a string.
func decodeEmulation(body []byte, binary bool) (*protocol.EmulationRequest, error) {
	var req protocol.EmulationRequest
	if binary {
		return &req, req.UnmarshalVT(body)
	}
	var text struct {
		Session string `json:"session"`
		Node    string `json:"node"`
		Data    string `json:"data"`
	}
	err := json.Unmarshal(body, &text)
	req.Session, req.Node, req.Data = text.Session, text.Node, []byte(text.Data)
	return &req, err
}

func emulationResult(err error) string {
	if err == nil {
		return "taken"
	}
	switch router.CodeOf(err) {
	case router.CodeNotOnline:
		return "no_session"
	case router.CodeUnavailable, router.CodeInternal:
		return "unavailable"
	default:
		return "refused"
	}
}

func isOctets(r *http.Request) bool {
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && t == octets
}

// readBody reads a body of at most limit bytes, or answers r and returns false.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request, limit int) ([]byte, bool) {
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Now().Add(s.cfg.ConnectTimeout)) //nolint:errcheck // then there is none
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(limit)))
	rc.SetReadDeadline(time.Time{}) //nolint:errcheck // see above
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		s.tooLarge(w)
		return nil, false
	case err != nil:
		http.Error(w, "the body could not be read", http.StatusBadRequest)
		return nil, false
	}
	return body, true
}

func (s *Server) tooLarge(w http.ResponseWriter) {
	s.metrics.refuse(refusedMessageSize)
	http.Error(w, "message too big", http.StatusRequestEntityTooLarge)
}

// writeError answers a request that has failed: the status, and the error as the
// API has it.
func writeError(w http.ResponseWriter, err error) {
	p := toProtoError(err)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(httpStatus(router.CodeOf(err)))
	json.NewEncoder(w).Encode(map[string]any{"error": p.wire()}) //nolint:errcheck // the peer is gone then
}
