package fossil

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	fdelta "github.com/shadowspore/fossil-delta"
)

// check fails unless the decoder of the Go SDK makes target of base and the delta.
func check(t *testing.T, base, target []byte) {
	t.Helper()
	for _, text := range []bool{false, true} {
		if text && !utf8.Valid(target) {
			continue
		}
		d := Delta(base, target, text)
		if d == nil {
			continue
		}
		got, err := fdelta.Apply(base, d)
		switch {
		case err != nil:
			t.Fatalf("text %v: %v\n%q\n%q\n%q", text, err, base, target, d)
		case !bytes.Equal(got, target):
			t.Fatalf("text %v: got %q, want %q", text, got, target)
		case len(d) >= len(target):
			t.Fatalf("%d bytes of delta for %d", len(d), len(target))
		case text && !utf8.Valid(d):
			t.Fatalf("not text: %q", d)
		}
	}
}

func TestDeltaSizes(t *testing.T) {
	doc := document(2000)
	for name, test := range map[string]struct {
		base, target string
		most         int // bytes; -1 is no delta
	}{
		"the same":                            {doc, doc, 16},
		"nothing before":                      {"", doc, -1},
		"nothing in common":                   {strings.Repeat("x", 500), strings.Repeat("yz", 250), -1},
		"an empty target":                     {doc, "", -1},
		"a target shorter than a delta":       {doc, doc[:10], -1},
		"a number changed":                    {doc, strings.Replace(doc, `"id":31,`, `"id":99,`, 1), 40},
		"a number became longer":              {doc, strings.Replace(doc, `"id":31,`, `"id":31000,`, 1), 40},
		"something in front and at the end":   {`{"t":1,"d":` + doc + `,"n":1}`, `{"t":22,"d":` + doc + `,"n":333}`, 60},
		"an entry went from the middle":       {doc, doc[:700] + doc[900:], 40},
		"two halves changed places":           {doc, doc[1000:] + doc[:1000], 60},
		"a character of two bytes by another": {"größe: " + strings.Repeat("ä", 300) + "ö", "größe: " + strings.Repeat("ä", 300) + "ü", 40},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, []byte(test.base), []byte(test.target))
			d := Delta([]byte(test.base), []byte(test.target), true)
			if test.most < 0 != (d == nil) || test.most >= 0 && len(d) > test.most {
				t.Errorf("%d bytes: %q, want at most %d", len(d), d, test.most)
			}
		})
	}
}

// Characters that share their first bytes with what the base has in their place.
func TestTextStaysText(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	runes := []rune("aäöü€₤😀😁漢字")
	for range 4_000 {
		random := func() string {
			b := make([]rune, 20+r.IntN(60))
			for i := range b {
				b[i] = runes[r.IntN(len(runes))]
			}
			return string(b)
		}
		a := random()
		cut := r.IntN(len(a))
		for !utf8.RuneStart(a[cut]) {
			cut--
		}
		check(t, []byte(a), []byte(a[:cut]+string(runes[r.IntN(len(runes))])+a[cut:]))
		check(t, []byte(a), []byte(random()+a))
	}
}

func TestDeltaOfLongRepetitionsIsLinear(t *testing.T) {
	a := bytes.Repeat([]byte("ab"), 1<<19)
	b := bytes.Repeat([]byte("aab"), 1<<18)
	check(t, a, b) // quadratic, it would not end in the test's time
	check(t, bytes.Repeat([]byte{0}, 1<<20), bytes.Repeat([]byte{0, 0, 0, 0, 0, 0, 0, 0, 1}, 1<<16))
}

func FuzzDelta(f *testing.F) {
	doc := document(300)
	f.Add([]byte(doc), []byte(doc[:100]+"x"+doc[100:]))
	f.Add([]byte("ääää 12345678 öööö 12345678"), []byte("öööö 12345678 ääää 12345678"))
	f.Add([]byte{}, []byte("something longer than sixteen bytes"))
	f.Fuzz(func(t *testing.T, base, target []byte) {
		check(t, base, target)
		// Random bytes have little in common: mix them.
		mixed := append(bytes.Clone(target), base...)
		check(t, base, mixed)
		check(t, append(bytes.Clone(base), mixed...), append(mixed, target...))
	})
}

func FuzzAgainstChecksum(f *testing.F) {
	f.Add([]byte("abcdefghijk"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var want uint32
		for i, c := range b {
			want += uint32(c) << (24 - 8*(i%4))
		}
		if got := checksum(b); got != want {
			t.Fatalf("%x, want %x", got, want)
		}
	})
}

// document is JSON of about size bytes.
func document(size int) string {
	type item struct {
		ID    int     `json:"id"`
		Name  string  `json:"name"`
		Price float64 `json:"price"`
		Tags  []string
	}
	var items []item
	r := rand.New(rand.NewPCG(3, 4))
	for n, i := 2, 0; n < size; i++ {
		items = append(items, item{i, fmt.Sprintf("item %x", r.Uint64()), float64(r.IntN(1e6)) / 100, []string{"a", "b"}})
		b, _ := json.Marshal(items[i])
		n += len(b) + 1
	}
	b, _ := json.Marshal(items)
	return string(b)
}

func BenchmarkDelta(b *testing.B) {
	for _, size := range []int{200, 2_000, 20_000} {
		base := []byte(document(size))
		at := bytes.Index(base[len(base)/2:], []byte(`"price":`)) + len(base)/2 + 8
		one := append(append(bytes.Clone(base[:at]), "1234567.5"...), base[at+3:]...)
		ends := append(append([]byte(`{"t":123,"a":`), one...), `,"n":7}`...)
		ends2 := append(append([]byte(`{"t":4567,"a":`), base...), `,"n":88}`...)
		unlike := []byte(strings.Repeat(document(size)[:20]+"?", size/21))
		for _, test := range []struct {
			name         string
			base, target []byte
		}{{"one change", base, one}, {"three changes", ends, ends2}, {"unlike", []byte(strings.ToUpper(string(base))), unlike}} {
			b.Run(fmt.Sprintf("%d bytes, %s", size, test.name), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(test.target)))
				var d []byte
				for b.Loop() {
					d = Delta(test.base, test.target, true)
				}
				b.ReportMetric(float64(len(d)), "delta_B")
			})
			b.Run(fmt.Sprintf("%d bytes, %s, shadowspore", size, test.name), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(test.target)))
				var d []byte
				for b.Loop() {
					d = fdelta.Create(test.base, test.target)
				}
				b.ReportMetric(float64(len(d)), "delta_B")
			})
		}
	}
}
