package edge

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headrace/headrace/router"
)

// rpcs are commands with these ids.
func rpcs(ids ...int) string {
	var lines []string
	for _, id := range ids {
		lines = append(lines, fmt.Sprintf(`{"id":%d,"rpc":{"method":"m"}}`, id))
	}
	return strings.Join(lines, "\n")
}

// wholeFrames keeps the frames of a stream, which have no head.
type wholeFrames struct{ fakeTransport }

func (t *wholeFrames) Send(frame []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.frames = append(t.frames, string(frame))
}

// answered returns the ids of the replies since the last call.
func (t *wholeFrames) answered() string {
	synctest.Wait()
	var ids []string
	for _, m := range replyID.FindAllStringSubmatch(strings.Join(t.take(), " "), -1) {
		ids = append(ids, m[1])
	}
	return strings.Join(ids, " ")
}

var replyID = regexp.MustCompile(`"id":(\d+)`)

// Each command is answered when it is taken, so replies are in the order of taking.
func TestE2PostedCommandsKeepTheOrderOfTheirIds(t *testing.T) {
	const wait = "wait" // as long as a missing command is waited for
	for name, tt := range map[string]struct {
		posts []string
		early string // replies before the wait is over
		want  string // replies in the end
		last  router.Code
	}{
		"in order":                            {[]string{rpcs(2), rpcs(3)}, "2 3", "2 3", ""},
		"the later request is there first":    {[]string{rpcs(3), rpcs(4, 5), rpcs(2)}, "2 3 4 5", "2 3 4 5", ""},
		"all of them backwards":               {[]string{rpcs(6), rpcs(5), rpcs(4), rpcs(3), rpcs(2)}, "2 3 4 5 6", "2 3 4 5 6", ""},
		"a request that is repeated":          {[]string{rpcs(2), rpcs(3), rpcs(2)}, "2 3", "2 3", router.CodeConflict},
		"one that is repeated in part":        {[]string{rpcs(2), rpcs(2, 3)}, "2 3", "2 3", ""},
		"one that is repeated while it waits": {[]string{rpcs(3), rpcs(3), rpcs(2)}, "2 3", "2 3", ""},
		"one is lost":                         {[]string{rpcs(4), rpcs(3)}, "", "3 4", ""},
		"one is late":                         {[]string{rpcs(4), wait, rpcs(2), rpcs(3)}, "4 2 3", "4 2 3", ""},
		"two are lost":                        {[]string{rpcs(3), rpcs(5), wait, wait}, "3 5", "3 5", ""},
		"pongs and messages wait for no id":   {[]string{rpcs(3), "{}", rpcs(2)}, "2 3", "2 3", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTestServer(t, newFakeRouter(), nil)
				tr := &wholeFrames{}
				sess := newSession(s, jsonStream, tr, time.Now())
				s.sessions.add(sess, func() {})
				p := newPostbox(sess)
				orderWait := s.cfg.Transports.EmulationOrderWait
				if err := p.post([]byte(`{"id":1,"connect":{}}`)); err != nil || tr.answered() != "1" {
					t.Fatal(err)
				}
				var err error
				var got []string
				for _, commands := range tt.posts {
					if commands == wait {
						time.Sleep(orderWait + 1)
						continue
					}
					time.Sleep(orderWait / 10)
					err = p.post([]byte(commands))
				}
				if router.CodeOf(err) != tt.last && (err != nil || tt.last != "") {
					t.Errorf("the last post: %v", err)
				}
				if early := tr.answered(); early != tt.early {
					t.Errorf("at first %q, want %q", early, tt.early)
				} else if early != "" {
					got = append(got, early)
				}
				time.Sleep(orderWait + 1)
				if late := tr.answered(); late != "" {
					got = append(got, late)
				}
				if all := strings.Join(got, " "); all != tt.want {
					t.Errorf("taken %q, want %q", all, tt.want)
				}
				sess.close(disconnectForced)
				p.stop()
				settle(s, sess)
				s.stop()
			})
		})
	}
}
