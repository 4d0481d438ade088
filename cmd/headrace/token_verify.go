package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/internal/config"
)

func (a *app) tokenVerifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify <token>",
		Short: "Tell whether a server with this configuration accepts a token, and why not",
		Long:  "Print what a token says and whether a server with this configuration accepts it. - reads it from standard input,\n@file from a file. Exit with 1 when it is refused.",
		Args:  exactArgs(1),
	}
	load := a.fileFlags(cmd, nil)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		text := args[0]
		if path, ok := strings.CutPrefix(text, "@"); ok || text == "-" {
			if text == "-" {
				path = "-"
			}
			data, err := a.readFile(path)
			if err != nil {
				return &usageError{err: err}
			}
			text = strings.TrimSpace(string(data))
		}
		return a.verify(cmd.Context(), cfg, text)
	}
	return cmd
}

// verify does what a server does with text, and says so.
func (a *app) verify(ctx context.Context, cfg config.Config, text string) error {
	said, err := token.Describe(text)
	if err != nil {
		return &hintError{err: err, hint: "a token is three parts of letters and digits joined by dots; was it cut or quoted?"}
	}
	fmt.Fprintf(a.stdout, "header  %s\nclaims  %s\n", said.Header, said.Claims)
	o, kind := tokenOptions(cfg), "connection"
	if said.Channel != "" {
		kind = "subscription"
		if own := subTokenOptions(cfg); own.HasKeys() {
			o = own
		}
	}
	if !o.HasKeys() {
		return &usageError{err: errors.New("the configuration has no key to verify with"), hint: "name the server's configuration with --config"}
	}
	v, err := token.NewVerifier(o)
	if err != nil {
		return err
	}
	if missing := v.Missing(text); missing != nil {
		if err := missing.Fetch(ctx); err != nil {
			return &hintError{err: fmt.Errorf("refused: %w", err), hint: "kid must be the id of a key that client.token.jwks_endpoint serves"}
		}
	}
	expireAt := int64(0)
	if kind == "connection" {
		var c token.Connection
		c, err = v.Connection(text)
		expireAt = c.ExpireAt
	} else {
		var s token.Subscription
		s, err = v.Subscription(text)
		expireAt = s.ExpireAt
	}
	if err != nil {
		return &hintError{err: fmt.Errorf("refused as a %s token: %w", kind, err), hint: verifyHint(err)}
	}
	until := "without end"
	if expireAt > 0 {
		until = "until " + time.Unix(expireAt, 0).UTC().Format(time.RFC3339)
	}
	_, err = fmt.Fprintf(a.stdout, "good    a %s token, %s\n", kind, until)
	return err
}

func verifyHint(err error) string {
	switch {
	case errors.Is(err, token.ErrExpired):
		return "make a new one; if exp, nbf and iat look right, compare the clocks"
	case errors.Is(err, token.ErrWrongKey):
		return "it was signed with another key than the configuration's, or changed afterwards"
	case errors.Is(err, token.ErrWrongParty):
		return "client.token.audience and client.token.issuer say what aud and iss must be"
	}
	return ""
}

func (a *app) tokenJWKSCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "jwks <kid>=<file>...",
		Short:   "Print a key set for client.token.jwks_endpoint from PEM public keys",
		Example: "  headrace token jwks 2026-11=old.pem 2026-12=new.pem > jwks.json",
		Args:    cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &usageError{err: errors.New("no key given"), hint: "give each as <kid>=<file>"}
			}
			var set token.KeySet
			for _, arg := range args {
				kid, path, ok := strings.Cut(arg, "=")
				if !ok || kid == "" {
					return &usageError{err: fmt.Errorf("%q is not <kid>=<file>", arg), hint: "tokens name their key by kid, so each needs one"}
				}
				if err := set.Add(kid, path); err != nil {
					return &usageError{err: fmt.Errorf("key %s: %w", kid, err)}
				}
			}
			out, err := json.Marshal(&set)
			if err != nil {
				return fmt.Errorf("print: %w", err)
			}
			_, err = fmt.Fprintln(a.stdout, string(out))
			return err
		},
	}
}
