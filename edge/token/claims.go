package token

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/golang-jwt/jwt/v5"

	"github.com/headrace/headrace/router"
)

// Connection is what a valid connection token says.
type Connection struct {
	User     string
	ExpireAt int64  // when the session ends, Unix seconds; 0 means never
	Info     []byte // told to other clients
	Meta     []byte // JSON, for back ends only; no client is told
	// Channels and Subs are subscriptions that the server makes at connect; Subs,
	// which has options, is used instead of Channels when both are there.
	Channels []string
	Subs     map[string]SubscribeOptions
	Caps     *Capabilities // nil grants nothing
}

// SubscribeOptions are what a token says of one subscription.
type SubscribeOptions struct {
	Info     []byte // told to other clients in the channel
	Data     []byte // told to the subscriber when it has subscribed
	Allow    router.Ops
	Override Override
}

// Override is what a token changes of the namespace's behaviour for one
// subscription. Nil keeps it.
type Override struct {
	Presence         *bool
	JoinLeave        *bool
	ForceJoinLeave   *bool
	ForceRecovery    *bool
	ForcePositioning *bool
}

// Subscription is what a valid subscription token says.
type Subscription struct {
	User     string
	Channel  string
	Client   string // when not empty, the only client that may use it
	ExpireAt int64  // when the subscription ends, Unix seconds; 0 means never
	Info     []byte
	Data     []byte
	Allow    router.Ops // beyond subscribing
	Override Override
}

// boolValue is how overrides are written: {"value": true}.
type boolValue struct {
	Value bool `json:"value"`
}

type overrideClaim struct {
	Presence         *boolValue `json:"presence,omitempty"`
	JoinLeave        *boolValue `json:"join_leave,omitempty"`
	ForceJoinLeave   *boolValue `json:"force_push_join_leave,omitempty"`
	ForceRecovery    *boolValue `json:"force_recovery,omitempty"`
	ForcePositioning *boolValue `json:"force_positioning,omitempty"`
}

// optionClaims are the claims of a subscription, in its own token or under subs.
type optionClaims struct {
	Info     json.RawMessage `json:"info,omitempty"`
	B64Info  string          `json:"b64info,omitempty"`
	Data     json.RawMessage `json:"data,omitempty"`
	B64Data  string          `json:"b64data,omitempty"`
	Allow    []string        `json:"allow,omitempty"`
	Override *overrideClaim  `json:"override,omitempty"`
}

// claims are those of both kinds of token; the channel tells them apart.
type claims struct {
	jwt.RegisteredClaims
	optionClaims
	ExpireAt *jwt.NumericDate        `json:"expire_at,omitempty"`
	Channel  string                  `json:"channel,omitempty"`
	Client   string                  `json:"client,omitempty"`
	Meta     json.RawMessage         `json:"meta,omitempty"`
	Channels []string                `json:"channels,omitempty"`
	Subs     map[string]optionClaims `json:"subs,omitempty"`
	Caps     json.RawMessage         `json:"caps,omitempty"`
}

// end is when the session or subscription ends: with the token, unless expire_at
// says otherwise; 0 there means never.
func (c *claims) end() int64 {
	switch {
	case c.ExpireAt != nil:
		return max(c.ExpireAt.Unix(), 0)
	case c.ExpiresAt != nil:
		return c.ExpiresAt.Unix()
	default:
		return 0
	}
}

func (c *claims) connection(caps *capsCache) (Connection, error) {
	if c.Channel != "" {
		return Connection{}, errors.New("a subscription token is no connection token")
	}
	out := Connection{User: c.Subject, ExpireAt: c.end(), Meta: notNull(c.Meta), Channels: c.Channels}
	var err error
	if out.Info, err = rawOrBase64("info", c.Info, c.B64Info); err != nil {
		return Connection{}, err
	}
	if out.Caps, err = caps.get(c.Caps); err != nil {
		return Connection{}, err
	}
	if len(c.Subs) == 0 {
		return out, nil
	}
	out.Subs = make(map[string]SubscribeOptions, len(c.Subs))
	for channel, o := range c.Subs {
		if out.Subs[channel], err = o.options(); err != nil {
			return Connection{}, fmt.Errorf("subs: %q: %w", channel, err)
		}
	}
	return out, nil
}

func (c *claims) subscription() (Subscription, error) {
	if c.Channel == "" {
		return Subscription{}, errors.New("a token without channel claim is no subscription token")
	}
	o, err := c.options()
	if err != nil {
		return Subscription{}, err
	}
	return Subscription{
		User: c.Subject, Channel: c.Channel, Client: c.Client, ExpireAt: c.end(),
		Info: o.Info, Data: o.Data, Allow: o.Allow, Override: o.Override,
	}, nil
}

func (c *optionClaims) options() (o SubscribeOptions, err error) {
	if o.Info, err = rawOrBase64("info", c.Info, c.B64Info); err != nil {
		return o, err
	}
	if o.Data, err = rawOrBase64("data", c.Data, c.B64Data); err != nil {
		return o, err
	}
	if o.Allow, err = parseOps(c.Allow); err != nil {
		return o, err
	}
	if w := c.Override; w != nil {
		o.Override = Override{
			Presence: w.Presence.ptr(), JoinLeave: w.JoinLeave.ptr(), ForceJoinLeave: w.ForceJoinLeave.ptr(),
			ForceRecovery: w.ForceRecovery.ptr(), ForcePositioning: w.ForcePositioning.ptr(),
		}
	}
	return o, nil
}

func (b *boolValue) ptr() *bool {
	if b == nil {
		return nil
	}
	return &b.Value
}

// rawOrBase64 returns the JSON of a claim, or the bytes of its base64 twin.
func rawOrBase64(name string, raw json.RawMessage, b64 string) ([]byte, error) {
	if b64 == "" {
		return notNull(raw), nil
	}
	b, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		return nil, fmt.Errorf("b64%s: %w", name, err)
	}
	return b, nil
}

func notNull(raw json.RawMessage) []byte {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	return raw
}
