package router

import "testing"

func TestUserLimitedChannels(t *testing.T) {
	ns := &Namespace{Name: "chat", UserLimited: true, AllowSubscribe: true, AllowPublish: true, AllowHistorySubscriber: true}
	all := OpsOf(OpSubscribe, OpPublish, OpHistory, OpPresence)
	for name, tt := range map[string]struct {
		op      Op
		channel string
		who     Access
		want    bool
	}{
		"a user it names subscribes":                       {OpSubscribe, "d#42,43", Access{User: "43"}, true},
		"another user does not":                            {OpSubscribe, "d#42,43", Access{User: "4"}, false},
		"nor with a capability":                            {OpSubscribe, "d#42,43", Access{User: "4", Granted: all}, false},
		"nor anonymously, though the list ends in a comma": {OpSubscribe, "d#42,", Access{}, false},
		"a user it names publishes":                        {OpPublish, "d#42,43", Access{User: "42"}, true},
		"another user does not publish":                    {OpPublish, "d#42,43", Access{User: "44"}, false},
		"a subscriber is inside":                           {OpHistory, "d#42,43", Access{User: "44", Subscribed: true}, true},
		"two borders name nobody":                          {OpSubscribe, "d#1#42", Access{User: "42"}, false},
		"nor the user whose id has one":                    {OpSubscribe, "d#1#42", Access{User: "1#42"}, false},
		"an empty list names nobody":                       {OpSubscribe, "d#", Access{User: "42"}, false},
		"other channels follow the rules":                  {OpSubscribe, "lobby", Access{User: "42"}, true},
		"and the capabilities":                             {OpPresence, "lobby", Access{Granted: all}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ns.allows(tt.op, tt.channel, tt.who); got != tt.want {
				t.Errorf("allowed: %v, want %v", got, tt.want)
			}
		})
	}
	open := &Namespace{Name: "open", AllowSubscribe: true}
	if !open.allows(OpSubscribe, "d#42", Access{User: "7"}) {
		t.Error("# limits a namespace that does not ask for it")
	}
}

func TestRemovingKeys(t *testing.T) {
	ns := &Namespace{Name: "map", AllowPublish: true, Map: &MapOptions{}}
	users := &Namespace{Name: "map", Map: &MapOptions{AllowRemove: true}}
	subscribers := &Namespace{Name: "map", Map: &MapOptions{AllowRemoveSubscriber: true}}
	for name, tt := range map[string]struct {
		ns   *Namespace
		who  Access
		want bool
	}{
		"not by the rule for publishing":      {ns, Access{User: "42"}, false},
		"by its own rule":                     {users, Access{User: "42"}, true},
		"which is for users":                  {users, Access{}, false},
		"by that for subscribers":             {subscribers, Access{Subscribed: true}, true},
		"which is for them":                   {subscribers, Access{User: "42"}, false},
		"by a capability to publish":          {ns, Access{Granted: OpsOf(OpPublish)}, true},
		"not by another capability":           {ns, Access{Granted: OpsOf(OpSubscribe, OpHistory, OpPresence)}, false},
		"not in a namespace without any maps": {&Namespace{Name: "chat", AllowPublish: true}, Access{User: "42"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tt.ns.allows(OpRemove, "a", tt.who); got != tt.want {
				t.Errorf("allowed: %v, want %v", got, tt.want)
			}
		})
	}
}

func TestNameRuleIsAnchored(t *testing.T) {
	re, err := compileNameRule("[a-z]+|[0-9]+")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"abc": true, "12": true, "abc1": false, "ABC": false, "a\nb": false, "a\n": false} {
		if got := re.MatchString(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}
