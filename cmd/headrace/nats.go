package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/config"
	"github.com/headrace/headrace/internal/embednats"
	"github.com/headrace/headrace/internal/natsperm"
	"github.com/headrace/headrace/persistence"
)

// broker is this node's way to NATS: two connections, so that a large read from
// JetStream does not hold up live copies, and the embedded server if there is one.
type broker struct {
	server *embednats.Server // nil with nats.url
	core   *nats.Conn        // live copies, control
	store  *nats.Conn        // JetStream
	closed chan error        // a connection that gave up for good
	denied atomic.Int64      // permission violations so far
}

// openBroker starts the embedded server or connects to the configured one,
// waiting up to nats.open_timeout for it.
func openBroker(ctx context.Context, cfg config.Config, nodeID string, log *slog.Logger) (*broker, error) {
	b := &broker{closed: make(chan error, 2)}
	connect := func(opts ...nats.Option) (*nats.Conn, error) { return nats.Connect(cfg.NATS.URL, opts...) }
	if cfg.NATS.URL == "" {
		server, err := embednats.Start(embednats.Config{
			Dir: cfg.Data, Listen: cfg.NATS.Listen, Name: "headrace-" + nodeID, SyncInterval: cfg.NATS.SyncEvery, Log: log,
		})
		if err != nil {
			return nil, err
		}
		b.server, connect = server, server.Connect
		if addr := server.Addr(); addr != "" {
			log.Info("embedded nats takes clients", "addr", addr)
		}
	}
	opts, err := natsOptions(cfg.NATS)
	if err != nil {
		b.close()
		return nil, err
	}
	for purpose, conn := range map[string]**nats.Conn{"core": &b.core, "store": &b.store} {
		named := append(persistence.ConnectOptions(), b.handlers(purpose, nodeID, log)...)
		named = append(named, nats.CustomInboxPrefix(natsperm.InboxPrefix(cfg.NATS.Prefix)+"."+nodeID))
		if *conn, err = connect(append(named, opts...)...); err != nil {
			b.close()
			return nil, fmt.Errorf("connect to nats: %w", err)
		}
	}
	if err := b.wait(ctx, cfg.NATS.OpenTimeout); err != nil {
		b.close()
		return nil, fmt.Errorf("connect to nats at %s: %w", config.RedactURLs(cfg.NATS.URL), err)
	}
	return b, nil
}

func natsOptions(cfg config.NATS) ([]nats.Option, error) {
	if cfg.URL == "" {
		return nil, nil
	}
	opts := []nats.Option{nats.RetryOnFailedConnect(true)} // NATS may start after us
	switch {
	case cfg.Credentials != "":
		opts = append(opts, nats.UserCredentials(cfg.Credentials))
	case cfg.NKey != "":
		nkey, err := nats.NkeyOptionFromSeed(cfg.NKey)
		if err != nil {
			return nil, fmt.Errorf("nats.nkey: %w", err)
		}
		opts = append(opts, nkey)
	case cfg.User != "":
		opts = append(opts, nats.UserInfo(cfg.User, cfg.Password))
	}
	if cfg.TLS.CA != "" {
		opts = append(opts, nats.RootCAs(cfg.TLS.CA))
	}
	if cfg.TLS.Cert != "" {
		opts = append(opts, nats.ClientCert(cfg.TLS.Cert, cfg.TLS.Key))
	}
	return opts, nil
}

// handlers logs what happens to a connection.
func (b *broker) handlers(purpose, nodeID string, log *slog.Logger) []nats.Option {
	log = log.With("part", "nats", "connection", purpose)
	return []nats.Option{
		nats.Name("headrace " + nodeID + " " + purpose),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("nats disconnected", "err", err)
			}
		}),
		nats.ReconnectHandler(func(c *nats.Conn) { log.Info("nats reconnected", "server", c.ConnectedUrlRedacted()) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				b.denied.Add(1)
			}
			if sub != nil {
				log.Error("nats error", "err", err, "subject", sub.Subject)
				return
			}
			log.Error("nats error", "err", err)
		}),
		nats.ClosedHandler(func(c *nats.Conn) {
			err := c.LastError()
			if err == nil {
				err = nats.ErrConnectionClosed
			}
			select {
			case b.closed <- fmt.Errorf("%s connection closed for good: %w", purpose, err):
			default:
			}
		}),
	}
}

// wait returns when both connections stand.
func (b *broker) wait(ctx context.Context, bound time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !b.core.IsConnected() || !b.store.IsConnected() {
		select {
		case err := <-b.closed:
			return err
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		cause := errors.Join(b.core.LastError(), ctx.Err())
		return &hintError{err: fmt.Errorf("no connection within %v: %w", bound, cause), hint: "check nats.url and the login; nats.open_timeout says how long a start waits"}
	}
	return nil
}

// run holds the connections and the server until ctx ends, then closes them.
func (b *broker) run(ctx context.Context) error {
	var failed error
	if b.server == nil {
		select {
		case <-ctx.Done():
		case failed = <-b.closed:
		}
		b.close()
		return failed
	}
	serverDone := make(chan error, 1)
	sctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	go func() { serverDone <- b.server.Run(sctx) }()
	select {
	case <-ctx.Done():
	case failed = <-b.closed:
	case failed = <-serverDone:
		serverDone <- nil
	}
	b.closeConns()
	stop()
	return errors.Join(failed, <-serverDone)
}

func (b *broker) closeConns() {
	for _, nc := range []*nats.Conn{b.core, b.store} {
		if nc != nil {
			nc.Close()
		}
	}
}

func (b *broker) close() {
	b.closeConns()
	if b.server != nil {
		b.server.Close()
	}
}
