package config

import (
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Settings with the tag secret are never told: neither printed nor logged. With
// the value "url" only the login in the addresses is secret.
const secretURL = "url"

// secretText is what stands for a secret in print.
func secretText(kind string, v reflect.Value) string {
	switch {
	case v.Kind() == reflect.Slice:
		return "[" + strconv.Quote(redacted) + "]"
	case kind == secretURL:
		return strconv.Quote(RedactURLs(v.String()))
	default:
		return strconv.Quote(redacted)
	}
}

// RedactURLs returns comma separated addresses without their passwords and tokens.
func RedactURLs(urls string) string {
	parts := strings.Split(urls, ",")
	for i, part := range parts {
		u, err := url.Parse(strings.TrimSpace(part))
		switch {
		case err != nil && strings.Contains(part, "@"):
			parts[i] = redacted + part[strings.LastIndexByte(part, '@'):]
		case err != nil || u.User == nil:
		default:
			if _, ok := u.User.Password(); !ok {
				u.User = url.User("xxxxx") // alone it is a token
			}
			parts[i] = u.Redacted()
		}
	}
	return strings.Join(parts, ",")
}

// Secrets returns the values that must not be told, those of fewer than 4 bytes
// aside: they are found in anything.
func Secrets(cfg Config) []string {
	var out []string
	for _, k := range Keys() {
		if !k.Secret {
			continue
		}
		v, _ := lookup(&cfg, k.Path)
		switch value := v.Interface().(type) {
		case []string:
			out = append(out, value...)
		case string:
			if k.Path != "nats.url" {
				out = append(out, value)
				continue
			}
			out = append(out, urlSecrets(value)...)
		}
	}
	for i := range cfg.Queues {
		out = append(out, cfg.Queues[i].Webhook.secrets()...)
	}
	return slices.DeleteFunc(out, func(s string) bool { return len(s) < 4 })
}

// urlSecrets returns the passwords and tokens in comma separated addresses.
func urlSecrets(urls string) (out []string) {
	for part := range strings.SplitSeq(urls, ",") {
		if u, err := url.Parse(strings.TrimSpace(part)); err == nil && u.User != nil {
			secret, ok := u.User.Password()
			if !ok {
				secret = u.User.Username()
			}
			out = append(out, secret)
		}
	}
	return out
}
