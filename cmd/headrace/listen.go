package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/headrace/headrace/internal/certs"
	"github.com/headrace/headrace/internal/config"
)

// web is a listener and what is served on it.
type web struct {
	l      net.Listener
	scheme string
	server *http.Server
}

// listen opens an address; tls may be empty. Serving begins with run, so that a
// taken address or a bad certificate is known before NATS has started.
func listen(address string, tls config.ServerTLS, headerTimeout time.Duration, log *slog.Logger) (*web, error) {
	w := &web{scheme: "http", server: &http.Server{
		ReadHeaderTimeout: headerTimeout, // of the TLS handshake too
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.With("part", "http").Handler(), slog.LevelDebug),
	}}
	if tls.Cert != "" {
		f, err := certs.Load(tls.Cert, tls.Key, log)
		if err != nil {
			return nil, err
		}
		w.scheme, w.server.TLSConfig = "https", f.Config()
	}
	var err error
	w.l, err = net.Listen("tcp", address)
	return w, err
}

func (w *web) url() string { return fmt.Sprintf("%s://%s/", w.scheme, w.l.Addr()) }

func (w *web) loopback() bool { return w.l.Addr().(*net.TCPAddr).IP.IsLoopback() }

func (w *web) close() {
	if w != nil {
		w.l.Close()
	}
}

func (w *web) serve() error {
	if w.server.TLSConfig != nil {
		return w.server.ServeTLS(w.l, "", "")
	}
	return w.server.Serve(w.l)
}

// run serves until ctx ends. Then connections are not kept for another request,
// drain ends what the server does not know of (WebSockets), and requests under
// way are waited for. All that takes at most bound.
func (w *web) run(ctx context.Context, bound time.Duration, drain func(context.Context) error) error {
	served := make(chan error, 1)
	go func() { served <- w.serve() }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), bound)
	defer cancel()
	w.server.SetKeepAlivesEnabled(false)
	drained := drain(stopping)
	err := w.server.Shutdown(stopping)
	if errors.Is(err, context.DeadlineExceeded) {
		err = w.server.Close() // requests that take longer are cut
	}
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return errors.Join(drained, err)
}

// stopTimeout bounds the stop of the client listener: the drain window, the
// longest command that may have begun before its end, and some more.
func stopTimeout(cfg config.Config) time.Duration {
	return cfg.Client.DrainWindow + cfg.Router.PublishTimeout + 5*time.Second
}

// openListeners opens the address for clients and, when there is one, the
// internal one; internal is nil otherwise.
func openListeners(cfg config.Config, log *slog.Logger) (clients, internal *web, err error) {
	clients, err = listen(cfg.Address, cfg.TLS, cfg.Client.ConnectTimeout, log)
	if err != nil {
		return nil, nil, fmt.Errorf("serve clients: %w", err)
	}
	// Streams over HTTP/2 need not send anything, and their connection is not the
	// edge's to watch: this is how a peer that has vanished is found.
	clients.server.HTTP2 = &http.HTTP2Config{SendPingTimeout: cfg.Client.PingInterval, PingTimeout: cfg.Client.PongTimeout}
	if cfg.Internal.Address != "" {
		internal, err = listen(cfg.Internal.Address, cfg.Internal.TLS, cfg.Client.ConnectTimeout, log)
		if err != nil {
			clients.close()
			return nil, nil, fmt.Errorf("serve internal: %w", err)
		}
	}
	if cfg.Demo && !clients.loopback() {
		log.Warn("the demo lets in everyone who can reach this address", "addr", clients.l.Addr().String())
	}
	if internal == nil && !clients.loopback() {
		log.Warn("metrics and the API are on the clients' address; internal.address gives them one of their own", "addr", clients.l.Addr().String())
	}
	return clients, internal, nil
}
