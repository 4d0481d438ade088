package certs

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/certs/certstest"
)

func TestCertificateFollowsItsFiles(t *testing.T) {
	dir := t.TempDir()
	certPath, keyPath := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	certstest.WriteSelfSigned(t, certPath, keyPath, "first")
	var logged bytes.Buffer
	f, err := Load(certPath, keyPath, slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	name := func() string {
		f.mu.Lock()
		f.looked = time.Time{} // as if a second had passed
		f.mu.Unlock()
		c, err := f.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf.Subject.CommonName
	}
	if got := name(); got != "first" {
		t.Errorf("serves %s", got)
	}
	certstest.WriteSelfSigned(t, certPath, keyPath, "second")
	if got := name(); got != "second" {
		t.Errorf("after a change it serves %s", got)
	}
	if err := os.WriteFile(certPath, []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := name() + name(); got != "secondsecond" {
		t.Errorf("with a broken file it serves %s", got)
	}
	if n := strings.Count(logged.String(), "cannot be loaded"); n != 1 {
		t.Errorf("told %d times:\n%s", n, &logged)
	}
	if err := os.Remove(certPath); err != nil {
		t.Fatal(err)
	}
	if got := name(); got != "second" {
		t.Errorf("without a file it serves %s", got)
	}
	certstest.WriteSelfSigned(t, certPath, keyPath, "third")
	if got := name(); got != "third" {
		t.Errorf("after it was repaired it serves %s", got)
	}
	if f.Config().MinVersion != 0x0303 {
		t.Error("less than TLS 1.2")
	}
}

func TestLoadTellsWhichFileIsWrong(t *testing.T) {
	dir := t.TempDir()
	certPath, keyPath := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	if _, err := Load(certPath, keyPath, slog.Default()); err == nil || !strings.Contains(err.Error(), certPath) {
		t.Errorf("missing: %v", err)
	}
	certstest.WriteSelfSigned(t, certPath, keyPath, "first")
	other := filepath.Join(dir, "other.pem")
	certstest.WriteSelfSigned(t, filepath.Join(dir, "x.pem"), other, "second")
	if _, err := Load(certPath, other, slog.Default()); err == nil || !strings.Contains(err.Error(), other) {
		t.Errorf("key of another: %v", err)
	}
}
