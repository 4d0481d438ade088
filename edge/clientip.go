package edge

import (
	"net/http"
	"net/netip"
	"strings"
)

// clientIP returns the address of the client behind r: the peer's, or, when the
// peer is a trusted proxy, the last one in X-Forwarded-For that is not. What a
// client writes into that header itself stands further left and is never
// reached. It is the zero Addr when there is none to be had.
func clientIP(r *http.Request, trusted []netip.Prefix) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	ip := plainIP(peer.Addr())
	if len(trusted) == 0 {
		return ip
	}
	chain := strings.Join(r.Header.Values("X-Forwarded-For"), ",")
	for chain != "" && isTrusted(ip, trusted) {
		i := strings.LastIndexByte(chain, ',')
		hop, ok := parseHop(chain[i+1:])
		if !ok {
			return ip // not what a proxy of ours writes
		}
		ip, chain = hop, chain[:max(i, 0)]
	}
	return ip
}

// parseHop reads one entry of X-Forwarded-For: an address, with or without a port.
func parseHop(text string) (netip.Addr, bool) {
	text = strings.TrimSpace(text)
	if ip, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return plainIP(ip), true
	}
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return plainIP(ap.Addr()), true
	}
	return netip.Addr{}, false
}

func plainIP(ip netip.Addr) netip.Addr { return ip.Unmap().WithZone("") }

func isTrusted(ip netip.Addr, trusted []netip.Prefix) bool {
	for _, p := range trusted {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// networkOf returns what counts as one address: an IPv4 address, or the /64 that
// an IPv6 customer gets at least.
func networkOf(ip netip.Addr) netip.Addr {
	if !ip.Is6() {
		return ip
	}
	p, err := ip.Prefix(64)
	if err != nil {
		return ip
	}
	return p.Addr()
}
