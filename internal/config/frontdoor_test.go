package config

import (
	"slices"
	"strings"
	"testing"
)

func TestFrontDoorProblemsSayWhereAndWhatToDo(t *testing.T) {
	for name, tt := range map[string]struct {
		file string
		want []string
	}{
		"misspelt limit":            {"limits:\n  conections: 5\n", []string{`h.yaml:2:3: unknown key "conections" under limits; did you mean "connections"?`}},
		"misspelt in user messages": {"limits:\n  user_messages:\n    enable: true\n", []string{`h.yaml:3:5: unknown key "enable" under limits.user_messages; did you mean "enabled"?`}},
		"misspelt internal":         {"internal:\n  adress: x\n", []string{`h.yaml:2:3: unknown key "adress" under internal; did you mean "address"?`}},
		"misspelt tls":              {"tls:\n  crt: x\n", []string{`did you mean "cert"?`}},
		"misspelt keys":             {"http_api:\n  keyes: [x]\n", []string{`did you mean "keys"?`}},
		"negative limit":            {"limits:\n  connections: -1\n", []string{"h.yaml:2:3: limits.connections: -1 is negative; 0 is no limit"}},
		"burst alone":               {"limits:\n  command_burst: 5\n", []string{"h.yaml:2:3: limits.command_burst: has no effect without limits.command_rate"}},
		"connect burst alone":       {"limits:\n  connect_burst: 5\n", []string{"limits.connect_rate; set that too"}},
		"proxy that is no network":  {"limits:\n  trusted_proxies: [10.0.0.0/8, proxy.example]\n", []string{`h.yaml:2:3: limits.trusted_proxies: "proxy.example" is no address or network; write 10.0.0.1 or 10.0.0.0/8`}},
		"no user messages":          {"limits:\n  user_messages: {messages: 0}\n", []string{"h.yaml:2:19: limits.user_messages.messages: 0 is not within 1 to 100000; to switch the limit off set enabled: false"}},
		"user window":               {"limits:\n  user_messages: {window: 1ms}\n", []string{"limits.user_messages.window: 1ms is not within 1s to 24h"}},
		"half a certificate":        {"tls: {cert: x}\n", []string{"h.yaml:1:7: tls.cert: and tls.key go together"}},
		"half an internal one":      {"internal: {address: \"127.0.0.1:1\", tls: {key: x}}\n", []string{"internal.tls.cert: and internal.tls.key go together"}},
		"certificate not there":     {"tls: {cert: /no/such.pem, key: /no/such.key}\n", []string{"tls.cert: stat /no/such.pem", "tls.key: stat /no/such.key", "name a PEM file"}},
		"internal TLS alone":        {"internal: {tls: {cert: x, key: y}}\n", []string{"is set, but internal.address is not"}},
		"same address":              {"address: 127.0.0.1:8000\ninternal: {address: 127.0.0.1:8000}\n", []string{"h.yaml:2:12: internal.address:", "choose another port"}},
		"no host:port":              {"internal: {address: \"8001\"}\n", []string{`internal.address: "8001" is not host:port`}},
		"insecure API for all":      {"http_api: {insecure: true}\ninternal: {address: 0.0.0.0:8001}\n", []string{"h.yaml:2:12: internal.address: 0.0.0.0:8001 can be reached by other machines", "insecure_allow_remote"}},
		"short API key":             {"http_api:\n  keys: [abc]\n", []string{"h.yaml:2:3: http_api.keys: key 1 of the list has 3 bytes; use at least 16"}},
		"bad NATS address":          {"nats: {url: \"nats://u:se%zzcret@a\"}\n", []string{"h.yaml:1:8: nats.url: has an address that is no URL"}},
		"all is well":               {"limits: {connections: 5, command_rate: 10, command_burst: 20, trusted_proxies: [10.0.0.1, \"fd00::/8\"], user_messages: {enabled: true}}\ninternal: {address: 0.0.0.0:8001}\nhttp_api: {keys: [0123456789abcdef]}\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := load(t, tt.file, nil)
			if len(tt.want) == 0 && problems != "" {
				t.Error(problems)
			}
			for _, want := range tt.want {
				if !strings.Contains(problems, want) {
					t.Errorf("problems:\n%s\nwant %q among them", problems, want)
				}
			}
		})
	}
}

func TestListsOfSecretsAreHiddenAndFound(t *testing.T) {
	cfg := Default()
	cfg.HTTPAPI.Keys = []string{"first-secret-of-two", "second-secret-of-two"}
	cfg.NATS.Password = "third-secret"
	cfg.NATS.URL = "nats://someone:fourth-secret@a:4222, nats://token-secret@b"
	var b strings.Builder
	if err := Print(&b, cfg); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "-secret") {
		t.Error("a secret is printed")
	}
	if _, problems := load(t, b.String(), nil); strings.Contains(problems, "want a list") {
		t.Error(problems)
	}
	if got := Secrets(cfg); !slices.Contains(got, "second-secret-of-two") || !slices.Contains(got, "third-secret") || len(got) != 5 {
		t.Errorf("secrets: %q", got)
	}
}

func TestRedactURLs(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "",
		"nats://a:4222,b":                    "nats://a:4222,b",
		"nats://u:secret@a:4222":             "nats://u:xxxxx@a:4222",
		"nats://secret@a, nats://u:secret@b": "nats://xxxxx@a,nats://u:xxxxx@b",
		"nats://u:se%zzcret@a":               "(redacted)@a",
	} {
		if got := RedactURLs(in); got != want {
			t.Errorf("%s becomes %s, want %s", in, got, want)
		}
	}
}

func TestTrustedProxiesAreNetworks(t *testing.T) {
	l := Limits{TrustedProxies: []string{"10.1.2.3/8", "::ffff:1.2.3.4", "fd00::1"}}
	var got []string
	for _, p := range l.Networks() {
		got = append(got, p.String())
	}
	if want := "10.0.0.0/8 1.2.3.4/32 fd00::1/128"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %s", got, want)
	}
}
