package edge

import (
	"errors"
	"net/http"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// disconnect is why the server ends a connection: code and reason of the
// WebSocket close frame. SDKs reconnect unless the code is within 3500–3999 or
// 4500–4999.
type disconnect struct {
	code   uint16
	reason string // at most 123 bytes (RFC 6455 section 5.5), fixed by the protocol
}

// Error lets a check answer with the end of the session; see session.fail.
func (d disconnect) Error() string { return d.reason }

var (
	disconnectNormal       = disconnect{1000, ""}
	disconnectTooBig       = disconnect{1009, "message too big"}
	disconnectNotText      = disconnect{1007, "not valid UTF-8"}
	disconnectClosed       = disconnect{3000, "connection closed"} // by the peer; never sent
	disconnectShutdown     = disconnect{3001, "shutdown"}
	disconnectExpired      = disconnect{3005, "connection expired"}
	disconnectSubExpired   = disconnect{3006, "subscription expired"}
	disconnectSlow         = disconnect{3008, "slow"}
	disconnectWriteError   = disconnect{3009, "write error"}
	disconnectInsufficient = disconnect{3010, "insufficient state"}
	disconnectReconnect    = disconnect{3011, "force reconnect"}
	disconnectNoPong       = disconnect{3012, "no pong"}
	disconnectTooMany      = disconnect{3013, "too many requests"}
	disconnectInvalidated  = disconnect{3014, "state invalidated"}
	disconnectInvalidToken = disconnect{3500, "invalid token"}
	disconnectBadRequest   = disconnect{3501, "bad request"}
	disconnectStale        = disconnect{3502, "stale"}
	disconnectForced       = disconnect{3503, "force disconnect"}
	disconnectConnLimit    = disconnect{3504, "connection limit"}
	disconnectChannelLimit = disconnect{3505, "channel limit"}
	disconnectNotAvailable = disconnect{3508, "not available"}
)

// unsubscribedByServer is what the API's unsubscribe tells by default.
const unsubscribedByServer = router.UnsubscribeReason(2000)

// unsubscribeExpired is the router-independent reason to end a subscription.
const unsubscribeExpired = router.UnsubscribeReason(2501)

// unsubscribeText is the reason text of a code in an unsubscribe push.
func unsubscribeText(r router.UnsubscribeReason) string {
	switch r {
	case router.UnsubscribedInsufficientState:
		return "insufficient state"
	case unsubscribeExpired:
		return "subscription expired"
	case router.UnsubscribedStateInvalidated:
		return "state invalidated"
	default:
		return "server unsubscribe"
	}
}

// protoError is an error of the client protocol, used by the HTTP API as well.
type protoError struct {
	code      uint32
	message   string
	temporary bool
}

var (
	errorTokenExpired = protoError{109, "token expired", false}
	errorExpired      = protoError{110, "expired", false}
	errorInternal     = protoError{100, "internal server error", true}
)

// codeTable maps the router's codes to the protocol's, in one place.
var codeTable = map[router.Code]protoError{
	router.CodeInvalid:        {107, "bad request", false},
	router.CodeUnknownChannel: {102, "unknown channel", false},
	router.CodeDenied:         {103, "permission denied", false},
	router.CodeNotAvailable:   {108, "not available", false},
	router.CodeConflict:       {105, "already subscribed", false},
	router.CodeLimit:          {106, "limit exceeded", false},
	router.CodeTooMany:        {111, "too many requests", true},
	router.CodeUnrecoverable:  {112, "unrecoverable position", false},
	router.CodeNoMethod:       {104, "method not found", false},
	router.CodeNotOnline:      {108, "not online", false},
	router.CodeUnavailable:    {100, "temporarily unavailable", true},
	router.CodeInternal:       errorInternal,
}

// toProtoError returns what a peer is told about err: the code's number, and the
// detailed message where the error was written for clients.
func toProtoError(err error) protoError {
	var answered *router.BackendError
	if errors.As(err, &answered) {
		return protoError{code: answered.Code, message: answered.Message}
	}
	p := codeTable[router.CodeOf(err)]
	if p.code == 0 {
		p = errorInternal
	}
	var e *router.Error
	if errors.As(err, &e) && e.Message != "" && e.Code != router.CodeInternal {
		p.message = e.Message
	}
	return p
}

func (p protoError) wire() *protocol.Error {
	return &protocol.Error{Code: p.code, Message: p.message, Temporary: p.temporary}
}

// httpStatus is the status of an error outside the API's methods; the methods
// themselves answer 200 with an error object, as clients of that API expect.
func httpStatus(c router.Code) int {
	switch c {
	case router.CodeInvalid, router.CodeUnknownChannel:
		return http.StatusBadRequest
	case router.CodeDenied:
		return http.StatusForbidden
	case router.CodeNotAvailable, router.CodeNoMethod, router.CodeNotOnline, router.CodeUnrecoverable:
		return http.StatusNotFound
	case router.CodeConflict:
		return http.StatusConflict
	case router.CodeLimit, router.CodeTooMany:
		return http.StatusTooManyRequests
	case router.CodeUnavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}
