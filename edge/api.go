package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/headrace/headrace/router"
)

// apiHandler serves POST /api/<method>. Every method answers 200 with
// {"result": …} or {"error": {code, message}}; what is wrong before a method is
// reached (key, name, JSON) has an HTTP status of its own.
func (s *Server) apiHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/api/")
		call := s.methods[name]
		switch {
		case !s.apiKeyValid(r):
			apiError(w, http.StatusUnauthorized, "API key is missing or wrong; send it as X-API-Key")
		case call == nil:
			apiError(w, http.StatusNotFound, fmt.Sprintf("unknown method %q", name))
		case r.Method != http.MethodPost:
			w.Header().Set("Allow", http.MethodPost)
			apiError(w, http.StatusMethodNotAllowed, "use POST")
		default:
			s.serveCall(w, r, name, call)
		}
	})
}

func (s *Server) serveCall(w http.ResponseWriter, r *http.Request, name string, call apiMethod) {
	select {
	case s.apiSlots <- struct{}{}:
		defer func() { <-s.apiSlots }()
	default:
		writeJSON(w, http.StatusServiceUnavailable, apiAnswer{Error: apiFailure(errAPIExhausted)})
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.cfg.MaxAPIBytes))
	if err != nil {
		apiError(w, http.StatusRequestEntityTooLarge, err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(withTraceParent(r.Context(), r.Header.Get("Traceparent")), callTimeout*2)
	defer cancel()
	result, err := call(ctx, body)
	var malformed *malformedError
	switch {
	case errors.As(err, &malformed):
		apiError(w, http.StatusBadRequest, malformed.Error())
	case err != nil:
		s.logFailure(name, err)
		writeJSON(w, http.StatusOK, apiAnswer{Error: apiFailure(err)})
	default:
		writeJSON(w, http.StatusOK, apiAnswer{Result: result})
	}
}

type apiAnswer struct {
	Result any           `json:"result,omitempty"`
	Error  *apiErrorBody `json:"error,omitempty"`
}

type apiErrorBody struct {
	Code    uint32 `json:"code"`
	Message string `json:"message"`
}

func apiFailure(err error) *apiErrorBody {
	var malformed *malformedError
	if errors.As(err, &malformed) {
		err = router.Errorf(router.CodeInvalid, "%s", malformed.Error())
	}
	p := toProtoError(err)
	return &apiErrorBody{Code: p.code, Message: p.message}
}

func apiError(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, apiAnswer{Error: &apiErrorBody{Code: uint32(status), Message: message}})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) //nolint:errcheck // the peer is gone then
}

// malformedError is a request that is not what the method takes.
type malformedError struct{ err error }

func (e *malformedError) Error() string {
	var syntax *json.SyntaxError
	var mismatch *json.UnmarshalTypeError
	switch {
	case errors.As(e.err, &syntax):
		return fmt.Sprintf("request is not valid JSON at byte %d: %v", syntax.Offset, syntax)
	case errors.As(e.err, &mismatch):
		return fmt.Sprintf("field %q at byte %d must be a %s, not a %s", mismatch.Field, mismatch.Offset, mismatch.Type, mismatch.Value)
	default:
		return "request: " + strings.TrimPrefix(e.err.Error(), "json: ")
	}
}

// method adapts a typed method. An empty body is an empty request.
func method[Req, Res any](f func(context.Context, *Req) (Res, error)) apiMethod {
	return func(ctx context.Context, body []byte) (any, error) {
		var req Req
		if len(body) > 0 {
			if err := json.Unmarshal(body, &req); err != nil {
				return nil, &malformedError{err}
			}
		}
		return f(ctx, &req)
	}
}
