package test

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natsperm"
	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/persistence/queue"
	"github.com/headrace/headrace/router"
)

// The users of the tests' NATS servers. All edges of this suite run as edgeUser,
// with what `headrace nats-permissions` prints and nothing else; streams are made
// by provisionUser. Connections without a user belong to the tests themselves and
// may do everything.
const (
	edgeUser      = "edge"
	provisionUser = "provision"
	testUser      = "test"
)

// usedParts are the parts of the router that the suite's edges use.
var usedParts = router.PermissionOptions{API: true, RPC: true}

// permissionsOf returns what a user may do. It puts together what the packages
// tell, as cmd/headrace does.
func permissionsOf(user string, namespaces []router.Namespace, queues ...router.Queue) natsperm.Set {
	qc := queue.Config{Queues: queues}
	if user == provisionUser {
		s := persistence.ProvisionPermissions(storeConfig(namespaces), true)
		s.Rules = append(s.Rules, queue.ProvisionPermissions(qc)...)
		return s
	}
	s := router.Permissions(router.Config{Namespaces: namespaces}, usedParts)
	s.Rules = append(s.Rules, persistence.Permissions(storeConfig(namespaces), true)...)
	s.Rules = append(s.Rules, queue.Permissions(qc)...)
	return s
}

// withUsers makes a server with these users.
func withUsers(namespaces []router.Namespace, queues ...router.Queue) natstest.Option {
	return natstest.With(func(o *server.Options) {
		o.NoAuthUser = testUser
		o.Users = []*server.User{{Username: testUser, Password: testUser}}
		for _, name := range []string{edgeUser, provisionUser} {
			set := permissionsOf(name, namespaces, queues...)
			o.Users = append(o.Users, &server.User{Username: name, Password: name, Permissions: serverPermissions(&set)})
		}
	})
}

func serverPermissions(s *natsperm.Set) *server.Permissions {
	only := func(subjects []string) *server.SubjectPermission {
		if len(subjects) == 0 {
			return &server.SubjectPermission{Deny: []string{">"}} // an empty list would allow all
		}
		return &server.SubjectPermission{Allow: subjects}
	}
	p := &server.Permissions{Publish: only(s.Subjects(natsperm.Publish)), Subscribe: only(s.Subjects(natsperm.Subscribe))}
	if r := s.Responses; r != nil {
		p.Response = &server.ResponsePermission{MaxMsgs: r.Max, Expires: r.TTL}
	}
	return p
}

// loginOptions are those of a node: the user's login and an inbox of its own.
func loginOptions(user, id string, denied func(error)) []nats.Option {
	return []nats.Option{
		nats.UserInfo(user, user),
		nats.CustomInboxPrefix(natsperm.InboxPrefix("hr") + "." + id),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				denied(err)
			}
		}),
	}
}

// connectAs connects an edge, or who makes the streams. Anything that NATS denies
// them fails the test.
func (h *harness) connectAs(user, id string) *nats.Conn {
	h.t.Helper()
	return h.connect(loginOptions(user, id, func(err error) { h.t.Errorf("%s: %v", id, err) })...)
}

func (h *harness) replicas() int {
	if h.cluster != nil {
		return 3
	}
	return 1
}

// provision makes the streams, so that edges need no right to.
func (h *harness) provision() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	nc := h.connectAs(provisionUser, provisionUser)
	defer nc.Close()
	kept := storeConfig(namespaces())
	kept.Replicas = h.replicas()
	err := persistence.Provision(ctx, nc, kept, nil)
	if err == nil {
		err = queue.Provision(ctx, nc, queue.Config{Queues: h.queues, Replicas: h.replicas()})
	}
	if err != nil {
		h.t.Fatalf("provision: %v", err)
	}
}
