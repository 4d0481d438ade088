package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/internal/apiclient"
	"github.com/headrace/headrace/internal/wsclient"
)

const (
	defaultURL = "http://127.0.0.1:8000"
	// envAPIKey is also the variable of the server's own setting.
	envAPIKey = "HEADRACE_HTTP_API_KEY"
	// callTimeout bounds one API call; the server waits out elections of NATS.
	callTimeout = 30 * time.Second
	// maxInput bounds a payload read from standard input.
	maxInput = 1 << 20
)

// apiFlags adds the flags of commands that use the HTTP API.
func (a *app) apiFlags(cmd *cobra.Command) func() *apiclient.Client {
	url := cmd.Flags().String("url", defaultURL, "`address` of a server")
	key := cmd.Flags().String("api-key", "", "`key` of the HTTP API (variable "+envAPIKey+")")
	return func() *apiclient.Client {
		c := &apiclient.Client{URL: *url, Key: *key}
		if c.Key == "" {
			c.Key = lookupEnv(a.environ, envAPIKey)
		}
		return c
	}
}

func (a *app) pubCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "pub <channel> <data>",
		Short:   "Publish to a channel",
		Long:    "Publish to a channel through the HTTP API of a server. Data is JSON; - reads it from standard input.",
		Example: "  headrace pub chat:lobby '{\"text\":\"hello\"}'\n  headrace pub --text chat:lobby hello",
		Args:    exactArgs(2),
	}
	client := a.apiFlags(cmd)
	cmd.ValidArgsFunction = a.completeChannels(client)
	text := cmd.Flags().Bool("text", false, "data is text, to be sent as a JSON string")
	id := cmd.Flags().String("id", "", "idempotency `key`: repeating it within two minutes publishes once")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		data, err := a.payload(args[1], *text)
		if err != nil {
			return err
		}
		request := map[string]any{"channel": args[0], "data": data}
		if *id != "" {
			request["idempotency_key"] = *id
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
		defer cancel()
		var at wsclient.Position
		if err := client().Call(ctx, "publish", request, &at); err != nil {
			return err
		}
		if at.Offset == 0 { // no history, so no position
			_, err = fmt.Fprintln(a.stdout, "published")
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "published at %s\n", at)
		return err
	}
	return cmd
}

// payload returns the JSON that arg stands for.
func (a *app) payload(arg string, text bool) (json.RawMessage, error) {
	data := []byte(arg)
	if arg == "-" {
		var err error
		if data, err = io.ReadAll(io.LimitReader(a.stdin, maxInput+1)); err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		if len(data) > maxInput {
			return nil, &usageError{err: fmt.Errorf("standard input has more than %d bytes", maxInput)}
		}
	}
	if text {
		return json.Marshal(string(data))
	}
	if !json.Valid(data) {
		return nil, &usageError{err: errors.New("data is not valid JSON"), hint: "quote it for the shell, '{\"text\":\"hello\"}', or send it as text with --text"}
	}
	return data, nil
}

func (a *app) historyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history <channel>",
		Short: "Print a channel's history, one publication as JSON a line",
		Args:  exactArgs(1),
	}
	client := a.apiFlags(cmd)
	cmd.ValidArgsFunction = a.completeChannels(client)
	limit := cmd.Flags().Int("limit", 100, "publications to print; -1 is all, 0 only the position")
	reverse := cmd.Flags().Bool("reverse", false, "newest first")
	since := cmd.Flags().String("since", "", "print what followed the `position` offset:epoch")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := map[string]any{"channel": args[0], "limit": *limit, "reverse": *reverse}
		if *since != "" {
			at, err := parsePosition(*since)
			if err != nil {
				return err
			}
			request["since"] = at
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
		defer cancel()
		var result struct {
			wsclient.Position
			Publications []json.RawMessage `json:"publications"`
		}
		if err := client().Call(ctx, "history", request, &result); err != nil {
			return err
		}
		for _, pub := range result.Publications {
			if err := a.printJSON(pub); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintf(a.stderr, "position %s\n", result.Position)
		return err
	}
	return cmd
}

func parsePosition(s string) (*wsclient.Position, error) {
	offset, epoch, ok := strings.Cut(s, ":")
	n, err := strconv.ParseUint(offset, 10, 64)
	if err != nil || !ok || epoch == "" {
		return nil, &usageError{err: fmt.Errorf("position %q is not offset:epoch", s), hint: "`headrace pub` and `headrace history` print positions"}
	}
	return &wsclient.Position{Offset: n, Epoch: epoch}, nil
}

// printJSON prints one JSON value on one line.
func (a *app) printJSON(v json.RawMessage) error {
	var line bytes.Buffer
	if err := json.Compact(&line, v); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	line.WriteByte('\n')
	_, err := a.stdout.Write(line.Bytes())
	return err
}

// errEnough ends a subscription that has printed what it was asked for.
var errEnough = errors.New("enough")

func (a *app) subCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sub <channel>",
		Short: "Follow a channel, one publication as JSON a line",
		Long:  "Follow a channel over WebSocket until interrupted. A lost connection is made again, and what was missed is printed.",
		Args:  exactArgs(1),
	}
	follow := followFlags(cmd)
	flags := cmd.Flags()
	since := flags.String("since", "", "begin after the `position` offset:epoch")
	events := flags.Bool("events", false, "print joins and leaves too")
	count := flags.Int("count", 0, "end after so many publications; 0 is never")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := follow(args[0])
		if err != nil {
			return err
		}
		cfg.JoinLeave = *events
		if *since != "" {
			at, err := parsePosition(*since)
			if err != nil {
				return err
			}
			cfg.Since = at
		}
		err = wsclient.Follow(cmd.Context(), cfg, a.printer(*events, *count))
		if errors.Is(err, errEnough) {
			return nil
		}
		return err
	}
	return cmd
}

// followFlags adds the flags of commands that follow a channel.
func followFlags(cmd *cobra.Command) func(channel string) (wsclient.Config, error) {
	url := cmd.Flags().String("url", defaultURL, "`address` of a server")
	token := cmd.Flags().String("token", "", "connection `token`; @file reads it from a file")
	subToken := cmd.Flags().String("sub-token", "", "subscription `token`; @file reads it from a file")
	return func(channel string) (wsclient.Config, error) {
		cfg := wsclient.Config{URL: *url, Token: *token, SubToken: *subToken, Channel: channel}
		for _, t := range []*string{&cfg.Token, &cfg.SubToken} {
			if path, ok := strings.CutPrefix(*t, "@"); ok {
				data, err := os.ReadFile(path)
				if err != nil {
					return cfg, fmt.Errorf("read token: %w", err)
				}
				*t = strings.TrimSpace(string(data))
			}
		}
		return cfg, nil
	}
}

// printer prints publications to standard output and everything else to
// standard error.
func (a *app) printer(events bool, count int) wsclient.Handler {
	printed := 0
	h := wsclient.Handler{
		Subscribed: func(s wsclient.Subscribed) error {
			note := "subscribed"
			switch {
			case s.Recovered:
				note = "subscribed, nothing was missed"
			case s.WasRecovering:
				note = "subscribed, but what was missed is no longer in the history"
			}
			fmt.Fprintln(a.stderr, note)
			return nil
		},
		Publication: func(pub json.RawMessage) error {
			if err := a.printJSON(pub); err != nil {
				return err
			}
			if printed++; printed == count {
				return errEnough
			}
			return nil
		},
		Lost: func(err error, retry time.Duration) {
			fmt.Fprintf(a.stderr, "connection lost: %v; trying again in %v\n", err, retry.Round(10*time.Millisecond))
		},
	}
	if events {
		h.Event = func(kind string, info json.RawMessage) error {
			line, err := json.Marshal(map[string]any{kind: info})
			if err != nil {
				return fmt.Errorf("print: %w", err)
			}
			return a.printJSON(line)
		}
	}
	return h
}
