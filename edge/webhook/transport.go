package webhook

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"
)

const (
	// dialTime bounds the making of a connection, the TLS handshake included.
	dialTime       = 5 * time.Second
	maxHeaderBytes = 64 << 10 // of an answer
)

// dialer opens a TCP connection; tests replace it.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// newTransport returns the connections to one endpoint: at most e.Concurrency.
// They speak HTTP/1.1, one request at a time each, so that the bound of requests
// is one of connections. Redirects and cookies do not exist at this level.
//
// A request is not repeated on another connection, even when the endpoint closed
// one that was idle: the job may have been why it closed.
func newTransport(e *Endpoint, dial dialer) (*http.Transport, error) {
	config, err := e.tls()
	if err != nil {
		return nil, err
	}
	// Shorter than a request may take, so that a connection that does not come
	// about is told from an answer that does not.
	limit := min(dialTime, e.Timeout*3/4)
	plain := func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, &unreachableError{err}
		}
		return conn, nil
	}
	return &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: plain,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			conn, err := plain(ctx, network, address)
			if err != nil {
				return nil, err
			}
			secure := tls.Client(conn, config)
			if err := secure.HandshakeContext(ctx); err != nil {
				conn.Close()
				return nil, &unreachableError{err}
			}
			return secure, nil
		},
		TLSClientConfig:        config, // through a proxy
		TLSHandshakeTimeout:    limit,
		MaxConnsPerHost:        e.Concurrency,
		MaxIdleConns:           e.MaxIdle,
		MaxIdleConnsPerHost:    e.MaxIdle,
		DisableKeepAlives:      e.MaxIdle == 0, // 0 is no bound to net/http
		IdleConnTimeout:        e.IdleTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		DisableCompression:     true,
	}, nil
}
