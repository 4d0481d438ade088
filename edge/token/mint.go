package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/headrace/headrace/router"
)

// Signer mints tokens.
type Signer struct {
	method jwt.SigningMethod
	key    any

	KeyID    string // kid, for keys of a JWKS endpoint
	Audience string // aud
	Issuer   string // iss
}

// NewHMACSigner returns a Signer for HS256.
func NewHMACSigner(secret string) (*Signer, error) {
	if secret == "" {
		return nil, errors.New("token: secret is empty")
	}
	return &Signer{method: jwt.SigningMethodHS256, key: []byte(secret)}, nil
}

// NewKeySigner returns a Signer for the private key in data, a PEM text: RS256 for
// RSA, ES256, ES384 or ES512 by the curve, EdDSA for Ed25519. Errors never quote
// the key.
func NewKeySigner(data []byte) (*Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("token: there is no PEM private key in it")
	}
	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("token: PEM block %q is no private key", block.Type)
	}
	if err != nil {
		return nil, errors.New("token: the private key cannot be read")
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("token: %T cannot sign", parsed)
	}
	public, err := publicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	switch parsed.(type) {
	case *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey:
		return &Signer{method: jwt.GetSigningMethod(public.algorithms[0]), key: parsed}, nil
	default:
		return nil, fmt.Errorf("token: %T cannot sign", parsed)
	}
}

// Connection returns a connection token. caps is the claim, empty for none; it is
// what Parse would read, not c.Caps.
func (s *Signer) Connection(c Connection, caps []byte) (string, error) {
	w := claims{Meta: c.Meta, Channels: c.Channels, Caps: caps}
	w.Info, w.B64Info = splitJSON(c.Info)
	if len(c.Subs) > 0 {
		w.Subs = make(map[string]optionClaims, len(c.Subs))
		for channel, o := range c.Subs {
			w.Subs[channel] = o.claims()
		}
	}
	return s.sign(w, c.User, c.ExpireAt)
}

// Subscription returns a subscription token.
func (s *Signer) Subscription(t Subscription) (string, error) {
	o := SubscribeOptions{Info: t.Info, Data: t.Data, Allow: t.Allow, Override: t.Override}
	return s.sign(claims{Channel: t.Channel, Client: t.Client, optionClaims: o.claims()}, t.User, t.ExpireAt)
}

func (s *Signer) sign(c claims, user string, expireAt int64) (string, error) {
	c.RegisteredClaims = jwt.RegisteredClaims{Subject: user, Issuer: s.Issuer, IssuedAt: jwt.NewNumericDate(time.Now())}
	if s.Audience != "" {
		c.Audience = jwt.ClaimStrings{s.Audience}
	}
	if expireAt != 0 {
		c.ExpiresAt = jwt.NewNumericDate(time.Unix(expireAt, 0))
	}
	t := jwt.NewWithClaims(s.method, c)
	if s.KeyID != "" {
		t.Header["kid"] = s.KeyID
	}
	text, err := t.SignedString(s.key)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	if len(text) > MaxBytes {
		return "", fmt.Errorf("sign token: it has %d bytes, and no edge takes more than %d", len(text), MaxBytes)
	}
	return text, nil
}

func (o SubscribeOptions) claims() (c optionClaims) {
	c.Info, c.B64Info = splitJSON(o.Info)
	c.Data, c.B64Data = splitJSON(o.Data)
	for _, name := range []string{"sub", "pub", "hst", "prs", "dlq"} {
		if o.Allow&opNames[name] != 0 {
			c.Allow = append(c.Allow, name)
		}
	}
	if o.Override != (Override{}) {
		value := func(b *bool) *boolValue {
			if b == nil {
				return nil
			}
			return &boolValue{*b}
		}
		c.Override = &overrideClaim{
			Presence: value(o.Override.Presence), JoinLeave: value(o.Override.JoinLeave), ForceJoinLeave: value(o.Override.ForceJoinLeave),
			ForceRecovery: value(o.Override.ForceRecovery), ForcePositioning: value(o.Override.ForcePositioning),
		}
	}
	return c
}

// splitJSON returns b as JSON, or as base64 when it is not JSON.
func splitJSON(b []byte) (raw json.RawMessage, b64 string) {
	if len(b) > 0 && !json.Valid(b) {
		return nil, base64.StdEncoding.EncodeToString(b)
	}
	return b, ""
}

// ParseOps reads a list of sub, pub, hst and prs.
func ParseOps(names []string) (router.Ops, error) { return parseOps(names) }

// MintConnection signs a connection token with HS256. ExpireAt 0 means that it
// never expires. Caps are left out, see Signer.Connection.
func MintConnection(secret string, c Connection) (string, error) {
	s, err := NewHMACSigner(secret)
	if err != nil {
		return "", err
	}
	return s.Connection(c, nil)
}

// MintSubscription signs a subscription token with HS256.
func MintSubscription(secret string, t Subscription) (string, error) {
	s, err := NewHMACSigner(secret)
	if err != nil {
		return "", err
	}
	return s.Subscription(t)
}
