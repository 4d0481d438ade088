package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/internal/wsclient"
)

func (a *app) stateWatchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch <channel>",
		Short: "Print the keys of a channel and then every change, one as JSON a line",
		Long: "Follow a map over WebSocket until interrupted: all its keys, then every change. A lost connection is made again, and what was missed is printed; " +
			"all keys again where that is no longer known.",
		Args: exactArgs(1),
	}
	follow := followFlags(cmd)
	count := cmd.Flags().Int("count", 0, "end after so many lines; 0 is never")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := follow(args[0])
		if err != nil {
			return err
		}
		cfg.Map = true
		err = wsclient.Follow(cmd.Context(), cfg, a.printer(false, *count))
		if errors.Is(err, errEnough) {
			return nil
		}
		return err
	}
	return cmd
}
