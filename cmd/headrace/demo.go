package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/internal/config"
	"github.com/headrace/headrace/internal/webui"
)

// demoTTL is the life of the demo's tokens; the page asks for new ones.
const demoTTL = time.Hour

// demoTokens mints connection tokens for the demo pages.
func demoTokens(cfg config.Config) webui.Mint {
	return func(user string, info []byte) (string, error) {
		s, err := token.NewHMACSigner(cfg.Client.Token.HMACSecretKey)
		if err != nil {
			return "", err
		}
		s.Audience, s.Issuer = cfg.Client.Token.Audience, cfg.Client.Token.Issuer
		caps, err := demoCaps(cfg)
		if err != nil {
			return "", err
		}
		return s.Connection(token.Connection{User: user, Info: info, ExpireAt: time.Now().Add(demoTTL).Unix()}, caps)
	}
}

// demoCaps lets the queue page see and redrive the dead letters of the queues that
// every client may work on.
func demoCaps(cfg config.Config) ([]byte, error) {
	var channels []string
	for _, q := range cfg.Queues {
		if q.AllowWork {
			channels = append(channels, "queue:"+q.Name)
		}
	}
	if len(channels) == 0 {
		return nil, nil
	}
	return json.Marshal([]map[string]any{{"channels": channels, "allow": []string{"dlq"}}})
}

// demoQueues tells the queue page the state of all queues.
func (n *node) demoQueues(ctx context.Context) ([]webui.QueueState, error) {
	out := []webui.QueueState{}
	for _, name := range n.queues.Names() {
		s, err := n.queues.Stats(ctx, name)
		if err != nil {
			return nil, err
		}
		state := webui.QueueState{
			Queue: name, High: s.Depth["high"], Medium: s.Depth["medium"], Low: s.Depth["low"],
			Scheduled: s.Scheduled, Dead: s.Dead, OldestSeconds: s.Oldest.Seconds(), Paused: s.Paused,
		}
		for _, held := range s.InFlight {
			state.InFlight += held
		}
		out = append(out, state)
	}
	return out, nil
}
