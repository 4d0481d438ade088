package main

import (
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
	mux.Handle("GET /health", clients)
	if cfg.Demo {
		mux.Handle("/", webui.Handler(demoTokens(cfg.Client.Token)))
	}
	return mux
}

// demoTTL is the life of the demo's tokens; the page asks for new ones.
const demoTTL = time.Hour

// demoTokens mints connection tokens for the demo page.
func demoTokens(cfg config.Token) webui.Mint {
	return func(user string, info []byte) (string, error) {
		s, err := token.NewHMACSigner(cfg.HMACSecretKey)
		if err != nil {
			return "", err
		}
		s.Audience, s.Issuer = cfg.Audience, cfg.Issuer
		return s.Connection(token.Connection{User: user, Info: info, ExpireAt: time.Now().Add(demoTTL).Unix()}, nil)
	}
}
