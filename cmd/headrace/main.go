// Command headrace runs a node of the cluster and talks to running ones.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/internal/apiclient"
	"github.com/headrace/headrace/internal/wsclient"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	// A second signal kills at once: after the first, the default is back.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // the command line or the configuration is wrong
)

// app is what commands share.
type app struct {
	environ []string
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
}

// run is the whole program without the process around it. It returns the exit
// code.
func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{environ: environ, stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "headrace: %v\n", err)
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", hint)
	}
	var usage *usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "headrace",
		Short:         "A realtime cluster on NATS",
		Long:          "Headrace leads NATS streams to browsers, phones and services.\n\nStart a node with embedded NATS and a demo chat:\n  headrace serve",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{err: err, hint: fmt.Sprintf("see `%s --help`", cmd.CommandPath())}
	})
	root.AddCommand(a.serveCommand(), a.configCommand(), a.permissionsCommand(), a.provisionCommand(), a.pubCommand(), a.subCommand(), a.historyCommand(),
		a.tokenCommand(), a.rpcCommand(), a.queueCommand(), a.dlqCommand(), a.stateCommand(), a.inboxCommand(), a.presenceCommand(), a.channelsCommand(), a.infoCommand(), a.disconnectCommand(), a.versionCommand())
	return root
}

// noSuchCommand explains an unknown command, with those it may have meant.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := fmt.Sprintf("see `%s --help`", cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = max(cmd.SuggestionsMinimumDistance, 2) // cobra sets it for the root only
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return &usageError{err: fmt.Errorf("unknown command %q", args[0]), hint: hint}
}

// exactArgs is cobra.ExactArgs with a hint.
func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return &usageError{err: fmt.Errorf("%d arguments given, want %d", len(args), n), hint: "usage: " + cmd.UseLine()}
		}
		return nil
	}
}

// usageError is a mistake of the one who typed.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// hintError is any other error with what to do about it.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// hintFor returns what to do about err, or "".
func hintFor(err error) string {
	var usage *usageError
	var hinted *hintError
	var api *apiclient.Error
	var ws *wsclient.ServerError
	switch {
	case errors.As(err, &usage):
		return usage.hint
	case errors.As(err, &hinted):
		return hinted.hint
	case errors.As(err, &api) && (api.Status == 401 || api.Status == 403):
		return "give the key of the server's http_api.key with --api-key or in " + envAPIKey
	case errors.As(err, &api) && api.Message == "no queue of that name":
		return "`headrace queue ls` names the server's queues; the configuration declares them"
	case errors.As(err, &api) && api.Code == 104:
		return "no back end answers; one that subscribes to <nats.prefix>.rpc.<method> in NATS would, see docs/api.md"
	case errors.As(err, &api) && api.Status == 404:
		return "with internal.address set the API is there only: name that address with --url, or set http_api.external"
	case errors.As(err, &api) && api.Code == 102, errors.As(err, &ws) && ws.Code == 102:
		return "the part before the first colon must be one of the server's namespaces"
	case errors.As(err, &ws) && ws.Code == 103:
		return "neither a rule of the namespace nor a token allows it to this client, see docs/security.md"
	case errors.As(err, &ws) && slices.Contains([]int{109, 3500}, ws.Code):
		return "`headrace token verify`, with the server's configuration, tells what is wrong with a token"
	case errors.As(err, &ws) && slices.Contains([]int{101, 3501}, ws.Code):
		return "give a connection token with --token, or run the server with --insecure while developing"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "is the server running there? start one with `headrace serve`, or name it with --url"
	case errors.Is(err, syscall.EADDRINUSE):
		return "another process listens there; choose another address with --addr"
	}
	return ""
}
