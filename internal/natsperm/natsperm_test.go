package natsperm

import (
	"strings"
	"testing"
)

func TestCovers(t *testing.T) {
	for _, tt := range []struct {
		pattern, subject string
		want             bool
	}{
		{"a.b", "a.b", true}, {"a.b", "a.c", false}, {"a.b", "a", false}, {"a", "a.b", false},
		{"a.*", "a.b", true}, {"a.*", "a.*", true}, {"a.*", "a.>", false}, {"a.*", "a.b.c", false}, {"a.b", "a.*", false},
		{"a.>", "a.b", true}, {"a.>", "a.b.c", true}, {"a.>", "a", false}, {"a.>", "a.>", true}, {"a.>", "a.*", true}, {">", "a", true},
	} {
		if got := Covers(tt.pattern, tt.subject); got != tt.want {
			t.Errorf("Covers(%q, %q) = %v", tt.pattern, tt.subject, got)
		}
	}
}

// To NATS an empty list of subjects allows everything.
func TestNoRuleMeansDenied(t *testing.T) {
	s := Set{Title: "x", Rules: []Rule{{Direction: Publish, Subject: "a"}}}
	var conf, json strings.Builder
	if err := s.Conf(&conf); err != nil {
		t.Fatal(err)
	}
	if err := s.JSON(&json); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(conf.String(), `subscribe: { deny: ">" }`) || !strings.Contains(strings.Join(strings.Fields(json.String()), ""), `"subscribe":{"deny":[">"]}`) {
		t.Errorf("%s\n%s", &conf, &json)
	}
}
