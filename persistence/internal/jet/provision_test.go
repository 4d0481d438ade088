package jet

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

func TestStartupTemporary(t *testing.T) {
	refusal := func(status int, code jetstream.ErrorCode) error {
		return fmt.Errorf("create stream: %w", &jetstream.APIError{Code: status, ErrorCode: code})
	}
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"no leader yet":                         {refusal(503, 10008), true},
		"servers that are not all heard of yet": {refusal(400, 10005), true},
		"another edge creates it":               {jetstream.ErrStreamNotFound, true},
		"no answer":                             {context.DeadlineExceeded, true},
		"replicas without a cluster":            {refusal(500, 10074), true},
		"bad configuration":                     {refusal(400, 10052), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := StartupTemporary(tt.err); got != tt.want {
				t.Errorf("%v: %v", tt.err, got)
			}
		})
	}
}
