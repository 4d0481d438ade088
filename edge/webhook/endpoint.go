package webhook

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/textproto"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"
)

// Endpoint is where the jobs of a queue go. It comes from the operator alone:
// nothing of a job or of an answer changes where requests are sent, so addresses
// inside the network are allowed.
type Endpoint struct {
	Queue   string
	AckWait time.Duration // of the queue
	URL     string        // http or https; a login in it is sent as basic authorization
	// Secret signs, and so does Previous, if there is one, while receivers change
	// from it. Either is whsec_ and base64 of 24 to 64 bytes, or a text of at least
	// 24 bytes.
	Secret, Previous string
	// Concurrency bounds the requests under way and the connections, per node.
	Concurrency int
	Timeout     time.Duration // of a request, its answer included
	MaxIdle     int           // connections kept for the next request; 0 keeps none
	IdleTimeout time.Duration // how long they are kept
	Headers     []string      // "Name: value", sent with every request
	CA          string        // path of the CA certificates to trust; "" is the system's
}

// Bounds of an Endpoint.
const (
	maxConcurrency = 1000
	minTimeout     = 100 * time.Millisecond
	maxTimeout     = time.Hour
	maxHeaders     = 32
)

// Validate reports every problem of e at once, each beginning with its key.
func (e *Endpoint) Validate() error {
	var errs []error
	check := func(ok bool, key, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("webhook."+key+" "+format, args...))
		}
	}
	if _, err := parseURL(e.URL); err != nil {
		check(false, "url", "%v", err)
	}
	if e.Secret == "" {
		check(false, "secret", "is missing: without a signature receivers cannot tell who calls; make one with: echo whsec_$(openssl rand -base64 32)")
	} else if _, err := parseSecret(e.Secret); err != nil {
		check(false, "secret", "%v", err)
	}
	if _, err := parseSecret(e.Previous); e.Previous != "" && err != nil {
		check(false, "previous_secret", "%v", err)
	}
	check(e.Concurrency >= 1 && e.Concurrency <= maxConcurrency, "concurrency", "%d is not within 1 to %d", e.Concurrency, maxConcurrency)
	check(e.Timeout >= minTimeout && e.Timeout <= maxTimeout, "timeout", "%v is not within %v to %v", e.Timeout, minTimeout, maxTimeout)
	check(e.MaxIdle >= 0 && e.MaxIdle <= maxConcurrency, "max_idle", "%d is not within 0 to %d", e.MaxIdle, maxConcurrency)
	check(e.IdleTimeout > 0, "idle_timeout", "%v must be positive; max_idle: 0 keeps no connections", e.IdleTimeout)
	check(len(e.Headers) <= maxHeaders, "headers", "are more than %d", maxHeaders)
	for i, h := range e.Headers {
		if _, _, err := parseHeader(h); err != nil {
			check(false, "headers", "entry %d %v", i+1, err) // its value may be secret
		}
	}
	if _, err := e.tls(); err != nil {
		check(false, "ca", "%v", err)
	}
	return errors.Join(errs...)
}

// parseURL reads the address of an endpoint. Errors do not repeat it: it may hold
// a login.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case s == "":
		return nil, errors.New("is missing, such as https://jobs.example.com/hook")
	case err != nil || (u.Scheme != "http" && u.Scheme != "https"):
		return nil, errors.New("is no http:// or https:// address, such as https://jobs.example.com/hook")
	case u.Hostname() == "":
		return nil, errors.New("has no host, such as https://jobs.example.com/hook")
	case u.Fragment != "":
		return nil, errors.New("has a fragment (#), which is never sent; remove it")
	}
	return u, nil
}

// clearText reports whether requests to u travel unencrypted over a network.
func clearText(u *url.URL) bool {
	if u.Scheme != "http" || u.Hostname() == "localhost" {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err != nil || !ip.IsLoopback()
}

// taken are the headers that say how the request is to be read, and by name
// prefix those that this package sets.
var taken = map[string]bool{
	"Connection": true, "Content-Length": true, "Content-Type": true, "Host": true, "Transfer-Encoding": true,
	"Trailer": true, "Upgrade": true, "Te": true, "Keep-Alive": true, "Expect": true, "Traceparent": true,
}

// headerName matches a token (RFC 9110, 5.6.2).
var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// parseHeader reads a "Name: value". Errors do not repeat the value.
func parseHeader(s string) (name, value string, err error) {
	name, value, ok := strings.Cut(s, ":")
	name, value = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)), strings.TrimSpace(value)
	switch {
	case !ok || !headerName.MatchString(name):
		return "", "", errors.New(`is not "Name: value"`)
	case value != printable(value):
		return "", "", fmt.Errorf("(%s) has a value that is not printable ASCII", name)
	case taken[name] || strings.HasPrefix(name, "Webhook-") || strings.HasPrefix(name, "Headrace-"):
		return "", "", fmt.Errorf("(%s) is a header that Headrace sets; remove it", name)
	}
	return name, value, nil
}

func (e *Endpoint) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if u, err := parseURL(e.URL); err == nil {
		c.ServerName = u.Hostname()
	}
	if e.CA == "" {
		return c, nil
	}
	pem, err := os.ReadFile(e.CA)
	if err != nil {
		return nil, err
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", e.CA)
	}
	return c, nil
}

// hostOf is what is told of u in logs.
func hostOf(u *url.URL) string {
	if u.Port() == "" {
		return u.Hostname()
	}
	return net.JoinHostPort(u.Hostname(), u.Port())
}
