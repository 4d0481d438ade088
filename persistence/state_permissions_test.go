package persistence

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natsperm"
	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

// Everything that state needs of NATS is among the permissions, and none of its own
// permissions is spare.
func TestStatePermissions(t *testing.T) {
	srv := natstest.Run(t, natstest.Listen())
	cfg := Config{Namespaces: mapNamespaces(false)}
	conn := func(r *natstest.Recorder) *nats.Conn {
		return srv.Conn(append(ConnectOptions(), r.Option(), nats.CustomInboxPrefix(natsperm.InboxPrefix("hr")))...)
	}
	maker, user := natstest.NewRecorder(), natstest.NewRecorder()
	ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience(30*time.Second))
	defer cancel()
	if err := Provision(ctx, conn(maker), cfg, nil); err != nil {
		t.Fatal(err)
	}
	e := []*edge{startEdge(t, conn(user), srv.Conn(), cfg), startEdge(t, conn(user), srv.Conn(), cfg)}
	stateVersions(t, e)
	e[0].all(t, 10)
	e[0].part().contended("c")
	s := newScanner(e[0].part())
	s.keep = -time.Hour
	if err := s.scan(ctx); err != nil {
		t.Fatal(err)
	}
	if err := e[1].ClearState(ctx, "m:c"); err != nil {
		t.Fatal(err)
	}
	check := func(name string, r *natstest.Recorder, rules []natsperm.Rule) {
		set := natsperm.Set{Rules: rules}
		all := make(map[natsperm.Direction][]string)
		all[natsperm.Publish], all[natsperm.Subscribe] = r.Published(), r.Subscribed()
		for d, subjects := range all {
			for _, subject := range subjects {
				if !set.Allows(d, subject) && !strings.HasPrefix(subject, natsperm.InboxPrefix("hr")+".") {
					t.Errorf("%s: %s to %s is missing", name, d, subject)
				}
			}
		}
		for _, rule := range rules {
			used := false
			for _, subject := range all[rule.Direction] {
				used = used || natsperm.Covers(rule.Subject, subject)
			}
			state := strings.Contains(rule.Subject, "KEYS") || strings.Contains(rule.Subject, ".key.")
			if !used && state && !strings.Contains(rule.Subject, ".UPDATE.") {
				t.Errorf("%s: %s %s is spare", name, rule.Direction, rule.Subject)
			}
		}
	}
	check("provision", maker, ProvisionPermissions(cfg, false).Rules)
	node := router.Permissions(router.Config{Namespaces: cfg.Namespaces}, router.PermissionOptions{}).Rules
	check("use", user, append(Permissions(cfg, false), node...))
}
