// Package token verifies and mints the JSON Web Tokens of the client protocol:
// connection tokens say who a client is, subscription tokens let it into one
// channel.
package token

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// The ways a token fails for good. One that has expired, or is not valid yet, is
// cured by another: the client should bring a new one, so the difference is told
// to it.
var (
	ErrExpired = errors.New("token expired")
	ErrInvalid = errors.New("invalid token")
)

// MaxBytes bounds a token; larger ones are refused unread.
const MaxBytes = 16 << 10

// Defaults of Options.
const (
	// DefaultTTL is the life of tokens minted without an explicit one.
	DefaultTTL      = 24 * time.Hour
	DefaultLeeway   = 10 * time.Second
	DefaultInterval = 10 * time.Minute
)

// Options say which tokens are accepted. At least one kind of key is needed.
type Options struct {
	HMACSecret   string        // of HS256, HS384 and HS512
	HMACPrevious string        // the secret before, while tokens made with it live
	PublicKeys   []string      // PEM texts, or paths of PEM files
	JWKSEndpoint string        // URL of a JSON Web Key Set with public keys
	JWKSInterval time.Duration // between fetches; 0 is DefaultInterval

	Audience string // must be among aud when set
	Issuer   string // must equal iss when set
	// Leeway is how far the clock of the issuer may be ahead (nbf, iat).
	Leeway time.Duration

	Log     *slog.Logger // nil discards
	Fetched func(error)  // told of every fetch of the endpoint; may be nil
	// Transport makes the requests to the endpoint; nil is one of its own.
	Transport http.RoundTripper
}

// HasKeys reports whether any key is configured.
func (o Options) HasKeys() bool {
	return o.HMACSecret != "" || o.HMACPrevious != "" || len(o.PublicKeys) > 0 || o.JWKSEndpoint != ""
}

// Verifier checks tokens. It is safe for concurrent use and never blocks.
type Verifier struct {
	static []key
	remote *keySet // nil without endpoint
	parser *jwt.Parser
	caps   *capsCache
}

// NewVerifier returns a Verifier for o. It reads key files and makes no request.
func NewVerifier(o Options) (*Verifier, error) {
	if !o.HasKeys() {
		return nil, errors.New("token: no key is configured")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.JWKSInterval <= 0 {
		o.JWKSInterval = DefaultInterval
	}
	v := &Verifier{caps: newCapsCache()}
	for _, secret := range []string{o.HMACSecret, o.HMACPrevious} {
		if isPEM(secret) {
			return nil, errors.New("token: the HMAC secret is a PEM key; a public key belongs to public_keys")
		}
		if secret != "" {
			v.static = append(v.static, hmacKey(secret))
		}
	}
	for i, source := range o.PublicKeys {
		keys, err := publicKeys(source)
		if err != nil {
			return nil, fmt.Errorf("token: public key %d: %w", i+1, err)
		}
		v.static = append(v.static, keys...)
	}
	if o.JWKSEndpoint != "" {
		var err error
		if v.remote, err = newKeySet(o); err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
	}
	v.parser = newParser(o, v.methods())
	return v, nil
}

func newParser(o Options, methods []string) *jwt.Parser {
	opts := []jwt.ParserOption{
		jwt.WithValidMethods(methods), jwt.WithStrictDecoding(), jwt.WithIssuedAt(), jwt.WithLeeway(o.Leeway),
	}
	if o.Audience != "" {
		opts = append(opts, jwt.WithAudience(o.Audience))
	}
	if o.Issuer != "" {
		opts = append(opts, jwt.WithIssuer(o.Issuer))
	}
	return jwt.NewParser(opts...)
}

// methods are the algorithms there is, or may be, a key for. "none" is none.
func (v *Verifier) methods() (all []string) {
	for _, k := range v.static {
		all = append(all, k.algorithms...)
	}
	if v.remote != nil {
		all = append(all, publicAlgorithms...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Run keeps the keys of the endpoint fresh until ctx ends.
func (v *Verifier) Run(ctx context.Context) {
	if v.remote != nil {
		v.remote.run(ctx)
	}
}

// UnknownKeyError means that a token is signed with a key that has to be fetched
// first. Fetch does it, then the token can be verified again.
type UnknownKeyError struct {
	set *keySet
	kid string
}

func (e *UnknownKeyError) Error() string { return "the key of the token is not known yet" }

// Fetch waits for the key, some seconds at most. It fails with ErrInvalid when
// there is none, with ErrUnavailable when that cannot be told now.
func (e *UnknownKeyError) Fetch(ctx context.Context) error { return e.set.find(ctx, e.kid) }

// Missing returns what has to be fetched before s can be verified, nil for
// nothing; v may be nil. It looks at the header only, unless a key that is at hand
// may have signed s too.
func (v *Verifier) Missing(s string) *UnknownKeyError {
	if v == nil || v.remote == nil || len(s) > MaxBytes {
		return nil
	}
	head, _, _ := strings.Cut(s, ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return nil
	}
	t := &jwt.Token{}
	if json.Unmarshal(raw, &t.Header) != nil {
		return nil
	}
	alg, _ := t.Header["alg"].(string)
	t.Method = jwt.GetSigningMethod(alg)
	unknown := v.unknownKey(t)
	if unknown == nil || !slices.ContainsFunc(v.static, func(k key) bool { return k.fits(alg) }) {
		return unknown
	}
	if _, err := v.parse(s); !errors.As(err, &unknown) {
		return nil
	}
	return unknown
}

// Connection verifies a connection token. It fails with ErrExpired, ErrInvalid or
// a *UnknownKeyError.
func (v *Verifier) Connection(s string) (Connection, error) {
	c, err := v.parse(s)
	if err != nil {
		return Connection{}, err
	}
	out, err := c.connection(v.caps)
	if err != nil {
		return Connection{}, fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	return out, nil
}

// Subscription verifies a subscription token. It fails with ErrExpired, ErrInvalid
// or a *UnknownKeyError. The caller compares user, channel and client.
func (v *Verifier) Subscription(s string) (Subscription, error) {
	c, err := v.parse(s)
	if err != nil {
		return Subscription{}, err
	}
	out, err := c.subscription()
	if err != nil {
		return Subscription{}, fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	return out, nil
}

func (v *Verifier) parse(s string) (*claims, error) {
	if len(s) > MaxBytes {
		return nil, fmt.Errorf("%w: it has %d bytes, more than %d", ErrInvalid, len(s), MaxBytes)
	}
	var c claims
	t, err := v.parser.ParseWithClaims(s, &c, v.keysFor)
	if err == nil {
		// The leeway is for clocks that are ahead, not for tokens that are late: a
		// session of theirs would end as it begins.
		if c.ExpiresAt != nil && !time.Now().Before(c.ExpiresAt.Time) {
			return nil, ErrExpired
		}
		return &c, nil
	}
	var unknown *UnknownKeyError
	if errors.Is(err, jwt.ErrTokenSignatureInvalid) {
		unknown = v.unknownKey(t)
	}
	switch {
	case errors.As(err, &unknown) || unknown != nil:
		return nil, unknown
	case cured(err):
		return nil, fmt.Errorf("%w: %v", ErrExpired, err)
	default:
		return nil, invalid(err)
	}
}

// keysFor returns the keys that t may be signed with: those bound to its
// algorithm, and of the endpoint's those with its key id.
func (v *Verifier) keysFor(t *jwt.Token) (any, error) {
	if _, ok := t.Header["crit"]; ok { // RFC 7515, 4.1.11: refuse what is not understood
		return nil, errors.New("it demands an extension (crit)")
	}
	algorithm := t.Method.Alg()
	var fit jwt.VerificationKeySet
	for _, k := range v.static {
		if k.fits(algorithm) {
			fit.Keys = append(fit.Keys, k.verify)
		}
	}
	if v.remote != nil {
		kid, _ := t.Header["kid"].(string)
		keys, _ := v.remote.lookup(kid)
		for _, k := range keys {
			if k.fits(algorithm) {
				fit.Keys = append(fit.Keys, k.verify)
			}
		}
	}
	if len(fit.Keys) > 0 {
		return fit, nil
	}
	if unknown := v.unknownKey(t); unknown != nil {
		return nil, unknown
	}
	return nil, fmt.Errorf("there is no key for %s with its kid", algorithm)
}

// unknownKey returns an error when t names a key that the endpoint may have, and
// nil when there is nothing to fetch.
func (v *Verifier) unknownKey(t *jwt.Token) *UnknownKeyError {
	if v.remote == nil || t == nil || t.Method == nil || !slices.Contains(publicAlgorithms, t.Method.Alg()) {
		return nil
	}
	kid, _ := t.Header["kid"].(string)
	if _, known := v.remote.lookup(kid); known || kid == "" {
		return nil
	}
	return &UnknownKeyError{set: v.remote, kid: kid}
}

// cured reports that nothing but the time is wrong, so that another token of the
// same issuer would do: the signature is checked before the claims, but several
// claims may fail at once.
func cured(err error) bool {
	for _, other := range []error{
		jwt.ErrTokenInvalidAudience, jwt.ErrTokenInvalidIssuer, jwt.ErrTokenInvalidSubject, jwt.ErrTokenInvalidId,
		jwt.ErrTokenRequiredClaimMissing, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenUnverifiable, jwt.ErrTokenMalformed,
	} {
		if errors.Is(err, other) {
			return false
		}
	}
	return errors.Is(err, jwt.ErrTokenExpired) || errors.Is(err, jwt.ErrTokenNotValidYet) || errors.Is(err, jwt.ErrTokenUsedBeforeIssued)
}
