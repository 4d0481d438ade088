package main

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/internal/config"
	"github.com/headrace/headrace/internal/webui"
)

// handler is everything a node serves on its one address.
func (n *node) handler(cfg config.Config) http.Handler {
	mux := http.NewServeMux()
	clients := n.edge.Handler()
	mux.Handle("/connection/", clients)
	mux.Handle("/api/", clients)
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /health", health(n.router.Ready))
	if cfg.Demo {
		mux.Handle("/", webui.Handler(demoTokens(cfg.Client.Token)))
	}
	return mux
}

// health answers 200 while ready returns nil, else 503 with the reason.
func health(ready func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		answer := map[string]string{"status": "ok"}
		if err := ready(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			answer = map[string]string{"status": "unavailable", "reason": err.Error()}
		}
		_ = json.NewEncoder(w).Encode(answer) // the peer may be gone
	}
}

// demoTTL is the life of the demo's tokens; the page asks for new ones.
const demoTTL = time.Hour

// demoTokens mints connection tokens for the demo page.
func demoTokens(cfg config.Token) webui.Mint {
	return func(user string, info []byte) (string, error) {
		return token.MintConnection(cfg.HMACSecretKey, token.Connection{
			User: user, Info: info, ExpireAt: time.Now().Add(demoTTL).Unix(),
		})
	}
}
