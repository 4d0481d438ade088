package main

import (
	"fmt"
	"os"

	"github.com/nats-io/nats-server/v2/server"
)

// natsCommand as the first argument makes this binary a NATS server, so that the
// servers tried are those of go.mod and nothing else has to be installed.
const natsCommand = "nats-server"

func runNATS(args []string) {
	opts, err := server.ProcessConfigFile(args[0])
	if err == nil {
		var s *server.Server
		if s, err = server.NewServer(opts); err == nil {
			s.ConfigureLogger()
			if err = server.Run(s); err == nil {
				s.WaitForShutdown()
				return
			}
		}
	}
	fmt.Fprintln(os.Stderr, "nats-server:", err)
	os.Exit(1)
}
