package main

import (
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/headrace/headrace/internal/config"
	"github.com/headrace/headrace/internal/webui"
)

// clientHandler is what clients reach. Without an internal listener it is
// everything but pprof.
func (n *node) clientHandler(cfg config.Config) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/connection/", n.edge.Transports())
	mux.Handle("/emulation", n.edge.Transports())
	mux.Handle("/poll", n.edge.Transports())
	mux.Handle("GET /health", n.edge.Health())
	internal := cfg.Internal.Address != ""
	if !internal {
		mux.Handle("GET /metrics", n.metricsHandler())
	}
	if !internal || cfg.HTTPAPI.External {
		mux.Handle("/api/", n.edge.API())
	} else {
		mux.HandleFunc("/api/", apiElsewhere)
	}
	if cfg.Demo {
		mux.Handle("/", webui.Handler(demoTokens(cfg), n.demoQueues))
	}
	return mux
}

// internalHandler is what operators and back ends reach.
func (n *node) internalHandler(cfg config.Config) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/", n.edge.API())
	mux.Handle("GET /metrics", n.metricsHandler())
	mux.Handle("GET /health", n.edge.Health())
	mux.Handle("GET /health/ready", n.edge.Readiness())
	mux.HandleFunc("GET /health/live", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("{}\n")) //nolint:errcheck // the peer is gone then
	})
	if cfg.Internal.PProf {
		// Not cmdline: flags may hold secrets.
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func (n *node) metricsHandler() http.Handler {
	return promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{})
}

func apiElsewhere(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	w.Write([]byte(`{"error":{"code":404,"message":"the API is on the internal listener"}}` + "\n")) //nolint:errcheck // the peer is gone then
}
