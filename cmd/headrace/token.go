package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/internal/config"
)

// tokenOptions are the configuration's for connection tokens.
func tokenOptions(cfg config.Config) token.Options {
	t := cfg.Client.Token
	return token.Options{
		HMACSecret: t.HMACSecretKey, HMACPrevious: t.HMACPrevious, PublicKeys: t.PublicKeys, JWKSEndpoint: t.JWKSEndpoint, JWKSInterval: t.JWKSInterval,
		Audience: t.Audience, Issuer: t.Issuer, Leeway: t.Leeway,
	}
}

// subTokenOptions are those for subscription tokens, without keys when they are as
// for connection tokens.
func subTokenOptions(cfg config.Config) token.Options {
	t := cfg.Client.SubToken
	return token.Options{
		HMACSecret: t.HMACSecretKey, HMACPrevious: t.HMACPrevious, PublicKeys: t.PublicKeys, JWKSEndpoint: t.JWKSEndpoint, JWKSInterval: cfg.Client.Token.JWKSInterval,
		Audience: t.Audience, Issuer: t.Issuer, Leeway: cfg.Client.Token.Leeway,
	}
}

// tokenProblems tells what is wrong with the keys; origins is where each key of
// the configuration was set.
func tokenProblems(cfg config.Config, origins map[string]string) (problems []config.Problem) {
	for path, o := range map[string]token.Options{"client.token": tokenOptions(cfg), "client.subscription_token": subTokenOptions(cfg)} {
		o.HMACSecret, o.HMACPrevious, o.JWKSEndpoint = "", "", "" // package config has looked at them
		if !o.HasKeys() {
			continue
		}
		if _, err := token.NewVerifier(o); err != nil {
			problems = append(problems, config.Problem{Where: origins[path+".public_keys"], Key: path + ".public_keys", What: strings.TrimPrefix(err.Error(), "token: ")})
		}
	}
	return problems
}

// tokenFlags are what a token says, as typed.
type tokenFlags struct {
	user, channel, client    string
	ttl                      time.Duration
	info, data, meta, subs   string
	caps                     string
	channels, allow          []string
	secretFile, keyFile, kid string
	audience, issuer         string
}

func (a *app) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a connection or subscription token",
		Long: "Make a token with the key of the configuration, or the one given, and print it. It is a connection token,\n" +
			"or with --channel a subscription token. In production the application makes tokens, with any JWT library.",
		Example: "  headrace token -c headrace.yaml --user 42\n" +
			"  headrace token -c headrace.yaml --user 42 --channel chat:lobby --ttl 1h\n" +
			"  headrace token --key-file private.pem --kid 2026-11 --user 42 --caps '[{\"channels\":[\"chat:*\"],\"match\":\"wildcard\",\"allow\":[\"sub\",\"pub\"]}]'",
		Args: noSuchCommand,
	}
	load := a.fileFlags(cmd, nil)
	var f tokenFlags
	flags := cmd.Flags()
	flags.StringVar(&f.user, "user", "", "user `id`; empty is anonymous")
	flags.DurationVar(&f.ttl, "ttl", token.DefaultTTL, "life of the token; 0 is without end")
	flags.StringVar(&f.channel, "channel", "", "make a subscription token for this `channel`")
	flags.StringVar(&f.client, "client", "", "only this client `id` may use the subscription token")
	flags.StringVar(&f.info, "info", "", "`JSON` that other clients see beside the user")
	flags.StringVar(&f.data, "data", "", "`JSON` the subscriber gets with the reply; with --channel")
	flags.StringVar(&f.meta, "meta", "", "`JSON` object for back ends, which no client sees")
	flags.StringVar(&f.caps, "caps", "", "capabilities, a `JSON` list of {channels, match, allow}")
	flags.StringSliceVar(&f.allow, "allow", nil, "operations beyond subscribing, of `pub,hst,prs`; with --channel")
	flags.StringSliceVar(&f.channels, "channels", nil, "`channels` the server subscribes the client to")
	flags.StringVar(&f.subs, "subs", "", "the same with options, a `JSON` object by channel")
	flags.StringVar(&f.secretFile, "hmac-secret-file", "", "`file` with the secret, instead of the configuration's; - is standard input")
	flags.StringVar(&f.keyFile, "key-file", "", "PEM `file` with a private key (RSA, ECDSA, Ed25519); - is standard input")
	flags.StringVar(&f.kid, "kid", "", "`id` of the key, for verifiers with a key set")
	flags.StringVar(&f.audience, "audience", "", "aud claim, instead of the configuration's")
	flags.StringVar(&f.issuer, "issuer", "", "iss claim, instead of the configuration's")
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		text, err := a.mint(cfg, f)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.stdout, text)
		return err
	}
	cmd.AddCommand(a.tokenVerifyCommand(), a.tokenJWKSCommand())
	return cmd
}

// mint makes the token that f describes.
func (a *app) mint(cfg config.Config, f tokenFlags) (string, error) {
	conn := []struct{ name, value string }{{"meta", f.meta}, {"caps", f.caps}, {"subs", f.subs}, {"channels", strings.Join(f.channels, "")}}
	sub := []struct{ name, value string }{{"client", f.client}, {"data", f.data}, {"allow", strings.Join(f.allow, "")}}
	if f.channel == "" {
		conn, sub = sub, conn
	}
	for _, other := range conn {
		if other.value != "" {
			return "", &usageError{err: fmt.Errorf("--%s does not go into this kind of token", other.name), hint: "subscription tokens are those with --channel"}
		}
	}
	for _, v := range append(sub, struct{ name, value string }{"info", f.info}) {
		if v.value != "" && (v.name == "info" || v.name == "data" || v.name == "meta") && !json.Valid([]byte(v.value)) {
			return "", &usageError{err: fmt.Errorf("--%s is not valid JSON", v.name), hint: `quote it for the shell: --` + v.name + ` '{"name":"Ada"}'`}
		}
	}
	signer, err := a.signer(cfg, f)
	if err != nil {
		return "", err
	}
	expireAt := int64(0)
	switch {
	case f.ttl > 0:
		expireAt = time.Now().Add(f.ttl).Unix()
	case f.ttl < 0:
		return "", &usageError{err: fmt.Errorf("--ttl %v is negative", f.ttl), hint: "0 is without end"}
	}
	if f.channel == "" {
		return mintConnection(signer, f, expireAt)
	}
	allow, err := token.ParseOps(f.allow)
	if err != nil {
		return "", &usageError{err: fmt.Errorf("--%w", err)}
	}
	return signer.Subscription(token.Subscription{
		User: f.user, Channel: f.channel, Client: f.client, ExpireAt: expireAt, Info: []byte(f.info), Data: []byte(f.data), Allow: allow,
	})
}

func mintConnection(signer *token.Signer, f tokenFlags, expireAt int64) (string, error) {
	c := token.Connection{User: f.user, ExpireAt: expireAt, Info: []byte(f.info), Meta: []byte(f.meta), Channels: f.channels}
	if f.caps != "" {
		if _, err := token.ParseCapabilities([]byte(f.caps)); err != nil {
			return "", &usageError{err: fmt.Errorf("--%w", err), hint: `write a list: --caps '[{"channels":["chat:*"],"match":"wildcard","allow":["sub","pub"]}]'`}
		}
	}
	if f.subs != "" {
		subs, err := token.ParseSubs([]byte(f.subs))
		if err != nil {
			return "", &usageError{err: fmt.Errorf("--%w", err), hint: `write an object by channel: --subs '{"news":{},"chat:lobby":{"info":{"seat":7}}}'`}
		}
		c.Subs = subs
	}
	return signer.Connection(c, []byte(f.caps))
}

// signer returns the key to sign with: the one given, else the configuration's.
func (a *app) signer(cfg config.Config, f tokenFlags) (s *token.Signer, err error) {
	t := cfg.Client.Token
	secret, audience, issuer := t.HMACSecretKey, t.Audience, t.Issuer
	if f.channel != "" && subTokenOptions(cfg).HasKeys() {
		st := cfg.Client.SubToken
		secret, audience, issuer = st.HMACSecretKey, st.Audience, st.Issuer
	}
	switch {
	case f.secretFile != "" && f.keyFile != "":
		return nil, &usageError{err: errors.New("--hmac-secret-file and --key-file are alternatives"), hint: "keep one"}
	case f.keyFile != "":
		var pem []byte
		if pem, err = a.readFile(f.keyFile); err == nil {
			s, err = token.NewKeySigner(pem)
		}
	case f.secretFile != "":
		var data []byte
		if data, err = a.readFile(f.secretFile); err == nil {
			s, err = token.NewHMACSigner(strings.TrimRight(string(data), "\r\n"))
		}
	case secret != "":
		s, err = token.NewHMACSigner(secret)
	default:
		return nil, &usageError{err: errors.New("there is no key to sign with"),
			hint: "name the configuration with --config (client.token.hmac_secret_key), or give a key with --hmac-secret-file or --key-file"}
	}
	if err != nil {
		return nil, &usageError{err: err}
	}
	s.KeyID, s.Audience, s.Issuer = f.kid, audience, issuer
	if f.audience != "" {
		s.Audience = f.audience
	}
	if f.issuer != "" {
		s.Issuer = f.issuer
	}
	return s, nil
}

// readFile reads a small file, - is standard input.
func (a *app) readFile(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(io.LimitReader(a.stdin, maxInput))
	}
	return os.ReadFile(path)
}
