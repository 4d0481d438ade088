package check

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

// The record under test is written in a small language, one event per line, a
// second apart.
func record(t *testing.T, lines ...string) []Event {
	t.Helper()
	var events []Event
	for i, line := range lines {
		f := strings.Fields(line)
		e := Event{T: time.Duration(i) * time.Second, Kind: Kind(f[0])}
		for _, word := range f[1:] {
			k, v, _ := strings.Cut(word, "=")
			switch k {
			case "who":
				e.Who = v
			case "at":
				e.At = v
			case "ch":
				e.Channel = v
			case "n":
				e.Offset = uint64(v[0] - '0')
			case "life":
				e.Epoch = v
			case "p":
				e.Payload = strings.ReplaceAll(v, "_", " ")
			case "code":
				e.Code = 2500
			case "asked":
				e.Asked = true
			case "recovered":
				e.Recovered = true
			case "t":
				d, err := time.ParseDuration(v)
				if err != nil {
					t.Fatal(err)
				}
				e.T = d
			case "began":
				e.Began, _ = time.ParseDuration(v)
			default:
				t.Fatalf("line %d: what is %q?", i, word)
			}
		}
		events = append(events, e)
	}
	return events
}

var testRules = Rules{
	History: map[string]int{"h": 5}, Late: 10 * time.Second, Gone: 5 * time.Second,
	Leak: Resources{Goroutines: 5, Descriptors: 5, Bytes: 1000},
}

// good is a record without fault: a subscriber that gets 1, is cut, recovers 2 and
// gets 3.
var good = []string{
	"subscribed who=c ch=h:a n=0 life=s~0 at=e1 p=id1",
	"send ch=h:a p=x-1", "ack ch=h:a p=x-1 n=1 life=L", "deliver who=c ch=h:a n=1 life=L p=x-1",
	"detach who=c",
	"send ch=h:a p=x-2", "ack ch=h:a p=x-2 n=2 life=L",
	"subscribed who=c ch=h:a n=1 life=L at=e2 p=id2 asked= recovered=", "deliver who=c ch=h:a n=2 p=x-2",
	"send ch=h:a p=x-3", "ack ch=h:a p=x-3", "deliver who=c ch=h:a n=3 p=x-3",
	"final ch=h:a n=1 life=L p=x-1", "final ch=h:a n=2 life=L p=x-2", "final ch=h:a n=3 life=L p=x-3",
	"target ch=h:a n=3 life=L",
}

func TestGoodRecordPasses(t *testing.T) {
	r := Verify(record(t, good...), testRules)
	if len(r.Violations) > 0 || r.Acked != 3 || r.Delivered != 3 || r.Recovered != 1 || r.Told != 0 {
		t.Errorf("got %+v", r)
	}
}

// TestEveryRuleCanBeBroken changes the good record, or takes another, so that one
// sentence of the guarantees is false.
func TestEveryRuleCanBeBroken(t *testing.T) {
	without := func(gone ...string) []string {
		return slices.DeleteFunc(slices.Clone(good), func(l string) bool { return slices.Contains(gone, l) })
	}
	with := func(old string, lines ...string) []string {
		i := slices.Index(good, old)
		if i < 0 {
			t.Fatalf("no line %q", old)
		}
		return slices.Replace(slices.Clone(good), i, i+1, lines...)
	}
	late := []string{"subscribed who=c ch=h:a n=0 life=L", "send ch=h:a p=x-1", "ack ch=h:a p=x-1 n=1 life=L"}
	for name, tt := range map[string]struct {
		lines []string
		rule  string
	}{
		"lost in the end":           {with("final ch=h:a n=3 life=L p=x-3", "fault p=x"), RuleLost},
		"log ends too early":        {with("target ch=h:a n=3 life=L", "target ch=h:a n=2 life=L"), RuleLost},
		"acknowledged, nowhere":     {with("target ch=h:a n=3 life=L", "send ch=h:a p=x-4", "ack ch=h:a p=x-4", "target ch=h:a n=3 life=L"), RuleLost},
		"skipped silently":          {without("deliver who=c ch=h:a n=2 p=x-2"), RuleSilent},
		"tail missing":              {without("deliver who=c ch=h:a n=3 p=x-3"), RuleLate},
		"doubled":                   {with("deliver who=c ch=h:a n=2 p=x-2", "deliver who=c ch=h:a n=2 p=x-2", "deliver who=c ch=h:a n=2 p=x-2"), RuleOnce},
		"stored twice":              {with("deliver who=c ch=h:a n=3 p=x-3", "deliver who=c ch=h:a n=3 p=x-2"), RuleOnce},
		"another payload":           {with("final ch=h:a n=1 life=L p=x-1", "final ch=h:a n=1 life=L p=x-2"), RuleOnce},
		"nobody sent it":            {with("deliver who=c ch=h:a n=3 p=x-3", "deliver who=c ch=h:a n=3 p=y-1"), RuleOnce},
		"another life":              {with("deliver who=c ch=h:a n=2 p=x-2", "deliver who=c ch=h:a n=2 life=M p=x-2"), RuleSilent},
		"recovered across lives":    {with("subscribed who=c ch=h:a n=1 life=L at=e2 p=id2 asked= recovered=", "subscribed who=c ch=h:a n=1 life=M asked= recovered="), RuleSilent},
		"told without cause":        {with("subscribed who=c ch=h:a n=1 life=L at=e2 p=id2 asked= recovered=", "subscribed who=c ch=h:a n=1 life=L at=e2 p=id2 asked="), RuleCause},
		"told of another life":      {with("subscribed who=c ch=h:a n=1 life=L at=e2 p=id2 asked= recovered=", "subscribed who=c ch=h:a n=0 life=s~0 asked="), RuleCause},
		"unsubscribed without":      {with("detach who=c", "unsub who=c ch=h:a code=2500"), RuleCause},
		"outside a subscription":    {without("subscribed who=c ch=h:a n=1 life=L at=e2 p=id2 asked= recovered="), RuleOrder},
		"too late":                  {append(slices.Clone(late), "deliver who=c ch=h:a n=1 p=x-1 t=30s"), RuleLate},
		"late and then gone":        {append(slices.Clone(late), "deliver who=d ch=h:a n=1 p=x-1 t=20s", "detach who=c t=30s"), RuleLate},
		"not there in the end":      {append(slices.Clone(good), "detach who=c"), RuleLate},
		"ephemeral twice":           {[]string{"subscribed who=c ch=e:a", "send ch=e:a p=x-1", "deliver who=c ch=e:a p=x-1", "deliver who=c ch=e:a p=x-1"}, RuleEphemeral},
		"ephemeral out of order":    {[]string{"subscribed who=c ch=e:a", "send ch=e:a p=x-1", "send ch=e:a p=x-2", "deliver who=c ch=e:a p=x-2", "deliver who=c ch=e:a p=x-1"}, RuleEphemeral},
		"present and not listed":    {[]string{"subscribed who=c ch=e:a at=e1 p=id", "present ch=e:a began=20s t=21s"}, RulePresence},
		"gone and listed":           {[]string{"subscribed who=c ch=e:a at=e1 p=id", "detach who=c", "present ch=e:a p=id began=20s t=21s"}, RulePresence},
		"gone for long and listed":  {[]string{"subscribed who=c ch=e:a at=e1 p=id", "detach who=c", "impaired at=e1 t=5s", "healthy at=e1 t=6s", "present ch=e:a p=id began=40s t=41s"}, RulePresence},
		"goroutines stay":           {[]string{`usage who=e1 p={"phase":"before","goroutines":10}`, `usage who=e1 p={"phase":"after","goroutines":99}`}, RuleLeak},
		"descriptors stay, at last": {[]string{`usage who=e1 p={"phase":"before"}`, "closed", `usage who=e1 p={"phase":"after","descriptors":99}`}, RuleLeak},
	} {
		t.Run(name, func(t *testing.T) {
			r := Verify(record(t, tt.lines...), testRules)
			if !slices.ContainsFunc(r.Violations, func(v Violation) bool { return v.Rule == tt.rule }) {
				t.Errorf("no violation of %q among %v", tt.rule, r.Violations)
			}
		})
	}
}

// TestNoFalseAlarm has records that look odd and are right.
func TestNoFalseAlarm(t *testing.T) {
	for name, lines := range map[string][]string{
		"a removed history leaves a hole": {
			"subscribed who=c ch=h:a n=0 life=L", "send ch=h:a p=x-1", "ack ch=h:a p=x-1 n=1 life=L", "deliver who=c ch=h:a n=1 p=x-1",
			"clear ch=h:a", "send ch=h:a p=x-3", "ack ch=h:a p=x-3 n=3 life=L", "deliver who=c ch=h:a n=3 p=x-3", "target ch=h:a n=3 life=L",
		},
		"who does not read is late": {
			"subscribed who=c ch=h:a n=0 life=L", "stall who=c", "send ch=h:a p=x-1", "ack ch=h:a p=x-1 n=1 life=L", "resume who=c t=50s",
			"deliver who=c ch=h:a n=1 p=x-1 t=51s", "final ch=h:a n=1 life=L p=x-1 t=52s", "target ch=h:a n=1 life=L t=53s",
		},
		"a position too old is told": {
			"subscribed who=c ch=h:a n=1 life=L", "detach who=c", "subscribed who=c ch=h:a n=9 life=L asked=", "target ch=h:a n=9 life=L",
		},
		"repeated after it had left the history": {
			"subscribed who=c ch=h:a n=0 life=L", "send ch=h:a p=x-1", "deliver who=c ch=h:a n=1 p=x-1",
			"send ch=h:a p=x-2", "deliver who=c ch=h:a n=2 p=x-2", "send ch=h:a p=x-3", "deliver who=c ch=h:a n=3 p=x-3",
			"send ch=h:a p=x-4", "deliver who=c ch=h:a n=4 p=x-4", "send ch=h:a p=x-5", "deliver who=c ch=h:a n=5 p=x-5",
			"deliver who=c ch=h:a n=6 p=x-1", "ack ch=h:a p=x-1 n=6 life=L",
			"final ch=h:a n=6 life=L p=x-1", "target ch=h:a n=6 life=L",
		},
		"an impaired edge's members": {
			"subscribed who=c ch=e:a at=e1 p=id", "impaired at=e1 t=12s", "healthy at=e1 t=19s", "present ch=e:a began=20s t=21s",
		},
		"presence of who does not read": {
			"subscribed who=c ch=e:a at=e1 p=id", "stall who=c t=12s", "resume who=c t=19s", "present ch=e:a began=20s t=21s",
		},
		"late after the publisher's edge moved": {
			"subscribed who=c ch=e:a", "send ch=e:a p=x-1 at=e1", "impaired at=e1", "healthy at=e1", "send ch=e:a p=x-2 at=e1",
			"deliver who=c ch=e:a p=x-2", "deliver who=c ch=e:a p=x-1",
		},
		"presence of who just came": {"subscribed who=c ch=e:a at=e1 p=id t=17s", "present ch=e:a began=20s t=21s"},
	} {
		t.Run(name, func(t *testing.T) {
			if r := Verify(record(t, lines...), testRules); len(r.Violations) > 0 {
				t.Errorf("false alarm: %v", r.Violations)
			}
		})
	}
}

// TestLossesOfNATSAreExplained: only those in the namespace, and only after it said so.
func TestLossesOfNATSAreExplained(t *testing.T) {
	lines := slices.DeleteFunc(slices.Clone(good), func(l string) bool { return l == "final ch=h:a n=3 life=L p=x-3" })
	for name, tt := range map[string]struct {
		broken    string
		explained bool
	}{
		"before": {"broken ch=h t=1s", true}, "another namespace": {"broken ch=i t=1s", false}, "long after": {"broken ch=h t=99s", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := Verify(record(t, append(slices.Clone(lines), "closed", tt.broken)...), testRules)
			if (len(r.Explained) > 0) != tt.explained || (len(r.Violations) > 0) == tt.explained {
				t.Errorf("violations %v, explained %v", r.Violations, r.Explained)
			}
		})
	}
}

func TestRecordSurvivesWritingAndReading(t *testing.T) {
	var file bytes.Buffer
	h := NewHistory(&file)
	for _, e := range record(t, good...) {
		h.Add(e)
	}
	written, err := h.Events()
	if err != nil {
		t.Fatal(err)
	}
	read, err := Read(&file)
	if err != nil || !slices.Equal(read, written) {
		t.Errorf("read %d events of %d, %v", len(read), len(written), err)
	}
}

func TestTraceHoldsWhatMatters(t *testing.T) {
	events := record(t, slices.Concat([]string{"fault p=kill_e1"}, slices.DeleteFunc(slices.Clone(good), func(l string) bool {
		return l == "deliver who=c ch=h:a n=2 p=x-2"
	}))...)
	r := Verify(events, testRules)
	if len(r.Violations) == 0 {
		t.Fatal("no violation")
	}
	text := Format(Trace(events, r.Violations[0]))
	for _, want := range []string{"kill e1", `ack        h:a 2:L x-2`, "recovered=true", "3: x-3"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"t":1,"kind":"ack","channel":"h:a","offset":1}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		events, err := Read(bytes.NewReader(data))
		if err == nil {
			Verify(events, testRules)
		}
	})
}
