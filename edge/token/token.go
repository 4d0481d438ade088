// Package token verifies and mints the JSON Web Tokens of the client protocol:
// connection tokens say who a client is, subscription tokens let it into one
// channel.
package token

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// The two ways a token fails. An expired token was good once: the client should
// bring a new one, so the difference is told to it.
var (
	ErrExpired = errors.New("token expired")
	ErrInvalid = errors.New("invalid token")
)

// DefaultTTL is the life of tokens minted without an explicit one.
const DefaultTTL = 24 * time.Hour

// Connection is what a valid connection token says.
type Connection struct {
	User     string
	ExpireAt int64 // Unix seconds; 0 means never
	Info     []byte
}

// Subscription is what a valid subscription token says.
type Subscription struct {
	User     string
	Channel  string
	ExpireAt int64 // Unix seconds; 0 means never
	Info     []byte
}

// Options narrow which tokens are accepted.
type Options struct {
	Audience string // must be among aud when set
	Issuer   string // must equal iss when set
}

// Verifier checks tokens signed with one HMAC secret. It is safe for concurrent
// use.
type Verifier struct {
	key    []byte
	parser *jwt.Parser
}

// NewVerifier returns a Verifier that accepts HS256, HS384 and HS512 and nothing
// else; in particular not "none".
func NewVerifier(secret string, o Options) (*Verifier, error) {
	if secret == "" {
		return nil, errors.New("token: secret is empty")
	}
	opts := []jwt.ParserOption{jwt.WithValidMethods([]string{"HS256", "HS384", "HS512"})}
	if o.Audience != "" {
		opts = append(opts, jwt.WithAudience(o.Audience))
	}
	if o.Issuer != "" {
		opts = append(opts, jwt.WithIssuer(o.Issuer))
	}
	return &Verifier{key: []byte(secret), parser: jwt.NewParser(opts...)}, nil
}

type claims struct {
	jwt.RegisteredClaims
	Channel string          `json:"channel,omitempty"`
	Info    json.RawMessage `json:"info,omitempty"`
	B64Info string          `json:"b64info,omitempty"`
}

// Connection verifies a connection token. It fails with ErrExpired or ErrInvalid.
func (v *Verifier) Connection(s string) (Connection, error) {
	c, info, err := v.parse(s)
	if err != nil {
		return Connection{}, err
	}
	if c.Channel != "" {
		return Connection{}, fmt.Errorf("%w: a subscription token is not a connection token", ErrInvalid)
	}
	return Connection{User: c.Subject, ExpireAt: expireAt(c), Info: info}, nil
}

// Subscription verifies a subscription token. It fails with ErrExpired or
// ErrInvalid. The caller compares user and channel.
func (v *Verifier) Subscription(s string) (Subscription, error) {
	c, info, err := v.parse(s)
	if err != nil {
		return Subscription{}, err
	}
	if c.Channel == "" {
		return Subscription{}, fmt.Errorf("%w: no channel claim", ErrInvalid)
	}
	return Subscription{User: c.Subject, Channel: c.Channel, ExpireAt: expireAt(c), Info: info}, nil
}

func (v *Verifier) parse(s string) (*claims, []byte, error) {
	var c claims
	_, err := v.parser.ParseWithClaims(s, &c, func(*jwt.Token) (any, error) { return v.key, nil })
	switch {
	case errors.Is(err, jwt.ErrTokenExpired) && onlyExpired(err):
		return nil, nil, ErrExpired
	case err != nil:
		return nil, nil, fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	if c.B64Info != "" {
		info, err := base64.StdEncoding.DecodeString(c.B64Info)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: b64info: %v", ErrInvalid, err)
		}
		return &c, info, nil
	}
	if string(c.Info) == "null" {
		c.Info = nil
	}
	return &c, c.Info, nil
}

// onlyExpired reports that nothing but the expiry is wrong: the signature is
// checked before the claims, but several claims may fail at once.
func onlyExpired(err error) bool {
	for _, other := range []error{
		jwt.ErrTokenInvalidAudience, jwt.ErrTokenInvalidIssuer, jwt.ErrTokenNotValidYet,
		jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenUnverifiable,
	} {
		if errors.Is(err, other) {
			return false
		}
	}
	return true
}

func expireAt(c *claims) int64 {
	if c.ExpiresAt == nil {
		return 0
	}
	return c.ExpiresAt.Unix()
}

// MintConnection signs a connection token with HS256. ExpireAt 0 means that it
// never expires.
func MintConnection(secret string, c Connection) (string, error) {
	return mint(secret, claims{Info: c.Info, RegisteredClaims: registered(c.User, c.ExpireAt)})
}

// MintSubscription signs a subscription token with HS256.
func MintSubscription(secret string, s Subscription) (string, error) {
	return mint(secret, claims{Channel: s.Channel, Info: s.Info, RegisteredClaims: registered(s.User, s.ExpireAt)})
}

func registered(user string, expireAt int64) jwt.RegisteredClaims {
	r := jwt.RegisteredClaims{Subject: user, IssuedAt: jwt.NewNumericDate(time.Now())}
	if expireAt != 0 {
		r.ExpiresAt = jwt.NewNumericDate(time.Unix(expireAt, 0))
	}
	return r
}

func mint(secret string, c claims) (string, error) {
	if len(c.Info) > 0 && !json.Valid(c.Info) {
		c.B64Info, c.Info = base64.StdEncoding.EncodeToString(c.Info), nil
	}
	s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString([]byte(secret))
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return s, nil
}
