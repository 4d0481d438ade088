package config

import (
	"strings"
	"testing"
)

func TestInboxIsChecked(t *testing.T) {
	for name, tt := range map[string]struct{ file, want string }{
		"defaults":                      {"inbox: {enabled: true}", ""},
		"off, so anything goes":         {"inbox: {history_size: 5000}", ""},
		"more than a log keeps":         {"inbox: {enabled: true, history_size: 1001, max_message_bytes: 100}", "1001 is not within 1 to 1000"},
		"more than a client can take":   {"inbox: {enabled: true, max_message_bytes: 65536}", "is more than client.queue_bytes"},
		"a namespace that is there too": {"inbox: {enabled: true, namespace: chat}\nnamespaces: [{name: chat}]", "is among namespaces too"},
		"the default namespace":         {"inbox: {enabled: true, namespace: default}", "choose another name"},
		"short channels":                {"client: {channel_max_length: 50}\ninbox: {enabled: true}", "is below the 135 that inboxes need"},
		"a forgetful device":            {"inbox: {enabled: true, device_ttl: 1m}", "1m0s is below 1h"},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := load(t, tt.file, nil)
			if tt.want == "" && problems != "" || !strings.Contains(problems, tt.want) {
				t.Errorf("%s, want %q", problems, tt.want)
			}
		})
	}
}
