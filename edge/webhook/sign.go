package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
)

// Bounds of a signing key in bytes (Standard Webhooks 1.0.0, "Signature scheme").
const (
	minKeyBytes = 24
	maxKeyBytes = 64
)

// secretPrefix marks a key in base64.
const secretPrefix = "whsec_"

// parseSecret returns the key that s stands for.
func parseSecret(s string) ([]byte, error) {
	text, encoded := strings.CutPrefix(s, secretPrefix)
	if !encoded {
		if len(s) < minKeyBytes {
			return nil, errors.New("is shorter than 24 bytes; make one with: echo whsec_$(openssl rand -base64 32)")
		}
		return []byte(s), nil
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("is not base64 after whsec_; make one with: echo whsec_$(openssl rand -base64 32)")
	}
	if len(key) < minKeyBytes || len(key) > maxKeyBytes {
		return nil, errors.New("is not 24 to 64 bytes after whsec_; make one with: echo whsec_$(openssl rand -base64 32)")
	}
	return key, nil
}

// sign returns the value of webhook-signature: for each key "v1," and base64 of
// the HMAC-SHA256 of id.timestamp.body, separated by spaces. Neither id nor
// timestamp holds a dot.
func sign(keys [][]byte, id, timestamp string, body []byte) string {
	var out strings.Builder
	for i, key := range keys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + timestamp + "."))
		mac.Write(body)
		if i > 0 {
			out.WriteByte(' ')
		}
		out.WriteString("v1,")
		out.WriteString(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return out.String()
}
