package token

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/headrace/headrace/router"
)

// Bounds of the caps claim: it is matched on every command.
const (
	maxPatterns     = 256
	maxPatternBytes = 512
	maxRegexps      = 16 // compiled, one may take tens of kilobytes
)

// Capabilities are what a connection token lets its owner do beyond the rules of
// the namespaces. Nil grants nothing. They are shared by sessions: nobody changes
// them.
type Capabilities struct {
	grants []grant
}

// grant is one entry of the caps claim.
type grant struct {
	channels []string         // exact names, or patterns with * for any run of characters
	wildcard bool             // channels are patterns
	regexps  []*regexp.Regexp // when not nil, instead of channels
	ops      router.Ops
}

// capClaim is an entry of the caps claim as Centrifugo has it.
type capClaim struct {
	Channels []string `json:"channels"`
	Match    string   `json:"match,omitempty"` // "" is exact, wildcard or regex
	Allow    []string `json:"allow"`
}

// opNames are the operations as claims spell them.
var opNames = map[string]router.Ops{
	"sub": router.OpsOf(router.OpSubscribe),
	"pub": router.OpsOf(router.OpPublish),
	"hst": router.OpsOf(router.OpHistory),
	"prs": router.OpsOf(router.OpPresence),
	"dlq": router.OpsOf(router.OpDeadLetters),
}

func parseOps(names []string) (ops router.Ops, err error) {
	for _, name := range names {
		op, known := opNames[name]
		if !known {
			return 0, fmt.Errorf("allow: %q is not one of sub, pub, hst, prs, dlq", name)
		}
		ops |= op
	}
	return ops, nil
}

// ParseCapabilities reads a caps claim: a list of
// {"channels": […], "match": "" | "wildcard" | "regex", "allow": ["sub", "pub", "hst", "prs", "dlq"]}.
func ParseCapabilities(claim []byte) (*Capabilities, error) {
	dec := json.NewDecoder(bytes.NewReader(claim))
	dec.DisallowUnknownFields() // a misspelt restriction would be none
	var entries []capClaim
	if err := dec.Decode(&entries); err != nil {
		return nil, fmt.Errorf("caps: %w", err)
	}
	c := &Capabilities{}
	patterns, regexps := 0, 0
	for i, e := range entries {
		if patterns += len(e.Channels); patterns > maxPatterns {
			return nil, fmt.Errorf("caps: more than %d channels", maxPatterns)
		}
		if e.Match == "regex" {
			regexps += len(e.Channels)
		}
		if regexps > maxRegexps {
			return nil, fmt.Errorf("caps: more than %d regular expressions; use wildcard", maxRegexps)
		}
		g, err := e.grant()
		if err != nil {
			return nil, fmt.Errorf("caps: entry %d: %w", i, err)
		}
		c.grants = append(c.grants, g)
	}
	return c, nil
}

func (e capClaim) grant() (g grant, err error) {
	if g.ops, err = parseOps(e.Allow); err != nil {
		return g, err
	}
	for _, p := range e.Channels {
		if len(p) > maxPatternBytes {
			return g, fmt.Errorf("a channel has more than %d bytes", maxPatternBytes)
		}
	}
	g.channels = e.Channels
	switch e.Match {
	case "":
	case "wildcard":
		g.wildcard = true
	case "regex":
		g.channels = nil
		for _, p := range e.Channels {
			re, err := regexp.Compile(p)
			if err != nil {
				return g, err
			}
			g.regexps = append(g.regexps, re)
		}
	default:
		return g, fmt.Errorf("match: %q is neither wildcard nor regex", e.Match)
	}
	return g, nil
}

// Allowed returns the operations granted in channel.
func (c *Capabilities) Allowed(channel string) (ops router.Ops) {
	if c == nil {
		return 0
	}
	for i := range c.grants {
		if g := &c.grants[i]; ops|g.ops != ops && g.matches(channel) {
			ops |= g.ops
		}
	}
	return ops
}

func (g *grant) matches(channel string) bool {
	for _, re := range g.regexps {
		if re.MatchString(channel) {
			return true
		}
	}
	for _, p := range g.channels {
		if p == channel || g.wildcard && wildcard(p, channel) {
			return true
		}
	}
	return false
}

// wildcard reports whether s matches pattern, in which * stands for any run of
// characters, none included. It backtracks to the last * only, so the time is at
// most len(pattern)·len(s).
func wildcard(pattern, s string) bool {
	star, mark := -1, 0 // the last * in pattern, and where in s it began
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// capsCache shares parsed claims between sessions: most users of an application
// have one of a few, and a compiled pattern is larger than its text. The zero
// value is not usable.
type capsCache struct {
	parsed *lru.Cache[string, *Capabilities]
}

// capsCacheSize bounds the cache; an entry is at most some times MaxBytes.
const capsCacheSize = 512

func newCapsCache() *capsCache {
	c, err := lru.New[string, *Capabilities](capsCacheSize)
	if err != nil {
		panic(err) // the size is a constant
	}
	return &capsCache{parsed: c}
}

func (c *capsCache) get(claim json.RawMessage) (*Capabilities, error) {
	if len(claim) == 0 || string(claim) == "null" {
		return nil, nil
	}
	if caps, ok := c.parsed.Get(string(claim)); ok {
		return caps, nil
	}
	caps, err := ParseCapabilities(claim)
	if err == nil {
		c.parsed.Add(string(claim), caps)
	}
	return caps, err
}
