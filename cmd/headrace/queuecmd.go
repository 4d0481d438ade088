package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/internal/apiclient"
)

func (a *app) queueCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "queue",
		Short: "Push jobs to durable queues, work on them, look after them",
		Args:  noSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.queuePushCommand(), a.queueWorkCommand(), a.queueStatsCommand(), a.queueListCommand(),
		a.queueSwitchCommand("pause", "Stop the handing out of jobs on all nodes, until resume", "paused"),
		a.queueSwitchCommand("resume", "Undo pause", "resumed"))
	return cmd
}

func (a *app) queuePushCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "push <queue> <data>",
		Short:   "Push a job",
		Long:    "Push a job through the HTTP API of a server. Data is JSON; - reads it from standard input.",
		Example: "  headrace queue push jobs '{\"mail\":7}' --priority high\n  headrace queue push jobs hello --text --delay 10m",
		Args:    exactArgs(2),
	}
	client := a.apiFlags(cmd)
	cmd.ValidArgsFunction = a.completeQueues(client)
	text := cmd.Flags().Bool("text", false, "data is text, to be sent as a JSON string")
	id := cmd.Flags().String("id", "", "idempotency `key`: repeating it within two minutes pushes once")
	priority := cmd.Flags().String("priority", "", "`class` of the job: high, medium or low (default medium)")
	delay := cmd.Flags().Duration("delay", 0, "`time` before workers may get it")
	at := cmd.Flags().String("at", "", "`time` when workers may get it, as 2030-01-31T08:00:00Z")
	attempts := cmd.Flags().Int("max-attempts", 0, "`number` of attempts, the first one included (default: the queue's)")
	headers := cmd.Flags().StringToString("header", nil, "`name=value` for the worker, any number of times")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		data, err := a.payload(args[1], *text)
		if err != nil {
			return err
		}
		request := map[string]any{
			"queue": args[0], "data": data, "idempotency_key": *id, "priority": *priority, "at": *at,
			"max_attempts": *attempts, "headers": *headers,
		}
		if *delay != 0 {
			request["delay"] = delay.String()
		}
		var pushed struct {
			ID        string
			Duplicate bool
		}
		if err := a.call(cmd, client(), "queue_push", request, &pushed); err != nil {
			return err
		}
		if pushed.Duplicate {
			_, err = fmt.Fprintln(a.stdout, "pushed before")
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "pushed %s\n", pushed.ID)
		return err
	}
	return cmd
}

// queueState is what queue_stats answers of a queue.
type queueState struct {
	Queue         string            `json:"queue"`
	Depth         map[string]uint64 `json:"depth"`
	InFlight      map[string]uint64 `json:"in_flight"`
	Scheduled     uint64            `json:"scheduled"`
	Dead          uint64            `json:"dead"`
	OldestSeconds float64           `json:"oldest_seconds"`
	Paused        bool              `json:"paused"`
}

func (a *app) queueStates(ctx context.Context, c *apiclient.Client, queue string) ([]json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var result struct{ Queues []json.RawMessage }
	err := c.Call(ctx, "queue_stats", map[string]string{"queue": queue}, &result)
	return result.Queues, err
}

func (a *app) queueStatsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats [queue]",
		Short: "Print what waits in a queue, or in all of them",
		Args:  rangeArgs(0, 1),
	}
	client := a.apiFlags(cmd)
	cmd.ValidArgsFunction = a.completeQueues(client)
	asJSON := cmd.Flags().Bool("json", false, "print one queue as JSON a line")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		states, err := a.queueStates(cmd.Context(), client(), strings.Join(args, ""))
		if err != nil {
			return err
		}
		if *asJSON {
			for _, s := range states {
				if err := a.printJSON(s); err != nil {
					return err
				}
			}
			return nil
		}
		w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "QUEUE\tHIGH\tMEDIUM\tLOW\tIN FLIGHT\tSCHEDULED\tDEAD\tOLDEST\tSTATE") //nolint:errcheck // Flush tells
		for _, text := range states {
			var s queueState
			if err := json.Unmarshal(text, &s); err != nil {
				return err
			}
			held, state := uint64(0), "open"
			for _, n := range s.InFlight {
				held += n
			}
			if s.Paused {
				state = "paused"
			}
			oldest := time.Duration(s.OldestSeconds * float64(time.Second)).Round(time.Second)
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%v\t%s\n", //nolint:errcheck // Flush tells
				s.Queue, s.Depth["high"], s.Depth["medium"], s.Depth["low"], held, s.Scheduled, s.Dead, oldest, state)
		}
		return w.Flush()
	}
	return cmd
}

func (a *app) queueListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "Print the names of the queues",
		Args:  exactArgs(0),
	}
	client := a.apiFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		names, err := a.queueNames(cmd.Context(), client(), callTimeout)
		if err != nil {
			return err
		}
		for _, name := range names {
			if _, err := fmt.Fprintln(a.stdout, name); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

func (a *app) queueSwitchCommand(verb, short, done string) *cobra.Command {
	cmd := &cobra.Command{Use: verb + " <queue>", Short: short, Args: exactArgs(1)}
	client := a.apiFlags(cmd)
	cmd.ValidArgsFunction = a.completeQueues(client)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := a.call(cmd, client(), "queue_"+verb, map[string]string{"queue": args[0]}, nil); err != nil {
			return err
		}
		_, err := fmt.Fprintf(a.stdout, "%s %s\n", args[0], done)
		return err
	}
	return cmd
}

func (a *app) queueNames(ctx context.Context, c *apiclient.Client, bound time.Duration) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	var result struct{ Queues []string }
	err := c.Call(ctx, "queue_list", struct{}{}, &result)
	return result.Queues, err
}

// completeQueues completes the first argument with the names of the queues. A
// server that does not answer completes nothing.
func (a *app) completeQueues(client func() *apiclient.Client) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, _ := a.queueNames(cmd.Context(), client(), completionTime)
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// printable returns s for a line of a table: at most limit characters, without
// those that a terminal would act on.
func printable(s string, limit int) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n == limit {
			b.WriteRune('…')
			break
		}
		if !unicode.IsPrint(r) {
			r = ' '
		}
		b.WriteRune(r)
		n++
	}
	return b.String()
}

// isCode reports whether err is an answer of the server with this code.
func isCode(err error, code int) bool {
	var answered *apiclient.Error
	return errors.As(err, &answered) && answered.Code == code
}
