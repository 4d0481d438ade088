package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) inboxCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "inbox", Short: "Send to users, and look at their inboxes", Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(a.inboxSendCommand(), a.inboxListCommand(), a.inboxUnreadCommand(), a.inboxAckCommand(), a.inboxClearCommand())
	return cmd
}

// errNumberMissing refuses `inbox ack` without what it is about.
var errNumberMissing = &usageError{err: errors.New("--number is missing"), hint: "`headrace inbox list` prints the numbers of messages"}

func (a *app) inboxSendCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "send <user> <data>",
		Short: "Send a message to a user's inbox",
		Long:  "Send a message to a user's inbox through the HTTP API of a server, and print what became of it. Data is JSON; - reads it from standard input.",
		Example: "  headrace inbox send 42 '{\"text\":\"hello\"}'\n" +
			"  headrace inbox send 42 --text hello --direct   # to who is there, stored nowhere",
		Args: exactArgs(2),
	}
	client := a.apiFlags(cmd)
	text := cmd.Flags().Bool("text", false, "data is text, to be sent as a JSON string")
	id := cmd.Flags().String("id", "", "idempotency `key`: repeating it within two minutes sends once")
	kind := cmd.Flags().String("type", "", "`type` of the message, for the application")
	from := cmd.Flags().String("from", "", "`user` that the message is from; empty is the server")
	direct := cmd.Flags().Bool("direct", false, "do not store it: it goes to the user's connections, or fails")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		data, err := a.payload(args[1], *text)
		if err != nil {
			return err
		}
		request := map[string]any{"user": args[0], "data": data, "type": *kind, "from": *from, "idempotency_key": *id, "store": !*direct}
		var sent struct {
			Status  string
			Number  uint64
			Devices int
			Unknown bool
		}
		if err := a.call(cmd, client(), "inbox_send", request, &sent); err != nil {
			return err
		}
		line := sent.Status
		if sent.Number > 0 {
			line += fmt.Sprintf(" as number %d", sent.Number)
		}
		switch {
		case sent.Status == "duplicate":
		case sent.Unknown:
			line += fmt.Sprintf(", at least %d connections there (a node did not answer in time)", sent.Devices)
		default:
			line += fmt.Sprintf(", %d connections there", sent.Devices)
		}
		_, err = fmt.Fprintln(a.stdout, line)
		return err
	}
	return cmd
}

func (a *app) inboxListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list <user>",
		Short: "Print the messages of an inbox, one as JSON a line",
		Long:  "Print the messages of an inbox that are stored: all, those after a device's cursor, or those after a number. No cursor moves.",
		Args:  exactArgs(1),
	}
	client := a.apiFlags(cmd)
	device := cmd.Flags().String("device", "", "those after the cursor of this `device`")
	after := cmd.Flags().Uint64("after", 0, "those after this `number`")
	limit := cmd.Flags().Int("limit", 100, "messages to print")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := map[string]any{"user": args[0], "device": *device, "limit": *limit}
		if cmd.Flags().Changed("after") {
			request["after"] = *after
		}
		var page struct {
			Messages   []json.RawMessage
			Head       uint64
			More, Gone bool
		}
		if err := a.call(cmd, client(), "inbox_list", request, &page); err != nil {
			return err
		}
		for _, m := range page.Messages {
			if err := a.printJSON(m); err != nil {
				return err
			}
		}
		note := fmt.Sprintf("newest number %d", page.Head)
		if page.More {
			note += ", more follow"
		}
		if page.Gone {
			note += ", older ones are gone"
		}
		_, err := fmt.Fprintln(a.stderr, note)
		return err
	}
	return cmd
}

func (a *app) inboxUnreadCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "unread <user> <device>", Short: "Print how many messages a device has not read", Args: exactArgs(2)}
	client := a.apiFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var st struct {
			Unread       int
			Cursor, Head uint64
			Gone         bool
		}
		if err := a.call(cmd, client(), "inbox_unread", map[string]any{"user": args[0], "device": args[1]}, &st); err != nil {
			return err
		}
		note := ""
		if st.Gone {
			note = ", others are gone"
		}
		_, err := fmt.Fprintf(a.stdout, "%d unread: read up to %d, newest %d%s\n", st.Unread, st.Cursor, st.Head, note)
		return err
	}
	return cmd
}

func (a *app) inboxAckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ack <user> <device>",
		Short: "Move a device's cursor: it has read up to a number",
		Long:  "Move a device's cursor: it has read up to a number. A cursor never goes backwards.",
		Args:  exactArgs(2),
	}
	client := a.apiFlags(cmd)
	number := cmd.Flags().Uint64("number", 0, "`number` of the last message read")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed("number") {
			return errNumberMissing
		}
		var acked struct{ Cursor, Head uint64 }
		if err := a.call(cmd, client(), "inbox_ack", map[string]any{"user": args[0], "device": args[1], "number": *number}, &acked); err != nil {
			return err
		}
		_, err := fmt.Fprintf(a.stdout, "read up to %d, newest %d\n", acked.Cursor, acked.Head)
		return err
	}
	return cmd
}

func (a *app) inboxClearCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "clear <user>", Short: "Remove all messages of an inbox; numbers go on", Args: exactArgs(1)}
	client := a.apiFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := a.call(cmd, client(), "inbox_clear", map[string]any{"user": args[0]}, nil); err != nil {
			return err
		}
		_, err := fmt.Fprintln(a.stdout, "cleared")
		return err
	}
	return cmd
}
