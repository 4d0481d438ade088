package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// load loads a file with content and returns the problems as text.
func load(t *testing.T, content string, environ []string, flags ...Flag) (Config, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "h.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(Source{File: path, Environ: environ, Flags: flags})
	var problems *Error
	if err != nil && !errors.As(err, &problems) {
		t.Fatal(err)
	}
	if err == nil {
		return cfg, ""
	}
	return cfg, strings.ReplaceAll(err.Error(), path, "h.yaml")
}

func TestFlagsWinOverVariablesOverFileOverDefaults(t *testing.T) {
	cfg, problems := load(t, "node_name: file\ndata: file\nlog:\n  level: debug\n",
		[]string{"HEADRACE_NODE_NAME=env", "HEADRACE_DATA=env", "HEADRACE_CLIENT_ALLOWED_ORIGINS=https://a.example, https://b.example", "PATH=/bin"},
		Flag{"--data", "data", "flag"})
	if problems != "" {
		t.Fatal(problems)
	}
	if cfg.Log.Level != "debug" || cfg.NodeName != "env" || cfg.Data != "flag" || cfg.Log.Format != "text" || len(cfg.Client.AllowedOrigins) != 2 {
		t.Errorf("merged wrongly: %+v", cfg)
	}
}

func TestNamespaces(t *testing.T) {
	want := []Namespace{{Name: "chat", HistorySize: 10, HistoryTTL: time.Minute, Retention: 168 * time.Hour, Partitions: 1, Payload: "json", Presence: true}}
	cfg, problems := load(t, "namespaces:\n- name: chat\n  history_size: 10\n  history_ttl: 1m\n  presence: true\n", nil)
	if problems != "" || !reflect.DeepEqual(cfg.Namespaces, want) {
		t.Errorf("from the file: %+v %s", cfg.Namespaces, problems)
	}
	cfg, problems = load(t, "", []string{`HEADRACE_NAMESPACES=[{"name":"chat","history_size":10,"history_ttl":"1m","presence":true}]`})
	if problems != "" || !reflect.DeepEqual(cfg.Namespaces, want) {
		t.Errorf("from a variable: %+v %s", cfg.Namespaces, problems)
	}
}

func TestProblemsSayWhereAndWhatToDo(t *testing.T) {
	for name, tt := range map[string]struct {
		file    string
		environ []string
		flags   []Flag
		want    []string
	}{
		"misspelt key":          {file: "client:\n  ping_intervall: 10s\n", want: []string{`h.yaml:2:3: unknown key "ping_intervall" under client; did you mean "ping_interval"?`}},
		"unknown at the top":    {file: "zzzzzzzzzz: 1\n", want: []string{`h.yaml:1:1: unknown key "zzzzzzzzzz" at the top level`}},
		"misspelt in namespace": {file: "namespaces:\n  - name: a\n    presense: true\n", want: []string{`h.yaml:3:5: unknown key "presense" under namespaces[0]; did you mean "presence"?`}},
		"wrong type":            {file: "insecure: 12\n", want: []string{`h.yaml:1:11: insecure: "12" is neither true nor false`}},
		"quoted number":         {file: "client:\n  channel_limit: \"5\"\n", want: []string{`h.yaml:2:18: client.channel_limit: is the text "5", want a whole number`}},
		"number as duration":    {file: "client:\n  ping_interval: 25\n", want: []string{`client.ping_interval: "25" is no duration; write a number with a unit`}},
		"list for a value":      {file: "data: [a]\n", want: []string{"h.yaml:1:7: data: is a list, want a text"}},
		"value for a list":      {file: "namespaces: chat\n", want: []string{"namespaces: is a single value, want a list"}},
		"key given twice":       {file: "data: a\ndata: b\n", want: []string{"data"}},
		"syntax":                {file: "data: [a\n", want: []string{"h.yaml:1:"}},
		"anchor":                {file: "data: &x a\n", want: []string{"not supported"}},
		"all at once":           {file: "addres: x\nlog: {level: loud, format: xml}\n", want: []string{"3 problems", `did you mean "address"?`, `log.level: "loud"`, `log.format: "xml"`}},
		"place of a bad value":  {file: "log:\n  level: loud\n", want: []string{"h.yaml:2:3: log.level"}},
		"unknown variable":      {environ: []string{"HEADRACE_NATS_URI=x"}, want: []string{`HEADRACE_NATS_URI: unknown variable; did you mean "HEADRACE_NATS_URL"?`}},
		"service links pass":    {environ: []string{"HEADRACE_SERVICE_HOST=10.0.0.1", "HEADRACE_PORT_8000_TCP_ADDR=10.0.0.1", "HEADRACE_PORT=tcp://10.0.0.1"}},
		"bad variable":          {environ: []string{"HEADRACE_CLIENT_PING_INTERVAL=x"}, want: []string{`HEADRACE_CLIENT_PING_INTERVAL: client.ping_interval: "x" is no duration`}},
		"bad namespaces":        {environ: []string{`HEADRACE_NAMESPACES=[{"nam":"chat"}]`}, want: []string{`did you mean "name"?`}},
		"unknown flag key":      {flags: []Flag{{"--set", "nats.ulr", "x"}}, want: []string{`--set: unknown key "nats.ulr"; did you mean "nats.url"?`}},
		"insecure remote":       {file: "address: 0.0.0.0:8000\ninsecure: true\n", want: []string{"h.yaml:2:1: insecure: would let everyone"}},
		"insecure remote API":   {file: "address: :8000\nhttp_api: {insecure: true}\n", want: []string{"http_api.insecure: would"}},
		"insecure when told":    {file: "address: 0.0.0.0:8000\ninsecure: true\ninsecure_allow_remote: true\n"},
		"insecure on loopback":  {file: "insecure: true\n"},
		"open nats":             {file: "nats: {listen: \"0.0.0.0:4222\"}\n", want: []string{"asks for no password"}},
		"duplicate namespace":   {file: "namespaces: [{name: a}, {name: a}]\n", want: []string{`namespaces[1].name: "a" is declared twice`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := load(t, tt.file, tt.environ, tt.flags...)
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

func TestPrintReadsBackAndHidesSecrets(t *testing.T) {
	cfg := FirstRun()
	cfg.Client.Token.HMACSecretKey = "very-secret"
	cfg.Client.AllowedOrigins = []string{"https://a.example"}
	cfg.NodeName = "a: \"b\"\n"
	var b strings.Builder
	if err := Print(&b, cfg); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "very-secret") {
		t.Error("the secret is printed")
	}
	back, problems := load(t, b.String(), nil)
	back.Client.Token.HMACSecretKey = cfg.Client.Token.HMACSecretKey
	if problems != "" || !reflect.DeepEqual(back, cfg) {
		t.Errorf("read back %+v %s\nfrom\n%s", back, problems, b.String())
	}
}

func TestEveryKeyIsDocumentedAndHasItsOwnVariable(t *testing.T) {
	seen := make(map[string]string)
	for _, k := range slices.Concat(Keys(), NamespaceKeys(), QueueKeys()) {
		if k.Doc == "" {
			t.Errorf("%s has no documentation", k.Path)
		}
	}
	for _, k := range Keys() {
		if other := seen[k.Env]; other != "" {
			t.Errorf("%s and %s share %s", k.Path, other, k.Env)
		}
		seen[k.Env] = k.Path
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "abc", 0}, {"abc", "ab", 1}, {"kitten", "sitting", 3}, {"", "abc", 3}} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("client:\n  ping_interval: 10s\nnamespaces:\n- name: a\n"))
	f.Add([]byte("a: &x [1]\nb: *x\n<<: {c: 1}\n"))
	f.Add([]byte("? a\n: b\n--- \n... \n!!str x"))
	f.Add([]byte("data: |\n  a\n  b\nlog: {level: 'x', format: ~}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg := Default()
		d := &decoder{file: "f", origin: make(map[string]string)}
		d.decodeFile(data, &cfg)
		d.validate(&cfg)
		if len(d.problems) > 0 {
			return
		}
		// What is accepted can be printed and read back.
		var b strings.Builder
		if err := Print(&b, cfg); err != nil {
			t.Fatal(err)
		}
		again := &decoder{file: "g", origin: make(map[string]string)}
		printed := Default()
		again.decodeFile([]byte(b.String()), &printed)
		if len(again.problems) > 0 {
			t.Errorf("printed configuration has problems: %v\n%s", again.problems, b.String())
		}
	})
}
