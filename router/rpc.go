package router

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// MaxMethodLength bounds the method of an rpc in bytes.
const MaxMethodLength = 128

// RPCRules say which methods clients may call, as patterns in which * stands for
// any run of characters. No pattern at all means that no rpc is configured.
type RPCRules struct {
	Allow          []string // clients with a user id
	AllowAnonymous []string // all clients
}

// RPCRequest is a call of a back end.
type RPCRequest struct {
	Method string
	Data   []byte
	// Info says who calls; nil for the server API.
	Info *ClientInfo
	// TokenMeta is the token's meta, JSON that back ends alone get to see; or nil.
	TokenMeta   []byte
	TraceParent string
}

// Headers of a request to a back end. They are the node's: nothing that a client
// sends becomes a header, so a back end may believe them.
const (
	UserHeader   = "Headrace-User"   // percent-encoded where not printable ASCII
	ClientHeader = "Headrace-Client" // absent when the server API calls
	InfoHeader   = "Headrace-Info"   // the token's info, JSON in ASCII
	// InfoRawHeader is the token's info in base64 when it is not JSON.
	InfoRawHeader = "Headrace-Info-B64"
	// TokenMetaHeader is the token's meta, JSON in ASCII.
	TokenMetaHeader = "Headrace-Token-Meta"
)

// Headers of a back end's answer that make it an error; those of the NATS service
// libraries mean the same.
const (
	ErrorCodeHeader = "Headrace-Error-Code"
	ErrorHeader     = "Headrace-Error"
)

// The codes a back end may give a client. Those below belong to the protocol.
const (
	MinBackendCode = 400
	MaxBackendCode = 1999
)

// BackendError is an error that a back end answered.
type BackendError struct {
	Code    uint32 // MinBackendCode to MaxBackendCode
	Message string // at most maxErrorText bytes
}

func (e *BackendError) Error() string { return fmt.Sprintf("back end error %d: %s", e.Code, e.Message) }

// maxErrorText bounds the message of a back end's error in bytes.
const maxErrorText = 255

// AllowRPC returns nil when who may call method, else an *Error.
func (n *Node) AllowRPC(method string, who Access) error {
	if n.rpcAllow == nil && n.rpcAllowAnonymous == nil {
		return Errorf(CodeNotAvailable, "no rpc is configured")
	}
	if method == "" || len(method) > MaxMethodLength {
		return Errorf(CodeInvalid, "method must have 1 to %d bytes", MaxMethodLength)
	}
	if who.Insecure || matchAny(n.rpcAllowAnonymous, method) || who.User != "" && matchAny(n.rpcAllow, method) {
		return nil
	}
	return Errorf(CodeDenied, "permission denied")
}

func matchers(patterns []string) []func(string) bool {
	var out []func(string) bool
	for _, p := range patterns {
		out = append(out, globMatcher(p))
	}
	return out
}

func matchAny(matchers []func(string) bool, s string) bool {
	for _, match := range matchers {
		if match(s) {
			return true
		}
	}
	return false
}

// RPC calls a back end: a request on <prefix>.rpc.<method>, answered by whoever
// subscribes there. It does not check access. It fails with a *BackendError when
// the back end says so, CodeNoMethod when nobody subscribes, and CodeUnavailable
// when there is no answer before ctx ends.
func (n *Node) RPC(ctx context.Context, req RPCRequest) ([]byte, error) {
	m, err := n.rpcMessage(req)
	if err != nil {
		return nil, err
	}
	answer, err := n.cfg.Core.RequestMsgWithContext(ctx, m)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, Errorf(CodeNoMethod, "method not found")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return nil, &Error{Code: CodeUnavailable, Message: "the back end did not answer in time", Err: err}
	case err != nil:
		return nil, Unavailable("the back end", err)
	}
	if err := backendError(answer.Header); err != nil {
		return nil, err
	}
	return answer.Data, nil
}

// Tell sends data to the back ends that listen on <prefix>.rpc.<method>, without an
// answer: at most once, and nobody may be listening.
func (n *Node) Tell(req RPCRequest) error {
	m, err := n.rpcMessage(req)
	if err != nil {
		return err
	}
	if err := n.cfg.Core.PublishMsg(m); err != nil {
		return Unavailable("the back end", err)
	}
	return nil
}

func (n *Node) rpcMessage(req RPCRequest) (*nats.Msg, error) {
	if req.Method == "" || len(req.Method) > MaxMethodLength {
		return nil, Errorf(CodeInvalid, "method must have 1 to %d bytes", MaxMethodLength)
	}
	h := nats.Header{}
	if i := req.Info; i != nil {
		h[UserHeader] = []string{headerEscape(i.User)}
		h[ClientHeader] = []string{i.Client}
		if valid, other := splitJSON(i.ConnInfo); valid != nil {
			h[InfoHeader] = []string{headerJSON(valid)}
		} else if other != nil {
			h[InfoRawHeader] = []string{base64.StdEncoding.EncodeToString(other)}
		}
	}
	if json.Valid(req.TokenMeta) {
		h[TokenMetaHeader] = []string{headerJSON(req.TokenMeta)}
	}
	if ValidTraceParent(req.TraceParent) {
		h[traceParentHeader] = []string{req.TraceParent}
	}
	if limit := n.cfg.Core.MaxPayload(); limit > 0 && int64(len(req.Data)) > limit {
		return nil, Errorf(CodeLimit, "data is larger than the %d bytes that NATS carries", limit)
	}
	return &nats.Msg{Subject: n.cfg.Prefix + ".rpc." + EncodeKey(req.Method), Header: h, Data: req.Data}, nil
}

// backendError is the error that the headers of an answer tell, or nil.
func backendError(h nats.Header) error {
	code, text := h.Get(ErrorCodeHeader), h.Get(ErrorHeader)
	if code == "" && text == "" {
		code, text = h.Get(micro.ErrorCodeHeader), h.Get(micro.ErrorHeader)
	}
	if code == "" && text == "" {
		return nil
	}
	number, err := strconv.ParseUint(code, 10, 32)
	if err != nil || number < MinBackendCode || number > MaxBackendCode {
		return &Error{Code: CodeInternal, Message: "internal server error",
			Err: fmt.Errorf("a back end answered error code %.20q, which is not within %d to %d", code, MinBackendCode, MaxBackendCode)}
	}
	text = strings.ToValidUTF8(text, "")
	for len(text) > maxErrorText {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	if text == "" {
		text = "error " + code
	}
	return &BackendError{Code: uint32(number), Message: text}
}

// headerEscape makes s a header value that arrives as it was sent: everything but
// printable ASCII, and '%', becomes %XX.
func headerEscape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '%' || c == ' ' && i > 0 && i < len(s)-1 {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		}
	}
	return b.String()
}

// headerJSON is valid JSON as a header value: ASCII, on one line.
func headerJSON(b []byte) string {
	var line bytes.Buffer
	json.Compact(&line, b) //nolint:errcheck // it is valid
	return string(asciiJSON(line.Bytes()))
}

// headerText is text for people as a header value.
func headerText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, s)
}

// ValidTraceParent checks the form that W3C Trace Context gives version 00:
// 00-<32 hex>-<16 hex>-<2 hex>.
func ValidTraceParent(s string) bool {
	if len(s) != 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if i != 2 && i != 35 && i != 52 && !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}
