package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
)

const permissionsFile = "limits: {user_messages: {enabled: true}}\nnamespaces: [{name: chat, history_size: 10, allow_subscribe: true, allow_publish: true}, {name: eph, join_leave: true}]\n"

// natsWithPrinted runs a NATS server whose users have what nats-permissions
// prints for its configuration file, and nothing more.
func natsWithPrinted(t *testing.T, path string) *natstest.Server {
	t.Helper()
	var users strings.Builder
	for _, who := range []string{"edge", "provision", "backend", "pusher", "worker"} {
		code, printed, stderr := execute(t, "", "nats-permissions", "--config", path, "--format", "nats-conf", "--for", who)
		if code != exitOK {
			t.Fatal(stderr)
		}
		fmt.Fprintf(&users, "{ user: %s, password: %s\n%s}\n", who, who, printed)
	}
	conf := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(conf, []byte("authorization { users: [\n"+users.String()+"] }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	parsed, err := server.ProcessConfigFile(conf)
	if err != nil {
		t.Fatalf("nats-server cannot read what is printed: %v\n%s", err, &users)
	}
	return natstest.Run(t, natstest.Listen(), natstest.With(func(o *server.Options) { o.Users = parsed.Users }))
}

func TestA5NodeRunsUnderThePrintedPermissions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h.yaml")
	if err := os.WriteFile(path, []byte(permissionsFile), 0o600); err != nil {
		t.Fatal(err)
	}
	url := natsWithPrinted(t, path).ClientURL()
	as := func(user string) []string {
		return []string{"--config", path, "--nats", url, "--set", "nats.user=" + user, "--set", "nats.password=" + user, "--set", "nats.replicas=1"}
	}
	// A node cannot make the streams, and says what to do.
	code, _, stderr := execute(t, "", append([]string{"serve", "--addr", "127.0.0.1:0", "--set", "nats.open_timeout=3s"}, as("edge")...)...)
	if code != exitFailed || !strings.Contains(stderr, "headrace provision") {
		t.Errorf("serve without streams = %d:\n%s", code, stderr)
	}
	if code, out, stderr := execute(t, "", append([]string{"provision"}, as("provision")...)...); code != exitOK || !strings.HasPrefix(out, "ok: ") {
		t.Fatalf("provision = %d %s:\n%s", code, out, stderr)
	}
	r := startNode(t, permissionsFile+fmt.Sprintf("nats: {url: %q, user: edge, password: edge, replicas: 1}\nhttp_api: {key: 0123456789abcdef}\n", url))
	for _, channel := range []string{"chat:a", "eph:a"} {
		if code, _, stderr := execute(t, "", "pub", channel, "1", "--url", r.internal, "--api-key", "0123456789abcdef"); code != exitOK {
			t.Errorf("pub %s: %s", channel, stderr)
		}
	}
	if _, out, stderr := execute(t, "", "history", "chat:a", "--url", r.internal, "--api-key", "0123456789abcdef"); !strings.Contains(out, `"offset":1`) {
		t.Errorf("history: %s %s", out, stderr)
	}
	backEndPublishes(t, url)
	stored := func() bool {
		_, out, _ := execute(t, "", "history", "chat:plain", "--url", r.internal, "--api-key", "0123456789abcdef")
		return strings.Contains(out, `"from a back end"`)
	}
	natstest.Eventually(t, 20*time.Second, "publication of the back end in the history", stored)
	if _, body := get(t, r.internal+"/metrics"); !strings.Contains(body, "\nheadrace_nats_denied_total 0\n") || !strings.Contains(body, `headrace_nats_connected{connection="core"} 1`) {
		t.Error("NATS denied something, or the metrics do not tell")
	}
	r.stop()
	if strings.Contains(r.stderr.String(), "ermissions") {
		t.Errorf("the log tells of permissions:\n%s", r.stderr)
	}
}

// backEndPublishes is a back end under the permissions printed for it.
func backEndPublishes(t *testing.T, url string) {
	t.Helper()
	nc, err := nats.Connect(url, nats.UserInfo("backend", "backend"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_, err = nc.SubscribeSync("hr.rpc.echo")
	for subject, data := range map[string]string{"hr.in.chat.plain": `"from a back end"`, "hr.eph.eph.a": "1", "hr.api.info": "{}"} {
		err = errors.Join(err, nc.Publish(subject, []byte(data)))
	}
	if err = errors.Join(err, nc.Flush(), nc.LastError()); err != nil {
		t.Errorf("as a back end: %v", err)
	}
	for _, subject := range []string{"hr.live.chat.0.a.1", "hr.log.chat.0.a.1", "hr.ctl.ask", "hr.rate.x"} {
		if err := errors.Join(nc.Publish(subject, nil), nc.Flush()); err != nil {
			t.Fatal(err)
		}
		if err := nc.LastError(); !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), subject) {
			t.Errorf("a back end may publish on %s: %v", subject, err)
		}
	}
}

func TestPermissionFormats(t *testing.T) {
	code, out, _ := execute(t, "", "nats-permissions", "--format", "json", "--provision")
	var set struct {
		Publish, Subscribe struct{ Allow []string }
		Responses          struct{ Max int } `json:"allow_responses"`
	}
	if err := json.Unmarshal([]byte(out), &set); code != exitOK || err != nil || len(set.Publish.Allow) < 10 || set.Responses.Max != 1 || !strings.Contains(out, "STREAM.CREATE.HR_IN") {
		t.Errorf("json: %d %v\n%s", code, err, out)
	}
	if _, out, _ := execute(t, "", "nats-permissions"); !strings.Contains(out, "publish    hr.log.chat.>") || strings.Contains(out, "CREATE") {
		t.Errorf("text:\n%s", out)
	}
	for _, args := range [][]string{{"--format", "xml"}, {"--for", "me"}} {
		if code, _, stderr := execute(t, "", append([]string{"nats-permissions"}, args...)...); code != exitUsage || !strings.Contains(stderr, "hint: write ") {
			t.Errorf("%v = %d %s", args, code, stderr)
		}
	}
	if code, _, stderr := execute(t, "", "provision"); code != exitUsage || !strings.Contains(stderr, "--nats") {
		t.Errorf("provision without NATS = %d %s", code, stderr)
	}
}
