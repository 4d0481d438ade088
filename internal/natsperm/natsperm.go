// Package natsperm describes what a NATS user has to be allowed, and prints it as
// people need it.
package natsperm

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Direction is what is done with a subject.
type Direction string

// The directions.
const (
	Publish   Direction = "publish"
	Subscribe Direction = "subscribe"
)

// Rule is one subject, perhaps with wildcards, that a user may use.
type Rule struct {
	Direction Direction `json:"direction"`
	Subject   string    `json:"subject"`
	Need      string    `json:"need"` // what for
}

// Responses allows one answer to each request received, within TTL.
type Responses struct {
	Max int
	TTL time.Duration
}

// Set is everything that a user may do. What is not in it is denied.
type Set struct {
	Title     string
	Rules     []Rule
	Responses *Responses // nil: answers only where Rules allow
}

// InboxPrefix is where the connections of a cluster with this prefix get their
// answers. It is not the default _INBOX, which any client may listen to.
func InboxPrefix(prefix string) string { return "_INBOX_" + prefix }

// Subjects returns the subjects of one direction, sorted and without repeats.
func (s *Set) Subjects(d Direction) []string {
	var out []string
	for _, r := range s.Rules {
		if r.Direction == d {
			out = append(out, r.Subject)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Allows reports whether the rules allow d on subject. A subscription may have
// wildcards; then all that it matches must be allowed.
func (s *Set) Allows(d Direction, subject string) bool {
	return slices.ContainsFunc(s.Rules, func(r Rule) bool { return r.Direction == d && Covers(r.Subject, subject) })
}

// Covers reports whether pattern matches everything that subject does.
func Covers(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		switch {
		case token == ">":
			return len(s) > i
		case i >= len(s) || s[i] == ">":
			return false
		case token != "*" && token != s[i]:
			return false
		}
	}
	return len(p) == len(s)
}

// Text prints a table with reasons.
func (s *Set) Text(w io.Writer) error {
	fmt.Fprintf(w, "%s\n\n", s.Title)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, d := range []Direction{Publish, Subscribe} {
		for _, r := range s.sorted(d) {
			fmt.Fprintf(t, "%s\t%s\t%s\n", r.Direction, r.Subject, r.Need)
		}
	}
	if s.Responses != nil {
		fmt.Fprintf(t, "respond\t%d within %v\tanswers to requests\n", s.Responses.Max, s.Responses.TTL)
	}
	return t.Flush()
}

func (s *Set) sorted(d Direction) []Rule {
	var out []Rule
	for _, subject := range s.Subjects(d) {
		i := slices.IndexFunc(s.Rules, func(r Rule) bool { return r.Direction == d && r.Subject == subject })
		out = append(out, s.Rules[i])
	}
	return out
}

// JSON prints the permissions as they stand in a user's claims.
func (s *Set) JSON(w io.Writer) error {
	type list struct {
		Allow []string `json:"allow,omitempty"`
		Deny  []string `json:"deny,omitempty"`
	}
	type responses struct {
		Max int    `json:"max"`
		TTL string `json:"ttl"`
	}
	only := func(d Direction) list {
		if allow := s.Subjects(d); len(allow) > 0 {
			return list{Allow: allow}
		}
		return list{Deny: []string{">"}} // to NATS an empty list allows all
	}
	out := struct {
		Publish   list       `json:"publish"`
		Subscribe list       `json:"subscribe"`
		Responses *responses `json:"allow_responses,omitempty"`
	}{only(Publish), only(Subscribe), nil}
	if s.Responses != nil {
		out.Responses = &responses{s.Responses.Max, s.Responses.TTL.String()}
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}

// Conf prints the permissions for a user in a configuration file of nats-server.
func (s *Set) Conf(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\npermissions: {\n", s.Title)
	for _, d := range []Direction{Publish, Subscribe} {
		if len(s.Subjects(d)) == 0 { // to NATS an empty list allows all
			fmt.Fprintf(&b, "  %s: { deny: \">\" }\n", d)
			continue
		}
		fmt.Fprintf(&b, "  %s: { allow: [\n", d)
		for _, r := range s.sorted(d) {
			fmt.Fprintf(&b, "    %-50q # %s\n", r.Subject, r.Need)
		}
		b.WriteString("  ] }\n")
	}
	if s.Responses != nil {
		fmt.Fprintf(&b, "  allow_responses: { max: %d, expires: %q }\n", s.Responses.Max, s.Responses.TTL)
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}
