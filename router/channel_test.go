package router

import (
	"strconv"
	"strings"
	"testing"
)

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

func TestEncodeKey(t *testing.T) {
	for name, want := range map[string]string{
		"news":          "news",
		"a.b.c":         "a.b.c",
		"a..b":          "a.%.b",
		"":              "%",
		".":             "%.%",
		"a b":           "a%20b",
		"*":             "%2A",
		"a.>":           "a.%3E",
		"100%":          "100%25",
		"%":             "%25",
		"é":             "é",
		"\xff":          "%FF",
		"tab\tnl\n\x7f": "tab%09nl%0A%7F",
	} {
		if got := EncodeKey(name); got != want {
			t.Errorf("EncodeKey(%q) = %q, want %q", name, got, want)
		}
	}
}

func FuzzChannelSubject(f *testing.F) {
	for _, s := range []string{"news", "a..b", "", "chat:*", "%", "%25", "é\xff", "a.>", "x y\tz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		key := EncodeKey(name)
		back, err := DecodeKey(key)
		if err != nil || back != name {
			t.Fatalf("%q -> %q -> %q, %v", name, key, back, err)
		}
		for token := range strings.SplitSeq(key, ".") {
			if token == "" || token == "*" || token == ">" || strings.ContainsAny(token, " \t\r\n\x00*>") {
				t.Fatalf("%q -> %q is not a literal subject", name, key)
			}
		}
		// As a key, the input either is what EncodeKey makes of something, or is
		// refused: no two spellings of one channel.
		if decoded, err := DecodeKey(name); err == nil && EncodeKey(decoded) != name {
			t.Fatalf("DecodeKey(%q) = %q, whose key is %q", name, decoded, EncodeKey(decoded))
		}
	})
}

func TestParseChannel(t *testing.T) {
	for s, want := range map[string]Channel{
		"news":      {DefaultNamespace, "news"},
		"chat:room": {"chat", "room"},
		"chat:a:b":  {"chat", "a:b"},
	} {
		got, err := ParseChannel(s)
		if err != nil || got != want || got.String() != s {
			t.Errorf("ParseChannel(%q) = %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "default:x", ":x", "chat:", "a b:x", "a.b:x", "*:x"} {
		if got, err := ParseChannel(s); err == nil {
			t.Errorf("ParseChannel(%q) = %v, want an error", s, got)
		}
	}
}

func FuzzMeta(f *testing.F) {
	f.Add("42", "c1", []byte(`{"name":"Ünal 😀"}`), []byte("\x00\xff"), "k", "v\n")
	f.Fuzz(func(t *testing.T, user, client string, conn, ch []byte, key, value string) {
		valid := strings.ToValidUTF8
		user, client, key, value = valid(user, "?"), valid(client, "?"), valid(key, "?"), valid(value, "?")
		m := Meta{Info: &ClientInfo{Client: client + "c", User: user, ConnInfo: conn, ChanInfo: ch}, Tags: map[string]string{key: value}}
		b := m.Encode()
		for _, c := range b {
			if c >= 0x80 || c < ' ' && c != '\t' && c != '\n' && c != '\r' {
				t.Fatalf("header byte %#x in %q", c, b)
			}
		}
		got, err := DecodeMeta(b)
		if err != nil {
			t.Fatal(err)
		}
		if got.Info.User != user || got.Info.Client != client+"c" || got.Tags[key] != value {
			t.Fatalf("%q came back as %+v", b, got.Info)
		}
	})
}

func FuzzDecodeMeta(f *testing.F) {
	f.Add([]byte(`{"user":"42","info":{"a":1}}`))
	f.Add([]byte(`{"info_b64":"!!"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := DecodeMeta(b); err == nil {
			m.Encode()
		}
	})
}

func TestCheckPayload(t *testing.T) {
	for name, tt := range map[string]struct {
		kind Payload
		data string
		want string // "" is refused
	}{
		"JSON":                   {PayloadJSON, `{"a": 1}`, `{"a": 1}`},
		"JSON on two lines":      {PayloadJSON, "{\"a\":\n1}", `{"a":1}`},
		"no JSON":                {PayloadJSON, "boom", ""},
		"two values":             {PayloadJSON, "1 2", ""},
		"nothing":                {PayloadJSON, "", ""},
		"JSON, but not in UTF-8": {PayloadJSON, "\"\xff\"", ""},
		"binary":                 {PayloadBinary, "\xff\n", "\xff\n"},
		"any":                    {PayloadAny, "boom", "boom"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := checkPayload(tt.kind, []byte(tt.data))
			if string(got) != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}
