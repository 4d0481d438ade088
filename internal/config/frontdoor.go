package config

import (
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

// ServerTLS is the certificate of a listener.
type ServerTLS struct {
	Cert string `yaml:"cert" doc:"path of the certificate chain, PEM; empty serves without TLS"`
	Key  string `yaml:"key" doc:"path of the certificate's key, PEM"`
}

// Internal is the listener for operators and back ends.
type Internal struct {
	Address string    `yaml:"address" doc:"host:port for metrics, readiness with reasons, pprof and the API; empty serves metrics and the API on address, and no pprof"`
	PProf   bool      `yaml:"pprof" doc:"serves /debug/pprof/ on the internal listener"`
	TLS     ServerTLS `yaml:"tls"`
}

// Limits bound what clients may take. 0 is no limit.
type Limits struct {
	Connections        int          `yaml:"connections" doc:"open connections of a node; more get HTTP status 503; 0 is no limit"`
	ConnectionsPerIP   int          `yaml:"connections_per_ip" doc:"open connections of an address (IPv6: of a /64) on a node; more get HTTP status 429; 0 is no limit"`
	ConnectionsPerUser int          `yaml:"connections_per_user" doc:"connections of a user id on a node; more are closed with 3504; 0 is no limit"`
	ConnectRate        int          `yaml:"connect_rate" doc:"new connections of a node per second; more get HTTP status 503; 0 is no limit"`
	ConnectBurst       int          `yaml:"connect_burst" doc:"new connections that may come at once; 0 is as many as connect_rate"`
	CommandRate        int          `yaml:"command_rate" doc:"commands of a connection per second; more get error 111, and 3013 when it goes on; 0 is no limit"`
	CommandBurst       int          `yaml:"command_burst" doc:"commands that may come at once; 0 is as many as command_rate"`
	TrustedProxies     []string     `yaml:"trusted_proxies" doc:"addresses or networks (10.0.0.0/8) whose X-Forwarded-For header is believed"`
	UserMessages       UserMessages `yaml:"user_messages"`
}

// UserMessages limits the publications of a user over all nodes.
type UserMessages struct {
	Enabled  bool          `yaml:"enabled" doc:"limits the publications of each user id over all nodes; more get error 111"`
	Messages int           `yaml:"messages" doc:"publications of a user within the window"`
	Window   time.Duration `yaml:"window" doc:"the window, which slides; 1s to 24h"`
}

func defaultLimits() Limits {
	return Limits{UserMessages: UserMessages{Messages: 100, Window: time.Minute}}
}

// maxUserMessages bounds limits.user_messages.messages: each is a message in the
// memory of NATS for the whole window.
const maxUserMessages = 100_000

type checkFunc = func(ok bool, path, format string, args ...any)

// validateFrontDoor checks listeners and limits.
func validateFrontDoor(cfg *Config, check checkFunc) {
	in := &cfg.Internal
	check(in.Address == "" || hostPort(in.Address), "internal.address", "%q is not host:port, such as 127.0.0.1:8001", in.Address)
	check(in.Address == "" || in.Address != cfg.Address || strings.HasSuffix(in.Address, ":0"), "internal.address", "%q is address too; choose another port, or leave it out", in.Address)
	check(in.Address != "" || in.TLS == ServerTLS{}, "internal.tls.cert", "is set, but internal.address is not; set it, or remove internal.tls")
	remote := in.Address != "" && !loopback(in.Address) && !cfg.InsecureAllowRemote
	check(!(cfg.Insecure || cfg.HTTPAPI.Insecure) || !remote, "internal.address", "%s can be reached by other machines, and calls of the API need no key; listen on 127.0.0.1, or set insecure_allow_remote: true if that is what you want", in.Address)
	validateServerTLS(&cfg.TLS, "tls", check)
	validateServerTLS(&in.TLS, "internal.tls", check)
	for i, key := range cfg.HTTPAPI.Keys {
		check(len(key) >= minKeyBytes, "http_api.keys", "key %d of the list has %d bytes; use at least %d, from `openssl rand -hex 32` for example", i+1, len(key), minKeyBytes)
	}
	for part := range strings.SplitSeq(cfg.NATS.URL, ",") {
		_, err := url.Parse(strings.TrimSpace(part))
		check(err == nil, "nats.url", "has an address that is no URL; write nats://host:4222, several with commas") // it may hold a password: not shown
	}
	l := &cfg.Limits
	for path, n := range map[string]int{
		"limits.connections": l.Connections, "limits.connections_per_ip": l.ConnectionsPerIP, "limits.connections_per_user": l.ConnectionsPerUser,
		"limits.connect_rate": l.ConnectRate, "limits.connect_burst": l.ConnectBurst, "limits.command_rate": l.CommandRate, "limits.command_burst": l.CommandBurst,
	} {
		check(n >= 0, path, "%d is negative; 0 is no limit", n)
	}
	check(l.ConnectBurst == 0 || l.ConnectRate > 0, "limits.connect_burst", "has no effect without limits.connect_rate; set that too")
	check(l.CommandBurst == 0 || l.CommandRate > 0, "limits.command_burst", "has no effect without limits.command_rate; set that too")
	for _, text := range l.TrustedProxies {
		_, err := parseNetwork(text)
		check(err == nil, "limits.trusted_proxies", "%q is no address or network; write 10.0.0.1 or 10.0.0.0/8", text)
	}
	u := &l.UserMessages
	check(u.Messages >= 1 && u.Messages <= maxUserMessages, "limits.user_messages.messages", "%d is not within 1 to %d; to switch the limit off set enabled: false", u.Messages, maxUserMessages)
	check(within(u.Window, time.Second, 24*time.Hour), "limits.user_messages.window", "%v is not within 1s to 24h", u.Window)
}

// minKeyBytes is the least length of an API key.
const minKeyBytes = 16

func validateServerTLS(t *ServerTLS, path string, check checkFunc) {
	if (t.Cert == "") != (t.Key == "") {
		check(false, path+".cert", "and %s.key go together; set both or none", path)
		return
	}
	if t.Cert == "" {
		return
	}
	for _, f := range []struct{ key, file string }{{".cert", t.Cert}, {".key", t.Key}} {
		_, err := os.Stat(f.file)
		check(err == nil, path+f.key, "%v; name a PEM file that this process may read", err)
	}
}

// Networks returns limits.trusted_proxies. Those that are none are left out:
// validation has told of them.
func (l *Limits) Networks() []netip.Prefix {
	var out []netip.Prefix
	for _, text := range l.TrustedProxies {
		if p, err := parseNetwork(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}

func parseNetwork(text string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(text); err == nil {
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err
}
