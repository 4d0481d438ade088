package queue

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/planted"
)

// delivery is what an ack subject tells: one delivery of one message.
type delivery struct {
	ack       string // the whole subject
	stream    string
	consumer  string
	delivered int    // how often the message was delivered, this time included
	seq       uint64 // in the stream
	stored    time.Time
}

// macBytes of the MAC are kept: guessing takes 2^127 tries.
const macBytes = 16

// maxTokenBytes bounds what is looked at.
const maxTokenBytes = 1024

var errToken = errors.New("not a job token")

// parseAck reads an ack subject (nats-server consumer.go, ackReplyInfo):
// $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
// or, with domain and account hash in front of the stream, two tokens more (and a
// random one at the end).
func parseAck(subject string) (delivery, error) {
	t := strings.Split(subject, ".")
	if len(t) < 9 || t[0] != "$JS" || t[1] != "ACK" {
		return delivery{}, errToken
	}
	i := 2
	if len(t) >= 11 {
		i = 4
	}
	n, err1 := strconv.ParseUint(t[i+2], 10, 31)
	seq, err2 := strconv.ParseUint(t[i+3], 10, 64)
	at, err3 := strconv.ParseInt(t[i+5], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil || n == 0 || seq == 0 {
		return delivery{}, errToken
	}
	return delivery{ack: subject, stream: t[i], consumer: t[i+1], delivered: int(n), seq: seq, stored: time.Unix(0, at)}, nil
}

// token returns the job token of a delivery: the ack subject and a MAC, so that
// every node can settle it and nobody can make one up.
func (q *queue) token(d delivery) string {
	return base64.RawURLEncoding.EncodeToString(append(q.mac(d.ack), d.ack...))
}

func (q *queue) mac(ack string) []byte {
	h, ok := q.macs.Get().(hash.Hash)
	if !ok {
		h = hmac.New(sha256.New, q.key)
	}
	h.Reset()
	h.Write([]byte(q.cfg.Name + "\x00" + ack)) // names have no NUL
	sum := h.Sum(make([]byte, 0, sha256.Size+len(ack)))
	q.macs.Put(h)
	return sum[:macBytes]
}

// open is the inverse of token.
func (q *queue) open(token string) (delivery, error) {
	if planted.Bug(planted.ForeignTokens) {
		return anyToken(token)
	}
	if len(token) > maxTokenBytes {
		return delivery{}, errToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) <= macBytes {
		return delivery{}, errToken
	}
	ack := string(b[macBytes:])
	if !hmac.Equal(b[:macBytes], q.mac(ack)) {
		return delivery{}, errToken
	}
	d, err := parseAck(ack)
	if err != nil {
		return delivery{}, err
	}
	if _, ok := q.streamOf(d.stream); !ok {
		return delivery{}, errToken
	}
	return d, nil
}
