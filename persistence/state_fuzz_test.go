package persistence

import (
	"reflect"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/router"
)

func FuzzDecodeMark(f *testing.F) {
	f.Add(encodeMark(&router.KeyMark{Key: "a b/é", Version: 3, Life: "l", At: 1, Expires: 2, ClientTime: -3, Keys: 4, Prev: []uint64{9, 7, 1}}))
	f.Add(encodeMark(&router.KeyMark{Key: "k", Version: 1, Life: "l", Removed: true, Prev: []uint64{0}}))
	f.Add("1 l - 0 0 0 0 1,2 k")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := decodeMark(s)
		if err != nil {
			return
		}
		if m.Key == "" || m.Version == 0 || m.Life == "" || len(m.Prev) == 0 || len(m.Older()) > len(m.Prev) {
			t.Fatalf("decoded %+v", m)
		}
		again, err := decodeMark(encodeMark(m))
		if len(encodeMark(m)) > maxMark {
			return // the key came in a shorter form than we write
		}
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v came back as %+v: %v", m, again, err)
		}
	})
}

func FuzzDecodeCursor(f *testing.F) {
	f.Add(cursor{bucket: 7, life: "l", after: "key"}.encode())
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := decodeCursor(s)
		if err != nil {
			return
		}
		if c.bucket < 0 || c.bucket >= buckets || len(c.after) > router.MaxKeyLength {
			t.Fatalf("decoded %+v", c)
		}
		for w := 1; w <= buckets; w *= 4 {
			if subjects, end := c.subjects("h.", w); len(subjects) == 0 || end <= c.bucket {
				t.Fatalf("%+v asks for %v up to %d", c, subjects, end)
			}
		}
		if again, err := decodeCursor(c.encode()); s != "" && (err != nil || again != c) {
			t.Fatalf("%+v came back as %+v: %v", c, again, err)
		}
	})
}

// The headers of an entry of the image.
func FuzzDecodeImage(f *testing.F) {
	mark := encodeMark(&router.KeyMark{Key: "k", Version: 1, Life: "l", Prev: []uint64{0}})
	f.Add("1", "life", mark, "inc.1z")
	f.Add("", "", "", ".")
	f.Fuzz(func(t *testing.T, number, life, mark, feed string) {
		e, err := decodeEntry(nats.Header{headerNumber: {number}, headerLife: {life}, headerMark: {mark}}, nil)
		if err == nil && (e.Number == 0 || e.Life == "" || mark != "" && e.Mark == nil) {
			t.Fatalf("decoded %+v", e)
		}
		e.State()
		if at, err := parseFeedPlace(feed); err == nil {
			if again, err := parseFeedPlace(at.String()); err != nil || again != at {
				t.Fatalf("%+v came back as %+v: %v", at, again, err)
			}
		}
	})
}
