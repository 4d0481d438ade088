package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/internal/apiclient"
)

func (a *app) rpcCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rpc <method> [data]",
		Short:   "Call a back end as the server API does, and print its answer",
		Long:    "Call a back end through the HTTP API of a server: whoever answers <prefix>.rpc.<method> in NATS. Data is JSON; - reads it from standard input.",
		Example: "  headrace rpc shop.price '{\"id\":7}'\n  nats reply 'hr.rpc.shop.price' '{\"price\":3}'   # a back end to try it with",
		Args:    rangeArgs(1, 2),
	}
	client := a.apiFlags(cmd)
	text := cmd.Flags().Bool("text", false, "data is text, to be sent as a JSON string")
	id := cmd.Flags().String("id", "", "idempotency `key`: repeating it on the same node within two minutes calls once")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := map[string]any{"method": args[0]}
		if len(args) == 2 {
			data, err := a.payload(args[1], *text)
			if err != nil {
				return err
			}
			request["data"] = data
		}
		if *id != "" {
			request["idempotency_key"] = *id
		}
		var result struct {
			Data json.RawMessage `json:"data"`
			B64  []byte          `json:"b64data"`
		}
		switch err := a.call(cmd, client(), "rpc", request, &result); {
		case err != nil:
			return err
		case result.B64 != nil: // not JSON: as it came
			_, err := a.stdout.Write(result.B64)
			return err
		case len(result.Data) == 0: // an empty answer
			return nil
		}
		return a.printJSON(result.Data)
	}
	return cmd
}

// call is one call of the HTTP API with its time limit.
func (a *app) call(cmd *cobra.Command, c *apiclient.Client, method string, request, result any) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
	defer cancel()
	return c.Call(ctx, method, request, result)
}

func (a *app) presenceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "presence <channel>",
		Short: "Print who is in a channel, one client as JSON a line",
		Args:  exactArgs(1),
	}
	client := a.apiFlags(cmd)
	count := cmd.Flags().Bool("count", false, "print the numbers of clients and users only")
	cmd.ValidArgsFunction = a.completeChannels(client)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := map[string]any{"channel": args[0]}
		if *count {
			var stats struct {
				Clients int `json:"num_clients"`
				Users   int `json:"num_users"`
			}
			if err := a.call(cmd, client(), "presence_stats", request, &stats); err != nil {
				return err
			}
			_, err := fmt.Fprintf(a.stdout, "%d clients, %d users\n", stats.Clients, stats.Users)
			return err
		}
		var result struct {
			Presence map[string]json.RawMessage `json:"presence"`
		}
		if err := a.call(cmd, client(), "presence", request, &result); err != nil {
			return err
		}
		for _, id := range slices.Sorted(maps.Keys(result.Presence)) {
			if err := a.printJSON(result.Presence[id]); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

func (a *app) channelsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "channels [pattern]",
		Short:   "Print the channels that have subscribers, with how many",
		Example: "  headrace channels 'chat:*'",
		Args:    rangeArgs(0, 1),
	}
	client := a.apiFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		channels, err := a.channels(cmd.Context(), client(), strings.Join(args, ""))
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(channels)) {
			if _, err := fmt.Fprintf(a.stdout, "%d\t%s\n", channels[name], name); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

// channels returns the channels that match pattern with their numbers of
// subscribers.
func (a *app) channels(ctx context.Context, c *apiclient.Client, pattern string) (map[string]int, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var result struct {
		Channels map[string]struct {
			Clients int `json:"num_clients"`
		} `json:"channels"`
	}
	if err := c.Call(ctx, "channels", map[string]string{"pattern": pattern}, &result); err != nil {
		return nil, err
	}
	counts := make(map[string]int, len(result.Channels))
	for name, info := range result.Channels {
		counts[name] = info.Clients
	}
	return counts, nil
}

func (a *app) infoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Print the nodes of the cluster, one as JSON a line",
		Args:  exactArgs(0),
	}
	client := a.apiFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var result struct {
			Nodes []json.RawMessage `json:"nodes"`
		}
		if err := a.call(cmd, client(), "info", struct{}{}, &result); err != nil {
			return err
		}
		for _, node := range result.Nodes {
			if err := a.printJSON(node); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

func (a *app) disconnectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "disconnect <user>",
		Short:   "End the connections of a user on all nodes",
		Long:    "End the connections of a user on all nodes. Clients come back unless the code is within 3500 to 3999 or 4500 to 4999; the default, 3503, is.",
		Example: "  headrace disconnect 42\n  headrace disconnect 42 --client 5a0e… --code 4001 --reason 'signed in elsewhere'",
		Args:    exactArgs(1),
	}
	client := a.apiFlags(cmd)
	only := cmd.Flags().String("client", "", "end this `client` of the user only")
	spare := cmd.Flags().StringSlice("except", nil, "`clients` of the user to leave alone")
	code := cmd.Flags().Uint32("code", 3503, "`number` of the close frame, 3000 to 4999")
	reason := cmd.Flags().String("reason", "force disconnect", "`text` of the close frame")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var result struct{ Sessions int }
		err := a.call(cmd, client(), "disconnect", map[string]any{
			"user": args[0], "client": *only, "whitelist": *spare,
			"disconnect": map[string]any{"code": *code, "reason": *reason},
		}, &result)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "%d connections ended\n", result.Sessions)
		return err
	}
	return cmd
}

// rangeArgs is cobra.RangeArgs with a hint.
func rangeArgs(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < low || len(args) > high {
			return &usageError{err: fmt.Errorf("%d arguments given, want %d to %d", len(args), low, high), hint: "usage: " + cmd.UseLine()}
		}
		return nil
	}
}

// completionTime bounds what a shell waits for channels to complete.
const completionTime = 2 * time.Second

// completeChannels completes the first argument with the channels that have
// subscribers. A server that does not answer completes nothing.
func (a *app) completeChannels(client func() *apiclient.Client) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		channels, _ := a.channels(ctx, client(), typed+"*")
		return slices.Sorted(maps.Keys(channels)), cobra.ShellCompDirectiveNoFileComp
	}
}
