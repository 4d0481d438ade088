package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) stateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "state",
		Short: "Read and change the keys of map channels",
		Args:  noSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.stateGetCommand(), a.stateSetCommand(), a.stateDeleteCommand(), a.stateHistoryCommand(), a.stateListCommand(), a.stateSyncCommand(),
		a.stateWatchCommand())
	return cmd
}

// stateEntry is what the server tells of a version that people want to see.
type stateEntry struct {
	Key     string          `json:"key"`
	Version uint64          `json:"version"`
	Life    string          `json:"life"`
	Data    json.RawMessage `json:"data"`
	B64Data []byte          `json:"b64data"`
	Removed bool            `json:"removed"`
}

func (e *stateEntry) name() string { return fmt.Sprintf("%d:%s", e.Version, e.Life) }

// errNoValue is the answer to a get of a key without one.
var errNoValue = errors.New("the key has no value")

func (a *app) stateGetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "get <channel> <key>",
		Short:   "Print the value of a key",
		Example: "  headrace state get doc:7 title\n  headrace state get doc:7 title --version 3 --json",
		Args:    exactArgs(2),
	}
	client := a.apiFlags(cmd)
	version := cmd.Flags().Uint64("version", 0, "`number` of the version (default: the latest)")
	fresh := cmd.Flags().Bool("fresh", false, "ask the store, not what the node remembers")
	asJSON := cmd.Flags().Bool("json", false, "print the entry with its version, as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var result struct{ Entry json.RawMessage }
		request := map[string]any{"channel": args[0], "key": args[1], "version": *version, "fresh": *fresh}
		if err := a.call(cmd, client(), "state_get", request, &result); err != nil {
			return err
		}
		if len(result.Entry) == 0 {
			return errNoValue
		}
		if *asJSON {
			return a.printJSON(result.Entry)
		}
		var e stateEntry
		if err := json.Unmarshal(result.Entry, &e); err != nil {
			return err
		}
		return a.printValue(&e)
	}
	return cmd
}

func (a *app) printValue(e *stateEntry) error {
	switch {
	case e.Removed:
		return errNoValue
	case e.B64Data != nil: // not JSON: as it is
		_, err := a.stdout.Write(e.B64Data)
		return err
	case len(e.Data) == 0:
		return nil
	}
	return a.printJSON(e.Data)
}

// changeFlags adds the flags of commands that change a key. The result adds what
// they say to a request.
func (a *app) changeFlags(cmd *cobra.Command) func(request map[string]any) error {
	expect := cmd.Flags().String("expect", "", "`version` that must be current, as 3 or 3:life; 0: there must be no value")
	strategy := cmd.Flags().String("strategy", "", "`name`: reject, lastWriteWins, merge or custom (default: the namespace's)")
	id := cmd.Flags().String("id", "", "idempotency `key`: repeating it changes once")
	at := cmd.Flags().String("time", "", "`time` of the change for lastWriteWins, as 2030-01-31T08:00:00Z or now")
	tags := cmd.Flags().StringToString("tag", nil, "`name=value`, any number of times")
	return func(request map[string]any) error {
		request["strategy"], request["idempotency_key"], request["tags"] = *strategy, *id, *tags
		if *expect != "" {
			number, life, _ := strings.Cut(*expect, ":")
			version, err := strconv.ParseUint(number, 10, 64)
			if err != nil {
				return &usageError{err: fmt.Errorf("--expect %q is not a version such as 3 or 3:life", *expect)}
			}
			request["expect"] = map[string]any{"version": version, "life": life}
		}
		if *at == "" {
			return nil
		}
		when, err := time.Now(), error(nil)
		if *at != "now" {
			when, err = time.Parse(time.RFC3339Nano, *at)
		}
		if err != nil {
			return &usageError{err: fmt.Errorf("--time %q is not a time such as 2030-01-31T08:00:00Z", *at)}
		}
		request["time"] = when.UnixMilli()
		return nil
	}
}

func (a *app) stateSetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set <channel> <key> <data>",
		Short: "Set the value of a key",
		Long:  "Set the value of a key through the HTTP API of a server. Data is JSON; - reads it from standard input.",
		Example: "  headrace state set doc:7 title '\"Hello\"'\n  headrace state set doc:7 title Hello --text --expect 0\n" +
			"  headrace state set doc:7 meta '{\"tags\":null}' --strategy merge",
		Args: exactArgs(3),
	}
	client := a.apiFlags(cmd)
	flags := a.changeFlags(cmd)
	text := cmd.Flags().Bool("text", false, "data is text, to be sent as a JSON string")
	b64 := cmd.Flags().Bool("b64", false, "data is base64 of any bytes, for namespaces that carry them")
	ttl := cmd.Flags().String("ttl", "", "`time` that the value lives, or never (default: the namespace's key_ttl)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := map[string]any{"channel": args[0], "key": args[1], "ttl": *ttl}
		if *b64 && *text {
			return &usageError{err: errors.New("--text and --b64 exclude each other")}
		}
		data, err := a.payload(args[2], *text || *b64)
		switch {
		case err != nil:
			return err
		case *b64:
			request["b64data"] = json.RawMessage(strings.ReplaceAll(string(data), `\n`, "")) // files end with a newline
		default:
			request["data"] = data
		}
		if err := flags(request); err != nil {
			return err
		}
		var result stateChanged
		if err := a.call(cmd, client(), "state_set", request, &result); err != nil {
			return err
		}
		return a.printChanged(&result, "set")
	}
	return cmd
}

func (a *app) stateDeleteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete <channel> <key>",
		Short: "Remove a key",
		Args:  exactArgs(2),
	}
	client := a.apiFlags(cmd)
	flags := a.changeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := map[string]any{"channel": args[0], "key": args[1]}
		if err := flags(request); err != nil {
			return err
		}
		var result stateChanged
		if err := a.call(cmd, client(), "state_delete", request, &result); err != nil {
			return err
		}
		return a.printChanged(&result, "removed")
	}
	return cmd
}

type stateChanged struct {
	Applied   bool        `json:"applied"`
	Duplicate bool        `json:"duplicate"`
	Reason    string      `json:"reason"`
	Message   string      `json:"message"`
	Entry     *stateEntry `json:"entry"`
}

// notAppliedError is a change that its strategy refused.
type notAppliedError struct{ result *stateChanged }

func (e *notAppliedError) Error() string {
	text := "not applied: " + e.result.Reason
	if e.result.Message != "" {
		text += ": " + e.result.Message
	}
	switch cur := e.result.Entry; {
	case cur == nil:
		return text + "; there is no value"
	case cur.Removed:
		return text + "; there is no value, the last version was " + cur.name()
	default:
		return text + "; current is " + cur.name()
	}
}

func (a *app) printChanged(r *stateChanged, what string) error {
	if !r.Applied {
		return &notAppliedError{r}
	}
	if r.Duplicate {
		what += " before"
	}
	if r.Entry == nil { // of a repetition, when the original is no longer stored
		_, err := fmt.Fprintln(a.stdout, what)
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "%s, version %s\n", what, r.Entry.name())
	return err
}

func (a *app) stateHistoryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history <channel> <key>",
		Short: "Print the stored versions of a key, newest first, one as JSON a line",
		Args:  exactArgs(2),
	}
	client := a.apiFlags(cmd)
	limit := cmd.Flags().Int("limit", 0, "at most this `number` of versions (default: all)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var result struct{ Entries []json.RawMessage }
		if err := a.call(cmd, client(), "state_history", map[string]any{"channel": args[0], "key": args[1], "limit": *limit}, &result); err != nil {
			return err
		}
		for _, e := range result.Entries {
			if err := a.printJSON(e); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

func (a *app) stateListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls <channel>",
		Short: "Print the keys of a channel with their versions and values",
		Args:  exactArgs(1),
	}
	client := a.apiFlags(cmd)
	all := cmd.Flags().Bool("all", false, "all pages, not only one")
	limit := cmd.Flags().Int("limit", 100, "`number` of keys a page, at most 1000")
	cursor := cmd.Flags().String("cursor", "", "`cursor` where the page before ended")
	asJSON := cmd.Flags().Bool("json", false, "print one key as JSON a line")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := map[string]any{"channel": args[0], "limit": *limit, "cursor": *cursor}
		for {
			var page struct {
				Entries []json.RawMessage
				Epoch   string
				Cursor  string
			}
			if err := a.call(cmd, client(), "map_read_state", request, &page); err != nil {
				return err
			}
			for _, e := range page.Entries {
				if err := a.printEntry(e, *asJSON); err != nil {
					return err
				}
			}
			switch {
			case page.Cursor == "":
				return nil
			case !*all:
				_, err := fmt.Fprintf(a.stderr, "there is more: --all, or --cursor %s\n", page.Cursor)
				return err
			}
			request["cursor"], request["revision_epoch"] = page.Cursor, page.Epoch
		}
	}
	return cmd
}

func (a *app) printEntry(text json.RawMessage, asJSON bool) error {
	if asJSON {
		return a.printJSON(text)
	}
	var e stateEntry
	if err := json.Unmarshal(text, &e); err != nil {
		return err
	}
	value := string(e.Data)
	if e.B64Data != nil {
		value = fmt.Sprintf("%d bytes", len(e.B64Data))
	}
	key := e.Key
	if strconv.Quote(key) != `"`+key+`"` {
		key = strconv.Quote(key)
	}
	_, err := fmt.Fprintf(a.stdout, "%s\t%s\t%s\n", key, e.name(), value)
	return err
}

// syncBatch is how many changes the server takes at once.
const syncBatch = 100

func (a *app) stateSyncCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sync <channel>",
		Short: "Make changes read from standard input, and print what became of each",
		Long: "Make the changes that standard input has, one as JSON after the other: {\"key\": …, \"data\": …} or {\"key\": …, \"remove\": true}, " +
			"with expect, strategy, time, ttl, tags and idempotency_key. They are made in batches of 100. The results come in the same order, one as JSON a line. " +
			"The exit code is 1 when one of them was not applied.",
		Example: "  echo '{\"key\":\"a\",\"data\":1}{\"key\":\"b\",\"remove\":true}' | headrace state sync doc:7",
		Args:    exactArgs(1),
	}
	client := a.apiFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		in := json.NewDecoder(a.stdin)
		c, refused, total := client(), 0, 0
		for more := true; more; {
			var changes []json.RawMessage
			for len(changes) < syncBatch {
				var change json.RawMessage
				err := in.Decode(&change)
				if errors.Is(err, io.EOF) {
					more = false
					break
				}
				if err != nil {
					return &usageError{err: fmt.Errorf("change %d: %w", total+len(changes)+1, err)}
				}
				changes = append(changes, change)
			}
			if len(changes) == 0 {
				break
			}
			var result struct{ Results []json.RawMessage }
			if err := a.call(cmd, c, "state_sync", map[string]any{"channel": args[0], "changes": changes}, &result); err != nil {
				return err
			}
			total += len(result.Results)
			n, err := a.printSynced(result.Results)
			if refused += n; err != nil {
				return err
			}
		}
		if refused > 0 {
			return fmt.Errorf("%d of %d changes were not applied", refused, total)
		}
		return nil
	}
	return cmd
}

// printSynced prints results and counts those that were not applied.
func (a *app) printSynced(results []json.RawMessage) (refused int, err error) {
	for _, text := range results {
		var r struct{ Applied bool }
		if err := json.Unmarshal(text, &r); err != nil {
			return refused, err
		}
		if !r.Applied {
			refused++
		}
		if err := a.printJSON(text); err != nil {
			return refused, err
		}
	}
	return refused, nil
}
