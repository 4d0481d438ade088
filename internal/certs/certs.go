// Package certs serves a certificate from files that may change while the process
// runs.
package certs

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// checkInterval is how often, at most, a handshake looks whether the files have
// changed.
const checkInterval = time.Second

// File is a certificate in two PEM files. When they change, handshakes from then
// on get the new certificate; connections that stand are not touched. There is no
// goroutine: handshakes look themselves.
type File struct {
	// Set by Load, read-only afterwards.
	certPath, keyPath string
	log               *slog.Logger

	mu      sync.Mutex // guards the fields below
	cert    *tls.Certificate
	version version
	looked  time.Time // when the files were last looked at
	failed  version   // what could not be loaded, told once
}

// version tells whether the files are others than before. Links are followed, as
// Kubernetes changes mounted secrets by a link.
type version struct {
	certTime, keyTime time.Time
	certSize, keySize int64
}

// Load reads the certificate. It fails when that is not possible now; later
// failures are logged, and the last good certificate stays.
func Load(certPath, keyPath string, log *slog.Logger) (*File, error) {
	f := &File{certPath: certPath, keyPath: keyPath, log: log}
	var err error
	if f.version, err = f.look(); err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	f.looked = time.Now()
	if f.cert, err = f.load(); err != nil {
		return nil, fmt.Errorf("load certificate %s with key %s: %w", certPath, keyPath, err)
	}
	return f, nil
}

func (f *File) load() (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(f.certPath, f.keyPath)
	if err != nil {
		return nil, err
	}
	return &c, nil
}

func (f *File) look() (v version, err error) {
	cert, err := os.Stat(f.certPath)
	if err != nil {
		return v, err
	}
	key, err := os.Stat(f.keyPath)
	if err != nil {
		return v, err
	}
	return version{cert.ModTime(), key.ModTime(), cert.Size(), key.Size()}, nil
}

// Config returns a server's configuration: TLS 1.2 at least.
func (f *File) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: f.get}
}

func (f *File) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Sub(f.looked) < checkInterval {
		return f.cert, nil
	}
	f.looked = now
	v, err := f.look()
	if err != nil || v == f.version {
		return f.cert, nil // files may be away for a moment while they are replaced
	}
	cert, err := f.load()
	if err != nil {
		if v != f.failed { // one file may be new and the other not yet
			f.failed = v
			f.log.Warn("certificate changed and cannot be loaded; the old one stays", "file", f.certPath, "err", err)
		}
		return f.cert, nil
	}
	f.cert, f.version = cert, v
	f.log.Info("certificate reloaded", "file", f.certPath, "until", notAfter(cert))
	return f.cert, nil
}

func notAfter(c *tls.Certificate) string {
	if c.Leaf == nil {
		return ""
	}
	return c.Leaf.NotAfter.UTC().Format(time.RFC3339)
}
