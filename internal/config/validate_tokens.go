package config

import (
	"net/url"
	"regexp"
	"strings"
	"time"
)

// tokenName is what a cookie or query parameter may be called.
var tokenName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,64}$`)

// validateTokens looks at what can be wrong without reading keys; package token
// does that.
func validateTokens(c *Client, check func(bool, string, string, ...any)) {
	for path, key := range map[string]string{
		"client.token.hmac_secret_key": c.Token.HMACSecretKey, "client.token.hmac_previous_secret_key": c.Token.HMACPrevious,
		"client.subscription_token.hmac_secret_key": c.SubToken.HMACSecretKey, "client.subscription_token.hmac_previous_secret_key": c.SubToken.HMACPrevious,
	} {
		check(!strings.Contains(key, "-----BEGIN "), path, "is a PEM key, and a public one is known to everybody; move it to public_keys beside it")
	}
	check(c.Token.HMACPrevious == "" || c.Token.HMACSecretKey != "", "client.token.hmac_previous_secret_key", "is set without hmac_secret_key, the key that replaced it")
	check(c.SubToken.HMACPrevious == "" || c.SubToken.HMACSecretKey != "", "client.subscription_token.hmac_previous_secret_key", "is set without hmac_secret_key, the key that replaced it")
	for path, endpoint := range map[string]string{"client.token.jwks_endpoint": c.Token.JWKSEndpoint, "client.subscription_token.jwks_endpoint": c.SubToken.JWKSEndpoint} {
		u, err := url.Parse(endpoint)
		ok := err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil
		check(endpoint == "" || ok, path, "is no https:// or http:// address without a password, such as https://id.example.com/.well-known/jwks.json")
	}
	check(within(c.Token.JWKSInterval, 10*time.Second, 24*time.Hour), "client.token.jwks_interval", "%v is not within 10s to 24h", c.Token.JWKSInterval)
	check(within(c.Token.Leeway, 0, 5*time.Minute), "client.token.leeway", "%v is not within 0s to 5m", c.Token.Leeway)
	check(c.Token.Cookie == "" || tokenName.MatchString(c.Token.Cookie), "client.token.cookie", "%q is no name of up to 64 letters, digits and _ . -", c.Token.Cookie)
	check(c.Token.Query == "" || tokenName.MatchString(c.Token.Query), "client.token.query", "%q is no name of up to 64 letters, digits and _ . -", c.Token.Query)
	own := c.SubToken.HMACSecretKey != "" || len(c.SubToken.PublicKeys) > 0 || c.SubToken.JWKSEndpoint != ""
	check(own || c.SubToken.Audience == "", "client.subscription_token.audience", "has no effect without a key under client.subscription_token; set one, or client.token.audience")
	check(own || c.SubToken.Issuer == "", "client.subscription_token.issuer", "has no effect without a key under client.subscription_token; set one, or client.token.issuer")
}
