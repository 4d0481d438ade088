package check

import (
	"slices"
	"strings"
	"testing"
)

// room is two clients, a and b, one of which comes later and leaves; c asks too early,
// and d comes and goes without asking.
var room = []string{
	"subscribed who=a ch=r:x at=e1 p=ida",
	"member-joined who=a ch=r:x p=ida",
	"members who=a ch=r:x p=ida",
	"subscribed who=b ch=r:x at=e2 p=idb",
	"member-joined who=a ch=r:x p=idb",
	"detach who=b",
	"member-left who=a ch=r:x p=idb",
	"subscribed who=c ch=r:x at=e2 p=idc",
	"member-joined who=a ch=r:x p=idc",
	"ask-members who=c ch=r:x",
	"members who=c ch=r:x p=ida_idc",
	"subscribed who=d ch=r:x at=e2 p=idd",
	"member-joined who=a ch=r:x p=idd",
	"member-joined who=c ch=r:x p=idd",
	"ack ch=h:a p=z t=30s",
}

func TestGoodRoomPasses(t *testing.T) {
	r := Verify(record(t, room...), testRules)
	bad := slices.DeleteFunc(r.Violations, func(v Violation) bool { return v.Rule != RuleMembers })
	if len(bad) > 0 || r.Joined != 5 || r.Left != 1 {
		t.Errorf("got %+v", r)
	}
}

func TestMembersRule(t *testing.T) {
	for name, tt := range map[string]struct {
		change func([]string) []string
		want   string // part of the only violation; "" is none
	}{
		"a join twice": {func(l []string) []string { return slices.Insert(l, 5, "member-joined who=a ch=r:x p=idb") }, "again that idb joined"},
		"a leave twice": {func(l []string) []string { return slices.Insert(l, 7, "member-left who=a ch=r:x p=idb") },
			"idb left, who was not there"},
		"a leave that is not told in time": {func(l []string) []string {
			return append(slices.Delete(slices.Clone(l), 6, 7), "member-left who=a ch=r:x p=idb t=12s", "ack ch=h:a p=z t=40s")
		}, "not told for 5s that b left"},
		"nor in the end": {func(l []string) []string { return slices.Delete(slices.Clone(l), 6, 7) }, "still sees b"},
		"while its edge was broken": {func(l []string) []string {
			return append(slices.Delete(slices.Clone(l), 6, 7), "impaired at=e1 t=6s", "member-left who=a ch=r:x p=idb t=12s", "healthy at=e1 t=12s", "ack ch=h:a p=z t=40s")
		}, ""},
		"a join that is not told in time": {func(l []string) []string {
			return append(slices.Delete(slices.Clone(l), 8, 9), "member-joined who=a ch=r:x p=idc t=20s", "ack ch=h:a p=z t=40s")
		}, "not told of c"},
		"nor in the end, a join": {func(l []string) []string { return slices.Delete(slices.Clone(l), 8, 9) }, "does not know of c"},
		"who never learns":       {func(l []string) []string { return slices.Delete(slices.Clone(l), 10, 11) }, "never learned"},
	} {
		t.Run(name, func(t *testing.T) {
			r := Verify(record(t, tt.change(slices.Clone(room))...), testRules)
			bad := slices.DeleteFunc(r.Violations, func(v Violation) bool { return v.Rule != RuleMembers })
			switch {
			case tt.want == "" && len(bad) > 0, tt.want != "" && (len(bad) != 1 || !strings.Contains(bad[0].Text, tt.want)):
				t.Errorf("want %q, got %v", tt.want, bad)
			}
		})
	}
}
