package router

import (
	"errors"
	"fmt"
)

// Code classifies an error for the peer that caused it. Codes are part of the
// wire contract: add new ones, never rename or reuse one.
type Code string

// The codes. edge maps each to a number of the client protocol and to an HTTP
// status.
const (
	CodeInvalid        Code = "invalid"         // the request can never succeed as sent
	CodeUnknownChannel Code = "unknown_channel" // no namespace of that name
	CodeDenied         Code = "denied"          // the identity may not do this
	CodeNotAvailable   Code = "not_available"   // the namespace does not offer this
	CodeConflict       Code = "conflict"        // already subscribed, or the head moved on
	CodeLimit          Code = "limit"           // a configured limit is reached
	CodeTooMany        Code = "too_many"        // a rate is exceeded: the same may be done later
	CodeUnrecoverable  Code = "unrecoverable"   // history no longer reaches the asked position
	CodeNoMethod       Code = "no_method"       // no back end answers that method
	CodeNotOnline      Code = "not_online"      // no session matches the target
	CodeUnavailable    Code = "unavailable"     // try again later, on this or another node
	CodeInternal       Code = "internal"        // our fault; details stay in the log
)

// Error is an error that may be shown to a client. Message is written for
// people outside the project; Err is for the log and never leaves the node.
type Error struct {
	Code    Code
	Message string
	Err     error
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", e.Message, e.Err)
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an *Error with code and a formatted message for the client.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Unavailable returns an *Error with CodeUnavailable that hides cause from the
// client and keeps it for the log.
func Unavailable(what string, cause error) *Error {
	return &Error{Code: CodeUnavailable, Message: what + " is temporarily unavailable", Err: cause}
}

// CodeOf returns the code a client should see for err. Errors that nobody
// classified are ours, so they map to CodeInternal rather than leak.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}
