package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// More precise kinds of ErrInvalid, for people.
var (
	ErrWrongKey   = fmt.Errorf("%w: signature", ErrInvalid)
	ErrWrongParty = fmt.Errorf("%w: audience or issuer", ErrInvalid)
)

// Description is what a token says of itself, whether true or not.
type Description struct {
	Header  json.RawMessage
	Claims  json.RawMessage
	Channel string // not empty in subscription tokens
}

// Describe reads a token without verifying it.
func Describe(s string) (d Description, err error) {
	if len(s) > MaxBytes {
		return d, fmt.Errorf("%w: it has %d bytes, more than %d", ErrInvalid, len(s), MaxBytes)
	}
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return d, fmt.Errorf("%w: it has %d parts, not 3", ErrInvalid, len(parts))
	}
	p := jwt.NewParser()
	for i, out := range []*json.RawMessage{&d.Header, &d.Claims} {
		b, err := p.DecodeSegment(parts[i])
		if err != nil || !json.Valid(b) {
			return d, fmt.Errorf("%w: part %d is no JSON in base64", ErrInvalid, i+1)
		}
		*out = b
	}
	var c struct{ Channel string }
	if err := json.Unmarshal(d.Claims, &c); err != nil {
		return d, fmt.Errorf("%w: the claims are no object with a channel that is a text", ErrInvalid)
	}
	d.Channel = c.Channel
	return d, nil
}

// invalid wraps the library's error in the most precise of ours.
func invalid(err error) error {
	switch {
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return fmt.Errorf("%w: %v", ErrWrongKey, err)
	case errors.Is(err, jwt.ErrTokenInvalidAudience), errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return fmt.Errorf("%w: %v", ErrWrongParty, err)
	default:
		return fmt.Errorf("%w: %v", ErrInvalid, err)
	}
}

// ParseSubs reads a subs claim.
func ParseSubs(claim []byte) (map[string]SubscribeOptions, error) {
	var c claims
	if err := json.Unmarshal(claim, &c.Subs); err != nil {
		return nil, fmt.Errorf("subs: %w", err)
	}
	out, err := c.connection(nil)
	return out.Subs, err
}
