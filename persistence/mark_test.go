package persistence

import (
	"slices"
	"testing"

	"github.com/headrace/headrace/router"
)

// A mark that cannot be read makes its channel unreadable, for good: so it can be,
// whatever the image says that it follows.
func TestMarksAreReadable(t *testing.T) {
	ns := &router.Namespace{Map: &router.MapOptions{KeyHistory: 10}}
	for name, tt := range map[string]struct {
		cur    router.Entry
		remove bool
		keys   int // before
		want   router.KeyMark
	}{
		"an ordinary change": {
			router.Entry{Seq: 9, Mark: &router.KeyMark{Version: 3, Life: "a", Prev: []uint64{7, 4}}}, false, 2,
			router.KeyMark{Version: 4, Prev: []uint64{9, 7, 4}, Keys: 2},
		},
		"the image began anew below the places of older versions": {
			router.Entry{Seq: 2, Mark: &router.KeyMark{Version: 3, Life: "a", Prev: []uint64{700, 400}}}, false, 2,
			router.KeyMark{Version: 4, Prev: []uint64{2}, Keys: 2},
		},
		"more keys are removed than were counted": {
			router.Entry{Seq: 9, Mark: &router.KeyMark{Version: 3, Life: "a", Prev: []uint64{7, 4}}}, true, 0,
			router.KeyMark{Version: 4, Prev: []uint64{9, 7, 4}, Keys: 0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := &change{p: &keyPart{ns: ns}, update: router.KeyUpdate{Key: "k"}, before: channelState{keys: tt.keys}}
			m, err := decodeMark(encodeMark(c.mark(&tt.cur, tt.remove)))
			if err != nil {
				t.Fatal(err)
			}
			if m.Version != tt.want.Version || !slices.Equal(m.Prev, tt.want.Prev) || m.Keys != tt.want.Keys {
				t.Errorf("got %+v", *m)
			}
		})
	}
}
