package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/internal/apiclient"
)

// deadPage is how many dead letters a call lists, redrives or purges.
const deadPage = 500

func (a *app) dlqCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Look at dead letters, bring them back, delete them",
		Args:  noSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.dlqListCommand(), a.dlqShowCommand(),
		a.dlqEachCommand("redrive", "Bring dead letters back as jobs with all attempts anew", "redriven"),
		a.dlqEachCommand("purge", "Delete dead letters for good", "purged"))
	return cmd
}

// deadLetter is what is shown of a dead letter in a table.
type deadLetter struct {
	Seq      uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	Priority string    `json:"priority"`
	Reason   string    `json:"reason"`
	Error    string    `json:"error"`
	Attempts int       `json:"attempts"`

	Data    json.RawMessage `json:"data"`
	B64Data []byte          `json:"b64data"`
}

func (a *app) dlqListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list <queue>",
		Short: "Print dead letters, oldest first",
		Args:  exactArgs(1),
	}
	client := a.apiFlags(cmd)
	cmd.ValidArgsFunction = a.completeQueues(client)
	from := cmd.Flags().Uint64("from", 0, "begin with this `number`")
	limit := cmd.Flags().Int("limit", 100, "letters to print; -1 is all")
	asJSON := cmd.Flags().Bool("json", false, "print one letter, payload included, as JSON a line")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
		print := func(text json.RawMessage) error {
			var d deadLetter
			if err := json.Unmarshal(text, &d); err != nil {
				return err
			}
			_, err := fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%s\t%s\n", d.Seq, d.Time.Local().Format(time.DateTime), d.Reason, d.Priority, d.Attempts,
				printable(d.Error, 40), printable(string(d.Data)+string(d.B64Data), 40))
			return err
		}
		if *asJSON {
			print = a.printJSON
		} else {
			fmt.Fprintln(w, "SEQ\tDIED\tREASON\tPRIORITY\tATTEMPTS\tERROR\tDATA") //nolint:errcheck // Flush tells
		}
		for next, left := *from, *limit; left != 0; {
			ask := deadPage
			if left > 0 {
				ask = min(ask, left)
			}
			var page struct {
				Dead []json.RawMessage
				Next uint64
			}
			if err := a.call(cmd, client(), "dlq_list", map[string]any{"queue": args[0], "from": next, "limit": ask}, &page); err != nil {
				return err
			}
			for _, text := range page.Dead {
				if err := print(text); err != nil {
					return err
				}
			}
			if next = page.Next; len(page.Dead) == 0 {
				break
			}
			left = max(left-len(page.Dead), min(left, 0))
			if err := w.Flush(); err != nil { // what is printed need not wait for the rest
				return err
			}
		}
		return w.Flush()
	}
	return cmd
}

func (a *app) dlqShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show <queue> <number>",
		Short: "Print a dead letter with its payload",
		Args:  exactArgs(2),
	}
	client := a.apiFlags(cmd)
	cmd.ValidArgsFunction = a.completeQueues(client)
	raw := cmd.Flags().Bool("payload", false, "print the payload only, as it came")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		seqs, err := parseSeqs(args[1:])
		if err != nil {
			return err
		}
		var letter json.RawMessage
		if err := a.call(cmd, client(), "dlq_show", map[string]any{"queue": args[0], "seq": seqs[0]}, &letter); err != nil {
			return err
		}
		if *raw {
			var d deadLetter
			if err := json.Unmarshal(letter, &d); err != nil {
				return err
			}
			_, err := a.stdout.Write(append(d.Data, d.B64Data...))
			return err
		}
		var b bytes.Buffer
		if err := json.Indent(&b, letter, "", "  "); err != nil {
			return err
		}
		b.WriteByte('\n')
		_, err = b.WriteTo(a.stdout)
		return err
	}
	return cmd
}

// minArgs is cobra.MinimumNArgs with a hint.
func minArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return &usageError{err: fmt.Errorf("%d arguments given, want %d or more", len(args), n), hint: "usage: " + cmd.UseLine()}
		}
		return nil
	}
}

func parseSeqs(args []string) ([]uint64, error) {
	seqs := make([]uint64, len(args))
	for i, arg := range args {
		n, err := strconv.ParseUint(arg, 10, 64)
		if err != nil || n == 0 {
			return nil, &usageError{err: fmt.Errorf("%q is not the number of a dead letter", arg), hint: "`headrace dlq list <queue>` tells them"}
		}
		seqs[i] = n
	}
	return seqs, nil
}

// dlqEachCommand makes redrive and purge.
func (a *app) dlqEachCommand(verb, short, done string) *cobra.Command {
	cmd := &cobra.Command{
		Use:     verb + " <queue> [number]...",
		Short:   short,
		Example: fmt.Sprintf("  headrace dlq %s jobs 17 18\n  headrace dlq %s jobs --all", verb, verb),
		Args:    minArgs(1),
	}
	client := a.apiFlags(cmd)
	cmd.ValidArgsFunction = a.completeQueues(client)
	all := cmd.Flags().Bool("all", false, "all dead letters that are there now")
	yes := new(bool)
	if verb == "purge" {
		yes = cmd.Flags().BoolP("yes", "y", false, "do not ask before --all")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		queue := args[0]
		seqs, err := parseSeqs(args[1:])
		if err != nil {
			return err
		}
		if *all == (len(seqs) > 0) {
			return &usageError{err: errors.New("either numbers or --all is needed"), hint: "usage: " + cmd.UseLine()}
		}
		n := 0
		if *all {
			n, err = a.eachDead(cmd, client(), queue, verb, done, *yes)
		} else {
			n, err = a.theseDead(cmd, client(), queue, verb, done, seqs)
		}
		if err == nil || n > 0 {
			fmt.Fprintf(a.stdout, "%d %s\n", n, done) //nolint:errcheck // err says more
		}
		return err
	}
	return cmd
}

func (a *app) theseDead(cmd *cobra.Command, c *apiclient.Client, queue, verb, done string, seqs []uint64) (n int, err error) {
	for len(seqs) > 0 {
		step := min(len(seqs), deadPage)
		result := map[string]int{}
		if err := a.call(cmd, c, "dlq_"+verb, map[string]any{"queue": queue, "seqs": seqs[:step]}, &result); err != nil {
			return n, err
		}
		n += result[done]
		seqs = seqs[step:]
	}
	return n, nil
}

// eachDead handles the dead letters that are there now, some a call: those that
// die meanwhile, after a redrive for example, are left.
func (a *app) eachDead(cmd *cobra.Command, c *apiclient.Client, queue, verb, done string, yes bool) (n int, err error) {
	states, err := a.queueStates(cmd.Context(), c, queue)
	if err != nil {
		return 0, err
	}
	var state queueState
	if err := json.Unmarshal(states[0], &state); err != nil {
		return 0, err
	}
	total := int(state.Dead)
	if verb == "purge" && total > 0 && !yes {
		if err := a.confirm(fmt.Sprintf("Delete %d dead letters of %s for good?", total, queue)); err != nil {
			return 0, err
		}
	}
	for next := uint64(0); n < total; {
		result := struct {
			Redriven, Purged int
			Next             uint64
		}{}
		err := a.call(cmd, c, "dlq_"+verb, map[string]any{"queue": queue, "all": true, "from": next, "limit": min(total-n, deadPage)}, &result)
		if err != nil {
			return n, err
		}
		n += result.Redriven + result.Purged
		if next = result.Next; next == 0 {
			break
		}
		if total > deadPage {
			fmt.Fprintf(a.stderr, "%d of %d %s\n", n, total, done) //nolint:errcheck // progress only
		}
	}
	return n, nil
}

// confirm asks the one who typed.
func (a *app) confirm(question string) error {
	fmt.Fprintf(a.stderr, "%s [y/N] ", question) //nolint:errcheck // the answer is what counts
	answer, err := bufio.NewReader(io.LimitReader(a.stdin, 100)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read standard input: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return &hintError{err: errors.New("nothing was deleted"), hint: "answer y, or give --yes"}
}
