package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/certs/certstest"
)

// A peer of HTTP/2 that has vanished is asked for a sign of life, and given up.
func TestE4HTTP2PeersThatVanishAreFound(t *testing.T) {
	t.Parallel() // it waits for three seconds
	dir := t.TempDir()
	certPath, keyPath := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	pool := certstest.WriteSelfSigned(t, certPath, keyPath, "h2")
	r := startNode(t, fmt.Sprintf("tls: {cert: %q, key: %q}\nclient: {ping_interval: 2s, pong_timeout: 1s}\n", certPath, keyPath)+chatNamespace)
	c, err := tls.Dial("tcp", strings.TrimPrefix(r.clients, "https://"), &tls.Config{RootCAs: pool, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if p := c.ConnectionState().NegotiatedProtocol; p != "h2" {
		t.Fatalf("it speaks %q", p)
	}
	// The preface and empty SETTINGS (RFC 9113 section 3.4), then silence.
	if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(30 * time.Second)) //nolint:errcheck // reading tells
	in, asked := bufio.NewReader(c), false
	for {
		var head [9]byte // length, type, flags, stream (RFC 9113 section 4.1)
		if _, err := io.ReadFull(in, head[:]); err != nil {
			if ne, ok := err.(interface{ Timeout() bool }); ok && ne.Timeout() {
				t.Error("it was not given up")
			}
			break
		}
		const ping = 6
		asked = asked || head[3] == ping
		if _, err := in.Discard(int(head[0])<<16 | int(head[1])<<8 | int(head[2])); err != nil {
			break
		}
	}
	if !asked {
		t.Error("it was not asked")
	}
}
