package token

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Bounds of RSA keys in bits: below, signatures can be forged with means that
// exist; above, checking one costs more than a stranger's connect may.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// key is a verification key bound to the algorithms it may be used with. A token
// names its algorithm itself, so nothing else keeps an RSA key that everybody
// knows from being taken for an HMAC secret.
type key struct {
	algorithms []string
	verify     any // []byte, *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
}

// The algorithms there are.
var (
	hmacAlgorithms   = []string{"HS256", "HS384", "HS512"}
	rsaAlgorithms    = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	publicAlgorithms = append([]string{"ES256", "ES384", "ES512", "EdDSA"}, rsaAlgorithms...)
)

func hmacKey(secret string) key { return key{hmacAlgorithms, []byte(secret)} }

// publicKey binds k to what its type and size are good for.
func publicKey(k any) (key, error) {
	switch k := k.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return key{}, fmt.Errorf("RSA key has %d bits, not %d to %d", bits, minRSABits, maxRSABits)
		}
		return key{rsaAlgorithms, k}, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return key{[]string{"ES256"}, k}, nil
		case elliptic.P384():
			return key{[]string{"ES384"}, k}, nil
		case elliptic.P521():
			return key{[]string{"ES512"}, k}, nil
		}
		return key{}, fmt.Errorf("curve %s is not P-256, P-384 or P-521", k.Curve.Params().Name)
	case ed25519.PublicKey:
		return key{[]string{"EdDSA"}, k}, nil
	default:
		return key{}, fmt.Errorf("%T is no RSA, ECDSA or Ed25519 public key", k)
	}
}

func (k key) fits(algorithm string) bool { return slices.Contains(k.algorithms, algorithm) }

// isPEM tells a PEM text from a path.
func isPEM(s string) bool { return strings.Contains(s, "-----BEGIN ") }

// readPEM returns s itself when it is PEM, else the content of the file s. Errors
// name the file, never its content.
func readPEM(s string) ([]byte, error) {
	if isPEM(s) {
		return []byte(s), nil
	}
	return os.ReadFile(s)
}

// publicKeys returns the keys of a PEM text or file, one or more.
func publicKeys(source string) ([]key, error) {
	rest, err := readPEM(source)
	if err != nil {
		return nil, err
	}
	var keys []key
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		k, err := publicKeyOf(block)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no PEM public key in it")
	}
	return keys, nil
}

func publicKeyOf(block *pem.Block) (key, error) {
	var parsed any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		parsed, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		parsed, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var cert *x509.Certificate
		if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
			parsed = cert.PublicKey
		}
	case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
		return key{}, errors.New("this is a private key; give the public one, and keep this one where tokens are made")
	default:
		return key{}, fmt.Errorf("PEM block %q is no public key", block.Type)
	}
	if err != nil {
		return key{}, err
	}
	return publicKey(parsed)
}
